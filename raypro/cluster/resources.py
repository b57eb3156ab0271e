"""The machines of a cluster: what they have, whether workers fit on them, and a question put to each."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
