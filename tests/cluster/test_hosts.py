"""Searches on hosts whose network is cut, slow, or whose clocks differ."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hosts import TwoHosts, can_make_hosts, two_hosts
from running import COMMAND, Search, results_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(not can_make_hosts(), reason="network namespaces and /dev/net/tun need root"),
]

CUT_S = 60.0
SKEW_S = 120


def slow(epochs: int) -> tuple[str, ...]:
    """Two trials at once, one on each host."""
    return (
        *("--set", f"optim.epochs={epochs}", "--set", "clips.frames=4", "--set", "model.height=64"),
        *("--set", "budget.concurrent=null", "--cpus-per-trial", "1", "--trials", "2"),
    )


class SearchOnHosts(Search):
    """A search whose driver runs on the head's host."""

    def __init__(self, storage: Path, name: str, hosts: TwoHosts) -> None:
        super().__init__(storage, name)
        self.environment = hosts.environment
        self.command = hosts.head.command(*COMMAND)


def runs_on(search: Search, trial: str) -> list[str]:
    """What the trial's own log says of its attempts."""
    lines = (search.folder / "trials" / trial / "log.txt").read_text().splitlines()
    return [line for line in lines if "attempt" in line]


def check_whole(search: Search, epochs: int) -> None:
    """Every trial is completed, and has every epoch once, in its own file and in the journal."""
    document = search.status()
    assert [trial["status"] for trial in document["trials"]] == ["completed"] * 2
    for trial in document["trials"]:
        assert [line["epoch"] for line in results_of(search.folder, trial["trial"])] == list(range(1, epochs + 1))
        assert trial["epoch"] == epochs


def until_both_train(search: Search) -> None:
    search.until(lambda document: sum(trial["epoch"] > 2 for trial in document["trials"]) == 2)


def test_a_worker_cut_off_for_a_minute_loses_its_trial_to_the_others_and_nothing_is_lost(tmp_path: Path) -> None:
    epochs = 400
    with two_hosts(tmp_path) as hosts:
        hosts.start()
        search = SearchOnHosts(tmp_path / "runs", "cut", hosts)
        search.launch("--address", hosts.address, *slow(epochs))
        until_both_train(search)
        hosts.link.cut = True
        cut = time.monotonic()
        time.sleep(CUT_S)
        hosts.link.cut = False
        assert search.wait() == os.EX_OK, search.log.read_text()
        print(f"ended {time.monotonic() - cut:.0f} s after the cut")
    check_whole(search, epochs)
    attempts = {trial["trial"]: trial["attempts"] for trial in search.status()["trials"]}
    for trial in attempts:
        print(trial, *runs_on(search, trial), sep="\n  ")
    assert sorted(attempts.values()) == [1, 2]
    assert "is lost; its trials go on elsewhere" in search.log.read_text()


def test_a_slow_link_makes_a_search_slower_and_nothing_else(tmp_path: Path) -> None:
    epochs = 40
    with two_hosts(tmp_path) as hosts:
        hosts.link.delay_s, hosts.link.bytes_per_s = 0.15, 250_000.0
        hosts.start()
        search = SearchOnHosts(tmp_path / "runs", "slow", hosts)
        began = time.monotonic()
        search.launch("--address", hosts.address, *slow(epochs))
        assert search.wait() == os.EX_OK, search.log.read_text()
        print(f"took {time.monotonic() - began:.0f} s")
    check_whole(search, epochs)
    assert [trial["attempts"] for trial in search.status()["trials"]] == [1, 1]


def test_a_node_whose_clock_is_off_is_refused_with_a_table(tmp_path: Path) -> None:
    # The clock as every Python process of this host reads it; Ray's own daemons keep the right one.
    (tmp_path / "skewed").mkdir()
    (tmp_path / "skewed" / "sitecustomize.py").write_text(
        f"import time\n\n_true = time.time\ntime.time = lambda: _true() + {SKEW_S}\n"
    )
    with two_hosts(tmp_path) as hosts:
        hosts.start(
            worker={"PYTHONPATH": os.pathsep.join([str(tmp_path / "skewed"), os.environ.get("PYTHONPATH", "")])}
        )
        hosts.await_nodes(2)
        search = SearchOnHosts(tmp_path / "runs", "skewed", hosts)
        search.launch("--address", hosts.address, *slow(3))
        assert search.wait() == 5, search.log.read_text()
    text = search.log.read_text()
    print(text)
    assert f"clock  {SKEW_S} s ahead  at most 10 s off" in text
    assert "1 of 2 nodes cannot run trials of this search" in text
    assert not search.status()["trials"]


def test_a_storage_that_only_the_drivers_host_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    storage.mkdir()
    with two_hosts(tmp_path) as hosts:
        hosts.start(hidden=storage)
        hosts.await_nodes(2)
        search = SearchOnHosts(storage, "here", hosts)
        search.log = tmp_path / "here.log"
        search.launch("--address", hosts.address, *slow(3))
        assert search.wait() == 5, search.log.read_text()
    text = search.log.read_text()
    print(text)
    assert "1 of 2 nodes cannot run trials of this search" in text
    assert "storage" in text
    assert not search.status()["trials"]
