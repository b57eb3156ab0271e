"""What the report reads in a run of MLflow: fields that may be missing, or be anything at all where another program wrote them."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from statistics import mean, stdev
from typing import Any

import numpy as np

from raypro.evaluate.report_scores import Score
from raypro.mlflow_store import RunRecord

ENCODERS = {
    "AmplifyShape": "AMPLIFY",
    "CPCProtShape": "CPCProt",
    "HuggingFaceShape": "Hugging Face",
    "MultiplicativeLSTMShape": "UniRep",
    "OneHotShape": "One-hot",
}
OBJECTIVES = {"CPC": "CPCProt", "NextToken": "Next token"}
VARIED = ("name", "seed", "data", "parameters", "tracking.", "version.", "workers.")
"""Beginnings of the parameters in which two runs may differ and still be one configuration, with a seed each."""


def number(value: object) -> float | None:
    """Return a finite number, given as one or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def numbers(value: object) -> dict[str, float]:
    """Return the numbers of a JSON object."""
    found = {name: number(item) for name, item in mapping(value).items()}
    return {name: item for name, item in found.items() if item is not None}


def pair(value: object) -> tuple[float | None, float | None]:
    """Return an interval, (None, None) for anything that is none."""
    if not isinstance(value, list) or len(value) != 2:
        return None, None
    low, high = number(value[0]), number(value[1])
    return (low, high) if low is not None and high is not None else (None, None)


def overlap_of(value: object) -> tuple[int, int] | None:
    """Return how many sequences of a split the corpus holds, (identical, near), of what a run wrote; None where it is not known."""
    found = numbers(value)
    return (int(found["identical"]), int(found["near"])) if {"identical", "near"} <= found.keys() else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean; None where one is not known, or there is none."""
    known = list(values)
    return mean(value for value in known if value is not None) if known and None not in known else None


def sum_of(one: float | None, other: float | None) -> float | None:
    """Return the sum of two; None where one is not known."""
    return None if one is None or other is None else one + other


def encoder_of(record: RunRecord) -> str:
    """Return the kind of a run's encoder, in the field's words."""
    kind = record.params.get("encoder.kind", "unknown encoder")
    return ENCODERS.get(kind, kind.removesuffix("Shape"))


def objective_of(record: RunRecord) -> str:
    """Return what a pre-training run learned."""
    return named_objective(record.params.get("objective.kind", "unknown objective"))


def named_objective(kind: str) -> str:
    """Return an objective, given by the name of its class, in the field's words."""
    return OBJECTIVES.get(kind, kind)


def equal_time_of(record: RunRecord) -> bool:
    """Return whether a pre-training run of a comparison was held to the time that another one took."""
    return record.tags.get("held equal") == "equal time"


def equal_tokens_of(record: RunRecord) -> bool:
    """Return whether a pre-training run of a comparison was held to the tokens that the others saw."""
    return record.tags.get("held equal") == "equal tokens"


def parameters_of(record: RunRecord) -> int | None:
    """Return the number of weights of a run's encoder; None in runs that did not log it."""
    found = number(record.params.get("parameters"))
    return None if found is None else int(found)


def step_of(path: str) -> int | None:
    """Return the step of a checkpoint by the name of its folder, ``step_...``; None of anything else."""
    found = re.fullmatch(r"step_(\d+)", PurePath(path).name)
    return int(found[1]) if found else None


def at_step(curve: Sequence[tuple[int, float]], step: int) -> float | None:
    """Return what had been counted by a step, between two loggings in proportion; None where nothing was logged."""
    steps, counts = zip((0, 0.0), *curve, strict=True)
    return float(np.interp(step, steps, counts)) if curve else None


def minutes_of(record: RunRecord) -> float | None:
    """Return how long a run trained; in runs that did not log it, how long they lasted."""
    return record.metrics.get("train/minutes", record.minutes)


def by_split_of(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return split -> metric -> value of a run that left no file of its scores."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        group, _, metric = name.partition("/")
        if group.startswith("test") or group == "best_valid":
            found.setdefault("valid" if group == "best_valid" else group, {})[metric] = value
    return found


def configuration(record: RunRecord) -> tuple[str, ...]:
    """Return what tells a fine-tuning run from those that differ in the seed alone; of a sweep, its id."""
    if "axes" in record.tags:
        return ("", record.run_id)
    fixed = {name: value for name, value in record.params.items() if not name.startswith(VARIED)}
    return (record.tags.get("data_checksum", ""), *(f"{name}={value}" for name, value in sorted(fixed.items())))


def shape_of(record: RunRecord) -> tuple[str, ...]:
    """Return what a fine-tuned model has in common with one that was not pre-trained: data, encoder, and whether that is frozen."""
    same = {name: value for name, value in record.params.items() if name.startswith("encoder.") or name == "frozen"}
    return (record.tags.get("data_checksum", ""), *(f"{name}={value}" for name, value in sorted(same.items())))


def one_a_seed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the newest run of each seed, of runs of one configuration that begin with the oldest: a seed run twice is no second seed.

    They stand in the order in which their seeds were first run.
    """
    return list({run.params.get("seed"): run for run in runs}.values())


def over_seeds(runs: Sequence[Sequence[Score]]) -> Iterator[Score]:
    """Yield the scores of runs that differ in their seed alone: as they are of one run, means and deviations of several."""
    found: dict[tuple[object, ...], list[Score]] = {}
    for score in (score for scores in runs for score in scores):
        name = score.model.method if score.model.baseline else ""
        found.setdefault((name, score.task, score.split, score.metric), []).append(score)
    for alike in found.values():
        first = alike[0]
        if len(alike) == 1 or first.model.baseline:
            yield first
            continue
        values, trained = [score.value for score in alike], [score.model for score in alike]
        model = replace(
            first.model,
            run_ids=tuple(id_ for model in trained for id_ in model.run_ids),
            residues=mean_of([model.residues for model in trained]),
            minutes=mean_of([model.minutes for model in trained]),
        )
        chosen_by = mean_of([score.chosen_by for score in alike])
        yield replace(
            first, model=model, value=mean(values), low=None, high=None, deviation=stdev(values), seeds=len(values), chosen_by=chosen_by
        )


def floor_of(group: str, metric: str, metrics: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return what a validation metric of a pre-training run has to beat."""
    perplexity = metrics.get("valid_chance/perplexity", math.nan)
    frequencies = math.log(perplexity) if perplexity > 0 else math.nan
    kind = metric.rsplit("_", 1)[-1] if not metric.endswith("medium_long") else "medium_long"
    floors = {
        "perplexity": ("residue frequencies", perplexity),
        "L_mlm": ("residue frequencies", frequencies),
        "L_pmlm": ("residue frequencies", 2 * frequencies),
        "ACC_pmlm": ("product of singles", metrics.get("valid_table2/ACC_product", math.nan)),
        "delta_ACC": ("product of singles", 0.0),
        "delta_ACC_over_ACC_pmlm": ("product of singles", 0.0),
        "accuracy_cpc": ("chance", metrics.get("valid_contrast/chance_cpc", math.nan)),
    }
    if metric.startswith("P_at_"):
        floors[metric] = ("random ranking", metrics.get(f"valid_{group}/random_precision_{kind}", math.nan))
    found = floors.get(metric)
    return (found,) if found and math.isfinite(found[1]) else ()
