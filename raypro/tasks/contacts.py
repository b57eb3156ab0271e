"""Which residues touch: pairs within 8 angstrom (C-beta in TAPE's data, C-alpha in others; the data say).

Loss: cross entropy over the pairs of resolved residues at least 6 apart along the chain (tape-proteins 0.4). Heads: the linear one of
He et al. 2021 (section 4.3), which may begin with the first layer of the pre-trained pair head, and a ResNet on the same features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raypro.core.batch import ContactLabel, LabelledBatch
from raypro.core.contact_heads import LinearContactHead, ResNetContactHead
from raypro.core.heads import residue_mask
from raypro.core.objectives.objective import Quantity
from raypro.data.labelled import Examples, LabelledData
from raypro.evaluate.contacts import average_metrics, contact_precision, pooled_precision, tape_code_counts
from raypro.evaluate.metrics import bootstrap
from raypro.tasks.task import Interval, PreparedSequences, TaskModel, require_head, require_labels

LEAST_SEPARATION = 6
"""Least distance along the chain of pairs that are trained on and ranked."""
SHARE = "contacts/"
TAPE_CODE = f"{SHARE}P_at_L5_tape_code"


@dataclass(frozen=True)
class Contacts:
    """Contact prediction."""

    head: Literal["linear", "resnet"] = "linear"
    """The head on the pair features [h_i * h_j ; h_i - h_j]."""
    pair_layer: bool = False
    """Begin with a layer [2D -> D] and GELU, which are those of the pre-trained pair head where the checkpoint has one."""
    dropout: float = 0.5
    """Probability of dropping a pair feature before the linear layer."""

    labels: ClassVar[str] = "contacts"
    primary: ClassVar[str] = "P_at_L5_medium_long"

    def __post_init__(self) -> None:
        require_head(1, self.dropout)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Cross entropy in nats per pair."""
        return (Quantity("cross_entropy", "pairs", 1.0),)

    def fitted_to(self, data: LabelledData) -> "Contacts":
        """Return the task as it is."""
        require_labels(self, data)
        return self

    def build(self, encoder: nn.Module) -> TaskModel:
        """Return the encoder with the head."""
        head = LinearContactHead if self.head == "linear" else ResNetContactHead
        return TaskModel(encoder, head(int(encoder.width), self.pair_layer, dropout=self.dropout))

    def prepare(self, batch: LabelledBatch) -> PreparedSequences:
        """Return each protein's contacts [n, 2] and resolved residues [L]."""
        targets = [torch.from_numpy(x) for label in batch.labels for x in (label.pairs.astype(np.int64), label.resolved)]
        return PreparedSequences.of(batch, targets, {"pairs": sum(candidate_pairs(label.resolved) for label in batch.labels)})

    def outputs(self, model: TaskModel, prepared: PreparedSequences) -> list[Tensor]:
        """Return each protein's symmetric logits [L, L]."""
        inside = residue_mask(prepared.tokens)
        return [model.head(h[mask]) for h, mask in zip(model.hidden(prepared), inside, strict=True)]

    def sums_of(self, outputs: list[Tensor], prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies over candidate pairs]."""
        total = torch.zeros((), device=prepared.tokens.device)
        for logits, pairs, resolved in zip(outputs, prepared.targets[::2], prepared.targets[1::2], strict=True):
            target = torch.zeros(logits.shape, device=logits.device)
            target[pairs[:, 0], pairs[:, 1]] = 1.0
            candidates = (resolved[:, None] & resolved[None, :]).triu(LEAST_SEPARATION)
            total = total + binary_cross_entropy_with_logits(logits.float()[candidates], target[candidates], reduction="sum")
        return total[None]

    def sums(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies over candidate pairs]."""
        return self.sums_of(self.outputs(model, prepared), prepared)

    def predictions(self, outputs: list[Tensor], prepared: PreparedSequences) -> list[NDArray[np.float32]]:
        """Return each protein's contact probabilities [L, L]."""
        return [logits.float().sigmoid().cpu().numpy() for logits in outputs]

    def score(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[ContactLabel]) -> dict[str, float]:
        """Return means over proteins of :func:`raypro.evaluate.contacts.contact_precision`, and the figure of TAPE's code."""
        pooled = pooled_precision(counts_of_tape_code(predictions, labels))
        means = average_metrics(per_protein(predictions, labels))
        return {name.removeprefix(SHARE): value for name, value in {**means, **pooled}.items()}

    def intervals(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[ContactLabel]) -> dict[str, Interval]:
        """Return the intervals of the papers' two, medium and long at L/5 and long at L, and of what TAPE's code calls the first."""
        rows = per_protein(predictions, labels)
        found: dict[str, Interval] = {}
        for name in (self.primary, "P_at_L_long"):
            values = np.array([row[SHARE + name] for row in rows])
            values = values[~np.isnan(values)]
            found[name] = bootstrap(lambda index, values=values: float(values[index].mean()), len(values))
        counts = counts_of_tape_code(predictions, labels)
        name = TAPE_CODE.removeprefix(SHARE)
        found[name] = bootstrap(lambda index: pooled_precision(counts[i] for i in index)[TAPE_CODE], len(counts))
        return found

    def baselines(self, data: LabelledData, splits: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Return a random ranking: the share of contacts among all candidates."""
        found = {}
        for split in splits:
            examples = data.read(split)
            metrics = average_metrics(per_protein([np.zeros((n, n)) for n in examples.lengths], examples.labels))
            random = {name.removeprefix(SHARE): value for name, value in metrics.items()}
            found[split] = {name: random[f"random_precision_{name.split('_', 3)[3]}"] for name in random if name.startswith("P_at")}
        return {"random": found}

    def pictures(self, predictions: Sequence[NDArray[np.float32]], examples: Examples, folder: Path, name: str) -> list[Path]:
        """Draw the best, the median and the worst protein; each once, where there are fewer than three."""
        from raypro.evaluate import task_plots
        from raypro.evaluate.plots import save

        labels = examples.labels
        ranks = [row[SHARE + self.primary] for row in per_protein(predictions, labels)]
        order = [i for i in np.argsort(ranks)[::-1] if not np.isnan(ranks[i])]
        few = {1: {0: "the only one"}, 2: {0: "better", 1: "worse"}}
        chosen = few.get(len(order), {0: "best", len(order) // 2: "median", len(order) - 1: "worst"})
        maps = [
            (f"{chosen[place]}: {examples.ids[i]}, {ranks[i]:.2f}", predictions[i], truth(labels[i]), labels[i].resolved)
            for place, i in enumerate(order)
            if place in chosen
        ]
        return [save(task_plots.contact_maps(maps, name), folder / f"contacts_{name}.png")] if maps else []

    def columns(self, predictions: Sequence[NDArray[np.float32]], examples: Examples | None) -> dict[str, list[Any]]:
        """Return the pairs at least 6 apart of each protein's L surest, from 0, with their probabilities, and the true contacts."""
        table: dict[str, list[Any]] = {"i": [], "j": [], "probability": []}
        for p in predictions:
            i, j = np.triu_indices(len(p), k=LEAST_SEPARATION)
            best = np.argsort(-p[i, j], kind="stable")[: len(p)]
            for name, values in (("i", i[best]), ("j", j[best]), ("probability", p[i, j][best])):
                table[name].append(values.tolist())
        if examples:
            table |= {
                "contact_i": [x.pairs[:, 0].tolist() for x in examples.labels],
                "contact_j": [x.pairs[:, 1].tolist() for x in examples.labels],
            }
        return table


def candidate_pairs(resolved: NDArray[np.bool_]) -> int:
    """Return the number of pairs of resolved residues at least 6 apart."""
    before = np.cumsum(resolved)  # resolved residues up to and with each one
    return int(before[: len(resolved) - LEAST_SEPARATION][resolved[LEAST_SEPARATION:]].sum()) if len(resolved) > LEAST_SEPARATION else 0


def truth(label: ContactLabel) -> NDArray[np.bool_]:
    """Return the true contact map [L, L]."""
    contacts = np.zeros((len(label.resolved),) * 2, dtype=bool)
    contacts[label.pairs[:, 0], label.pairs[:, 1]] = contacts[label.pairs[:, 1], label.pairs[:, 0]] = True
    return contacts


def counts_of_tape_code(predictions: Sequence[NDArray[np.floating]], labels: Sequence[ContactLabel]) -> list[tuple[int, int]]:
    """Return :func:`raypro.evaluate.contacts.tape_code_counts` of each protein."""
    return [tape_code_counts(p, truth(label), label.resolved) for p, label in zip(predictions, labels, strict=True)]


def per_protein(predictions: Sequence[NDArray[np.floating]], labels: Sequence[ContactLabel]) -> list[dict[str, float]]:
    """Return the precision metrics of each protein."""
    return [contact_precision(p, truth(label), resolved=label.resolved) for p, label in zip(predictions, labels, strict=True)]
