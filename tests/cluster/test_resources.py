"""How a cluster is shared out among trials."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.base.errors import SearchError
from orchestrator.cluster.resources import GIB, Node, allocate, capacity, why_waiting
from orchestrator.space.options import Resources, memory_bytes
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.description import Options

BIG, SMALL = Node("big", 16, 4.0, 64 * GIB), Node("small", 4, 0.0, 8 * GIB)


def shared(*nodes: Node, concurrent: int | None = None, trials: int = 100, **resources: Any) -> tuple[int, int, float]:
    return allocate(nodes, Resources(**resources), concurrent=concurrent, trials=trials)[:3]


@pytest.mark.parametrize(
    ("node", "settings", "expected"),
    [
        (Node("a", 2), {}, (2, 1, 0)),
        (Node("a", 16), {"concurrent": 4}, (4, 4, 0)),
        (Node("a", 2), {"concurrent": 8}, (2, 1, 0)),
        (Node("a", 8), {"trials": 3}, (3, 2, 0)),
        (Node("a", 16, 2.0), {}, (2, 8, 1.0)),
        (Node("a", 16, 2.0), {"gpus_per_trial": 0.5}, (4, 4, 0.5)),
        (Node("a", 16, 4.0), {"gpus_per_trial": 1.0}, (4, 4, 1)),
        (Node("a", 16, 4.0), {"gpus_per_trial": 0.3}, (12, 1, 0.3)),
        (Node("a", 16, 4.0), {"concurrent": 3}, (3, 5, 1.0)),
        (Node("a", 16, 4.0), {"gpus_per_trial": 0.0}, (16, 1, 0)),
        (Node("a", 2, 4.0), {}, (2, 1, 1.0)),
        (Node("a", 16), {"cpus_per_trial": 5}, (3, 5, 0)),
        (Node("a", 16, 0, 8 * GIB), {"memory_per_trial": "3 GiB"}, (2, 8, 0)),
    ],
)
def test_a_trial_gets_a_gpu_where_there_is_one_and_its_share_of_the_cores(node, settings, expected) -> None:
    assert shared(node, **settings) == expected


def test_no_trial_is_given_more_cores_than_one_node_has() -> None:
    # Six cores in all, but nowhere more than four.
    assert shared(Node("a", 4), Node("b", 2), concurrent=1) == (1, 4, 0)
    assert shared(Node("a", 4), Node("b", 2), concurrent=2) == (2, 2, 0)


def test_nodes_without_gpus_take_no_trials_where_others_have_some() -> None:
    assert shared(BIG, SMALL) == (4, 4, 1.0)


def test_a_head_without_cores_takes_no_trials() -> None:
    assert shared(Node("head", 0), Node("a", 4)) == (4, 1, 0)


def test_what_can_never_fit_is_refused_with_what_each_node_lacks() -> None:
    with pytest.raises(SearchError) as caught:
        shared(SMALL, SMALL._replace(name="other"), gpus_per_trial=1.0, memory_per_trial="100 GiB")
    assert str(caught.value) == (
        "no node can hold a trial of 1 CPU core, 1 GPU and 100 GiB of memory: small has 0 GPUs, 8 GiB; "
        "other has 0 GPUs, 8 GiB; ask for less with --gpus-per-trial or --memory-per-trial"
    )


def test_a_node_that_has_each_but_not_at_once_is_said_so() -> None:
    with pytest.raises(SearchError, match="big has 16 cores; small has 4 cores, 0 GPUs"):
        shared(BIG, SMALL, cpus_per_trial=20, gpus_per_trial=1.0)


def test_training_on_cores_is_said_in_one_line() -> None:
    def reason(*nodes: Node, concurrent: int | None = None) -> str:
        return allocate(nodes, Resources(), concurrent=concurrent, trials=8).reason

    assert reason(Node("a", 2)) == "no GPU in the cluster: 2 at once, 1 of 2 CPU cores each"
    assert reason(Node("a", 2), Node("b", 2)) == "no GPU in the cluster: 4 at once on 2 nodes, 1 of 4 CPU cores each"
    assert reason(Node("a", 2), concurrent=500).endswith(" each; there is room for 2 of 500 at once")


def test_a_waiting_trial_is_explained_by_what_is_free() -> None:
    share = allocate([SMALL], Resources(), concurrent=2, trials=8)
    taken = SMALL._replace(cpus=1, memory=0)
    assert why_waiting([SMALL], [taken], share) == (
        "needs 2 CPU cores on one node, other trials hold the rest: small has 1 CPU core free"
    )
    assert why_waiting([taken], [taken], share).endswith("it starts once a node joins that can")


nodes = st.builds(
    Node,
    st.just("n"),
    st.integers(0, 64),
    st.integers(0, 8).map(float),
    st.integers(0, 512).map(lambda gib: gib * GIB),
)
wanted = st.builds(
    Resources,
    cpus_per_trial=st.none() | st.integers(1, 64),
    gpus_per_trial=st.none() | st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0]),
    memory_per_trial=st.none() | st.integers(1, 128).map(lambda gib: f"{gib} GiB"),
)


@given(st.lists(nodes, max_size=6), wanted, st.none() | st.integers(1, 40), st.integers(1, 200))
def test_a_share_fits_as_often_as_it_says_and_no_trial_could_have_a_core_more(there, resources, concurrent, trials):
    try:
        share = allocate(there, resources, concurrent=concurrent, trials=trials)
    except SearchError:
        assert capacity(there, placed(resources, there)) == 0
        return
    assert 1 <= share.concurrent <= capacity(there, share)
    assert share.concurrent <= min(trials, concurrent or trials)
    if resources.cpus_per_trial is None:
        assert capacity(there, share._replace(cpus=share.cpus + 1)) < share.concurrent
    else:
        assert share.cpus == resources.cpus_per_trial


def placed(resources: Resources, there: list[Node]) -> Any:
    """The least that these resources mean."""
    from orchestrator.cluster.resources import Allocation

    gpus = resources.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in there) else 0.0
    memory = memory_bytes(resources.memory_per_trial) if resources.memory_per_trial else 0
    return Allocation(1, resources.cpus_per_trial or 1, gpus, "", memory)


@pytest.mark.parametrize(("text", "meant"), [("16 GiB", 16 * GIB), ("500MB", 500_000_000), ("1.5 TiB", 3 * 2**39)])
def test_memory_is_read_with_its_unit(text: str, meant: int) -> None:
    assert memory_bytes(text) == meant


@pytest.mark.parametrize("text", ["16", "16 gib", "-1 GiB", "0 GiB", "GiB", "1e3 MB", "16 GiB ", "nan GiB"])
def test_memory_without_a_meaning_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 16 GiB"):
        memory_bytes(text)


@pytest.mark.parametrize("gpus", [1.0001, 1.5, 2.0, 8.0])
def test_more_than_the_one_gpu_that_a_trial_trains_on_is_refused(gpus: float) -> None:
    with pytest.raises(ValueError, match=r"must be at most 1, for a trial trains on one GPU; 0\.5 lets two share"):
        Resources(gpus_per_trial=gpus)


def test_a_search_that_an_earlier_version_gave_two_gpus_a_trial_says_how_to_go_on() -> None:
    options = Options(gpus_per_trial=2.0)
    with pytest.raises(
        SearchError, match=r"^--gpus-per-trial: must be at most 1.*resume with another --gpus-per-trial$"
    ):
        options.resources(SearchSpace.load("smoke.yaml"))
