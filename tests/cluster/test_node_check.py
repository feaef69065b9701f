"""What is made of the nodes of a cluster: which there are, which are fit, how many trials they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import node_check
from orchestrator.cluster.capacity import WAITING_AFTER_S, Capacity, HeadHealth, unplaced
from orchestrator.cluster.node_check import Expected, Facts, NodeMismatch, clock_offset, code_hash, mismatches, table
from orchestrator.cluster.ray import LiveNode, read_nodes
from orchestrator.cluster.resources import Allocation, Node

SHARE = Allocation(concurrent=2, cpus=2, gpus=0, reason="")
EXPECTED = Expected({"torch": "2.15.0"}, "c" * 64, "/shared/runs", "token", None, "f" * 64)
FIT = Facts({"torch": "2.15.0"}, "c" * 64, None, None)


def live(name: str, cpus: int, free: int | None = None) -> LiveNode:
    return LiveNode(f"id-{name}", name, Node(name, cpus), Node(name, cpus if free is None else free))


class Cluster:
    """What a `Capacity` sees and says."""

    def __init__(self, *nodes: LiveNode) -> None:
        self.nodes, self.waiting, self.said = list(nodes), 0, list[tuple[str, str]]()
        self.unfit: dict[str, str] = {}

    def capacity(self, concurrent: int | None = None) -> Capacity:
        return Capacity(
            SHARE,
            concurrent,
            self.nodes,
            lambda label, text: self.said.append((label, text)),
            look=lambda: self.nodes,
            waiting=lambda: self.waiting,
            on_join=lambda node: self.unfit.get(node.name),
        )


def test_a_node_that_joins_and_one_that_is_lost_change_how_many_trials_run() -> None:
    cluster = Cluster(live("a", 4))
    room = cluster.capacity()
    assert room.now == 2
    cluster.nodes = [live("a", 4), live("b", 7)]
    room.look(0.0)
    assert room.now == 5
    cluster.nodes = [live("b", 7)]
    room.look(5.0)
    assert room.now == 3
    assert cluster.said == [
        ("node", "b has joined: holds 3 trials at once"),
        ("node", "a is lost; its trials go on elsewhere from their last checkpoints"),
    ]


def test_more_than_asked_for_run_nowhere() -> None:
    cluster = Cluster(live("a", 40))
    assert cluster.capacity(concurrent=3).now == 3


def test_a_node_that_is_unfit_adds_no_room_and_is_named() -> None:
    cluster = Cluster(live("a", 4))
    room = cluster.capacity()
    cluster.unfit["b"] = "torch: 2.14.0, needed: 2.15.0"
    cluster.nodes.append(live("b", 8))
    room.look(0.0)
    assert room.now == 2
    assert cluster.said == [("node", "b has joined and is unfit: torch: 2.14.0, needed: 2.15.0")]


def test_a_cluster_without_room_still_gets_one_trial_so_that_it_can_grow() -> None:
    cluster = Cluster(live("a", 4))
    room = cluster.capacity()
    cluster.nodes = []
    room.look(0.0)
    assert room.now == 1


def test_a_trial_that_waits_long_is_explained_once_until_the_reason_changes() -> None:
    cluster = Cluster(live("a", 4, free=1))
    room = cluster.capacity()
    cluster.waiting = 1
    for moment in (0.0, WAITING_AFTER_S / 2, WAITING_AFTER_S, 2 * WAITING_AFTER_S, 3 * WAITING_AFTER_S):
        room.look(moment)
    assert cluster.said == [
        (
            "waiting",
            "1 trial: needs 2 CPU cores on one node, other trials hold the rest: a has 1 CPU core free",
        )
    ]


def test_a_trial_whose_worker_is_being_started_is_not_said_to_wait() -> None:
    cluster = Cluster(live("a", 4, free=4))
    room = cluster.capacity()
    cluster.waiting = 1
    room.look(0.0)
    room.look(WAITING_AFTER_S)
    assert cluster.said == []


def test_nodes_are_read_head_first_and_told_apart_where_their_hosts_have_one_name() -> None:
    def node(key: str, host: str, **resources: float) -> dict[str, object]:
        return {"NodeID": key * 10, "NodeManagerHostname": host, "Resources": resources}

    found = read_nodes(
        [
            node("a", "gpu01", CPU=8.0, GPU=2.0, memory=1e9),
            node("b", "gpu01", CPU=8.0),
            node("c", "head", **{"node:__internal_head__": 1.0}),
        ],
        {"a" * 10: {"CPU": 3.0, "GPU": 1.5}},
    )
    assert [each.name for each in found] == ["head", "gpu01 (aaaaaa)", "gpu01 (bbbbbb)"]
    assert found[0].all == Node("head", 0)
    assert found[1].all == Node("gpu01 (aaaaaa)", 8, 2.0, 10**9)
    assert found[1].free == Node("gpu01 (aaaaaa)", 3, 1.5)


@pytest.mark.parametrize(
    ("seen", "offset", "what"),
    [
        (FIT, 0.0, []),
        (FIT, 9.0, []),
        (FIT, -41.2, [NodeMismatch("clock", "41 s behind", "at most 10 s off")]),
        (FIT._replace(versions={"torch": "2.14.0"}), 0, [NodeMismatch("torch", "2.14.0", "2.15.0")]),
        (FIT._replace(versions={}), 0, [NodeMismatch("torch", "not installed", "2.15.0")]),
        (FIT._replace(code="d" * 64), 0, [NodeMismatch("code", "d" * 12, "c" * 12)]),
        (
            FIT._replace(storage="not seen"),
            0,
            [NodeMismatch("storage", "not seen", "what the driver sees there")],
        ),
        (FIT._replace(data="not there"), 0, [NodeMismatch("data set", "not there", "fingerprint ffffffffffff")]),
    ],
)
def test_what_keeps_a_node_from_running_trials_is_found(seen: Facts, offset: float, what: list[NodeMismatch]) -> None:
    assert mismatches(seen, offset, EXPECTED) == what


def test_unfit_nodes_are_listed_in_a_table() -> None:
    text = table(
        {
            "gpu02": [NodeMismatch("torch", "2.14.0", "2.15.0")],
            "gpu10-long": [NodeMismatch("clock", "41 s ahead", "less")],
        },
        of=3,
        storage="/runs",
    )
    assert text.splitlines() == [
        "2 of 3 nodes cannot run trials of this search; nothing was started",
        "  node        what   there       needed",
        "  gpu02       torch  2.14.0      2.15.0",
        "  gpu10-long  clock  41 s ahead  less",
    ]


@pytest.mark.parametrize(("storage", "advised"), [("/runs", True), ("s3://bucket/runs", False)])
def test_a_folder_that_not_all_nodes_see_is_answered_with_what_to_do(storage: str, advised: bool) -> None:
    text = table({"gpu02": [NodeMismatch("storage", "is not there", "seen")]}, of=2, storage=storage)
    assert ("the storage /runs must be a folder that all nodes share" in text) == advised


@given(
    st.floats(-1e5, 1e5),
    st.lists(st.tuples(st.floats(0.001, 5), st.floats(0, 1)), min_size=3, max_size=3),
)
def test_a_clock_is_read_to_within_half_of_its_fastest_answer(
    offset: float, answers: list[tuple[float, float]]
) -> None:
    now, pings = [1.7e9], iter(answers)

    def ask() -> float:
        took, share = next(pings)
        read = now[0] + share * took + offset
        now[0] += took
        return read

    found = clock_offset(ask, clock=lambda: now[0])
    # Twice as far where what was found could be an error and is therefore taken for none.
    assert abs(found - offset) <= 2 * min(took for took, _ in answers) / 2 + 1e-3


def test_the_code_hash_is_that_of_names_and_contents_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str, **files: str) -> str:
        for package in node_check.CODE:
            (tmp_path / name / package).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / name / "trainer" / f"{file}.py").write_text(text)
        monkeypatch.setattr(node_check, "HOME", tmp_path / name)
        return code_hash()

    first = installed("first", model="1", losses="2")
    assert installed("second", losses="2", model="1") == first
    assert len({first, installed("third", model="2", losses="1"), installed("fourth", model="1")}) == 3


def test_a_head_counts_as_lost_after_silence_and_not_for_a_moment_of_it() -> None:
    now, answers = [0.0], [True]
    watch = HeadHealth("10.0.0.1:6379", clock=lambda: now[0], answers=lambda host, port: answers[0])
    assert not watch.is_lost()
    answers[0] = False
    now[0] = HeadHealth.LOST_AFTER_S - HeadHealth.LOOK_PERIOD_S
    assert not watch.is_lost()
    answers[0] = True
    now[0] = HeadHealth.LOST_AFTER_S - 1e-6
    assert not watch.is_lost()
    answers[0] = False
    for _ in range(20):
        now[0] += 1.0
        lost = watch.is_lost()
    assert lost


def test_the_heads_port_is_asked_by_a_connection() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        now = [0.0]
        watch = HeadHealth(f"{host}:{port}", clock=lambda: now[0])
        now[0] = HeadHealth.LOST_AFTER_S
        assert not watch.is_lost()
    now[0] = 2 * HeadHealth.LOST_AFTER_S
    assert watch.is_lost()


def test_workers_that_are_kept_while_the_model_is_asked_make_no_trial_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.capacity.placed_workers", lambda: 4)
    assert [unplaced(handed_out) for handed_out in (0, 2, 4, 5)] == [0, 0, 0, 1]
    cluster = Cluster(live("a", 4, free=0))
    room = cluster.capacity()
    for second in range(0, 100, 5):
        cluster.waiting = unplaced(2)
        room.look(float(second))
    assert cluster.said == []
