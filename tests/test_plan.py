from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypro.config import InputError
from raypro.core.alphabet import CLS, PAD, SEP, encode
from raypro.data.corpus import Corpus
from raypro.data.plan import Cursor, PackedBatch, Plan, WindowTask, digest, pack, tokenise
from raypro.data.source import TrainingSource, read_here
from raypro.settings import Batches
from tests.small import random_sequences, write_corpus

SEQUENCES = random_sequences(300, 1, 90)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("plan") / "corpus", {"train": SEQUENCES, "valid": SEQUENCES[:5]})


def plan_of(corpus: Corpus, seed: int = 0, budget: int = 300, max_length: int = 64) -> Plan:
    return Plan(corpus, "train", seed, budget, max_length, 2)


def test_every_row_is_in_exactly_one_batch_of_its_window(corpus: Corpus) -> None:
    plan = plan_of(corpus)
    rows = [row for w in range(len(plan.windows)) for batch in plan.read(WindowTask(3, w, 0)) for row in batch.rows]
    assert sorted(rows) == list(range(300))


def test_batches_keep_to_the_token_budget_and_hold_the_residues(corpus: Corpus) -> None:
    plan = plan_of(corpus)
    for batch in plan.read(WindowTask(0, 1, 0)):
        assert batch.tokens.size <= 300
        for tokens, row in zip(batch.tokens, batch.rows, strict=True):
            length = min(len(SEQUENCES[row]), 64)
            inner = tokens[1 : length + 1].tobytes()
            assert tokens[0] == CLS and tokens[length + 1] == SEP and not tokens[length + 2 :].any()
            assert inner in encode(SEQUENCES[row]).tobytes()
            if len(SEQUENCES[row]) <= 64:
                assert inner == encode(SEQUENCES[row]).tobytes()


def test_batches_keep_to_a_number_of_sequences(corpus: Corpus) -> None:
    capped = replace(plan_of(corpus), sequences=3)
    for window in range(len(capped.windows)):
        batches = capped.read(WindowTask(0, window, 0))
        assert max(len(batch.rows) for batch in batches) == 3
        assert sorted(row for batch in batches for row in batch.rows) == sorted(
            row for batch in plan_of(corpus).read(WindowTask(0, window, 0)) for row in batch.rows
        )


def test_long_sequences_are_cropped_elsewhere_in_another_epoch(corpus: Corpus) -> None:
    plan = plan_of(corpus, max_length=20)
    crops = [
        {
            row: tokens.tobytes()
            for batch in plan.read(WindowTask(epoch, 0, 0))
            for tokens, row in zip(batch.tokens, batch.rows, strict=True)
        }
        for epoch in (0, 0, 1)
    ]
    long = [row for row in crops[0] if len(SEQUENCES[row]) > 40]
    assert crops[0] == crops[1]
    assert sum(crops[0][row][:22] != crops[2][row][:22] for row in long) > len(long) / 2


def test_a_window_is_a_pure_function_of_seed_epoch_and_window(corpus: Corpus) -> None:
    def rows(seed: int, epoch: int) -> list[list[int]]:
        return [batch.rows.tolist() for batch in plan_of(corpus, seed).read(WindowTask(epoch, 2, 0))]

    assert rows(1, 4) == rows(1, 4)
    assert rows(1, 4) != rows(1, 5) and rows(1, 4) != rows(2, 4)
    assert plan_of(corpus, 1).start(0, 1).deal != plan_of(corpus, 1).start(1, 1).deal


def test_counting_agrees_with_reading(corpus: Corpus) -> None:
    plan = plan_of(corpus)
    for task in (WindowTask(1, 0, 0), WindowTask(1, 3, 2)):
        assert plan.count(task) == len(plan.read(task))


def consume(plan: Plan, cursor: Cursor, per_worker: list[int]) -> tuple[list[PackedBatch], Cursor]:
    """Consume so many batches on each worker; return them and the cursor after them."""
    used, done = [], []
    for rank, wanted in enumerate(per_worker):
        windows, batch = cursor.done[rank]
        stream = (packed for task in cursor.hand(rank) for packed in plan.read(task))
        for packed in islice(stream, wanted):
            used.append(packed)
            windows, batch = (windows + 1, 0) if packed.last else (windows, packed.index + 1)
        done.append((windows, batch))
    return used, Cursor(cursor.epoch, cursor.workers, cursor.deal, tuple(done))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 25), min_size=5, max_size=5)), min_size=1, max_size=4), st.integers(1, 4)
)
def test_each_sequence_is_used_once_through_any_crashes_and_resizes(corpus: Corpus, attempts: list, last: int) -> None:
    """Attempts with any number of workers, each ended after any number of batches on each worker, then one to the end."""
    plan = plan_of(corpus, budget=120)
    cursor = plan.start(0, attempts[0][0])
    rows: Counter[int] = Counter()
    for workers, batches in [*attempts, (last, [10_000] * 5)]:
        cursor = Cursor.from_plain(cursor.to_plain()).dealt_to(workers)
        used, cursor = consume(plan, cursor, batches[:workers])
        rows.update(row for packed in used for row in packed.rows.tolist())
    assert rows == Counter(range(300))


