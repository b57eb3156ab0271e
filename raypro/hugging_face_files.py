"""What a folder of Hugging Face says of a model in plain files: JSON, and a tokenizer that gives each token of ours one of its own."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raypro.config import InputError, first_line
from raypro.core.alphabet import LETTERS, STANDARD

TOKENIZER = "tokenizer_config.json"
PIECES = "spiece.model"
"""A tokenizer as the library sentencepiece has it: all that ProtT5 was published with."""


def read_json(file: Path) -> dict[str, Any]:
    """Return what a file of JSON holds.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    try:
        plain = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{file.parent}: no {file.name} in it: no model of Hugging Face; give a folder with config, weights and tokenizer"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not valid JSON ({first_line(error)}); download it again") from None
    if not isinstance(plain, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(plain).__name__}; download it again")
    return plain


def refuse_code(file: Path, plain: dict[str, Any]) -> None:
    """Raise InputError if a file says that its model is code that lies beside it."""
    if "auto_map" in plain:
        raise InputError(
            f"{file}: asks to run code from its folder (auto_map), which raypro never does; take a model that transformers has"
        )


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, if it is one of transformers' own."""
    import transformers

    if (folder / TOKENIZER).is_file():
        plain = read_json(folder / TOKENIZER)
        named = plain.get("tokenizer_class")
        known = getattr(transformers, str(named), None)
        if known is None:
            refuse_code(folder / TOKENIZER, plain)
        # Anything else of transformers would be loaded in its place, and could ask to run code.
        elif not (isinstance(known, type) and (issubclass(known, transformers.PreTrainedTokenizerBase) or hasattr(known, "is_dummy"))):
            raise InputError(f"{folder / TOKENIZER}: {named} is no tokenizer; download it again")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        _tokens(tokenizer, STANDARD)
        return tokenizer
    except Exception as error:  # of many kinds, by what is missing or damaged
        if (folder / PIECES).is_file() and find_spec("sentencepiece") is None:
            raise InputError(f"{folder / PIECES}: needs the package sentencepiece: pip install 'raypro[transformers]'") from None
        raise InputError(
            f"{folder}: its tokenizer cannot be read ({first_line(error)}); the folder needs the model's tokenizer files"
        ) from None


def translation(folder: Path, tokenizer: Any, config: Any) -> tuple[tuple[int, ...], bool, bool]:
    """Return the model's token for each of ours, and whether it has one before and one after the residues."""
    known = {letter: found[0] for letter in LETTERS if len(found := _tokens(tokenizer, letter)) == 1 and found[0] != tokenizer.unk_token_id}
    tokens = [known.get(letter) for letter in STANDARD]
    lacking = [letter for letter, token in zip(STANDARD, tokens, strict=True) if token is None or tokens.count(token) > 1]
    if lacking:
        raise InputError(f"{folder}: its tokenizer has no token of its own for amino acid {lacking[0]}; take a protein model")
    around = _around(tokenizer, [known[letter] for letter in STANDARD])
    if around is None:
        raise InputError(f"{folder}: its tokenizer does not make one token of each residue; raypro takes such models only")
    before, after = around
    unknown = next((token for token in (known.get("X"), tokenizer.unk_token_id) if token is not None), None)
    if unknown is None:
        raise InputError(f"{folder}: its tokenizer has neither X nor an unknown token; take another model")
    padding = next((token for token in (tokenizer.pad_token_id, getattr(config, "pad_token_id", None)) if token is not None), 0)
    mask = unknown if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    controls = (padding, mask, *(before or [padding]), *(after or [padding]), unknown)  # in the order of our alphabet
    vocabulary = (*controls, *(known.get(letter, unknown) for letter in LETTERS))
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or max(vocabulary) >= size:
        raise InputError(f"{folder}: its tokenizer has token {max(vocabulary)}, its model {size} tokens; they do not belong together")
    return tuple(int(token) for token in vocabulary), bool(before), bool(after)


def _around(tokenizer: Any, residues: list[int]) -> tuple[list[int], list[int]] | None:
    """Return what the tokenizer puts before and after the standard amino acids: a token or none; None if it splits them otherwise."""
    for text in (STANDARD, " ".join(STANDARD)):  # some want spaces between residues
        found = _tokens(tokenizer, text, True)
        for first in (0, 1):
            end = first + len(residues)
            if found[first:end] == residues and len(found) - end <= 1:
                return found[:first], found[end:]
    return None


def _tokens(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return found
