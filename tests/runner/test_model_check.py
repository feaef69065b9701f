"""The question that a launch asks its model before trials start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from ax_children import LOOP, child
from events import suggested
from small_spaces import random_point

from orchestrator.algorithms.ax_experiment import made_up_experiment, point_from_answer
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.suggest import asks_model, initial_trials
from orchestrator.base.errors import EnvironmentProblem, Exit
from orchestrator.runner.model_check import ModelCheck
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import fold

ANSWERS = LOOP + "print(json.dumps({'params': {}}), flush=True)"
Make: TypeAlias = Callable[..., tuple[ModelCheck, list[str]]]
"""Makes a check of a child that runs a script, and the list of what it says."""
DIES = "raise ImportError('no Client in ax')"


@pytest.fixture
def started() -> Iterator[list[AxProcess]]:
    processes: list[AxProcess] = []
    yield processes
    for process in processes:
        process.close()


@pytest.fixture
def check(tmp_path: Path, started: list[AxProcess]) -> Make:
    def made(
        script: str, *, new: bool, trials: int = 12, deadline: float = 30.0, name: str = "ax"
    ) -> tuple[ModelCheck, list[str]]:
        process, said = child(tmp_path, script, deadline), list[str]()
        started.append(process)
        space = SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}", f"algorithm.name={name}"])
        return ModelCheck(
            process, space, fold([]), lambda label, text: said.append(text), is_new=new, resume="reidsearch resume s"
        ), said

    return made


def test_a_model_that_answers_lets_trials_start_and_is_kept(check: Make, started: list[AxProcess]) -> None:
    checked, said = check(ANSWERS, new=True)
    checked.ask()
    checked.wait()
    assert said == []
    assert not started[0].awaited


def test_a_launch_without_its_model_ends_in_one_line_with_reason_and_remedy(check: Make) -> None:
    checked, _ = check(DIES, new=True)
    checked.ask()
    with pytest.raises(EnvironmentProblem) as caught:
        checked.wait()
    text = str(caught.value)
    assert caught.value.exit_code == Exit.ENVIRONMENT
    assert "Ax's process ended with exit code 1: ImportError: no Client in ax; see " in text
    assert "`reidsearch resume s`" in text and "algorithm.name=sobol" in text
    assert "\n" not in text


def test_a_search_that_is_resumed_goes_on_without_its_model_and_says_so(check: Make) -> None:
    checked, said = check(DIES, new=False)
    checked.ask()
    checked.wait()
    (line,) = said
    assert "no Client in ax" in line and "random points stand in" in line


def test_a_model_that_hangs_fails_a_launch_at_its_deadline(check: Make) -> None:
    checked, _ = check("import time; time.sleep(60)", new=True, deadline=0.2)
    checked.ask()
    with pytest.raises(EnvironmentProblem, match="no answer within"):
        checked.wait()


def test_a_stop_ends_the_wait(check: Make) -> None:
    checked, said = check("import time; time.sleep(60)", new=True)
    checked.ask()
    checked.wait(lambda: True)
    assert said == []


@pytest.mark.parametrize(("name", "trials"), [("sobol", 12), ("ax", 4)])
def test_a_search_that_never_comes_to_its_model_does_not_ask_it(
    check: Make, started: list[AxProcess], name: str, trials: int
) -> None:
    checked, _ = check(DIES, new=True, name=name, trials=trials)
    checked.ask()
    assert not started[0].awaited
    checked.wait()


def test_the_model_is_asked_where_the_budget_is_larger_than_the_initial_design_and_trials_are_left() -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=6"])
    assert initial_trials(space) == 5
    tried = [suggested(index, **random_point(space, 0, index)) for index in range(6)]  # type: ignore[arg-type]
    assert [asks_model(space, fold(tried[:count])) for count in (0, 5, 6)] == [True, True, False]
    smaller = SearchSpace.load("smoke.yaml", overrides=["budget.trials=5"])
    assert not asks_model(smaller, fold([]))
    pausing = ["budget.trials=5", "stopping={rule: freeze_thaw, first: 0.5}", "optim.epochs=4"]
    assert asks_model(SearchSpace.load("smoke.yaml", overrides=pausing), fold(tried)), "6 trials that are not whole"


def test_the_question_is_about_the_space_and_all_its_objectives() -> None:
    overrides = ["objective.metric='mAP, -hours'", "objective.constraints=['rank1 >= 0.1', 'mINP >= baseline']"]
    space = SearchSpace.load("smoke.yaml", overrides=overrides)
    asked = made_up_experiment(space, 0)
    json.dumps(asked, allow_nan=False)
    assert asked["objective"] == "mAP, -hours"
    assert asked["outcome_constraints"] == ["rank1 >= 0.1"]
    for trial in asked["trials"]:
        assert trial["state"] == "completed"
        assert set(trial["metrics"]) == {"hours", "rank1", "mINP"}
        point_from_answer(space, trial["params"])
    assert len({trial["value"] for trial in asked["trials"]}) > 1