def test_a_source_goes_on_from_its_cursor_with_the_same_batches(corpus: Corpus) -> None:
    plan = plan_of(corpus)

    def tokens(source: TrainingSource, steps: int) -> list[bytes]:
        return [b.tokens.numpy().tobytes() for batches in islice(source, steps) for b in batches]

    whole = TrainingSource(plan, read_here(plan), accumulation_at=lambda step: 2, epochs=2)
    everything = tokens(whole, 10_000)
    first = TrainingSource(plan, read_here(plan), accumulation_at=lambda step: 2, epochs=2)
    begun = tokens(first, 9)
    second = TrainingSource(
        plan, read_here(plan), accumulation_at=lambda step: 2, epochs=2, cursor=Cursor.from_plain(first.cursor()), step=9
    )
    assert begun + tokens(second, 10_000) == everything
    assert whole.epoch() == pytest.approx(2)


def test_padding_waste_on_natural_lengths_is_below_three_percent(tmp_path: Path) -> None:
    """Lengths like those of natural proteins: log-normal about 300, a fifth beyond 512."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.75, 0.65, 8192), 3, 10_000).astype(np.int32)
    plan = Plan(Corpus(tmp_path, None), "train", 0, 16_384, 512, 4)  # type: ignore[arg-type]
    sizes = np.minimum(lengths, 512) + 2
    for window in (lengths[:4096], lengths[4096:]):
        batches = plan.cut(window, 0, 0)
        held = np.minimum(window, 512) + 2
        slots = sum(len(b) * held[b].max() for b in batches)
        assert 1 - held.sum() / slots < 0.03
    assert sizes.max() == 514


def test_tokenising_a_slice_of_a_column() -> None:
    column = pa.chunked_array([pa.array(["MK", "", "ACD", "X"]).slice(1)])
    tokens, starts = tokenise(column)
    assert tokens.tolist() == encode("ACDX").tolist() and starts.tolist() == [0, 0, 3]


def test_packing_pads_to_the_longest() -> None:
    packed = pack(encode("ACDEF"), np.array([0, 3]), np.array([3, 2]))
    assert packed.tolist() == [[CLS, *encode("ACD"), SEP], [CLS, *encode("EF"), SEP, PAD]]


def test_digests_add_up_and_tell_sets_apart() -> None:
    rows = np.arange(100)
    assert (digest(rows[:40]) + digest(rows[40:])) % 2**64 == digest(rows)
    assert len({digest(np.delete(rows, i)) for i in range(100)} | {digest(rows)}) == 101


def test_a_budget_that_holds_no_sequence_is_refused(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="batches.token_budget: 50 tokens do not hold"):
        plan_of(corpus, budget=50)


def test_steps_grow_where_the_accumulation_changes_and_every_batch_is_used_once(corpus: Corpus) -> None:
    plan = plan_of(corpus)
    accumulation_at = partial(Batches(accumulation_changes=((0.3, 4), (0.5, 2))).accumulation_at, 10)

    def steps(cursor: Cursor | None = None, step: int = 0) -> TrainingSource:
        return TrainingSource(plan, read_here(plan), accumulation_at=accumulation_at, epochs=2, cursor=cursor, step=step)

    whole = steps()
    taken = list(whole)
    assert [len(step) for step in taken[:8]] == [1, 1, 1, 4, 4, 2, 2, 2]
    rows = Counter(row for step in taken for batch in step for row in batch.rows.tolist())
    assert rows == Counter({row: 2 for row in range(300)})
    first = steps()
    begun = list(islice(first, 4))
    rest = list(steps(Cursor.from_plain(first.cursor()), step=4))
    assert [[b.tokens.tolist() for b in step] for step in begun + rest] == [[b.tokens.tolist() for b in step] for step in taken]
