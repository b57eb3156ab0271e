"""The residue alphabet: TAPE's IUPAC order (Rao et al. 2019), one for every model of raypro.

Five control tokens, then the 25 letters of IUPAC's amino-acid code in alphabetical order (there is no J).
"""

import numpy as np
from numpy.typing import NDArray

PAD, MASK, CLS, SEP, UNK = range(5)
CONTROL_TOKENS = 2
"""Of a sequence, beside its residues: CLS before them, SEP behind them."""
LETTERS = "ABCDEFGHIKLMNOPQRSTUVWXYZ"
FIRST_LETTER = 5
SIZE = FIRST_LETTER + len(LETTERS)  # 30

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 standard amino acids; only they are masked and predicted. B, O, U, X and Z are residues, but never targets."""

BYTE_TO_TOKEN: NDArray[np.uint8] = np.full(256, UNK, dtype=np.uint8)
for _token, _letter in enumerate(LETTERS, start=FIRST_LETTER):
    BYTE_TO_TOKEN[ord(_letter)] = BYTE_TO_TOKEN[ord(_letter.lower())] = _token

CLASS_TO_TOKEN: NDArray[np.int64] = BYTE_TO_TOKEN[np.frombuffer(STANDARD.encode(), np.uint8)].astype(np.int64)
"""[20] token of each standard amino acid, in the order of STANDARD."""

TOKEN_TO_CLASS: NDArray[np.int64] = np.full(SIZE, -1, dtype=np.int64)
"""[SIZE] index into STANDARD of each token; -1 for every token that is never a target."""
TOKEN_TO_CLASS[CLASS_TO_TOKEN] = np.arange(len(STANDARD))


def encode(sequence: str | bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tokens [L] of a sequence (letters of either case; any other byte becomes UNK), without control tokens."""
    if isinstance(sequence, str):
        sequence = sequence.encode("ascii", "replace")
    letters = np.frombuffer(sequence, np.uint8) if isinstance(sequence, bytes) else sequence
    return np.take(BYTE_TO_TOKEN, letters)
