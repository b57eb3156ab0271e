"""A small MLflow store for the tests of the report: runs of ours, written as they are, and runs of other programs among them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypro import tracking
from raypro.mlflow_run import quiet_mlflow
from raypro.outbox import Outbox

SCORES = {
    "scores": {"valid": {"spearman": 0.7}, "test": {"spearman": 0.6, "mse": 0.2}},
    "intervals": {"test": {"spearman": [0.55, 0.65]}},
    "baselines": {"ridge on one-hot": {"test": {"spearman": 0.5, "mse": 0.3}}},
    "corpus_overlap": {"test": {"rows": 100, "identical": 3, "near": 11}},
}
FAMILIES = {
    "probe": "families",
    "data": "/data/families.tsv",
    "corpus_overlap": {},
    "probes": [
        {
            "representation": name,
            "probe": "nearest neighbour",
            "scores": {"test": {"accuracy": value}},
            "intervals": {"test": {"accuracy": [value - 0.05, value + 0.05]}},
        }
        for name, value in (("this encoder", 0.4), ("one-hot", 0.3), ("composition", 0.6))
    ],
}
"""What a probe of families writes, of which no overlap is ever counted."""
STABILITY = {
    "probe": "stability",
    "data": "/data/stab",
    "fitted_to": 100,
    "data_checksum": "896d620950eb",
    "corpus_overlap": {"test": {"rows": 50, "identical": 1, "near": 2}},
    "probes": [
        {
            "representation": name,
            "probe": "linear regression",
            "scores": {"test": {"spearman": value}},
            "intervals": {"test": {"spearman": [value - 0.04, value + 0.04]}},
        }
        for name, value in (("this encoder", 0.35), ("random weights", 0.3))
    ],
}
"""What a probe of stability writes: ahead by 0.05, more than its own interval reaches, less than both."""
ALIGNMENT = {
    "params": {"kind": "Alignment", "family": "fold", "parameters": 441},
    "tags": {},
    "metrics": {0: {"contacts/P_at_L5_all": 0.9, "contacts/random_precision_all": 0.2, "train/minutes": 0.5}},
}
"""What a direct coupling analysis logs."""
EVIL = '<script>alert("evil")</script>'


def write_run(folder: Path, address: str, experiment: str, name: str, about: Mapping[str, Any], **files: str) -> str:
    """Write one run through our own outbox; ``about``: params, tags, and metrics by step. Return its id."""
    with tracking.Sender(folder / name, experiment, name, address) as sender:
        record(sender.outbox, about)
        for path, text in files.items():
            sender.outbox.text(path.replace("__", "/") + ".json", text)
    assert sender.run_id
    return sender.run_id


def record(outbox: Outbox, about: Mapping[str, Any]) -> None:
    """Record params, tags and metrics."""
    outbox.params(about["params"])
    outbox.tags(about["tags"])
    for step, values in about.get("metrics", {}).items():
        outbox.metrics(step, values)


def pretraining() -> dict[str, Any]:
    """Return what a pre-training run of a PMLM Transformer logs."""
    params = {"kind": "Experiment", "objective.kind": "PMLM", "encoder.kind": "TransformerShape", "parameters": 800_000, "seed": 0}
    found = {
        "valid_table2/perplexity": 12.0,
        "valid_chance/perplexity": 18.0,
        "valid_table2/ACC_pmlm": 0.03,
        "valid_table2/ACC_product": 0.04,
    }
    metrics: dict[int, dict[str, float]] = {
        step: {"train/tokens": 1e3 * step, "train/residues": 980.0 * step, "train/minutes": step / 100, "valid/loss_mlm": 3 - step / 1000}
        for step in (100, 200, 300)
    }
    metrics[300] |= found
    return {"params": params, "tags": {"corpus": "natural", "corpus_checksum": "a80a4c5b4e0e", "objective": "PMLM"}, "metrics": metrics}


def fine_tuning(seed: int, start: str = "None") -> dict[str, Any]:
    """Return what a fine-tuning run on stability logs."""
    params = {"kind": "FineTuning", "encoder.kind": "TransformerShape", "task.kind": "Regression", "start": start, "frozen": "False"}
    tags = {"data": "stab", "data_task": "stability", "data_checksum": "896d620950eb"}
    metrics = {50: {"train/tokens": 500.0, "train/residues": 490.0, "train/minutes": 2.0, "test/spearman": 0.6}}
    return {"params": params | {"seed": seed, "parameters": 800_000}, "tags": tags, "metrics": metrics}


def fill_store(folder: Path) -> str:
    """Write all runs; return the store's address."""
    address = f"sqlite:///{folder / 'mlflow.db'}"
    quiet_mlflow().MlflowClient(address, address).search_experiments()  # makes the store, which takes many seconds of a busy machine
    start = "/home/runs/pmlm/step_00000300"
    probed = {"probes__step_00000300__families__probes": FAMILIES, "probes__step_00000200__stability__probes": STABILITY}
    texts = {name: json.dumps(found) for name, found in probed.items()}
    begun = write_run(folder, address, "pretraining", "pmlm", pretraining(), **texts)
    namesake = pretraining()
    namesake["params"] |= {"objective.kind": "MLM"}
    write_run(folder / "later", address, "another", "pmlm", namesake)
    from_pmlm = fine_tuning(0, start)
    from_pmlm["tags"] |= {"start_run_id": begun, "start_corpus_checksum": "a80a4c5b4e0e", "start_objective": "PMLM"}
    write_run(folder, address, "fine-tuning", "pmlm-stability", from_pmlm, scores=json.dumps(SCORES))
    own = fine_tuning(0)
    own["tags"] |= {"data": "wells", "data_task": "", "data_checksum": "77"}
    write_run(folder, address, "fine-tuning", "mine", own, scores=json.dumps({**SCORES, "corpus_overlap": {}}))
    for seed, value in ((0, 0.3), (1, 0.5)):
        scores = {**SCORES, "scores": {"valid": {"spearman": 0.6}, "test": {"spearman": value}}, "corpus_overlap": {}}
        write_run(folder, address, "fine-tuning", f"scratch-{seed}", fine_tuning(seed), scores=json.dumps(scores))
    _sweep(folder, address)
    write_run(folder, address, "alignments", "dca-fold", ALIGNMENT)
    _foreign(address, folder / "others")
    return address


