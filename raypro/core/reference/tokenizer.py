"""Tokenising as TAPE's tokenizer does it (Rao et al. 2019): one dictionary look-up a residue."""

import numpy as np
from numpy.typing import NDArray

from raypro.core.alphabet import FIRST_LETTER, LETTERS

VOCABULARY = {letter: token for token, letter in enumerate(LETTERS, start=FIRST_LETTER)}


def token_of(letter: str) -> int:
    """Return the token of one letter.

    Raises:
        KeyError: not a letter of the alphabet.
    """
    try:
        return VOCABULARY[letter]
    except KeyError:
        raise KeyError(f"Unrecognized token: '{letter}'") from None


def encode(sequence: str) -> NDArray[np.int64]:
    """Return the tokens [L] of a sequence of upper-case letters, without control tokens."""
    letters = list(sequence)
    return np.array([token_of(letter) for letter in letters], np.int64)
