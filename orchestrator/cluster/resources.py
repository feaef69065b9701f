"""Allocation of a cluster to trials: what each gets, how many run at once, and why one can never be scheduled."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.base.errors import SearchError
from orchestrator.space.options import Resources, memory_bytes

# Ray rounds fractions of a GPU to 1/10,000.
GPU_ROUNDING = 1e-4
GIB = 2**30


class Node(NamedTuple):
    """The resources of one machine of a cluster, in all or those that are free."""

    name: str
    cpus: int
    gpus: float = 0.0
    memory: int = 0
    """Bytes."""


class Allocation(NamedTuple):
    """What one trial gets, and how many run at once."""

    concurrent: int
    cpus: int
    gpus: float
    reason: str
    """One line for people."""
    memory: int = 0
    """Bytes; 0 if it is not counted."""

    def each(self) -> str:
        """What one trial gets, in words."""
        return in_words(self.cpus, self.gpus, self.memory)


def gpu_slices() -> list[str]:
    """Names of the slices of GPUs (MIG) that this process is given; no number counts them."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.startswith("MIG-")]


def this_machine() -> Node:
    """This machine; imports torch."""
    import torch

    from trainer import memory_here

    gpus = len(gpu_slices()) or torch.cuda.device_count()
    return Node("this machine", os.cpu_count() or 1, gpus, memory_here())


def allocate(nodes: Sequence[Node], resources: Resources, *, concurrent: int | None, trials: int) -> Allocation:
    """Divides a cluster among trials, which cannot span nodes: one GPU each if there are any, otherwise CPU cores.

    If the cores of a trial are not given, each gets the most that leave the number of trials at once unchanged.

    Args:
        nodes: the machines that trials may use.
        resources: of one trial, as far as they are given.
        concurrent: most trials at once; None is as many as fit.
        trials: trials that are left.

    Raises:
        SearchError: no node can ever hold a trial; the message says what each lacks.
    """
    gpus = resources.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    memory = 0 if resources.memory_per_trial is None else memory_bytes(resources.memory_per_trial)
    fewest = resources.cpus_per_trial or 1
    most = slots(nodes, fewest, gpus, memory)
    if most == 0:
        raise SearchError(_never_fits(nodes, fewest, gpus, memory))
    running = max(1, min(concurrent or most, most, trials))
    cpus = fewest
    if resources.cpus_per_trial is None:
        # Every core more leaves fewer slots, or as many.
        more = range(fewest + 1, max(node.cpus for node in nodes) + 1)
        cpus += bisect.bisect_left(more, True, key=lambda each: slots(nodes, each, gpus, memory) < running)
    reason = _reason(nodes, running, cpus, gpus, memory)
    if concurrent is not None and most < min(concurrent, trials):
        reason += f"; there is room for {most} of {concurrent} at once"
    return Allocation(running, cpus, gpus, reason, memory)


def slots(nodes: Sequence[Node], cpus: int, gpus: float, memory: int = 0) -> int:
    """Trials that fit on the nodes at once."""
    return sum(_slots(node, cpus, gpus, memory) for node in nodes)


def capacity(nodes: Sequence[Node], share: Allocation) -> int:
    """Trials of this allocation that fit on the nodes at once."""
    return slots(nodes, share.cpus, share.gpus, share.memory)


def why_waiting(nodes: Sequence[Node], free: Sequence[Node], share: Allocation) -> str:
    """Why a trial is pending: nothing is free, or no node can ever hold it."""
    if capacity(nodes, share) == 0:
        lacking = _never_fits(nodes, share.cpus, share.gpus, share.memory)
        return f"{lacking}; it starts once a node joins that can"
    left = "; ".join(f"{node.name} has {in_words(node.cpus, node.gpus, node.memory)} free" for node in free)
    return f"needs {share.each()} on one node, other trials hold the rest: {left}"


def in_words(cpus: int, gpus: float, memory: int) -> str:
    """`4 CPU cores, 0.5 GPUs and 16 GiB of memory`, without GPUs and memory that are 0."""
    parts = [f"{cpus} CPU core{'' if cpus == 1 else 's'}"]
    parts += [f"{gpus:g} GPU{'' if gpus == 1 else 's'}"] if gpus else []
    parts += [f"{memory / GIB:.3g} GiB of memory"] if memory else []
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _slots(node: Node, cpus: int, gpus: float, memory: int) -> int:
    fit = node.cpus // cpus
    if gpus:
        # The fraction of a GPU is one of a single GPU.
        fit = min(fit, math.floor(1 / gpus + GPU_ROUNDING) * int(node.gpus))
    return min(fit, node.memory // memory) if memory else fit


def _never_fits(nodes: Sequence[Node], cpus: int, gpus: float, memory: int) -> str:
    if not nodes:
        return "the cluster has no node"
    there = "; ".join(f"{node.name} has {_lacking(node, cpus, gpus, memory)}" for node in nodes)
    given = [("--cpus-per-trial", cpus > 1), ("--gpus-per-trial", gpus > 0), ("--memory-per-trial", memory > 0)]
    less = " or ".join(option for option, is_asked in given if is_asked)
    advice = f"; ask for less with {less}" if less else ""
    return f"no node can hold a trial of {in_words(cpus, gpus, memory)}: {there}{advice}"


def _lacking(node: Node, cpus: int, gpus: float, memory: int) -> str:
    """What a node has of the resources that it lacks."""
    parts = [f"{node.cpus} cores"] if node.cpus < cpus else []
    parts += [f"{node.gpus:g} GPUs"] if gpus and _slots(node, 1, gpus, 0) == 0 and node.cpus else []
    parts += [f"{node.memory / GIB:.3g} GiB"] if node.memory < memory else []
    return ", ".join(parts) or "enough of each, but not together"


def _reason(nodes: Sequence[Node], running: int, cpus: int, gpus: float, memory: int) -> str:
    cores, there = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    where = "" if len(nodes) == 1 else f" on {len(nodes)} nodes"
    and_memory = f", {memory / GIB:.3g} GiB" if memory else ""
    if gpus:
        return f"{running} at once{where}, {gpus:g} of {there:g} GPUs and {cpus} CPU cores{and_memory} each"
    why = "no GPU in the cluster" if there == 0 else "GPUs are left alone"
    return f"{why}: {running} at once{where}, {cpus} of {cores} CPU cores{and_memory} each"
