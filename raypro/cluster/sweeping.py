"""A sweep from its first trial to its report: the trials, then the best combination with several seeds, scored on test."""

import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray

from raypro.cluster.train import WORKERS_START, describe_corpus, describe_experiment, describe_labelled
from raypro.cluster.trial import Shared, data_key
from raypro.cluster.trials import close, run_trials
from raypro.config import RunFailed
from raypro.core import checkpoint
from raypro.core.distributed import best_device
from raypro.data.corpus import Corpus
from raypro.data.labelled import LabelledData
from raypro.experiment import AnyExperiment, FineTuning
from raypro.finetuning import FineTuned, Finetuning
from raypro.mlflow_run import REGISTERED
from raypro.outbox import FOLDER, Outbox, last_status, read_records
from raypro.proposals import Proposals
from raypro.scoring import known_overlaps, leaks_of, plain_overlaps, predict_split, said_overlaps, test_splits
from raypro.space import ASHA, Optuna, shown
from raypro.sweep import BOOK, Halving, Sweep, Trial, logged
from raypro.sweep_report import (
    AVERAGED,
    RANKING,
    TEST,
    Baselines,
    Ranked,
    draw_axes,
    lost_to_starting,
    markdown,
    over_seeds,
    ranking_rows,
    rows_of_tests,
    say,
    write_csv,
)
from raypro.tracking import Child, Sender

Data = LabelledData | Corpus


def drive(sweep: Sweep, source: Data, retry_failed: bool) -> None:
    """Run a sweep to its end, or go on with it.

    Raises:
        RunFailed: every trial failed.
    """
    base, launched = sweep.space.base, time.time()
    tracking = base.tracking
    with Sender(sweep.path, tracking.experiment or base.stage, sweep.path.name, tracking.uri, first_look=WORKERS_START) as sender:
        sweep.save()
        desk = _Desk(sweep, source, sender)
        desk.tidy(retry_failed)
        desk.describe()
        ranked = desk.search()
        runs, baselines = desk.conclude(ranked)
        warnings = desk.warnings()
        desk.report(ranked, runs, baselines, warnings)
    ended = [result for _, result in [*ranked, *runs] if result.started >= launched]
    say(sweep, ranked, runs, baselines, warnings, lost_to_starting(ended, sweep.demand.at_once, launched))
    registered = sweep.path / FOLDER / REGISTERED
    if runs and registered.exists():
        raypro = Path(sys.executable).with_name("raypro")
        print(f"to predict   {raypro} predict --model {registered.read_text()} FASTA --out FILE")


