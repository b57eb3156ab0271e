"""Contrastive predictive coding of proteins: CPCProt (Lu et al. 2020), equation 3, InfoNCE with a critic f without parameters.

    L = - mean over t, k and samples i of log ( exp f(z_{t+k}^i, c_t^i) / sum over samples j of exp f(z_{t+k}^i, c_t^j) ),
    f(z, c) = z . c,    t = t_min, ..., P_i - K - 1,    k = 1, ..., K

Patches are counted from 0 and sequence i has P_i whole ones. Which terms and which negatives count:

- a sequence is a sample at t if t + K < P_i, for every k alike. The samples at t are the positives and the negatives, N_t of them:
  neither padding nor a remainder nor a sequence that has ended before t + K is ever one.
- a sequence with fewer than t_min + 1 + K whole patches (66 residues) is never a sample; ``too_short`` is their share.
- where this worker has but one sample at t there is nothing to contrast, and the term is left out.
- every term weighs the same, so that a long sequence weighs more than a short one.
- the negatives are the other samples of a batch. Training batches are cut from sequences sorted by length, so that negatives have nearly
  the length of their positive; the authors shuffle. Validation batches of a fixed size, and those of ``raypro evaluate --probe
  contrastive``, have all lengths mixed: fewer samples reach a late t, which makes chance, the mean of 1 / N_t, higher. So the figures of
  training and validation do not compare.
- of a sequence longer than ``batches.max_length`` a window is taken at random, anew in each epoch of training and once for validation;
  the authors take the first 550 residues to train on, as ``raypro evaluate`` does to probe, and all of them to validate on.

As in the authors' public code the softmax runs over the contexts of the batch, given z; van den Oord et al. 2018 let it run over
the z, given a context. Either bounds the information that c_t has of z_{t+k} from below, by log N - L.

Legend: B sequences, P patches of the longest, M patches of all, N samples, K distances, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.alphabet import PAD
from raypro.core.batch import Batch
from raypro.core.distributed import world_size
from raypro.core.encoders.cpcprot import CPCProt, cut
from raypro.core.objectives.info_nce import Terms, gather_candidates, info_nce
from raypro.core.objectives.objective import Quantity
from raypro.core.residues import residue_mask


@dataclass(frozen=True)
class CPC:
    """Contrastive predictive coding."""

    steps_ahead: int = 4
    """K: the farthest patch ahead that is told apart."""
    judged_ahead: int | None = None
    """Validation looks at most so many patches ahead: by what is common to them, runs of different K compare; None: K."""
    t_min: int = 1
    """First patch, counted from 0, whose context is used: at 1 a context has seen two patches."""
    max_length: int = 550
    """Residues that a sequence is cut to, from its first: of the window that ``batches.max_length`` left of it."""
    patch_length: int = 11
    """Residues of a patch; the encoder's."""
    gather: bool = False
    """In training, negatives from the micro-batches of all workers, with gradients; else from this worker's own. Validation never
    gathers."""
    reduction: Literal["valid", "paper-code"] = "valid"
    """Which terms a mean is over: ``valid`` as above; ``paper-code`` as the authors' public code has it: each (t, k) has the mean
    over the whole batch, in which padding and remainders are samples too, and weighs as often as sequences are valid at t. Their code
    differs from it where sequences were cut: it goes by their length before, and the last K patches, of which no loss is, enter the mean
    as zeros."""

    def __post_init__(self) -> None:
        for name, least in (("steps_ahead", 1), ("t_min", 0), ("patch_length", 1)):
            if getattr(self, name) < least:
                raise InputError(f"objective.{name}: {getattr(self, name)} must be {least} or more")
        if self.judged_ahead is not None and self.judged_ahead < 1:
            raise InputError(f"objective.judged_ahead: {self.judged_ahead} must be 1 or more, or None")
        if self.max_length < self.min_length:
            raise InputError(
                f"objective.max_length: cut to {self.max_length} residues no sequence is long enough for "
                f"t_min {self.t_min} and steps_ahead {self.steps_ahead}, which need {self.min_length}; raise it or lower them"
            )

    @property
    def min_length(self) -> int:
        """Residues that a sequence needs to be a sample: 66 by default."""
        return (self.t_min + 1 + self.steps_ahead) * self.patch_length

    @property
    def in_validation(self) -> "CPC":
        """The same, looking no farther ahead than ``judged_ahead``."""
        return replace(self, steps_ahead=min(self.judged_ahead or self.steps_ahead, self.steps_ahead), judged_ahead=None)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Loss (nats), accuracy and its chance 1 / N; accuracy and the bound log N - loss (nats) of each k; what was too short.

        N changes with t and from batch to batch: chance and bound are means over the terms of 1 / N and of log N - loss.
        """
        names = [f"{name}_cpc_k{k}" for name in ("accuracy", "bound") for k in range(1, self.steps_ahead + 1)]
        return (
            Quantity("loss_cpc", "terms", 1.0),
            Quantity("accuracy_cpc", "terms", 0.0),
            Quantity("chance_cpc", "samples", 0.0),
            *(Quantity(name, "samples", 0.0) for name in names),
            Quantity("too_short", "sequences", 0.0),
        )

    def build(self, encoder: nn.Module) -> "ContrastiveModel":
        """Return the model: the encoder alone, as the critic has no parameters.

        Raises:
            InputError: the encoder gives no z and c, or has patches of another length.
        """
        if not isinstance(encoder, CPCProt):
            raise InputError(f"encoder: {type(encoder).__name__} has no patches to contrast; take a CPCProtShape")
        if encoder.shape.patch_length != self.patch_length:
            raise InputError(
                f"objective.patch_length: {self.patch_length}, but the encoder's kernels {encoder.shape.kernels} "
                f"span {encoder.shape.patch_length} residues; make them equal"
            )
        return ContrastiveModel(encoder)

    def require_lengths(self, shortest: int, longest: int) -> None:
        """Check that some sequence has enough patches.

        Raises:
            InputError: none has.
        """
        if longest < self.min_length:
            raise InputError(
                f"objective: no sequence is long enough: the longest has {longest} residues, a contrast {self.steps_ahead} patches ahead "
                f"takes {self.min_length}; lower --objective.steps-ahead, or take another corpus"
            )

    def prepare(self, batch: Batch) -> "Patches":
        """Cut the sequences that are long enough into patches."""
        lengths = residue_mask(batch.tokens).sum(dim=1)
        patches = cut(batch.tokens, self.patch_length, self.max_length)
        whole = (lengths.clamp(max=self.max_length) // self.patch_length).sort(descending=True, stable=True)
        kept = int((whole.values > self.t_min + self.steps_ahead).sum())
        sequences = int((lengths > 0).sum())
        if kept == 0:
            return self.nothing(sequences)
        patches, counts = patches[whole.indices[:kept]].transpose(0, 1), whole.values[:kept]
        patches = patches[: int(counts[0])]
        has = torch.arange(len(patches))[:, None] < counts  # [P, N]
        valid = has[self.steps_ahead :].sum(dim=1)  # samples at t
        valid[: self.t_min] = 0
        if self.reduction == "paper-code":
            has = torch.ones_like(has)
        sizes = has.sum(dim=1)
        candidates = sizes[self.steps_ahead :]
        rows = candidates * (candidates > 1) * (valid > 0)
        weights = tuple((valid.double() / candidates).tolist())
        samples = int(valid[rows > 0].sum())
        return Patches(
            patches[has], _ints(sizes), _ints(rows), _ints(candidates), weights, samples, self.steps_ahead, sequences, sequences - kept
        )

    def nothing(self, sequences: int) -> "Patches":
        """Return padding that goes through the model like patches and counts nothing: a batch whose ``sequences`` are all too short."""
        steps = self.t_min + 1
        patches = torch.full((steps + self.steps_ahead, self.patch_length), PAD)
        none = (0,) * steps
        return Patches(patches, (1,) * len(patches), none, none, (0.0,) * steps, 0, self.steps_ahead, sequences, sequences)

    def sums(self, model: "ContrastiveModel", prepared: "Patches") -> Tensor:
        """Return the sums of :attr:`quantities`, in order."""
        z, c = model(prepared)
        terms = Terms(prepared.rows, torch.tensor([prepared.candidates]), prepared.weights)
        if self.gather and model.training and world_size() > 1:
            c, candidates, first = gather_candidates(c, prepared.candidates, self.max_length // self.patch_length - self.steps_ahead)
            longer = candidates.shape[1] - len(prepared.rows)  # steps that only other workers have
            terms = Terms((*prepared.rows, *[0] * longer), candidates, (*prepared.weights, *[0.0] * longer), first)
        loss, losses, correct = info_nce(z, c, terms, self.steps_ahead)
        log_n, chance = terms.sums_of_n()
        head = torch.stack([loss, correct.sum(), loss.new_tensor(chance)])
        return torch.cat([head, correct, log_n - losses, loss.new_tensor([prepared.too_short])])


@dataclass(frozen=True)
class Patches:
    """The patches of a batch's sequences, those too short left out, and which terms they make."""

    patches: Tensor
    """[M, patch length] tokens: the first patches of all sequences, longest sequence first, then the second patches, and so on."""
    sizes: tuple[int, ...]
    """[P] how many sequences have a patch t."""
    rows: tuple[int, ...]
    """[P - K] samples at t whose terms count, 0 where none do."""
    candidates: tuple[int, ...]
    """[P - K] samples that they are told apart from, themselves among them."""
    weights: tuple[float, ...]
    """[P - K] what a term at t counts for."""
    samples: int
    """Terms of one k, weighted."""
    steps_ahead: int
    """K."""
    sequences: int
    """Sequences of the batch, those too short among them."""
    too_short: int
    """Sequences left out."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of terms, of terms of one k, and of sequences."""
        return {"terms": self.samples * self.steps_ahead, "samples": self.samples, "sequences": self.sequences}

    def to(self, device: torch.device) -> "Patches":
        """Return the same with its tensor on ``device``."""
        return replace(self, patches=self.patches.to(device, non_blocking=True))


