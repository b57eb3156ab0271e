"""Predictions for new sequences: their order, what they do not depend on, every form of table, and what is refused."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raypro import prediction
from raypro.arguments import parse_call
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.data.table_writer import TableWriter
from raypro.prediction import predict_command
from raypro.tasks.regression import Regression
from tests.fine_tuned import TASKS, save_model, write_fasta
from tests.small import TINY, batch_of, random_sequences


def proteins(count: int = 60) -> dict[str, str]:
    return {f"p{i}": s for i, s in enumerate(random_sequences(count, 1, 70, seed=5))}


def predicted(source: Path, model: Path | str, out: Path, **options: Any) -> dict[str, list[Any]]:
    predict_command(source, str(model), out, **options)
    return pq.read_table(out).to_pydict()


def close(one: Any, two: Any) -> bool:
    if isinstance(one, float):
        return one == pytest.approx(two, abs=1e-5)
    if isinstance(one, list):
        return len(one) == len(two) and all(close(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", [TINY, ConvolutionShape(width=8)], ids=["transformer", "convolution"])
def test_a_prediction_depends_neither_on_the_order_nor_on_the_batches(
    task: str, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sequences = save_model(tmp_path / "run", task, encoder=encoder), proteins()
    shuffled = dict(np.random.default_rng(1).permutation(list(sequences.items())).tolist())
    whole = predicted(write_fasta(tmp_path / "a.fasta", sequences), model, tmp_path / "a.parquet")
    alone = predicted(tmp_path / "a.fasta", model, tmp_path / "b.parquet", token_budget=1)
    other = predicted(write_fasta(tmp_path / "c.fasta", shuffled), model, tmp_path / "c.parquet", token_budget=300)
    monkeypatch.setattr(prediction, "WINDOW_SEQUENCES", 7)
    monkeypatch.setattr(prediction, "WINDOW_RESIDUES", 100)
    narrow = predicted(tmp_path / "a.fasta", model, tmp_path / "d.parquet")
    assert whole["id"] == alone["id"] == narrow["id"] == list(sequences) and other["id"] == list(shuffled)
    place = {name: row for row, name in enumerate(other["id"])}
    for name in set(whole) - {"id"}:
        in_order = [other[name][place[i]] for i in whole["id"]]
        if task == "contacts":  # pairs of equal probability may change places
            assert [len(x) for x in whole[name]] == [len(x) for x in in_order]
        for found in (alone[name], narrow[name], in_order):
            assert close(whole[name], found) or (task == "contacts" and name in "ij")


def test_values_are_those_of_the_model_itself(tmp_path: Path) -> None:
    sequences = proteins(5)
    for name, task in TASKS.items():
        path = save_model(tmp_path / name, name)
        found = predicted(write_fasta(tmp_path / "a.fasta", sequences), path, tmp_path / "out.parquet", overwrite=True)
        model = task.build(TINY.build()).eval()
        checkpoint.load_weights(model, checkpoint.load(path))
        for row, sequence in enumerate(sequences.values()):
            with torch.no_grad():
                h = model.encoder(batch_of(sequence).tokens)
                out = model.head(h[0, 1:-1]) if name == "contacts" else model.head(h, batch_of(sequence).tokens)[0]
            if name == "regression":
                assert found["predicted"][row] == pytest.approx(2.0 + 0.5 * float(out[0]), abs=1e-5)
            elif name == "classification":
                assert found["predicted"][row] == ("alpha", "beta", "gamma")[int(out.argmax())]
                assert found["probability"][row] == pytest.approx(float(out.softmax(0).max()), abs=1e-5)
            elif name == "residues":
                assert found["predicted"][row] == "".join("HEC"[c] for c in out[1:-1].argmax(1))
            else:
                pairs = list(zip(found["i"][row], found["j"][row], found["probability"][row], strict=True))
                candidates = max(len(sequence) - 6, 0) * max(len(sequence) - 5, 0) // 2
                assert len(pairs) == min(len(sequence), candidates) and all(j - i >= 6 for i, j, _ in pairs)
                assert all(p == pytest.approx(float(out[i, j].sigmoid()), abs=1e-5) for i, j, p in pairs)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
@pytest.mark.parametrize("task", TASKS)
def test_text_tables_hold_what_parquet_holds(task: str, ending: str, tmp_path: Path) -> None:
    source, model, out = write_fasta(tmp_path / "a.fasta", proteins(12)), save_model(tmp_path / "run", task), tmp_path / f"out{ending}"
    expected = predicted(source, model, tmp_path / "out.parquet")
    predict_command(source, str(model), out)
    with gzip.open(out, "rt", newline="") if ending.endswith("gz") else out.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if "tsv" in ending else ","))
    assert list(rows[0]) == list(expected) and len(rows) == 12
    for name, values in expected.items():
        for row, value in zip(rows, values, strict=True):
            if isinstance(value, list):
                assert close([float(x) for x in row[name].split()], [float(x) for x in value])
            else:
                assert close(float(row[name]), value) if isinstance(value, float) else row[name] == value
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted(["a.fasta", "out.parquet", out.name])


def test_what_is_no_protein_is_left_out_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.fasta"
    source.write_text(">good\nMKVLA\n>empty\n>digits\nMKV1\n>also_good\nmkv la*\n>aligned\nMK-V\n>long\nMKVLAMKVLAMKVLA\n")
    found = predicted(source, save_model(tmp_path / "run"), tmp_path / "out.parquet", max_length=10)
    assert found["id"] == ["good", "also_good"] and found["predicted"][0] == pytest.approx(found["predicted"][1], abs=1e-5)
    rejects = list(csv.DictReader((tmp_path / "out.parquet.rejects.tsv").open(), delimiter="\t"))
    assert [(r["line"], r["id"]) for r in rejects] == [("3", "empty"), ("4", "digits"), ("8", "aligned"), ("10", "long")]
    said = capsys.readouterr().out
    assert "2 sequences predicted" in said and "a second" in said and "4 left out: " in said and "1 digit in the sequence" in said


def test_a_table_of_sequences_is_read_by_its_column(tmp_path: Path) -> None:
    source = tmp_path / "mine.csv"
    source.write_text("id,heavy,note\nx,MKVLA,a\ny,WWWWL,b\nbroken\n")
    found = predicted(source, save_model(tmp_path / "run"), tmp_path / "out.parquet", sequence_column="heavy")
    assert found["id"] == ["x", "y"]
    assert "wrong number of columns" in (tmp_path / "out.parquet.rejects.tsv").read_text()


def test_no_rejects_file_is_left_of_the_table_that_is_replaced(tmp_path: Path) -> None:
    model, out = save_model(tmp_path / "run"), tmp_path / "out.csv"
    predict_command(write_fasta(tmp_path / "a.fasta", {"a": "MKV", "b": "MK1"}), str(model), out)
    assert (tmp_path / "out.csv.rejects.tsv").exists()
    predict_command(write_fasta(tmp_path / "a.fasta", {"a": "MKV"}), str(model), out, overwrite=True)
    assert not (tmp_path / "out.csv.rejects.tsv").exists() and len(out.read_text().splitlines()) == 2


def test_a_file_that_is_there_stays_unless_told(tmp_path: Path) -> None:
    source, out = write_fasta(tmp_path / "a.fasta", {"a": "MKV"}), tmp_path / "out.csv"
    out.write_text("precious")
    with pytest.raises(InputError, match="out.csv: there already.*--overwrite"):
        predict_command(source, str(save_model(tmp_path / "run")), out)
    assert out.read_text() == "precious"
    predict_command(source, str(save_model(tmp_path / "run")), out, overwrite=True)
    assert out.read_text().startswith("id,predicted\na,")


def test_the_sequences_are_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("sequence\nMKV\n")
    with pytest.raises(InputError, match="file of sequences"):
        predict_command(source, str(save_model(tmp_path / "run")), tmp_path / "." / "a.csv", overwrite=True)
    assert source.read_text() == "sequence\nMKV\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">d\nACGTTGCATGCATGCAAATTGGCCN\n", "DNA or RNA\\? 100 %"),
        (">d\nACGUUGCAUGCAUGCAAAUUGGCC\n", "DNA or RNA\\? 100 %"),
        (">a\n\n>b\nMK1\n", "no protein sequence in it \\(2 left out: "),
        ("", "empty"),
        ("MKVLA\n", "line 1: expected a FASTA header"),
    ],
)
def test_input_without_proteins_is_refused_and_leaves_nothing(text: str, message: str, tmp_path: Path) -> None:
    source, model = tmp_path / "a.fasta", save_model(tmp_path / "run")
    source.write_text(text)
    with pytest.raises(InputError, match=f"a.fasta: {message}"):
        predict_command(source, str(model), tmp_path / "out.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fasta", "run"]


def test_a_peptide_of_few_letters_is_no_dna(tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"polyalanine": "AAAAAAAA", "amyloid": "GNNNNTNN"})
    assert len(predicted(source, save_model(tmp_path / "run"), tmp_path / "out.parquet")["id"]) == 2


def test_a_broken_file_is_found_before_anything_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress("".join(f">{n}\n{s}\n" for n, s in proteins(300).items()).encode())
    (tmp_path / "a.fasta.gz").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(prediction, "predict_window", lambda *_: pytest.fail("predicted"))
    with pytest.raises(InputError, match="a.fasta.gz: cannot be read .* is the download complete"):
        predict_command(tmp_path / "a.fasta.gz", str(save_model(tmp_path / "run")), tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("source", "out", "options", "message"),
    [
        ("none.fasta", "out.csv", {}, "none.fasta: no such file"),
        ("a.fasta", "out.xlsx", {}, "out.xlsx: unknown kind of table; end its name in .parquet"),
        ("a.fasta", "nowhere/out.csv", {}, "there is no folder"),
        ("a.fasta", "out.csv", {"token_budget": 0}, "must be 1 or more"),
        ("a.fasta", "out.csv", {"max_length": 0}, "must be 1 or more"),
    ],
)
def test_wrong_arguments_are_one_line(source: str, out: str, options: dict[str, int], message: str, tmp_path: Path) -> None:
    write_fasta(tmp_path / "a.fasta", {"a": "MKV"})
    with pytest.raises(InputError, match=message) as caught:
        predict_command(tmp_path / source, str(save_model(tmp_path / "run")), tmp_path / out, **options)
    assert "\n" not in str(caught.value)


def test_memory_that_does_not_suffice_is_one_line_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, model: Any, prepared: Any) -> Any:
        if prepared.tokens.shape[1] > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(len(prepared.tokens))

    monkeypatch.setattr(Regression, "outputs", full)
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKV", "b": "MKVLW" * 8})
    with pytest.raises(InputError, match="longest sequence here has 40 residues.*--token-budget"):
        predict_command(source, str(save_model(tmp_path / "run")), tmp_path / "out.csv")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_an_interrupted_table_leaves_what_was_there(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "t.csv").write_text("before")
    with pytest.raises(KeyboardInterrupt), TableWriter(tmp_path / "t.csv", pa.schema([("a", pa.int64())])) as writer:
        writer.write({"a": [1, 2]})
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("t.csv", "before")]


def test_the_command_line_is_as_the_readme_has_it(tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKV"})
    args = ["--model", str(save_model(tmp_path / "run")), str(source), "--out", str(tmp_path / "out.tsv")]
    parse_call(predict_command, args, "raypro predict")()
    assert (tmp_path / "out.tsv").read_text().startswith("id\tpredicted\na\t")


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_gives_what_the_cpu_gives(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = write_fasta(tmp_path / "a.fasta", proteins()), save_model(tmp_path / "run", task)
    found = predicted(source, model, tmp_path / "gpu.parquet")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = predicted(source, model, tmp_path / "cpu.parquet")
    name = "probability" if task in ("classification", "contacts") else "predicted"
    if task == "residues":
        same = np.mean([a == b for x, y in zip(found[name], expected[name], strict=True) for a, b in zip(x, y, strict=True)])
        assert same > 0.99  # a tie may fall either way
    else:
        assert all(np.allclose(x, y, atol=1e-3) for x, y in zip(found[name], expected[name], strict=True))
