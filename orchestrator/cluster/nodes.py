"""The nodes of the cluster that this process has joined, as Ray knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.cluster.placement import Node


class LiveNode(NamedTuple):
    """A node that is alive."""

    id: str
    """Ray's."""
    name: str
    """Its host's name, with its address where several nodes have that name."""
    all: Node
    free: Node


def live_nodes() -> list[LiveNode]:
    """The nodes that are alive, the head first."""
    import ray
    from ray._private.state import available_resources_per_node

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return read_nodes(alive, free)


def read_nodes(alive: list[dict[str, Any]], free: Mapping[str, Mapping[str, float]]) -> list[LiveNode]:
    """Nodes in Ray's words, and what is free of each by its id, in ours."""
    hosts = [str(node["NodeManagerHostname"]) for node in alive]
    found = []
    for node, host in zip(alive, hosts, strict=True):
        name = host if hosts.count(host) == 1 else f"{host} ({node['NodeID'][:6]})"
        resources = node["Resources"]
        left = free.get(node["NodeID"], {})
        found.append(LiveNode(node["NodeID"], name, _node(name, resources), _node(name, left)))
    heads = ["node:__internal_head__" in node["Resources"] for node in alive]
    return [node for _, node in sorted(zip(heads, found, strict=True), key=lambda pair: not pair[0])]


def _node(name: str, resources: Mapping[str, float]) -> Node:
    return Node(name, int(resources.get("CPU", 0)), resources.get("GPU", 0.0), int(resources.get("memory", 0)))
