"""Pre-training objectives on one corpus, at equal tokens and, separately, in equal time; the same probes and tasks; one table.

Equal tokens: every encoder is trained on as many residues. Where an adversary plays, the residues of its own steps do not count, as
McDermott et al. 2020 hold the encoder's steps equal; so the whole run reads more, and takes longer. Equal time: minutes of training,
validation included, from the first step on. Either way the last checkpoint is judged. What is finished is not run again, so a
comparison that was stopped goes on when it is asked for again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from raypro.arguments import one_line_errors, parse
from raypro.cluster.comparing import Tuned, Tuning, measure_leakage, require_names, require_same, require_tasks, run_once, sweep_once
from raypro.cluster.objectives_table import TUNED, UNTRAINED, Competitor, Measured, Score, report, scores_of_probe
from raypro.cluster.session import ray_session
from raypro.cluster.train import require_corpus
from raypro.cluster.tune import prepare
from raypro.config import InputError, nearest, to_plain
from raypro.core.distributed import best_device
from raypro.data.labelled import LabelledData
from raypro.encoder import load_encoder
from raypro.evaluate.families import draw_families, read_families
from raypro.experiment import Encoder, Experiment
from raypro.home import home
from raypro.probe_tasks import CONTRASTIVE, FAMILIES, PROBES, Evaluation, evaluate_families, evaluate_labelled, require_labels
from raypro.probing import FIGURES, keep, log, place_of, with_overlaps
from raypro.settings import Budget, Probing, require_name
from raypro.space import Space
from raypro.tasks.tape import TASKS
from raypro.tracking import Sender

TOKENS, TIME = "tokens", "time"
SETTINGS = {TOKENS: "equal tokens", TIME: "equal time"}
"""What is held equal."""
ENCODERS_PROBES = tuple(probe for probe in PROBES if probe != CONTRASTIVE)
"""What any encoder may be probed on."""


@dataclass(frozen=True)
class ObjectiveComparison:
    """What is compared, on what."""

    name: str
    """Name of the comparison: its folder in raypro's home, and the beginning of the names of its runs."""
    runs: tuple[Experiment, ...]
    """The pre-training runs; each one's name is what it is called in the table. Their corpora, budgets and probes are not used; a rate
    that falls needs ``optimizer.decay_steps``, since the number of steps is not known."""
    corpus: str = ""
    """Folder of the corpus."""
    residues: int | None = 3_000_000
    """Equal tokens: residues that each encoder is trained on; None: no such runs."""
    minutes: float | None = 3.0
    """Equal time: minutes of each run's training; None: no such runs."""
    probes: tuple[tuple[str, str], ...] = ()
    """Pairs of what is probed and its data, as ``raypro evaluate`` takes them; not contrastive, which few encoders can be asked."""
    fitted: int | None = 2000
    """Most training proteins that a probe is fitted to, drawn at random, the same ones for every encoder; None: all."""
    predicted: int | None = 1000
    """Most proteins of each other split that are predicted; None: all."""
    families: int = 50
    """Families of the probe of families."""
    members: int = 50
    """Sequences of each family."""
    tasks: tuple[tuple[str, str], ...] = ()
    """Pairs of a task that encoders are fine-tuned on and its labelled data."""
    tuning: Tuning = field(default_factory=Tuning)
    """How encoders are fine-tuned on the tasks."""

    def __post_init__(self) -> None:
        require_name(self.name)
        labels = [run.name for run in self.runs]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise InputError(f"runs: {', '.join(labels) or 'none'}: give two or more, each with a name of its own")
        limits = [limit for limit in (self.residues, self.minutes) if limit is not None]
        if not limits or min(limits) <= 0:
            raise InputError("residues and minutes: give one or both, above 0")
        for probe, _ in self.probes:
            if probe not in ENCODERS_PROBES:
                raise InputError(f"probes: {probe}: no probe that every encoder can be asked{nearest(probe, list(ENCODERS_PROBES))}")
        require_tasks(self.tasks)
        for given, pairs in (("probes", self.probes), ("tasks", self.tasks)):
            names = [name for name, _ in pairs]
            if len(set(names)) < len(names):
                raise InputError(f"{given}: {max(names, key=names.count)} twice; compare on other data under another --name")
        for name in ("fitted", "predicted"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} must be 1 or more")

    @property
    def folder(self) -> Path:
        """Where the table is."""
        return home() / "comparisons" / self.name

    @property
    def labelled(self) -> list[str]:
        """Folders of the labelled data that encoders are probed on or fine-tuned on."""
        return [data for name, data in (*self.probes, *self.tasks) if name != FAMILIES]

    @property
    def settings(self) -> list[str]:
        """Which of :data:`SETTINGS` are run."""
        return [setting for setting, limit in ((TOKENS, self.residues), (TIME, self.minutes)) if limit is not None]

    @property
    def shapes(self) -> dict[Encoder, tuple[str, ...]]:
        """The encoders' shapes, each with what the runs are called that train one."""
        shapes = dict.fromkeys(run.encoder for run in self.runs)
        return {shape: tuple(run.name for run in self.runs if run.encoder == shape) for shape in shapes}

    def untrained(self, shape: Encoder) -> str:
        """Return what the baseline of random weights is called for a shape."""
        return f"{UNTRAINED} ({', '.join(self.shapes[shape])})"

    def fine_tuning(self, task: str, data: str, run: Experiment, start: Path | None) -> Space:
        """Return what is tried on a task with a run's encoder, from a checkpoint or from random weights."""
        return self.tuning.space(f"{self.name}-{task}", task, data, run, start)

    def pretraining(self, run: Experiment, setting: str) -> Experiment:
        """Return one of the runs in a setting."""
        budget = Budget(residues=self.residues) if setting == TOKENS else Budget(minutes=self.minutes)
        return replace(run, name=f"{self.name}-{run.name}-{setting}", corpus=self.corpus, budget=budget, probe=Probing())


