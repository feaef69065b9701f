"""Nodes of a cluster that grows when it is asked, and may begin without any."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.ray import LiveNode, live_nodes
from trainer.formatting import first_line

NODES_PATIENCE_S = 900
"""For the first node: a machine is rented, starts, and fetches an image."""
POLL_S = 2.0

log = logging.getLogger(__name__)


def request_slots(number: int, cpus: int, gpus: float, memory: int = 0) -> None:
    """Asks for nodes that hold so many trials at once, in place of an earlier request; 0 withdraws it.

    A cluster that does not grow ignores it. One that does has one request, whoever asked last, and keeps nodes as long
    as they are asked for, even if the driver is killed. It may add none for a request that its limits cannot fulfil as
    a whole, and Ray's autoscalers tell no driver what these limits are.
    """
    from ray.autoscaler.sdk import request_resources

    resources = {"CPU": cpus, "GPU": gpus, "memory": memory}
    try:
        request_resources(bundles=[{name: amount for name, amount in resources.items() if amount}] * number)
    except Exception as error:  # noqa: BLE001  # of gRPC, in various kinds, where the head is gone
        log.warning("the cluster was not asked for nodes: %s", first_line(error))


def await_nodes(stopped: Callable[[], bool], say: Callable[[str, str], None]) -> list[LiveNode]:
    """The nodes, once one can run trials or a stop is requested.

    Raises:
        EnvironmentProblem: none came within `NODES_PATIENCE_S`.
    """
    minutes = f"{NODES_PATIENCE_S / 60:.0f} minutes"
    began = time.monotonic()
    nodes = live_nodes()
    if not _has_room(nodes):
        say("node", f"the cluster has none for trials; waiting for one, {minutes} at most")
    while not _has_room(nodes) and not stopped():
        if time.monotonic() - began > NODES_PATIENCE_S:
            raise EnvironmentProblem(f"no node for trials has joined the cluster within {minutes}")
        time.sleep(POLL_S)
        nodes = live_nodes()
    return nodes


def _has_room(nodes: list[LiveNode]) -> bool:
    return any(node.all.cpus for node in nodes)