@dataclass(frozen=True)
class _Desk:
    """What the driver of a sweep has at hand."""

    sweep: Sweep
    source: Data
    sender: Sender

    def tidy(self, retry_failed: bool) -> None:
        """Close what a killed driver left open, and forget failures that are to be tried again."""
        for trial in [*self.sweep.trials, *(Trial(p, self.sweep.space.base, ()) for p in sorted(self.sweep.path.glob("seed_*")))]:
            result, said = trial.result, last_status(trial.path)
            if said == "RUNNING" or (said == "KILLED" and result):  # it may have ended after an interrupt
                child = self.sender.child(trial.path, f"{self.sweep.path.name}.{trial.name}")
                close(child, result) if result else child.close("KILLED")
            if retry_failed and result and result.status == "failed":
                trial.retry()

    def describe(self) -> None:
        """Log what is tried, and on what."""
        outbox, space = self.sender.outbox, self.sweep.space
        describe_experiment(outbox, space.base)
        outbox.tags({"axes": ", ".join(space.axes), "search": type(space.search).__name__, "trials": space.planned})
        outbox.artifact(self.sweep.path / BOOK)
        self._describe_data(outbox, space.base)

    def _describe_data(self, outbox: Outbox, experiment: AnyExperiment) -> None:
        if isinstance(experiment, FineTuning):
            assert isinstance(self.source, LabelledData)
            describe_labelled(outbox, experiment, self.source)
        else:
            assert isinstance(self.source, Corpus)
            describe_corpus(outbox, experiment, self.source)

    def begin(self, trial: Trial) -> Child:
        """Open a trial's run in MLflow."""
        child = self.sender.child(trial.path, trial.experiment.name)
        describe_experiment(child.outbox, trial.experiment)
        self._describe_data(child.outbox, trial.experiment)
        child.outbox.tags({axis: shown(value) for axis, value in self.sweep.space.values(trial.choice).items()})
        return child

    def search(self) -> Ranked:
        """Run all trials that have not ended; return them ranked.

        Raises:
            RunFailed: none has a score.
        """
        sweep, search = self.sweep, self.sweep.space.search
        known = sweep.trials
        waiting = sorted((trial for trial in known if trial.result is None), key=lambda trial: not trial.begun)
        proposals, halving = None, None
        if isinstance(search, Optuna):
            ended = [(trial.choice, trial.result.score) for trial in known if trial.result]
            proposals = Proposals(search, sweep.space.sizes, sweep.sign, ended)
        if isinstance(search, ASHA):
            metric, order = sweep.space.base.selected_by
            reported = {trial.name: logged(trial.path, metric) for trial in known}
            halving = ray.remote(num_cpus=0)(Halving).remote(search, 1 if order == "max" else -1, reported)
        count = len(waiting) + sweep.space.planned - len(known)
        if count:
            every = [sweep.space.experiment(choice) for choice in (sweep.space.combinations() if proposals else sweep.choices)]
            run_trials(sweep, waiting, count, replace(self.shared(every), halving=halving), self.begin, proposals)
        ranked = sweep.ranked(sweep.trials)
        if ranked[0][1].score is None:
            how = f"after mending it: raypro tune --resume {sweep.path.name} --retry-failed"
            raise RunFailed(f"sweep {sweep.path.name}: every trial failed, the first for: {ranked[0][1].reason}; {how}")
        return ranked

    def conclude(self, ranked: Ranked) -> tuple[Ranked, Baselines]:
        """Run the best combination with several seeds; return the runs, ranked, and what the baselines reach."""
        if not isinstance(self.source, LabelledData):
            return [], {}
        trials = self.sweep.seed_trials(ranked[0][0])
        for trial in trials:
            if trial.begun and not trial.is_same():
                shutil.rmtree(trial.path)  # of another combination, which was the best before failed trials were run again
        waiting = [trial for trial in trials if trial.result is None]
        if waiting:
            tests = {split: ray.put(self.source.read(split)) for split in test_splits(self.source)}
            run_trials(self.sweep, waiting, len(waiting), replace(self.shared([t.experiment for t in waiting]), tests=tests), self.begin)
        runs, splits = self.sweep.ranked(trials), ["valid", *test_splits(self.source)]
        return runs, {AVERAGED: self.averaged(runs, splits), **self.sweep.space.base.task.baselines(self.source, splits)}

    def warnings(self) -> list[str]:
        """Return what of the test splits was trained on, or seen in pre-training as far as that is known; log the counts of the latter."""
        if not (isinstance(self.source, LabelledData) and isinstance(self.sweep.space.base, FineTuning)):
            return []
        splits = test_splits(self.source)
        overlaps = {split: o for split, o in known_overlaps(self.sweep.space.base.start, self.source).items() if split in splits}
        self.sender.outbox.text("scores.json", json.dumps({"corpus_overlap": plain_overlaps(overlaps)}))
        return leaks_of(self.source, splits) + said_overlaps(overlaps)

    def averaged(self, runs: Ranked, splits: list[str]) -> dict[str, dict[str, float]]:
        """Return split -> metrics of the mean of what the runs with several seeds predict: an ensemble, which costs no further training."""
        models = [
            FineTuned.load(trial.path / f"step_{result.step:08d}", best_device()) for trial, result in runs if result.step is not None
        ]
        scores: dict[str, dict[str, float]] = {}
        for split in splits if models else ():
            examples = self.source.read(split)
            each = [predict_split(model, examples)[0] for model in models]
            means = [np.mean(predictions, axis=0) for predictions in zip(*each, strict=True)]
            scores[split] = models[0].experiment.task.score(means, examples.labels)
        return scores

    def shared(self, experiments: Iterable[AnyExperiment]) -> Shared:
        """Put what the trials read into Ray's object store, once."""
        splits, starts = {}, {}
        for experiment in experiments:
            if not isinstance(experiment, FineTuning):
                break
            if (key := data_key(experiment)) not in splits:
                loaded = Finetuning.load(experiment, best_device()).splits
                # a view of plain type: of a mapped file Ray would make a copy in every process
                plain = {s: e if e.vectors is None else replace(e, vectors=np.asarray(e.vectors)) for s, e in loaded.items()}
                splits[key] = ray.put(plain)
            if experiment.start and experiment.start not in starts:
                weights = checkpoint.load(experiment.start).weights
                starts[experiment.start] = ray.put({name: weight.numpy() for name, weight in weights.items()})
        return Shared(splits, starts, {})

    def report(self, ranked: Ranked, runs: Ranked, baselines: Baselines, warnings: Sequence[str]) -> None:
        """Write and log the ranking, the test results and the picture; register the best model."""
        sweep, outbox, spreads = self.sweep, self.sender.outbox, over_seeds(runs)
        outbox.artifact(write_csv(sweep.path / RANKING, ranking_rows(sweep, ranked)))
        outbox.artifact(draw_axes(sweep, ranked))
        if spreads:
            outbox.artifact(write_csv(sweep.path / TEST, rows_of_tests(runs, baselines)))
        outbox.description(markdown(sweep, ranked, runs, baselines, warnings))
        best = ranked[0][1]
        metrics = {f"best_{name}": value for name, value in best.metrics.items()}
        for split, values in spreads.items():
            group = "seeds_valid" if split == "valid" else split if split.startswith("test") else f"test_{split}"
            metrics |= {f"{group}/{name}": spread.mean for name, spread in values.items()}
            metrics |= {f"{group}/{name}_deviation": spread.deviation for name, spread in values.items()}
        outbox.metrics(0, metrics)
        if runs and runs[0][1].step is not None:
            folder = runs[0][0].path / f"step_{runs[0][1].step:08d}"
            self.register([folder / name for name in checkpoint.MODEL_FILES])

    def register(self, files: list[Path]) -> None:
        """Register the files of the best model, unless they were registered when the sweep was reported before."""
        sent = read_records(self.sweep.path / FOLDER / "outbox-driver.jsonl", 0)
        registered = [record for record, _ in sent if record and record["kind"] == "model"]
        names = [str(file.relative_to(self.sweep.path)) for file in files]
        newest = max(file.stat().st_mtime for file in files)
        if not registered or registered[-1]["files"] != names or registered[-1]["time_ms"] < 1000 * newest:
            self.sender.outbox.model(Path(self.sweep.source).stem, files)
