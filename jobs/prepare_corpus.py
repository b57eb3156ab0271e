"""Build a corpus out of sequence files: ``raypro corpus build`` as a Ray job."""

from raypro.cluster.corpus import build_command
from raypro.job import command_main

if __name__ == "__main__":
    command_main(build_command)
