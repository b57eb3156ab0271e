"""Typed, strict command lines: what is wrong with one is one line."""

import contextlib
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import tyro

from raypro.config import InputError, RunFailed, nearest, require_finite

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
HELP = ("-h", "--help")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error that a person can mend as one line; exit with 2 for an InputError, 1 for a RunFailed, 130 for Ctrl-C."""
    try:
        yield
    except (InputError, RunFailed) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse(target: Any, args: Sequence[str], **options: Any) -> Any:
    """Return an instance of the dataclass ``target`` from ``args``, as :func:`tyro.cli` does.

    Raises:
        InputError: an unknown name (with the nearest right one), a wrong type, a missing value, a number that is not finite.
    """
    parsed = _strictly(functools.partial(tyro.cli, target, args=args, **options))
    require_finite(parsed)
    return parsed


def parse_call(command: Callable[..., Any], args: Sequence[str], prog: str) -> Callable[[], Any]:
    """Return the call of ``command`` that ``args`` ask for; ``prog`` is how its help calls it.

    Raises:
        InputError: as :func:`parse`.
    """
    call: Callable[[], Any] = _strictly(functools.partial(tyro.cli, _deferred(command), args=list(args), prog=prog))
    return call


def find_command(commands: Iterable[str], args: Sequence[str]) -> str:
    """Return the command, of one or two words, that ``args`` begin with.

    Where they ask which ones there are, by ``--help`` or by nothing at all: the first word of several commands, or nothing.

    Raises:
        InputError: they begin with no command; it names the nearest one.
    """
    words = list(takewhile(lambda word: not word.startswith("-"), args))[:2]
    groups = {command.split()[0] for command in commands if " " in command}
    for count in (2, 1):
        if (name := " ".join(words[:count])) in commands and len(name.split()) == len(words[:count]) == count:
            return name
    name = " ".join(words if words and words[0] in groups else words[:1])
    asked = args[len(words) :]
    if name in {"", *groups} and asked and asked[0] in HELP:
        return name
    if name in groups:
        raise InputError(f"{name}: which? known: {', '.join(command for command in commands if command.startswith(f'{name} '))}")
    if words:
        of_group = [command for command in commands if command.startswith(f"{words[0]} ")]
        raise InputError(f"{name or repr(name)}: no such command{nearest(name, of_group or [*commands, *groups])}")
    if args:
        raise InputError(f"{args[0]}: options follow a command; raypro --help says which there are")
    return ""


def _deferred(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Return a function of the same parameters that returns the call instead of making it: parsing ends before it begins."""

    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        require_finite(inspect.signature(command).bind(*args, **kwargs).arguments)
        return functools.partial(command, *args, **kwargs)

    return later


def _strictly(parser: Callable[..., Any]) -> Any:
    """Call one of tyro's parsers; the frame that it draws around an error becomes the one line of an InputError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser(config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as exit_:
        if exit_.code:
            raise InputError(in_one_line(said.getvalue())) from None
        raise


def in_one_line(frame: str) -> str:
    """Return the message in tyro's framed error: its first part, and the nearest right name where it gives one."""
    lines = [re.sub(r"^[│╰]\s?|\s*│$", "", line) for line in frame.splitlines()[1:]]  # the first line is the frame's title
    parts = [" ".join(part.split()) for part in re.split("[─-]{5,}", "\n".join(lines))]  # dashes where the terminal knows no frames
    parts = [part for part in parts if part]
    near = re.search(r"Perhaps you meant: (\S+)", " ".join(parts))
    known = re.search(r"Available subcommands: (.+?)(?= For full|$)", " ".join(parts))
    advice = f"did you mean {near[1]}?" if near else f"known: {known[1]}" if known else "see --help"
    return f"{parts[0].rstrip('.') if parts else frame.strip()}; {advice}"
