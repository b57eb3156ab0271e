"""The model card of an exported model: README.md, in the form of Hugging Face's hub, filled from the run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raypro
from raypro.config import InputError
from raypro.core.encoders.transformer import TransformerShape
from raypro.data.corpus import Corpus
from raypro.experiment import AnyExperiment, Experiment
from raypro.exported.family import Family, configuration, family_of, most_residues

OBJECTIVES = {
    "MLM": "masked language modelling",
    "PMLM": "pairwise masked language modelling (He et al. 2021)",
    "Adversarial": "adversarial contrastive pre-training (McDermott et al. 2020)",
}
"""How an objective is called in a sentence; others by their class."""


@dataclass(frozen=True)
class Exported:
    """What the card says of."""

    experiment: AnyExperiment
    shape: TransformerShape
    step: int
    metrics: Mapping[str, float]
    parameters: int
    """Of the encoder and the heads that are exported."""
    token_head: str | None
    """See :data:`raypro.exported.weights.TokenHead`."""
    pair_head: bool
    max_length: int
    data: str
    """What it was trained on, as a sentence."""

    @property
    def family(self) -> Family:
        """Which model of transformers it is."""
        return family_of(self.shape)

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return configuration(self.shape, self.max_length, self.token_head, self.pair_head)


def data_sentence(experiment: AnyExperiment, run_file: Path) -> str:
    """Return what is known of the data: the name, the checksum that the run began with, the counts while the same data are still there."""
    pretraining = isinstance(experiment, Experiment)
    place = Path(experiment.corpus if isinstance(experiment, Experiment) else experiment.data)
    kind = "corpus" if pretraining else "labelled data"
    began_with = _checksum_of_run(run_file)
    try:
        corpus = Corpus.open(place) if pretraining else None
    except InputError:
        corpus = None
    if corpus is None or began_with not in (None, corpus.manifest.checksum):
        return f"{kind} `{place.name}`, " + (f"checksum `{began_with}`" if began_with else "checksum not recorded")
    train = [file for file in corpus.manifest.files if file.split == "train"]
    counts = f"{sum(f.rows for f in train):,} sequences of {sum(f.residues for f in train):,} residues in its training split"
    sources = "; ".join(corpus.manifest.sources)
    return f"{kind} `{place.name}`, checksum `{corpus.manifest.checksum}`: {counts}; made from {sources}"


def _checksum_of_run(run_file: Path) -> str | None:
    try:
        found = json.loads(run_file.read_text())["data_checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def card(model: Exported) -> str:
    """Return the text of README.md."""
    return "\n".join([*_header(model), *_about(model), *_facts(model), *_use(model), *_limits(model)]) + "\n"


def _objective(model: Exported) -> str:
    learned = model.experiment.objective if isinstance(model.experiment, Experiment) else model.experiment.task
    name = type(learned).__name__
    return OBJECTIVES.get(name, name) if isinstance(model.experiment, Experiment) else f"fine-tuning on a task ({name})"


def _header(model: Exported) -> list[str]:
    task = ["pipeline_tag: fill-mask"] if model.token_head == "family" else []
    return ["---", "library_name: transformers", *task, "tags:", "- protein", "- raypro", f"- {model.family.kind}", "---", ""]


def _about(model: Exported) -> list[str]:
    shape = model.shape
    norms = {"pre": "before each sublayer", "post": "after each sublayer"}[shape.norm]
    return [
        f"# {model.experiment.name}",
        "",
        f"A Transformer over protein sequences, trained by {_objective(model)} with raypro {raypro.__version__}. "
        f"{shape.layers} layers of width {shape.width}, {shape.heads} heads, {shape.positions} positions, layer norm {norms}; in "
        f"transformers it is `{model.family.encoder}`. The alphabet is raypro's, 25 amino-acid letters and five control tokens; "
        "the weights fit no other tokenizer.",
        "",
    ]


def _facts(model: Exported) -> list[str]:
    experiment = model.experiment
    rows = {
        "objective": _objective(model),
        "data": model.data,
        "steps": f"{model.step:,}",
        "parameters": f"{model.parameters:,}",
        "precision in training": experiment.precision,
        "weights": "float32",
        "raypro": raypro.__version__,
    }
    table = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    metrics = [f"| {name} | {value:.4g} |" for name, value in model.metrics.items()]
    measured = ["", "On the validation split:", "", "| metric | value |", "| --- | --- |", *metrics] if metrics else []
    return ["## The run", "", "| | |", "| --- | --- |", *table, *measured, ""]


def _use(model: Exported) -> list[str]:
    family = model.family
    pooling = "" if family.kind == "roformer" else ", add_pooling_layer=False"
    code = [
        f"from transformers import AutoTokenizer, {family.encoder}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'encoder = {family.encoder}.from_pretrained("FOLDER"{pooling})',
        'inputs = tokenizer(["MKTAYIAKQR", "MKV"], padding=True, return_tensors="pt")',
        "vectors = encoder(**inputs).last_hidden_state      # vector 0 is the start token's, the residues follow",
    ]
    return ["## Use", "", "```python", *code, "```", "", *_heads(model)]


def _heads(model: Exported) -> list[str]:
    family, lines = model.family, []
    if model.token_head == "family":
        lines += [
            f"The token head is that of `{family.masked}`: load it with "
            f'`{family.masked}.from_pretrained("FOLDER")` or `AutoModelForMaskedLM`. '
            "Tokens other than the 20 standard residues have the logit -10,000: they are never predicted.",
            "",
        ]
    if model.pair_head or model.token_head not in (None, "family"):
        heads = " and ".join([*(["the token head"] if model.token_head else []), *(["the pair head"] if model.pair_head else [])])
        lines += [
            f"For {heads} there is a class `{family.custom}` in `modeling_raypro.py`, beside this card: read it, then either import it "
            'from there, or let `AutoModelForMaskedLM.from_pretrained("FOLDER", trust_remote_code=True)` do so.'
            + (f" **A plain `{family.masked}` would have a head of random weights.**" if model.token_head != "family" else ""),
            "",
        ]
    if model.pair_head:
        lines += ["Its `pair_logits(h_i, h_j)` gives logits over the 400 pairs of residues from two vectors of the encoder.", ""]
    return [*lines, "`raypro encoder import FOLDER --from hf --out CHECKPOINT` makes a raypro checkpoint of it again.", ""]


def _limits(model: Exported) -> list[str]:
    most = most_residues(model.shape, model.max_length)
    length = "It takes sequences of any length" if most is None else f"Its table of positions ends at {most:,} residues"
    cropped = f"; trained on at most {model.experiment.batches.max_length}" if isinstance(model.experiment, Experiment) else ""
    contacts = ["Its contact head (`predict_contacts`) was never trained: its weights are zero.", ""] if model.family.kind == "esm" else []
    return [
        "## Intended use and limits",
        "",
        "Vectors of protein sequences for further models, and probabilities of residues in their context, for research. "
        "It knows no more than its data; nothing here is advice on health or safety of a protein.",
        "",
        f"{length}{cropped}. Pad on the right, and pass the attention mask.",
        "",
        *contacts,
        "Licence: not chosen yet. Whoever publishes the model states it here.",
    ]
