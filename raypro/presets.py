"""What several jobs share: the demonstration corpus, and names for runs."""

from datetime import datetime

from raypro.home import home


def demo_corpus() -> str:
    """Return the folder of the corpus of synthetic families, which is made when it is first asked for."""
    return str(home() / "demo-corpus")


def fresh_name(kind: str) -> str:
    """Return ``kind`` with the time: a run's name that is not taken."""
    return f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
