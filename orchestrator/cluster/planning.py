"""How a search would use a cluster, for `cluster plan`, or this machine; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.authentication import admit_dashboard, dashboard_json, existing_token
from orchestrator.cluster.ray import connect, disconnect, live_nodes
from orchestrator.cluster.resources import (
    Allocation,
    Node,
    allocate,
    capacity,
    in_words,
    this_machine,
    why_waiting,
)
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.description import Options
from trainer.formatting import first_line

NODES = "/api/v0/nodes?limit=10000"
MANY = 10**6


class ClusterPlan(NamedTuple):
    """How a search would use a cluster."""

    nodes: Sequence[Node]
    """With all their resources."""
    free: Sequence[Node] | None
    """With the resources that are free; None if only the dashboard was asked, which does not know them."""
    share: Allocation
    """What a trial gets, and how many would run at once."""
    most: int
    """Trials that the whole cluster could hold at once."""
    now: int | None
    """Trials that the free resources could hold at once."""
    asked: int | None
    """Trials at once that the space or the user asks for."""
    trials: int


def plan_on(space: SearchSpace, options: Options) -> ClusterPlan:
    """Looks at the cluster at `options.address`: the URL of its dashboard, HOST:PORT or `auto`.

    Raises:
        EnvironmentProblem: it cannot be reached.
        SearchError: no node of it can ever hold a trial.
    """
    assert options.address is not None
    if options.address.startswith(("http://", "https://")):
        nodes, free = nodes_of_dashboard(options.address, insecure=options.insecure), None
    else:
        connect(options.address, insecure=options.insecure)
        try:
            live = live_nodes()
        finally:
            disconnect()
        nodes, free = [node.all for node in live], [node.free for node in live]
    return planned(space, options, nodes, free)


def planned(space: SearchSpace, options: Options, nodes: Sequence[Node], free: Sequence[Node] | None) -> ClusterPlan:
    """The plan for a cluster of these nodes.

    Raises:
        SearchError: no node can ever hold a trial.
    """
    asked = options.concurrent or space.budget.concurrent
    trials = space.trials_at_most
    share = allocate(nodes, options.resources(space), concurrent=asked, trials=trials)
    most = allocate(nodes, options.resources(space), concurrent=None, trials=MANY).concurrent
    now = None if free is None else capacity(free, share)
    return ClusterPlan(nodes, free, share, most, now, asked, trials)


def share_of_this_machine(space: SearchSpace, options: Options) -> Allocation:
    """How trials would share this machine alone; of a search on a cluster, what they ask for is left out.

    Raises:
        SearchError: it can never hold a trial.
    """
    # A cluster may have what this machine lacks.
    resources = Resources() if options.address is not None else options.resources(space)
    concurrent = options.concurrent or space.budget.concurrent
    return allocate([this_machine()], resources, concurrent=concurrent, trials=space.trials_at_most)


def plan_lines(plan: ClusterPlan) -> list[tuple[str, str]]:
    """Labels and lines for people."""
    share = plan.share
    lines = [("cluster", f"{len(plan.nodes)} node{'' if len(plan.nodes) == 1 else 's'}")]
    for node in plan.nodes:
        held = capacity([node], share)
        takes = f"takes {held} trial{'' if held == 1 else 's'} at once" if held else "takes no trials"
        lines.append(("", f"{node.name}: {in_words(node.cpus, node.gpus, node.memory)}; {takes}"))
    lines.append(("trial", f"gets {share.each()}"))
    lines.append(("fits", f"{share.concurrent} at once, of {plan.most} that the cluster could hold"))
    if plan.asked is not None and plan.asked > plan.most:
        lines.append(("waiting", f"{plan.asked} at once are asked for; {plan.asked - plan.most} would wait"))
    elif plan.asked is not None and plan.asked < plan.most and plan.trials > plan.asked:
        lines.append(("idle", f"{plan.most - plan.asked} of its places; --concurrent {plan.most} uses all"))
    if plan.free is not None and plan.now is not None and plan.now < share.concurrent:
        lines.append(("now", f"{plan.now} of them could start; the next one {_why(plan)}"))
    return lines


def plan_document(plan: ClusterPlan) -> dict[str, Any]:
    """The plan as JSON; memory in bytes."""
    return {
        "nodes": [node._asdict() for node in plan.nodes],
        "free": None if plan.free is None else [node._asdict() for node in plan.free],
        "trial": {"cpus": plan.share.cpus, "gpus": plan.share.gpus, "memory": plan.share.memory},
        "concurrent": plan.share.concurrent,
        "most": plan.most,
        "now": plan.now,
        "asked": plan.asked,
        "trials": plan.trials,
    }


def _why(plan: ClusterPlan) -> str:
    assert plan.free is not None
    return why_waiting(plan.nodes, plan.free, plan.share)


def nodes_of_dashboard(url: str, *, insecure: bool) -> list[Node]:
    """The living nodes of the cluster behind a dashboard, the head first.

    Raises:
        EnvironmentProblem: it cannot be reached, does not take our token, or demands none.
    """
    mode = admit_dashboard(url, insecure=insecure).mode
    try:
        found = dashboard_json(url, NODES, existing_token() if mode == "token" else None)
        return read_dashboard(found["data"]["result"]["result"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(f"{url}: does not list its nodes ({first_line(error)})") from error


def read_dashboard(found: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The nodes in a list of the dashboard, the head first."""
    alive = sorted((node for node in found if node["state"] == "ALIVE"), key=lambda node: not node["is_head_node"])
    names = [str(node["node_name"]) for node in alive]
    nodes = []
    for node, name in zip(alive, names, strict=True):
        total = node["resources_total"]
        own = name if names.count(name) == 1 else f"{name} ({node['node_id'][:6]})"
        nodes.append(Node(own, int(total.get("CPU", 0)), float(total.get("GPU", 0)), int(total.get("memory", 0))))
    return nodes