def compare_objectives_main(default: ObjectiveComparison, args: Sequence[str] | None = None) -> None:
    """Run a comparison, changed in any field that the command line names."""
    with one_line_errors():
        compare_objectives(parse(ObjectiveComparison, args, default=default, description="Asked for again by the same --name, it goes on."))


def compare_objectives(comparison: ObjectiveComparison) -> list[Score]:
    """Run what is not finished of a comparison; write, log and print its tables.

    Raises:
        InputError: something of it cannot be run here, or a run of its name is another one.
        RunFailed: a run failed; the comparison may be asked for again.
    """
    require(comparison)
    measure_leakage(comparison.corpus, comparison.labelled)
    if FAMILIES in dict(comparison.probes):
        print("families: what the corpus shares with them is not measured: they are no labelled data", flush=True)
    tasks = comparison.tuning.drawn(comparison.tasks, comparison.folder / "data")
    comparison.folder.mkdir(parents=True, exist_ok=True)
    with ray_session(), Sender(comparison.folder, "comparison", comparison.name, comparison.runs[0].tracking.uri) as sender:
        plain = to_plain(comparison)
        sender.outbox.text("comparison.json", json.dumps(plain, indent=1))
        sender.outbox.params({name: value for name, value in plain.items() if name != "runs"})
        competitors = [pretrain_once(comparison, run, setting) for setting in comparison.settings for run in comparison.runs]
        probed, notes = probe_all(comparison, competitors)
        scores = probed + fine_tune_all(comparison, tasks, competitors)
        notes += [str(comparison.tuning)] if comparison.tasks else []
        report(comparison.name, comparison.folder, competitors, scores, notes, sender.outbox)
    return scores


def require(comparison: ObjectiveComparison) -> None:
    """Check, before anything starts, that all of a comparison can be run.

    Raises:
        InputError: it cannot; says why.
    """
    if not comparison.corpus:
        raise InputError("corpus: give the folder of a corpus: --corpus DIR")
    if not (comparison.probes or comparison.tasks):
        raise InputError("probes: give pairs of a probe and its data, --probes stability FOLDER families FILE; or --tasks likewise")
    for run in comparison.runs:
        require_corpus(comparison.pretraining(run, comparison.settings[0]))
        for setting in comparison.settings:
            require_same(comparison.pretraining(run, setting))
    require_names(comparison.labelled)
    for probe, data in comparison.probes:
        if probe == FAMILIES:
            draw_families(read_families(data), comparison.families, comparison.members)
        else:
            require_labels(probe, LabelledData.open(data))
    for task, data in comparison.tasks:
        for run in comparison.runs:
            prepare(comparison.fine_tuning(task, data, run, None))


