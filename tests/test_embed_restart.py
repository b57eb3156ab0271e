"""``raypro embed`` interrupted, killed, changed in between, and spread over Ray: it goes on, and the file is the same."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raypro.cluster import embed
from raypro.config import InputError
from raypro.data.vector_files import VECTOR_ENDINGS
from raypro.encoder import LoadedEncoder
from tests.embedding_runs import PATCHES, checkpoint, proteins, read, run, shrink_shards
from tests.fine_tuned import save_model, write_fasta


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_shards(monkeypatch)


class Interrupted(BaseException):
    """What ends a run in these tests."""


def interrupt_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a run in this process end after some shards; return the list of the shards that will be computed."""
    computed: list[int] = []
    write = embed.write_part

    def counting(path: Path, *args: Any) -> None:
        if len(computed) == shards:
            raise Interrupted
        computed.append(int(path.stem))
        write(path, *args)

    monkeypatch.setattr(embed, "write_part", counting)
    return computed


@pytest.mark.parametrize("ending", VECTOR_ENDINGS)
@pytest.mark.parametrize("per_residue", [False, True], ids=["pooled", "per_residue"])
def test_an_interrupted_run_goes_on_and_gives_the_same_file(
    ending: str, per_residue: bool, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, encoder = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path)
    whole = run(source, encoder, tmp_path / f"whole{ending}", per_residue=per_residue)
    with monkeypatch.context() as patch:
        first = interrupt_after(3, patch)
        with pytest.raises(Interrupted):
            run(source, encoder, tmp_path / f"out{ending}", per_residue=per_residue)
    assert first == [0, 1, 2] and not (tmp_path / f"out{ending}").exists()
    second = interrupt_after(1000, monkeypatch)
    out = run(source, encoder, tmp_path / f"out{ending}", per_residue=per_residue)
    assert second == list(range(3, 3 + len(second))) and len(second) >= 3
    assert out.read_bytes() == whole.read_bytes() and not (tmp_path / f"out{ending}.parts").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from raypro.cluster import embed

embed.SHARD_SEQUENCES, embed.SHARD_RESIDUES = 9, 300
replace, renamed = os.replace, []

def kill_at_the_fourth(source, target):
    if str(target).endswith(".arrow"):
        renamed.append(target)
        if len(renamed) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = kill_at_the_fourth
embed.embed_command(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), workers=0)
"""


def test_a_killed_process_leaves_nothing_half_written(tmp_path: Path, small_shards: None) -> None:
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path), tmp_path / "out.parquet"
    whole = run(source, encoder, tmp_path / "whole.parquet")
    assert subprocess.run([sys.executable, "-c", KILLED, source, encoder, out]).returncode == -9
    parts = sorted(path.name for path in (tmp_path / "out.parquet.parts").iterdir())
    assert parts[0].startswith(".00000003.arrow.") and parts[1:4] == [f"0000000{i}.arrow" for i in range(3)] and not out.exists()
    assert run(source, encoder, out).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("changed", "options", "named"),
    [
        ("a.fasta", {}, "other sequences;"),
        ("encoder", {}, "other encoder;"),
        ("", {"pooling": "c_mean"}, "other options;"),
        ("", {"per_residue": True}, "other options;"),
        ("", {"max_length": 60}, "other options;"),
        ("a.fasta", {"pooling": "c_final"}, "other sequences and options;"),
    ],
)
def test_parts_of_another_run_are_not_mixed_in(
    changed: str, options: dict[str, Any], named: str, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path), tmp_path / "out.npz"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(Interrupted):
            run(source, encoder, out)
    if changed == "a.fasta":
        write_fasta(source, proteins(59))
    elif changed == "encoder":
        shutil.rmtree(encoder)
        shutil.copytree(save_model(tmp_path / "other", step=4, encoder=PATCHES), encoder)
    with pytest.raises(InputError, match=f"out.npz.parts: parts of a run with {named} .*--overwrite") as caught:
        run(source, encoder, out, **options)
    assert "\n" not in str(caught.value) and not out.exists()
    found = read(run(source, encoder, out, overwrite=True, **options), "per_residue" in options)
    expected = read(run(source, encoder, tmp_path / "whole.npz", **options), "per_residue" in options)
    assert found[0] == expected[0] and all(np.array_equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


def test_a_smaller_token_budget_may_finish_what_ran_out_of_memory(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LoadedEncoder, tokens: Any, lengths: Any, pooling: str, token_budget: int) -> Any:
        if token_budget > 100 and lengths.max() >= 69:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pooled(self, tokens, lengths, pooling, token_budget)

    pooled = LoadedEncoder.pooled
    monkeypatch.setattr(LoadedEncoder, "pooled", full)
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path), tmp_path / "out.npz"
    with pytest.raises(InputError, match="not enough memory on .* 16384 tokens .* residues.*--token-budget.*parts are kept"):
        run(source, encoder, out)
    assert len(read(run(source, encoder, out, token_budget=100))[0]) == 60


@pytest.mark.cluster
def test_ray_gives_what_one_process_gives(tmp_path: Path, small_shards: None, ray_cluster: None) -> None:
    source, encoder = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path)
    here = run(source, encoder, tmp_path / "here.npz", per_residue=True)
    assert run(source, encoder, tmp_path / "ray.npz", per_residue=True, workers=2).read_bytes() == here.read_bytes()


@pytest.mark.cluster
def test_ray_computes_only_what_is_missing(tmp_path: Path, small_shards: None, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path), tmp_path / "out.npz"
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.raises(Interrupted):
            run(source, encoder, out)
    parts = tmp_path / "out.npz.parts"
    times = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.arrow")}
    with monkeypatch.context() as patch:
        patch.setattr(embed, "finish", lambda *_: None)
        run(source, encoder, out, workers=None)
    after = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.arrow")}
    assert len(times) == 4 and len(after) > 6 and times.items() <= after.items()
    assert run(source, encoder, out).read_bytes() == run(source, encoder, tmp_path / "here.npz").read_bytes()


@pytest.mark.cluster
def test_what_goes_wrong_in_an_embedder_is_one_line(tmp_path: Path, small_shards: None, ray_cluster: None) -> None:
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins()), checkpoint(tmp_path), tmp_path / "out.npz"
    prepare = embed.prepare_parts

    def without_folder(job: Any, *args: Any) -> None:
        prepare(job, *args)
        shutil.rmtree(job.parts)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="00000.*cannot be written"):
        patch.setattr(embed, "prepare_parts", without_folder)
        run(source, encoder, out, workers=2)
