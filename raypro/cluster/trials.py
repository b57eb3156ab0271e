"""Trials on a cluster: Ray Tune gives them out, keeps their processes, and tells when one ended or died; the books are ours."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError
from ray.tune.search import Searcher
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raypro.cluster.trial import FIRST_STEP, Shared, result_of, run_trial
from raypro.proposals import Proposals
from raypro.space import describe
from raypro.sweep import Result, Sweep, Trial
from raypro.tracking import Child

TUNE_FOLDER = ".tune"
"""Where Ray Tune keeps its own state, which nobody reads: to do so would execute what is in it."""
STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""What a trial's status is called in MLflow."""


class Unkept:
    """Something that Ray Tune holds, and would keep in its own state: that gets nothing of it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Unkept":
        return self


class Queue(Unkept, Searcher):
    """Gives out the trials of a list and then, where there are proposals, those proposed, up to ``count`` in all."""

    def __init__(self, sweep: Sweep, trials: list[Trial], count: int, proposals: Proposals | None) -> None:
        super().__init__()
        self.sweep, self.waiting, self.left, self.proposals = sweep, trials[:], count, proposals
        self.given: dict[str, Trial] = {}
        """Ray Tune's id of a trial -> ours."""

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's folder."""
        if not self.left:
            return Searcher.FINISHED
        if self.waiting:
            trial = self.waiting.pop(0)
        else:
            assert self.proposals is not None
            trial = self.sweep.add(self.proposals.ask(self.sweep.choices))
        trial.begin(self.sweep.checksum)
        self.left -= 1
        self.given[trial_id] = trial
        return {"run": str(trial.path)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the proposals how a trial ended."""
        trial = self.given[trial_id]
        if self.proposals is not None:
            ended = trial.result
            self.proposals.tell(trial.choice, ended.score if ended else None)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the books hold all."""


class Watch(Unkept, tune.Callback):
    """Keeps the books of trials as they start and end, and says so on the terminal and in MLflow."""

    def __init__(self, queue: Queue, begin: Callable[[Trial], Child], progress: Progress) -> None:
        self.queue, self.begin, self.progress = queue, begin, progress
        self.children: dict[str, Child] = {}
        self.started: dict[str, float] = {}
        self.actors: dict[str, ActorHandle] = {}
        self.task = progress.add_task(f"{queue.sweep.path.name}", total=queue.left)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run in MLflow: its process is there."""
        self.started[trial.trial_id] = time.time()
        self.actors[trial.trial_id] = trial.temporary_state.ray_actor
        self.children[trial.trial_id] = self.begin(self.queue.given[trial.trial_id])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close it as the trial says that it ended."""
        self._end(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write down that a trial's process died: it could not do so itself."""
        ours = self.queue.given[trial.trial_id]
        if ours.result is None:
            ours.end(result_of_dead(ours, died(trial.get_error()), self.started.get(trial.trial_id, time.time())))
        self._end(trial.trial_id)

    def interrupt(self) -> None:
        """End the processes of the trials that go on, as a checkpoint may be gone on from at any time."""
        for trial_id in self.children:
            ray.kill(self.actors[trial_id])

    def _end(self, trial_id: str) -> None:
        trial = self.queue.given[trial_id]
        result = trial.result
        if result is None:
            return  # interrupted
        child = self.children.pop(trial_id, None)
        if child is not None:
            close(child, result)
        self.progress.update(self.task, advance=1)
        self.progress.console.print(line_of(self.queue.sweep, trial, result), soft_wrap=True, highlight=False, markup=False)


def died(error: Exception | None) -> str:
    """Return why a trial's process died, as Ray has it, in one line, without the causes that Ray only guesses at."""
    if isinstance(error, OutOfMemoryError):
        return "its process died: the machine's memory was full, and Ray ended it"
    known = re.split("Some common causes include|There are some potential root causes", str(error or ""))[0]
    lines = [line.strip() for line in known.splitlines() if line.strip()]
    return f"its process died ({lines[-1][:200].rstrip()})" if lines else "its process died"


def result_of_dead(trial: Trial, reason: str, started: float) -> Result:
    """Return the result of a trial whose process, there since ``started``, died."""
    first = trial.path / FIRST_STEP
    first_step = first.stat().st_mtime if first.exists() else None
    if first_step is not None and first_step < started:  # of an earlier attempt
        first_step = None
    result = result_of(trial.path, trial.experiment, "failed")
    return replace(result, reason=reason, started=started, first_step=first_step, ended=time.time())


def close(child: Child, result: Result) -> None:
    """Close a trial's run in MLflow as the trial ended."""
    child.outbox.tags({"ended": result.status} | ({"failure": result.reason} if result.reason else {}))
    child.close(STATUS[result.status])


def line_of(sweep: Sweep, trial: Trial, result: Result) -> str:
    """Return how a trial ended, in one line."""
    metric = sweep.space.base.ranked_by[0]
    what = f"{metric} {result.score:.4f}" if result.score is not None else result.reason
    return f"{trial.name} {result.status}: {what} ({describe(sweep.space.values(trial.choice))}; {result.ended - result.started:.0f} s)"


def run_trials(
    sweep: Sweep, trials: list[Trial], count: int, shared: Shared, begin: Callable[[Trial], Child], proposals: Proposals | None = None
) -> None:
    """Run trials to their ends, as many at once as the sweep says.

    Args:
        sweep: its books.
        trials: those that are known.
        count: the number of trials in all; where it is more, the rest is proposed.
        shared: what all use.
        begin: opens a trial's run in MLflow.
        proposals: give further trials.

    Raises:
        KeyboardInterrupt: it was interrupted; the processes of the trials have ended.
    """
    if not count:
        return
    queue = Queue(sweep, trials, count, proposals)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("trials"), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr))
    watch = Watch(queue, begin, bar)
    try:
        with bar:
            _tuner(sweep, shared, watch).fit()
    except KeyboardInterrupt:
        watch.interrupt()
        raise
    finally:
        shutil.rmtree(sweep.path / TUNE_FOLDER, ignore_errors=True)
    if queue.left or any(trial.result is None for trial in queue.given.values()):
        raise KeyboardInterrupt


def _tuner(sweep: Sweep, shared: Shared, watch: Watch) -> tune.Tuner:
    """Return what gives out the trials of a queue, one that has done nothing."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # outboxes and books hold all that its files would
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output speaks even where it is told to be silent
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would wait for the trials, up to a quarter of a minute
    demand = sweep.demand
    # Several workers ask for themselves; Ray Tune wants the trial around them to ask for something: a byte.
    asked = {"CPU": demand.cpus, "GPU": demand.gpus} if demand.workers == 1 else {"memory": 1}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), asked),
        tune_config=tune.TuneConfig(
            search_alg=watch.queue,
            num_samples=watch.queue.left,
            max_concurrent_trials=demand.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(sweep.path / TUNE_FOLDER),
            callbacks=[watch],
            verbose=0,
        ),
    )
