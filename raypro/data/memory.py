"""Where Arrow takes its memory from while a corpus is built."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def system_memory() -> Iterator[None]:
    """Let Arrow allocate from the C library's heap while inside (of the whole process).

    A build asks again and again for the same few megabytes. Arrow's own allocator hands them back to the operating system in
    between, which clears every page anew: that can take longer than all the copying. The C library's heap keeps them.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