def pretrain_once(comparison: ObjectiveComparison, run: Experiment, setting: str) -> Competitor:
    """Run one of the pre-training runs, or take it as it is; its tags say which comparison it belongs to, and what is held equal."""
    experiment = comparison.pretraining(run, setting)
    return Competitor(SETTINGS[setting], run.name, experiment, run_once(experiment, comparison.name, SETTINGS[setting]))


def probe_all(comparison: ObjectiveComparison, competitors: Sequence[Competitor]) -> tuple[list[Score], list[str]]:
    """Probe every encoder on everything; return the scores, and what a person should know of the probes."""
    scores: list[Score] = []
    notes: dict[str, None] = {}
    for probe, data in comparison.probes:
        baselines: dict[Encoder, Evaluation] = {}
        for competitor in competitors:
            said = probe_once(comparison, competitor, probe, data, baselines)
            notes |= dict.fromkeys(f"{probe}: {note}" for note in said["notes"])
            scores += scores_of_probe(competitor, said, comparison.untrained(competitor.experiment.encoder))
    return scores, list(notes)


def probe_once(
    comparison: ObjectiveComparison, competitor: Competitor, probe: str, data: str, baselines: dict[Encoder, Evaluation]
) -> dict[str, Any]:
    """Probe an encoder as ``raypro evaluate`` does and log it into its run, or take what was found as it is; return the figures.

    ``baselines`` are those of each shape so far: encoders of the same shape have the same, which are probed once.
    """
    path, shape = competitor.finished.checkpoint, competitor.experiment.encoder
    folder = comparison.folder / "probes" / competitor.experiment.name / probe
    bounds = {name: getattr(comparison, name) for name in (("families", "members") if probe == FAMILIES else ("fitted", "predicted"))}
    about: dict[str, Any] = {"encoder": str(path), "data": str(Path(data).expanduser().absolute()), "seed": 0, "bounds": bounds}
    labelled = None if probe == FAMILIES else LabelledData.open(data)
    if labelled:
        about["data_checksum"] = labelled.manifest.checksum
    file = folder / FIGURES
    said: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if about.items() <= said.items():
        return said
    print(f"probing {competitor.experiment.name} on {probe}", flush=True)
    encoder, first = load_encoder(path, best_device()), baselines.get(shape)
    if labelled:
        found = with_overlaps(evaluate_labelled(encoder, probe, labelled, baselines=first is None, **bounds), path, labelled)
    else:
        found = evaluate_families(encoder, data, baselines=first is None, **bounds)
    found = found.beside_baselines_of(first) if first else found
    baselines.setdefault(shape, found)
    place = place_of(probe, labelled) if labelled else probe
    log(found, path, place, folder, keep(found, folder, about, seed=0, maps=False), Console())
    said = json.loads(file.read_text())
    return said


def fine_tune_all(comparison: ObjectiveComparison, tasks: Sequence[tuple[str, str]], competitors: Sequence[Competitor]) -> list[Score]:
    """Fine-tune every encoder on every task, and random weights of each shape; return the scores.

    Args:
        comparison: what is compared.
        tasks: pairs of a task and the data that encoders are fine-tuned on (:meth:`raypro.cluster.comparing.Tuning.drawn`).
        competitors: the runs.
    """
    scores = []
    for task, data in tasks:
        scratch: dict[Encoder, dict[str, Tuned]] = {}
        for competitor in competitors:
            run, metric = competitor.experiment, TASKS[task]().primary
            shape, untrained = run.encoder, comparison.untrained(run.encoder)
            if shape not in scratch:
                name = f"{comparison.name}-{task}-random-{list(comparison.shapes).index(shape) + 1}"
                scratch[shape] = sweep_once(name, comparison.fine_tuning(task, data, run, None), comparison.tuning.at_once)
            space = comparison.fine_tuning(task, data, run, competitor.finished.checkpoint)
            reached = sweep_once(f"{run.name}-{task}", space, comparison.tuning.at_once)
            for split, found in reached.items():
                beside = {untrained: Measured.over(scratch[shape][split].spread)}
                beside |= {name: Measured(value) for name, value in found.baselines.items()}
                about = (competitor.setting, competitor.label, TUNED, task, split, metric, f"{comparison.tuning.epochs} epochs")
                scores.append(Score(*about, Measured.over(found.spread), beside))
    return scores
