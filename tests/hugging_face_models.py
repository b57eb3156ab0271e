"""Tiny models of random weights in the form in which Hugging Face has them, saved to disk, that tests share."""

import json
from pathlib import Path
from typing import Any

import torch

ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
BERT_TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] L A G V E S I K R D T P N Q F Y M H C W X U B Z O".split()
T5_TOKENS = "<pad> </s> <unk> A L G V S R E D T I P K F Q N Y M H W C X".split()  # no B, O, U, Z
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
LONGEST = 30
NAMES = ("esm2", "esm1b", "protbert", "prott5")


def save(folder: Path, name: str, **changes: Any) -> Path:
    """Write a model, one of :data:`NAMES`, with its tokenizer; ``changes`` are of its configuration. Return the folder."""
    from transformers import BertConfig, BertForMaskedLM, EsmConfig, EsmForMaskedLM, T5Config, T5EncoderModel

    esm = {**SMALL, "vocab_size": len(ESM_TOKENS), "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True}
    torch.manual_seed(0)
    if name == "esm2":
        model = EsmForMaskedLM(EsmConfig(**{**esm, "position_embedding_type": "rotary", **changes}))
    elif name == "esm1b":
        positions = {"position_embedding_type": "absolute", "max_position_embeddings": LONGEST + 4, "emb_layer_norm_before": True}
        model = EsmForMaskedLM(EsmConfig(**{**esm, **positions, **changes}))
    elif name == "protbert":
        model = BertForMaskedLM(BertConfig(**{**SMALL, "vocab_size": len(BERT_TOKENS), "max_position_embeddings": 200, **changes}))
    else:
        layers = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 24, "num_layers": 2}
        model = T5EncoderModel(T5Config(**{**layers, "vocab_size": len(T5_TOKENS), **changes}))
    for weight in model.parameters():  # far from their beginnings, where biases are zero and attention is flat
        torch.nn.init.normal_(weight, std=0.4)
    model.save_pretrained(folder)
    write_tokenizer(folder, name)
    return folder


def write_tokenizer(folder: Path, name: str) -> None:
    """Write the files of a model's tokenizer."""
    if name.startswith("esm"):
        (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
    elif name == "protbert":
        (folder / "vocab.txt").write_text("\n".join(BERT_TOKENS))
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        splitting = Tokenizer(models.WordLevel({token: i for i, token in enumerate(T5_TOKENS)}, "<unk>"))
        splitting.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        splitting.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitting, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        tokenizer.save_pretrained(folder)


def write_pieces(folder: Path) -> None:
    """Put the tokenizer of a ProtT5 in its authors' form, of the library sentencepiece, in the place of another."""
    from sentencepiece import sentencepiece_model_pb2 as form

    for file in folder.glob("*token*.json"):
        file.unlink()
    model, controls = form.ModelProto(), {"<pad>": form.ModelProto.SentencePiece.CONTROL, "</s>": form.ModelProto.SentencePiece.CONTROL}
    controls["<unk>"] = form.ModelProto.SentencePiece.UNKNOWN
    for number, token in enumerate(T5_TOKENS):
        residue = {"piece": f"\u2581{token}", "score": -float(number), "type": form.ModelProto.SentencePiece.NORMAL}  # a space before it
        model.pieces.add(**({"piece": token, "score": 0.0, "type": controls[token]} if token in controls else residue))
    model.trainer_spec.model_type = form.TrainerSpec.UNIGRAM
    model.trainer_spec.pad_id, model.trainer_spec.eos_id, model.trainer_spec.unk_id, model.trainer_spec.bos_id = 0, 1, 2, -1
    model.normalizer_spec.name = "identity"
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))


def by_hand(folder: Path, sequences: list[str]) -> list[torch.Tensor]:
    """Return [L, D] of each sequence as one who uses transformers alone gets them: tokenizer, model, special tokens cut off."""
    from transformers import AutoModel, AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    t5 = json.loads((folder / "config.json").read_text())["model_type"] == "t5"
    model = (T5EncoderModel if t5 else AutoModel).from_pretrained(folder).eval()
    encoded = tokenizer([" ".join(sequence) for sequence in sequences], padding=True, return_tensors="pt")
    with torch.no_grad():
        h = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state
    return [vectors[1 - t5 : 1 - t5 + len(sequence)] for vectors, sequence in zip(h, sequences, strict=True)]