def _sweep(folder: Path, address: str) -> None:
    """Write a sweep with two runs of its best combination."""
    about = fine_tuning(0)
    about["params"] |= {"encoder.kind": "ConvolutionShape"}
    about["tags"] |= {"axes": "optimizer.learning_rate", "trials": "6"}
    about["metrics"] = {0: {"best_valid/spearman": 0.75, "test/spearman": 0.7, "test/spearman_deviation": 0.02}}
    with tracking.Sender(folder / "grid", "fine-tuning", "grid", address) as sender:
        record(sender.outbox, about)
        sender.outbox.text(
            "test.csv", "split,metric,mean,deviation,runs,their average,ridge on one-hot\ntest,spearman,0.7,0.02,2,0.72,0.49\n"
        )
        for seed, residues in ((0, 400.0), (1, 600.0)):
            child = sender.child(folder / "grid" / f"seed_{seed}", f"grid.seed_{seed}")
            record(child.outbox, {**fine_tuning(seed), "metrics": {9: {"train/residues": residues, "train/minutes": 3.0}}})
            child.close("FINISHED")


def _foreign(address: str, artifacts: Path) -> None:
    """Write runs of other programs: of no shape, and of one that looks like ours but is not."""
    client = quiet_mlflow().MlflowClient(address, address)
    experiment = client.create_experiment("others", artifact_location=artifacts.as_uri())
    client.set_terminated(client.create_run(experiment, run_name=EVIL).info.run_id)
    for kind in ("Experiment", "FineTuning"):
        run = client.create_run(experiment, run_name=EVIL, tags={"data": f"stability{EVIL}", "axes": EVIL, "corpus": EVIL}).info.run_id
        for name, value in {"kind": kind, "objective.kind": EVIL, "encoder.kind": EVIL, "parameters": "many", "start": "///"}.items():
            client.log_param(run, name, value)
        for name in ("valid_table2/perplexity", "test/spearman", "train/tokens", "strange/one/of/theirs"):
            client.log_metric(run, name, float("nan"))
        client.log_metric(run, "valid_table2/L_mlm", 2.5)
        client.log_text(run, '{"scores": [1, 2], "baselines": "none", "intervals": {"test": 3}}', "scores.json")
        client.log_text(run, "split,metric\n\x00,,,\ntest,spearman,nan,x,many\n", "test.csv")
        client.log_text(run, "[not json", "probes/step_1/families/probes.json")
        client.log_text(run, "no picture", "pictures/contacts_x.png")
        client.set_terminated(run)
    client.create_experiment("empty")
    client.create_run(experiment)  # never ended, and without a name
