"""raypro's alphabet as a tokenizer of transformers: one token a residue, CLS before and SEP behind."""

from typing import Any

from raypro.core.alphabet import CLS, LETTERS, MASK, PAD, SEP, UNK

SPECIAL = {"pad": PAD, "mask": MASK, "cls": CLS, "sep": SEP, "unk": UNK}
"""Name and token of each control token."""


def written(name: str) -> str:
    """Return how the control token of that name is written."""
    return f"<{name}>"


def tokenizer() -> dict[str, Any]:
    """Return tokenizer.json: letters of either case, white space left out, any other character unknown."""
    alphabet = [*(written(name) for name in sorted(SPECIAL, key=SPECIAL.__getitem__)), *LETTERS]
    upper = [{"type": "Replace", "pattern": {"String": letter.lower()}, "content": letter} for letter in LETTERS]
    no_space = {"type": "Replace", "pattern": {"Regex": r"\s"}, "content": ""}
    before, first, second, behind = (
        {"SpecialToken": {"id": written("cls"), "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}},
        {"SpecialToken": {"id": written("sep"), "type_id": 0}},
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name) for name in SPECIAL],
        "normalizer": {"type": "Sequence", "normalizers": [no_space, *upper]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [before, first, behind],
            "pair": [before, first, behind, second, behind],
            "special_tokens": {written(n): {"id": written(n), "ids": [SPECIAL[n]], "tokens": [written(n)]} for n in ("cls", "sep")},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(alphabet)}, "unk_token": written("unk")},
    }


def tokenizer_configuration(longest: int | None) -> dict[str, Any]:
    """Return tokenizer_config.json for a model that takes at most ``longest`` tokens (None: any number)."""
    named = {f"{name}_token": written(name) for name in SPECIAL}
    limit = {} if longest is None else {"model_max_length": longest}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        **limit,
        "bos_token": written("cls"),
        "eos_token": written("sep"),
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }


def _added(name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": SPECIAL[name], "content": written(name), **plain, "special": True}
