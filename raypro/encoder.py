"""``raypro.load_encoder``: a checkpoint's encoder, and the vectors it gives to sequences. Legend: n sequences, R residues, D width."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypro.config import InputError, from_plain, nearest
from raypro.core import checkpoint
from raypro.core.encoders.amplify import AmplifyShape
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.cpcprot_vectors import pooled_patches, residue_contexts
from raypro.core.encoders.hugging_face import HuggingFaceShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.heads import Pooling
from raypro.data.plan import CONTROL_TOKENS, cut_by_budget, pack, tokenise
from raypro.data.records import RECORDS, Limits, clean
from raypro.encoder_import import resolve_encoder
from raypro.experiment import Encoder

TOKEN_BUDGET = 16_384

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in evaluation mode. What it gives for a sequence does not depend on the others that it is given with."""

    module: Any
    """The encoder, its weights on ``device``."""
    shape: Encoder
    """What it was built from."""
    device: torch.device
    """Where it runs."""

    @property
    def width(self) -> int:
        """Dimension D of its vectors."""
        return int(self.module.width)

    @property
    def poolings(self) -> tuple[str, ...]:
        """The ways to one vector a sequence; the first is the default."""
        if isinstance(self.shape, CPCProtShape):
            return ("z_mean", "c_mean", "c_final")
        first = isinstance(self.shape, TransformerShape | AmplifyShape) or (isinstance(self.shape, HuggingFaceShape) and self.shape.starts)
        return ("mean", "first_token", "max") if first else ("mean", "max")

    @property
    def limits(self) -> Limits:
        """Which sequences have vectors."""
        if isinstance(self.shape, CPCProtShape):
            length = self.shape.patch_length
            return Limits(min_length=length, too_short=f"shorter than one patch of {length} residues: the encoder has no vector for it")
        return most_residues(self.shape)

    def pooling_or_default(self, pooling: str | None) -> str:
        """Return ``pooling``, the default one for None.

        Raises:
            InputError: the encoder has no such pooling.
        """
        if pooling is not None and pooling not in self.poolings:
            raise InputError(f"pooling: {pooling!r} is none of this encoder's{nearest(pooling, list(self.poolings))}")
        return pooling or self.poolings[0]

    def embed(self, sequences: Sequence[str], pooling: str | None = None, token_budget: int = TOKEN_BUDGET) -> Vectors:
        """Return one vector [n, D] a sequence.

        Args:
            sequences: proteins in letters of either case; white space and a stop at the end are dropped.
            pooling: one of :attr:`poolings`.
            token_budget: most tokens that go through at once; changes speed and memory, not the vectors.

        Raises:
            InputError: no such pooling, or a sequence that is no protein or too short for the encoder.
        """
        tokens, lengths = self._tokens(sequences)
        return self.pooled(tokens, lengths, self.pooling_or_default(pooling), token_budget)

    def embed_residues(self, sequences: Sequence[str], token_budget: int = TOKEN_BUDGET) -> list[Vectors]:
        """Return for each sequence one vector [L, D] a residue; CPCProt's are those of a sliding window.

        Args:
            sequences: as :meth:`embed` takes them.
            token_budget: most tokens that go through at once.

        Raises:
            InputError: a sequence that is no protein or too short for the encoder.
        """
        tokens, lengths = self._tokens(sequences)
        return np.split(self.per_residue(tokens, lengths, token_budget), np.cumsum(lengths)[:-1]) if len(lengths) else []

    def pooled(self, tokens: NDArray[np.uint8], lengths: NDArray[np.int64], pooling: str, token_budget: int) -> Vectors:
        """Return one vector [n, D] a sequence.

        Args:
            tokens: [R] residues of all sequences, one behind the other, without control tokens.
            lengths: [n] residues of each, within :attr:`limits`.
            pooling: one of :attr:`poolings`.
            token_budget: most tokens that go through at once.
        """
        out = np.empty((len(lengths), self.width), np.float32)
        for rows, vectors in self._batches(tokens, lengths, token_budget, self._pool(pooling)):
            out[rows] = vectors
        return out

    def per_residue(self, tokens: NDArray[np.uint8], lengths: NDArray[np.int64], token_budget: int) -> Vectors:
        """Return one vector [R, D] a residue, one sequence behind the other; the arguments are those of :meth:`pooled`."""
        out = np.empty((len(tokens), self.width), np.float32)
        starts = np.cumsum(lengths) - lengths
        for rows, vectors in self._batches(tokens, lengths, token_budget, self._residues):
            for row, vector in zip(rows, vectors, strict=True):
                out[starts[row] : starts[row] + lengths[row]] = vector[1 : 1 + lengths[row]]
        return out

    def _pool(self, pooling: str) -> Callable[[Tensor], Tensor]:
        if isinstance(self.shape, CPCProtShape):
            return lambda tokens: pooled_patches(self.module, tokens, pooling)  # type: ignore[arg-type]
        pool = Pooling("summary" if pooling == "first_token" else pooling, self.module)  # type: ignore[arg-type]
        return lambda tokens: pool(self.module(tokens), tokens)

    def _residues(self, tokens: Tensor) -> Tensor:
        return residue_contexts(self.module, tokens) if isinstance(self.shape, CPCProtShape) else self.module(tokens)

    @torch.inference_mode()
    def _batches(
        self, tokens: NDArray[np.uint8], lengths: NDArray[np.int64], token_budget: int, function: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Yield rows [B] and what ``function`` gives for their tokens [B, T]; sequences of similar lengths go together."""
        starts, widths = np.cumsum(lengths) - lengths, lengths + CONTROL_TOKENS
        order = np.argsort(widths, kind="stable")
        for rows in cut_by_budget(order, widths[order], token_budget):
            batch = torch.from_numpy(pack(tokens, starts[rows], lengths[rows]).astype(np.int64))
            yield rows, function(batch.to(self.device)).float().cpu().numpy()

    def _tokens(self, sequences: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the tokens [R] of all sequences, one behind the other, and the lengths [n] of each."""
        if isinstance(sequences, str) or not (hasattr(sequences, "__len__") and hasattr(sequences, "__getitem__")):
            what = "one string" if isinstance(sequences, str) else f"no list but {type(sequences).__name__}"
            raise InputError(f"sequences: {what}; give a list of sequences")
        n = len(sequences)
        if not n:
            return np.empty(0, np.uint8), np.empty(0, np.int64)
        wrong = next((i for i, sequence in enumerate(sequences) if not isinstance(sequence, str)), None)
        if wrong is not None:
            raise InputError(f"sequence {wrong} (counted from 0): {sequences[wrong]!r:.40} is no string of letters")
        columns: dict[str, Any] = {**dict.fromkeys(RECORDS.names, [None] * n), "line": range(n)}
        columns["sequence"] = [sequence.encode("ascii", "replace") for sequence in sequences]
        accepted, rejected = clean(pa.table({name: list(values) for name, values in columns.items()}, schema=RECORDS), self.limits)
        if rejected.num_rows:
            raise InputError(f"sequence {rejected['line'][0]} (counted from 0): {rejected['cause'][0]}")
        tokens, starts = tokenise(accepted["sequence"])
        return tokens, np.diff(starts, append=len(tokens))


def most_residues(shape: Encoder) -> Limits:
    """Return how long the sequences are that an encoder of this shape takes at most."""
    longest: int | None = getattr(shape, "longest", None)
    return Limits(max_length=longest, too_long=f"longer than {longest} residues: the encoder has no positions for it")


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> LoadedEncoder:
    """Load the encoder of a checkpoint of any kind: pre-trained, fine-tuned or imported.

    Args:
        path: the checkpoint's folder; or hf: and a folder or a name of Hugging Face (see :func:`raypro.encoder_import.resolve_encoder`).
        device: where it is to run.

    Raises:
        InputError: there is no checkpoint, or none of an encoder that raypro knows.
    """
    found = checkpoint.load(resolve_encoder(path))
    if "encoder" not in found.experiment:
        raise InputError(f"{path}: the checkpoint says nothing of an encoder; give one of a pre-training or fine-tuning run")
    shape: Encoder = from_plain(Encoder, found.experiment["encoder"], f"{path}: encoder")
    module = shape.build()
    prefix = "encoder."
    try:
        module.load_state_dict({name.removeprefix(prefix): w for name, w in found.weights.items() if name.startswith(prefix)})
    except RuntimeError as error:
        raise InputError(f"{path}: its weights are not those of its encoder: {' '.join(str(error).split())[:200]}") from None
    return LoadedEncoder(module.eval().requires_grad_(False).to(device), shape, torch.device(device))
