"""What of a search fits on a cluster."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.planning import plan_document, plan_lines, planned, read_dashboard
from orchestrator.cluster.resources import Node
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.description import Options

HEAD, BIG, SMALL = Node("head", 0), Node("gpu01", 16, 4.0, 64 * 2**30), Node("cpu01", 8, 0.0, 16 * 2**30)


def space(**budget: Any) -> SearchSpace:
    given = {"trials": 40, "concurrent": "null", **budget}
    return SearchSpace.load("smoke.yaml", overrides=[f"budget.{key}={value}" for key, value in given.items()])


def lines(*nodes: Node, free: list[Node] | None = None, **budget: Any) -> dict[str, str]:
    found = plan_lines(planned(space(**budget), Options(), nodes, free))
    return {label: line for label, line in found if label}


def test_a_plan_says_what_a_trial_gets_and_where_it_fits() -> None:
    plan = planned(space(), Options(), [HEAD, BIG, SMALL], None)
    assert plan_lines(plan) == [
        ("cluster", "3 nodes"),
        ("", "head: 0 CPU cores; takes no trials"),
        ("", "gpu01: 16 CPU cores, 4 GPUs and 64 GiB of memory; takes 4 trials at once"),
        ("", "cpu01: 8 CPU cores and 16 GiB of memory; takes no trials"),
        ("trial", "gets 4 CPU cores and 1 GPU"),
        ("fits", "4 at once, of 4 that the cluster could hold"),
    ]
    assert plan_document(plan)["trial"] == {"cpus": 4, "gpus": 1.0, "memory": 0}


def test_more_at_once_than_fit_wait_and_fewer_leave_places_idle() -> None:
    assert lines(BIG, concurrent=6)["waiting"] == "6 at once are asked for; 2 would wait"
    assert lines(BIG, concurrent=3)["idle"] == "1 of its places; --concurrent 4 uses all"
    assert "idle" not in lines(BIG, concurrent=3, trials=3)


def test_trials_that_pause_fill_more_places_than_their_budget_of_whole_trainings() -> None:
    assert lines(BIG, trials=2)["fits"].startswith("2 at once")
    pausing = SearchSpace.load(
        "smoke.yaml", overrides=["budget={trials: 2, concurrent: null}", "stopping={rule: promote, first: 0.25}"]
    )
    assert dict(plan_lines(planned(pausing, Options(), [BIG], None)))["fits"].startswith("4 at once")


def test_what_others_hold_is_explained() -> None:
    taken = [BIG._replace(gpus=1.0, cpus=12)]
    assert lines(BIG, free=taken)["now"] == (
        "1 of them could start; the next one needs 4 CPU cores and 1 GPU on one node, other trials hold the rest: "
        "gpu01 has 12 CPU cores, 1 GPU and 64 GiB of memory free"
    )


def test_nodes_are_read_from_the_dashboards_list_living_ones_the_head_first() -> None:
    def node(name: str, state: str = "ALIVE", head: bool = False, **resources: float) -> dict[str, Any]:
        key = f"{name}{len(resources)}id0000"
        return {"node_id": key, "node_name": name, "state": state, "is_head_node": head, "resources_total": resources}

    found = [node("10.0.0.2", CPU=8.0, GPU=1.0, memory=1e9), node("10.0.0.3", "DEAD"), node("10.0.0.1", head=True)]
    assert read_dashboard(found) == [Node("10.0.0.1", 0), Node("10.0.0.2", 8, 1.0, 10**9)]
