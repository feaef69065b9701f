"""The child that runs Ax: real answers, and what happens when there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from events import completed, suggested

from orchestrator.ax_process import AxFailed, AxProcess
from orchestrator.space import SearchSpace
from orchestrator.study import fold
from orchestrator.suggest import model_question

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def ax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AxProcess]:
    process = AxProcess(tmp_path_factory.mktemp("logs") / "ax.log")
    yield process
    process.close()


def question() -> dict[str, Any]:
    space = SearchSpace.from_yaml("smoke.yaml")
    start = dict(space.start[0])
    events = []
    for index, rate in enumerate((2e-4, 1e-3, 4e-3, 9e-3)):
        events += completed(index, 0.2 + 0.1 * index)
        events[-4] = suggested(index, **{**start, "optim.learning_rate": rate})
    events.append(suggested(4, **start))
    return model_question(space, 0, fold(events))


def answer(ax: AxProcess, asked: dict[str, Any]) -> dict[str, Any]:
    ax.ask(asked)
    while (params := ax.poll()) is None:
        time.sleep(0.05)
    return params


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "orchestrator.ax_worker" in child.cmdline()]


def test_ax_proposes_a_point_of_the_space_and_the_same_one_for_the_same_question(ax: AxProcess) -> None:
    first = answer(ax, question())
    space = SearchSpace.from_yaml("smoke.yaml")
    assert all(parameter.refusal(first[path]) is None for path, parameter in space.parameters.items())
    assert answer(ax, question()) == first


def test_poison_in_a_question_is_an_error_and_the_next_question_is_answered(ax: AxProcess) -> None:
    poisoned = question()
    poisoned["trials"][0]["value"] = "high"
    with pytest.raises(AxFailed):
        answer(ax, poisoned)
    assert answer(ax, question())


def test_a_child_that_dies_is_an_error_and_the_one_after_it_answers_as_it_would_have(ax: AxProcess) -> None:
    expected = answer(ax, question())
    ax.ask(question())
    (child,) = children()
    child.kill()
    with pytest.raises(AxFailed, match="process ended"):
        while ax.poll() is None:
            time.sleep(0.05)
    assert answer(ax, question()) == expected


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    before = children()
    impatient = AxProcess(tmp_path / "ax.log", deadline=0.2)
    impatient.ask(question())
    with pytest.raises(AxFailed, match="no answer within"):
        while impatient.poll() is None:
            time.sleep(0.05)
    assert children() == before