class ContrastiveModel(nn.Module):
    """An encoder whose z and c are compared by their dot product."""

    has_token_head, has_pair_head = False, False

    def __init__(self, encoder: CPCProt) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, prepared: Patches) -> tuple[Tensor, Tensor]:
        """Return z [P, N, D] and c [P - K, N, D], padded with zeros.

        No context is computed that no term uses: sequence i's are those of its first P_i - K patches.
        """
        z = self.encoder.latents(prepared.patches)
        sizes = prepared.sizes[prepared.steps_ahead :]
        of_steps = z.split(list(prepared.sizes))
        seen = torch.cat([z_t[:size] for z_t, size in zip(of_steps, sizes, strict=False)])
        return pad(z, prepared.sizes), pad(self.encoder.contexts(seen, sizes), sizes)


def pad(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return [P, N, D] with zeros where a sequence has no patch, for packed vectors x [M, D].

    torch's own ``pad_packed_sequence`` copies all of the gradient once for each length.
    """
    if sizes[0] == sizes[-1]:
        return x.view(len(sizes), sizes[0], -1)
    has = torch.arange(sizes[0]) < torch.tensor(sizes)[:, None]
    places = has.flatten().nonzero().squeeze(1).to(x.device, non_blocking=True)
    return x.new_zeros(has.numel(), x.shape[1]).index_copy(0, places, x).view(*has.shape, -1)


def _ints(values: Tensor) -> tuple[int, ...]:
    """Return a tensor of integers as plain values."""
    return tuple(values.tolist())
