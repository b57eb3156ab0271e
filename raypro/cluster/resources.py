"""The machines of a cluster: what they have, whether workers fit on them, and a question put to each."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypro.cluster.ingest import READ_CPUS
from raypro.config import InputError
from raypro.settings import Workers

TASK_SECONDS = 30.0
"""How long a node may take to answer a question; a busy one may need longer, and then counts as silent."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, or this one: what Ray may hand out of it in all."""

    id: str
    address: str
    cpus: float
    gpus: float


def shortage(nodes: list[Node], workers: int, cpus_per_worker: float, gpus_per_worker: float) -> str | None:
    """Return why ``nodes`` cannot hold the workers, with what is asked and what there is; None where they can.

    A worker lies within one node: two nodes with half a GPU each hold no worker that needs one.
    """
    places = sum(min(_fitting(node.cpus, cpus_per_worker), _fitting(node.gpus, gpus_per_worker)) for node in nodes)
    if places >= workers:
        return None
    asked = f"{workers} workers of {cpus_per_worker:g} CPUs and {gpus_per_worker:g} GPUs each"
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    there = f"{cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"{asked} do not fit: there are {there}, with room for {places:g}; ask for fewer workers, or less for each"


def worker_cpus(workers: Workers, nodes: list[Node], probing: float = 0.0) -> float:
    """Return the CPUs of each worker: those asked for, or an equal share of what the nodes have, less one CPU for reading.

    Args:
        workers: what is asked for.
        nodes: what there is.
        probing: CPUs that are kept for probes of checkpoints.

    Raises:
        InputError: the nodes cannot hold the workers, or have nothing left for reading and probing.
    """
    total = sum(node.cpus for node in nodes)
    cpus = workers.cpus or max(0.1, math.floor(10 * (total - 1 - probing) / workers.count) / 10)
    while workers.cpus is None and cpus > 0.1 and shortage(nodes, workers.count, cpus, workers.gpus):
        cpus = max(0.1, round(cpus - 0.1, 1))  # a worker lies within one node: an even share of all may fit on none
    lack = shortage(nodes, workers.count, cpus, workers.gpus)
    if not lack and workers.cpus is None and workers.count > total:
        lack = f"{workers.count} workers on {total:g} CPUs; ask for fewer, or name the CPUs of each: --workers.cpus"
    if not lack and total - workers.count * cpus < READ_CPUS:
        lack = f"{workers.count} workers of {cpus:g} CPUs leave none of the {total:g} CPUs to read the corpus; lower --workers.cpus"
    if not lack and (total - workers.count * cpus < READ_CPUS + probing or probing > max(node.cpus for node in nodes)):
        kept = f"{probing:g} of the {total:g} CPUs to probe checkpoints beside {READ_CPUS:g} to read the corpus"
        lack = f"{workers.count} workers of {cpus:g} CPUs do not leave {kept}; lower --workers.cpus or --probe.cpus"
    if lack:
        raise InputError(f"workers: {lack}")
    return cpus


def alive_nodes() -> list[Node]:
    """Return the nodes of the connected cluster."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0)) for n in alive]


def this_machine() -> Node:
    """Return this machine as the one node of the cluster that a run would start on it."""
    import torch

    return Node("", "this machine", float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))


def ask(nodes: list[Node], question: Callable[..., Any], *args: Any, num_gpus: float = 0) -> dict[str, Any]:
    """Return what ``question`` answers on every node, by address; an exception where it does not answer."""
    task = ray.remote(question)
    answers = {
        node.address: task.options(
            num_cpus=0, num_gpus=num_gpus, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(*args)
        for node in nodes
    }
    found: dict[str, Any] = {}
    for address, answer in answers.items():
        try:
            found[address] = ray.get(answer, timeout=TASK_SECONDS)
        except Exception as error:  # a node that cannot answer is a finding, not an end
            found[address] = error
    return found


def _fitting(there: float, each: float) -> float:
    return math.inf if each == 0 else math.floor(there / each + 1e-9)
