"""A search of one trial at a time depends only on its space and seed, whatever happens to its driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import Search, results_of

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ONE_AT_A_TIME = ("--trials", "8", "--concurrent", "1", "--seed", "5")


def test_a_sequential_search_proposes_the_same_points_with_and_without_kills_of_its_driver(tmp_path: Path) -> None:
    undisturbed = Search(tmp_path, "undisturbed")
    undisturbed.launch(*ONE_AT_A_TIME)
    assert undisturbed.wait() == 0, undisturbed.log.read_text()
    killed = Search(tmp_path, "killed")
    killed.launch(*ONE_AT_A_TIME)
    # In the initial design, while the model is asked for the first time, and among its points.
    for completed in (2, 4, 6):
        killed.until(lambda document, completed=completed: document["counts"]["completed"] >= completed)
        killed.kill()
        killed.resume()
    assert killed.wait() == 0, killed.log.read_text()
    assert killed.status()["counts"]["completed"] == 8
    sources = [trial["source"] for trial in undisturbed.status()["trials"]]
    assert sources.count("ax") == 4
    assert _proposals(killed) == _proposals(undisturbed)
    assert _figures(killed) == _figures(undisturbed)


def _proposals(search: Search) -> list[tuple[Any, ...]]:
    return [(trial["trial"], trial["source"], trial["note"], trial["params"]) for trial in search.status()["trials"]]


def _figures(search: Search) -> list[list[float]]:
    trials = [trial["trial"] for trial in search.status()["trials"]]
    return [[result["validation"]["mAP"] for result in results_of(search.folder, trial)] for trial in trials]
