"""``raypro``: which commands there are. The module of a command is imported when that command is given, and no other."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from raypro import __version__
from raypro.arguments import find_command, one_line_errors, parse_call


class Command(NamedTuple):
    """A function that is a command: its parameters are the options, its docstring the help."""

    module: str
    function: str
    about: str
    """What it does, in a line of the overview."""

    def load(self) -> Any:
        """Return the function."""
        return getattr(import_module(f"raypro.{self.module}"), self.function)


COMMANDS = {
    "corpus build": Command("cluster.corpus", "build_command", "build a corpus out of sequence files"),
    "corpus show": Command("cluster.corpus", "show_command", "print what a corpus holds and where it came from"),
    "corpus check": Command("cluster.corpus", "check_command", "verify every checksum and count of a corpus"),
    "corpus overlap": Command("cluster.overlap", "overlap_command", "count what of evaluation sets is in a corpus"),
    "corpus synthetic": Command("cluster.corpus", "synthetic_command", "make a corpus of families with planted contacts"),
    "task download": Command("data.download_command", "download_command", "download one of TAPE's data sets"),
    "task import": Command("data.label_commands", "import_command", "import labelled data: TAPE's, or measurements of your own"),
    "task show": Command("data.label_commands", "show_command", "print what labelled data hold"),
    "task check": Command("data.label_commands", "check_command", "verify labelled data"),
    "evaluate": Command("probing", "evaluate_command", "judge an encoder by simple models, beside baselines"),
    "tune": Command("cluster.tune", "tune_command", "try out a search space and register its best model"),
    "predict": Command("prediction", "predict_command", "predict for unlabelled sequences by a fine-tuned model"),
    "embed": Command("cluster.embed", "embed_command", "write one vector a sequence or a residue"),
    "encoder import": Command("encoder_import", "import_encoder_command", "turn published weights into a checkpoint"),
    "encoder export": Command("hugging_face_export", "export_encoder_command", "write a checkpoint for Hugging Face's transformers"),
    "validate": Command("validation_commands", "validate_command", "measure a checkpoint on held-out data, with pictures"),
    "contacts": Command("validation_commands", "contacts_command", "score the contact map that a pair head implies"),
    "dca": Command("direct_coupling", "dca_command", "predict contacts from an alignment alone"),
    "runs list": Command("run_commands", "list_command", "list the runs in raypro's home"),
    "runs audit": Command("run_commands", "audit_command", "prove that a run used each sequence exactly once"),
    "runs sync": Command("run_commands", "sync_command", "send to MLflow what a run could not send"),
    "report": Command("report", "report_command", "make one page of all runs, published figures beside ours"),
    "doctor": Command("cluster.doctor", "doctor", "check what can go wrong before it does"),
    "ui": Command("ui", "ui", "browse the runs in MLflow"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run ``raypro``: see ``raypro --help``."""
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        print(f"raypro {__version__}")
        return
    with one_line_errors():
        name = find_command(COMMANDS, given)
        if name not in COMMANDS:
            _overview({full: command for full, command in COMMANDS.items() if not name or full.startswith(f"{name} ")})
            return
        status = parse_call(COMMANDS[name].load(), given[len(name.split()) :], f"raypro {name}")()
    sys.exit(status if isinstance(status, int) else 0)


def _overview(commands: Mapping[str, Command]) -> None:
    """Print what commands there are."""
    table = Table.grid(padding=(0, 3))
    for name, command in commands.items():
        table.add_row(f"  {name}", command.about)
    console = Console(highlight=False)
    console.print("usage: raypro COMMAND [OPTIONS]; raypro COMMAND --help says which\n")
    console.print(table)
    if len(commands) == len(COMMANDS):
        console.print("\nRuns begin as jobs: python jobs/pretrain_pmlm.py --help, python jobs/finetune.py --help", soft_wrap=True)
