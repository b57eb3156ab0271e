"""Speed and memory beside plain references: `python jobs/benchmark.py [name ...]`; all of them without a name.

Each figure is the median of runs that alternate between the reference and ours, after one of each that does not count.
The ratio is what to look at: how many times better ours is, on this machine, now.
"""

import atexit
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from benchmark_adversarial import adversarial_cycle
from pretrain_pmlm import small
from rich.console import Console
from rich.table import Table
from torch import Tensor

from raypro.cluster.train import pretrain
from raypro.core import alphabet
from raypro.core.batch import Batch
from raypro.core.encoders.cpcprot import CPCPROT, cut
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.pairs import PairHead
from raypro.core.optimizer import Adam
from raypro.core.reference import tokenizer
from raypro.core.reference.adversarial import published_relaxed_subset
from raypro.core.reference.cpc import loop_info_nce, loop_vectors
from raypro.core.reference.pmlm import masked_pair_loss, ordered_pairs
from raypro.core.subset import gumbel, relaxed_subset
from raypro.data.build import build
from raypro.data.plan import pack
from raypro.data.synthetic import build_synthetic
from raypro.evaluate.measuring import Benchmark, Goal, extra_memory, seconds
from raypro.outbox import FOLDER, read_records
from raypro.settings import Budget, Tracking, Validation

PAIR_WIDTH, MASKED = 768, 77  # the base encoder's width; 15 % of 512 residues


def pair_loss_work(form: str, sequences: int, width: int = PAIR_WIDTH, masked: int = MASKED) -> Callable[[], tuple[Tensor, ...]]:
    """Return the pair loss, forward and backward, of a batch: ``form`` is "reference" (all masked pairs at once) or "ours"."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    head = PairHead(width, width)
    counts = [masked] * sequences
    h = torch.randn(sum(counts), width, requires_grad=True)
    labels = torch.randint(20, (sum(counts),))
    i, j = torch.from_numpy(np.array(list(ordered_pairs(counts)))).T.contiguous()

    def reference() -> tuple[Tensor, ...]:
        loss, _ = masked_pair_loss(head.first, head.second, h, labels, i, j)
        return torch.autograd.grad(loss, [h, *head.parameters()])

    def ours() -> tuple[Tensor, ...]:
        loss, _ = head.loss(h, labels, counts)
        return torch.autograd.grad(loss, [h, *head.parameters()])

    return {"reference": reference, "ours": ours}[form]


def pair_loss() -> Benchmark:
    """Pair loss, forward and backward, float32, 2 threads: 8 sequences of 77 masked residues, width 768."""
    reference, ours = (pair_loss_work(form, 8) for form in ("reference", "ours"))
    return Benchmark("pair-loss", Goal("ratio", least=4), lambda: seconds(reference), lambda: seconds(ours), "s")


def pair_loss_short() -> Benchmark:
    """The same for the demonstration's batch: 32 sequences of 5 masked residues, width 64; not to be slower than the plain form."""
    reference, ours = (pair_loss_work(form, 32, 64, 5) for form in ("reference", "ours"))
    return Benchmark("pair-loss-short", Goal("ratio", least=0.8), lambda: seconds(reference), lambda: seconds(ours), "s", rounds=101)


def pair_memory() -> Benchmark:
    """Memory of the pair loss above its inputs: 32 sequences of 77 masked residues, width 768."""
    return Benchmark(
        "pair-memory",
        Goal("ours", most=200),
        lambda: extra_memory(pair_loss_work, "reference", 32),
        lambda: extra_memory(pair_loss_work, "ours", 32),
        "MB",
        rounds=1,
    )


CONTRASTED = 64
"""Sequences of a batch of CPCProt, in the paper's recipe."""


