"""Judge an encoder by probes on its vectors: ``raypro evaluate`` as a Ray job."""

from raypro.job import command_main
from raypro.probing import evaluate_command

if __name__ == "__main__":
    command_main(evaluate_command)
