"""``raypro doctor``: what can go wrong, checked before it does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from raypro.cluster import checks as check
from raypro.cluster.checks import Check
from raypro.cluster.resources import alive_nodes, this_machine
from raypro.cluster.train import saved_experiment
from raypro.experiment import Experiment
from raypro.settings import Workers

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    workers: int = 1,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float = 0.0,
    corpus: str | None = None,
    run: str | None = None,
) -> int:
    """Check this installation, the cluster and the places a run writes to; return 1 where something fails, else 0.

    Args:
        workers: training workers that a run would ask for.
        cpus_per_worker: CPUs of each; where missing an equal share of those there are, as in a run.
        gpus_per_worker: GPUs of each.
        corpus: folder of the corpus that would be trained on.
        run: name of a run that would be resumed: its workers, probes and corpus are looked at, not those of the options above.
    """
    asked, probing = Workers(workers, cpus_per_worker, gpus_per_worker), 0.0
    if run is not None:
        experiment, _ = saved_experiment(run)
        asked = experiment.workers
        if isinstance(experiment, Experiment):
            corpus, probing = experiment.corpus, experiment.probe.reserved
    found = [*check.packages(), check.authentication(), check.leftover_cluster()]
    with _connected(found) as connected:
        nodes = alive_nodes() if connected else [this_machine()]
        found += [check.resources(nodes, asked, probing), check.gpus(nodes, connected), check.home()]
        if connected and len(nodes) > 1 and found[-1].outcome != "fail":
            found.append(check.shared_storage(nodes))
    found += [check.disk(), check.tracking()]
    if corpus is not None:
        found.append(check.corpus(corpus))
    table = Table("check", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"), title="raypro doctor")
    for one in found:
        table.add_row(one.name, f"[{STYLES[one.outcome]}]{one.outcome}[/]", escape(one.found), escape(one.advice))
    Console().print(table)
    return int(any(one.outcome == "fail" for one in found))


@contextmanager
def _connected(found: list[Check]) -> Iterator[bool]:
    """Connect to the cluster of $RAY_ADDRESS, note how that went, and tell whether there is a connection."""
    address = os.environ.get("RAY_ADDRESS", "")
    if ray.is_initialized():
        yield True
        return
    if not address:
        found.append(Check("cluster", "pass", "none (RAY_ADDRESS is unset): a run starts Ray on this machine by itself"))
        yield False
        return
    if address.startswith("http"):
        found.append(Check("cluster", "warn", f"RAY_ADDRESS={address} serves `ray job submit` only", "use RAY_API_SERVER_ADDRESS for that"))
        yield False
        return
    if address != "auto" and not check.listens(address):
        found.append(Check("cluster", "fail", f"nothing answers at RAY_ADDRESS={address}", "ray start --head, or unset RAY_ADDRESS"))
        yield False
        return
    try:
        context = ray.init(address=address, logging_level="ERROR")
    except Exception as error:  # whatever is wrong with the cluster is what was asked for
        found.append(
            Check(
                "cluster",
                "fail",
                f"{address}: {str(error).splitlines()[0]}",
                "does it want a token? export RAY_AUTH_MODE=token; else see the head's logs",
            )
        )
        yield False
        return
    try:
        found += [Check("cluster", "pass", address), check.dashboard(context.address_info.get("webui_url"))]
        yield True
    finally:
        ray.shutdown()