def cpc_step_work(form: str, sequences: int) -> Callable[[], None]:
    """Return a step of CPCProt, 1.7 M parameters, float32, one thread: ``form`` is "reference" (loops over patches, t and k) or "ours".

    Lengths are drawn as those of natural proteins are spread, from 66 residues, and cut at 550.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = CPC()
    model = objective.build(CPCPROT.build())
    optimizer = Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=0, decay="constant").build(model.parameters())
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5.75, 0.65, sequences).astype(int).clip(objective.min_length, objective.max_length)
    residues = alphabet.CLASS_TO_TOKEN[rng.integers(0, 20, lengths.sum())].astype(np.uint8)
    tokens = torch.from_numpy(pack(residues, np.cumsum(lengths) - lengths, lengths).astype(np.int64))
    batch = Batch(tokens, torch.arange(sequences), torch.arange(sequences))
    patches = (lengths // objective.patch_length).tolist()

    def reference() -> Tensor:
        z, c = loop_vectors(model.encoder, cut(tokens, objective.patch_length).flatten(1))
        plain = loop_info_nce(z, c, patches)
        return plain["loss"].sum() / plain["terms"].sum()

    def ours() -> Tensor:
        prepared = objective.prepare(batch)
        return objective.sums(model, prepared)[0] / prepared.counts["terms"]

    loss = {"reference": reference, "ours": ours}[form]

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def cpc_step() -> Benchmark:
    """A training step of CPCProt, with its optimizer: a batch of 64."""
    reference, ours = (cpc_step_work(form, CONTRASTED) for form in ("reference", "ours"))
    return Benchmark("cpc-step", Goal("ratio", least=2), lambda: seconds(reference), lambda: seconds(ours), "s", rounds=9)


def cpc_memory() -> Benchmark:
    """Memory of such a step, above model and inputs: a batch of 1,024."""
    return Benchmark(
        "cpc-memory",
        Goal("ratio", least=2),
        lambda: extra_memory(cpc_step_work, "reference", 1024),
        lambda: extra_memory(cpc_step_work, "ours", 1024),
        "MB",
        rounds=1,
    )


def subset_work(form: str) -> Callable[[], Tensor]:
    """Return a relaxed subset of 10 % of 128 x 512, forward and backward, float32, one thread: ``form`` is "reference" or "ours"."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sample = {"reference": published_relaxed_subset, "ours": relaxed_subset}[form]

    def gradient(rows: int, positions: int) -> Tensor:
        scores = torch.randn(rows, positions, requires_grad=True)
        noise, counts = gumbel(torch.rand(rows, positions)), torch.full((rows,), positions // 10)
        relaxed = sample(scores, noise, torch.ones(rows, positions, dtype=torch.bool), counts, 0.5)
        return torch.autograd.grad((relaxed * torch.randn(rows, positions)).sum(), scores)[0]

    gradient(2, 20)  # so that what is loaded for the first call is not taken for the work's memory
    return lambda: gradient(128, 512)


def subset_speed() -> Benchmark:
    """A relaxed subset, forward and backward: not to be slower than plain autograd over the rounds."""
    reference, ours = (subset_work(form) for form in ("reference", "ours"))
    return Benchmark("subset-speed", Goal("ratio", least=1), lambda: seconds(reference), lambda: seconds(ours), "s", rounds=21)


def subset_memory() -> Benchmark:
    """Its memory."""
    reference, ours = (lambda form=form: extra_memory(subset_work, form) for form in ("reference", "ours"))
    return Benchmark("subset-memory", Goal("ratio", least=9), reference, ours, "MB", rounds=7)


def tokenize() -> Benchmark:
    """Letters to tokens on one core: ours of a buffer of 64 MB, the reference of 2 MB."""
    draw = np.random.default_rng(0).integers(0, len(alphabet.STANDARD), 64_000_000)
    letters = np.frombuffer(alphabet.STANDARD.encode(), np.uint8)[draw]
    text = letters[:2_000_000].tobytes().decode()
    return Benchmark(
        "tokenize",
        Goal("ours", least=150),
        lambda: len(text) / 1e6 / seconds(lambda: tokenizer.encode(text)),
        lambda: len(letters) / 1e6 / seconds(lambda: alphabet.encode(letters)),
        "M residues/s",
    )


def corpus_build() -> Benchmark:
    """FASTA to a finished corpus, one process: 200,000 random proteins; the reference only parses them, record by record."""
    folder = Path(tempfile.mkdtemp(prefix="raypro-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    letters = np.frombuffer(alphabet.STANDARD.encode(), np.uint8)
    fasta = folder / "proteins.fasta"
    with fasta.open("wb") as file:
        for i in range(200_000):
            residues = letters[rng.integers(0, 20, int(rng.lognormal(5.75, 0.65)) + 3)].tobytes()
            lines = b"\n".join(residues[k : k + 60] for k in range(0, len(residues), 60))
            file.write(b">UniRef50_%d n=1 Tax=Homo sapiens TaxID=9606 RepID=X\n%b\n" % (i, lines))
    megabytes = fasta.stat().st_size / 1e6

    def reference() -> None:
        records, parts = {}, []
        name = ""
        for line in fasta.open():
            if line.startswith(">"):
                records[name], name, parts = "".join(parts), line[1:].split()[0], []
            else:
                parts.append(line.rstrip().upper())

    return Benchmark(
        "corpus-build",
        Goal("ours", least=250),
        lambda: megabytes / seconds(reference),
        lambda: megabytes / seconds(lambda: build([fasta], folder / "corpus", overwrite=True)),
        "MB/s",
        rounds=3,
    )


def training_speed() -> Benchmark:
    """Steps of two workers on Ray beside the same loop under torchrun: the small preset on proteins of 256 residues."""
    folder = Path(tempfile.mkdtemp(prefix="raypro-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["RAYPRO_HOME"] = str(folder)
    corpus = build_synthetic(folder / "corpus", families=2, length=256, sequences=2000)
    experiment = dataclasses.replace(
        small(),
        corpus=str(corpus.path),
        budget=Budget(steps=400),
        validation=Validation(every=1000, sequences=64),
        tracking=Tracking(every=10),
    )
    runs = count()

    def on_ray() -> float:
        run = dataclasses.replace(experiment, name=f"ray-{next(runs)}")
        pretrain(run)
        return steady_speed(folder / "runs" / run.name)

    def under_torchrun() -> float:
        (folder / "experiment.json").write_text(json.dumps(experiment.to_plain()))
        run = folder / f"torchrun-{next(runs)}"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "raypro.torchrun"]
        subprocess.run([*command, str(folder / "experiment.json"), str(run)], check=True, capture_output=True)
        return steady_speed(run)

    return Benchmark("training-speed", Goal("ratio", least=0.98), under_torchrun, on_ray, "steps/s", rounds=2)


def steady_speed(run: Path) -> float:
    """Return the median steps per second of the second half of a run: the start, and mlflow's, are over then."""
    records = [record for record, _ in read_records(run / FOLDER / "outbox-worker.jsonl", 0) if record]
    points = [r["values"]["speed/steps_per_second"] for r in records if r["kind"] == "metrics" and "speed/steps_per_second" in r["values"]]
    return statistics.median(points[len(points) // 2 :])


BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    "pair-loss": pair_loss,
    "pair-loss-short": pair_loss_short,
    "pair-memory": pair_memory,
    "cpc-step": cpc_step,
    "cpc-memory": cpc_memory,
    "subset-speed": subset_speed,
    "subset-memory": subset_memory,
    "adversarial-cycle": adversarial_cycle,
    "tokenize": tokenize,
    "corpus-build": corpus_build,
    "training-speed": training_speed,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all, and print the table; return the exit status: 2 for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"{unknown[0]}: no such benchmark; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    table = Table("benchmark", "unit", "reference", "ours", "ratio", "goal", "met", title="Medians of alternating runs")
    table.caption = f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; where others compute too, compare nothing"
    for name in names or BENCHMARKS:
        benchmark = BENCHMARKS[name]()
        reference, ours = benchmark.run()
        ratio = benchmark.ratio(reference, ours)
        met = "yes" if benchmark.goal.met(ratio, ours) else "no"
        table.add_row(name, benchmark.unit, f"{reference:.4g}", f"{ours:.4g}", f"{ratio:.2f}", str(benchmark.goal), met)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
