"""Embed sequences by a pre-trained encoder: ``raypro embed`` as a Ray job."""

from raypro.cli import command_main
from raypro.cluster.embed import embed_command

if __name__ == "__main__":
    command_main(embed_command)
