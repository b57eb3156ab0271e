"""Build a corpus out of sequence files: ``raypro corpus build`` as a Ray job."""

from raypro.cli import run_command
from raypro.cluster.corpus import build_command

if __name__ == "__main__":
    run_command(build_command)
