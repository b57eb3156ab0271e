"""Embed sequences by a pre-trained encoder: ``raypro embed`` as a Ray job."""

from raypro.cluster.embed import embed_command
from raypro.job import command_main

if __name__ == "__main__":
    command_main(embed_command)
