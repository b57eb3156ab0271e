"""Build a corpus out of sequence files: ``raypro corpus build`` as a Ray job."""

from raypro.cli import command_main
from raypro.cluster.corpus import build_command

if __name__ == "__main__":
    command_main(build_command)
