"""The child that runs Ax: real answers, and errors instead of answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from events import completed, epoch_result, paused, reported, started, suggested
from small_spaces import FLAG, IDENTITIES, MARGIN, WIDTH, finite, mixed, random_point, sobol_point, space_of

from orchestrator.algorithms.ax_experiment import ax_experiment, made_up_experiment, point_from_answer
from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.curve_history import History
from orchestrator.algorithms.freeze_thaw import Continue, Start, decide, decisions
from orchestrator.algorithms.points import Point, point_key, tried_points
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event, Observation, ObservationsAttached, TrialReported, TrialSuggested
from orchestrator.study.study import fold

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def ax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AxProcess]:
    process = AxProcess(tmp_path_factory.mktemp("logs") / "ax.log")
    yield process
    process.close()


def question() -> dict[str, Any]:
    space = SearchSpace.load("smoke.yaml")
    start = dict(space.start[0])
    events = []
    for index, rate in enumerate((2e-4, 1e-3, 4e-3, 9e-3)):
        events += completed(index, 0.2 + 0.1 * index)
        events[-4] = suggested(index, **{**start, "optim.learning_rate": rate})
    events.append(suggested(4, **start))
    return ax_experiment(space, 0, fold(events))


def answer(ax: AxProcess, asked: dict[str, Any]) -> dict[str, Any]:
    ax.ask(asked)
    while (told := ax.poll()) is None:
        time.sleep(0.05)
    return told


def point_of(space: SearchSpace, told: dict[str, Any]) -> Point:
    return point_from_answer(space, told["params"])


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "orchestrator.algorithms.ax_worker" in child.cmdline()]


def test_ax_proposes_a_point_of_the_space_and_the_same_one_for_the_same_question(ax: AxProcess) -> None:
    first = answer(ax, question())
    space = SearchSpace.load("smoke.yaml")
    point = point_of(space, first)
    assert all(parameter.refusal(point[path]) is None for path, parameter in space.parameters.items())
    assert answer(ax, question()) == first


def test_what_ax_proposes_is_what_the_decision_is(ax: AxProcess) -> None:
    decision = decide(History.of(question()))
    assert isinstance(decision, Start)
    told = answer(ax, question())
    assert told == {"params": History.of(question()).space.codes(decision.places), "until": decision.until}


def test_a_paused_trial_goes_on_and_a_new_one_starts_as_decided(ax: AxProcess) -> None:
    overrides = ["stopping={rule: freeze_thaw, first: 0.25}", "optim.epochs=8", "evaluation.every=1"]
    space = SearchSpace.load("smoke.yaml", overrides=overrides)
    events: list[Event] = []
    for index in range(5):
        curve = [0.5 + 0.01 * index - 0.3 / epoch for epoch in range(1, 9)]
        events += [suggested(index, **random_point(space, 0, index)), *completed(index, *curve)[1:]]  # type: ignore[arg-type]
    point = suggested(5, **random_point(space, 0, 5)).model_copy(update={"until": 2})  # type: ignore[arg-type]
    epochs = [reported(5, 1, 0.5), reported(5, 2, 0.6), paused(5, 2)]
    told_of = [*events, point, started(5), *epochs]
    longer = [each.model_copy(update={"epochs": 8}) if isinstance(each, TrialSuggested) else each for each in told_of]
    asked = ax_experiment(space, 0, fold(longer))
    ax.ask({**asked, "count": 3})
    found = []
    while ax.awaited:
        if (told := ax.poll()) is not None:
            found.append(told)
        time.sleep(0.02)
    expected = [decision for decision, _ in zip(decisions(History.of(asked)), range(3), strict=False)]
    assert ["continue" in told for told in found] == [isinstance(decision, Continue) for decision in expected]
    assert [told["until"] for told in found] == [decision.until for decision in expected]
    (continuation,) = [told for told in found if "continue" in told]
    assert continuation["continue"] == "t0005"


def test_a_point_of_an_earlier_search_can_be_proposed(ax: AxProcess) -> None:
    space = finite()
    points = list(space.every_point())
    known = [
        Observation(trial=f"t{place:04d}", params=point, value=40.0 + place, standard_error=None)
        for place, point in enumerate(points)
    ]
    own: list[Event] = []
    for index in range(3):
        own += completed(index, 0.1 * index)
        own[-4] = suggested(index).model_copy(update={"params": points[index]})
    asked = ax_experiment(space, 0, fold([ObservationsAttached(search="earlier", observations=known), *own]))
    assert point_of(space, answer(ax, asked)) in points[3:]


@pytest.mark.parametrize("objective", [{"metric": "mAP"}, {"metric": "mAP, -hours", "constraints": ["rank1 >= 0.1"]}])
def test_ax_answers_a_question_about_results_that_nobody_has_measured(ax: AxProcess, objective: dict[str, Any]) -> None:
    space = mixed(objective=objective)
    point_of(space, answer(ax, made_up_experiment(space, 0)))


def several_answers(ax: AxProcess, space: SearchSpace, asked: dict[str, Any], count: int) -> list[Point]:
    ax.ask({**asked, "count": count})
    points = []
    while ax.awaited:
        if (told := ax.poll()) is not None:
            points.append(point_of(space, told))
        time.sleep(0.02)
    return points


def test_ax_proposes_several_points_one_by_one_and_no_two_alike(ax: AxProcess) -> None:
    points = several_answers(ax, SearchSpace.load("smoke.yaml"), question(), 3)
    assert len({point_key(point) for point in points}) == 3


FRAMES = {"type": "choice", "values": [2, 4, 8], "ordered": True}
MANY_STEPS = {"type": "int", "low": 1, "high": 500}


# BoTorch has an optimiser of its own for each.
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"clips.flip": MARGIN, "clips.frames": {**FRAMES, "ordered": False}}, id="no order"),
        pytest.param({"clips.flip": MARGIN, "clips.frames": FRAMES}, id="few combinations"),
        pytest.param(
            {"clips.flip": MARGIN, "clips.frames": FRAMES, "clips.identities": IDENTITIES}, id="many combinations"
        ),
        pytest.param({"clips.flip": MARGIN, "model.attention_hidden": WIDTH}, id="one parameter of many values"),
        pytest.param(
            {"clips.frames": FRAMES, "loss.osm_detach": FLAG, "clips.identities": IDENTITIES}, id="all discrete"
        ),
        pytest.param(
            {"model.attention_hidden": MANY_STEPS, "clips.identities": IDENTITIES}, id="all discrete, many values"
        ),
    ],
)
def test_several_points_are_proposed_whatever_the_kinds_of_parameters(
    ax: AxProcess, parameters: dict[str, Any]
) -> None:
    space = space_of(parameters)
    events: list[Event] = []
    for index in range(6):
        events += [suggested(index, **sobol_point(space, 0, index)), *completed(index, 0.1 * index)[1:]]
    study = fold(events)
    points = several_answers(ax, space, ax_experiment(space, 0, study), 2)
    assert len({point_key(point) for point in points} - tried_points(study)) == 2


def test_steps_conditions_and_constraints_hold_for_what_ax_proposes(ax: AxProcess) -> None:
    space = mixed(constraints=["2 * clips.erase - clips.flip <= 0.9", "clips.identities + 10 * clips.erase >= 8"])
    events = []
    for index in range(8):
        point = random_point(space, 0, index)
        value = float(point["clips.flip"]) - (float(point["clips.erase"]) - 0.6) ** 2
        events += [suggested(index, **point), *completed(index, value)[1:]]
    point = point_of(space, answer(ax, ax_experiment(space, 0, fold(events))))
    assert point_key(point) not in tried_points(fold(events))


# Ax itself refuses the narrow ones, lists the whole numbers of the large ones, and takes no choice of 1,001 values.
HOSTILE = {
    "optim.learning_rate": {"type": "float", "low": 1e-6, "high": 1e-5, "log": True},
    "optim.weight_decay": {"type": "float", "low": 1e-8, "high": 1e-6, "log": True},
    "loss.center_weight": {"type": "float", "low": 0.001, "high": 0.00101},
    "loss.triplet_margin": {"type": "float", "low": 1e-37, "high": 1e37, "log": True},
    "loss.osm_alpha": {"type": "float", "low": 1e-12, "high": 1.1e-12, "step": 1e-14},
    "loss.osm_sigma": {"type": "choice", "values": [2e-38, 4e-38, 1.0], "ordered": True},
    "evaluation.max_clips": {"type": "int", "low": 1, "high": 10**12},
    "clips.workers": {"type": "int", "low": 10**12 - 1, "high": 10**12},
    "model.attention_hidden": {"type": "int", "low": 1, "high": 10**12, "log": True},
    "loss.center_count": {"type": "int", "low": 1, "high": 1000, "log": True},
    "evaluation.batch": {"type": "choice", "values": [1, 10**30, 7]},
}


@pytest.mark.parametrize("paths", [list(HOSTILE), ["optim.learning_rate", "optim.weight_decay"], ["clips.workers"]])
def test_ax_proposes_points_of_ranges_that_it_could_not_express_itself(ax: AxProcess, paths: list[str]) -> None:
    constraints = ["loss.center_weight + 1e10 * loss.osm_alpha <= 0.0115", "evaluation.max_clips <= 1e11"]
    space = space_of({path: HOSTILE[path] for path in paths}, constraints=constraints if len(paths) > 2 else [])
    events: list[Event] = []
    for index in range(4 if len(paths) > 1 else 1):
        events += [suggested(index, **random_point(space, 0, index)), *completed(index, 0.1 * index)[1:]]
    study = fold(events)
    point = point_of(space, answer(ax, ax_experiment(space, 0, study)))
    assert point_key(point) not in tried_points(study)
    assert all(space.parameters[path].refusal(value) is None for path, value in point.items())


def test_ax_keeps_away_from_what_breaks_a_constraint_on_another_figure(ax: AxProcess) -> None:
    parameters = {"clips.flip": MARGIN, "clips.erase": MARGIN}

    def proposal(constraints: list[str]) -> float:
        space = space_of(parameters, objective={"metric": "mAP", "constraints": constraints})
        events = []
        for index in range(12):
            point = sobol_point(space, 0, index)
            share = float(point["clips.flip"])
            events += [suggested(index, **point), *two_figures(index, share, mean_inp=1 - share)]
        return float(point_of(space, answer(ax, ax_experiment(space, 0, fold(events))))["clips.flip"])

    assert proposal([]) > 0.9
    assert proposal(["mINP >= 0.5"]) < 0.7


def test_ax_searches_the_front_of_two_objectives_and_keeps_what_the_baseline_reached(ax: AxProcess) -> None:
    # More flips raise mAP and lower mINP; what the erasing share does, all trials suffer from.
    def proposal(objective: dict[str, Any]) -> Point:
        space = space_of({"clips.flip": MARGIN, "clips.erase": MARGIN}, objective=objective)
        events = []
        for index in range(12):
            point = {"clips.flip": 0.5, "clips.erase": 0.5} if index == 0 else sobol_point(space, 0, index)
            share, lost = float(point["clips.flip"]), 0.3 * float(point["clips.erase"])
            first = suggested(index, **point).model_copy(update={"source": "sobol" if index else "start"})
            events += [first, *two_figures(index, 0.6 * share - lost / 1.5 + 0.3, mean_inp=1 - share - lost)]
        asked = ax_experiment(space, 0, fold(events))
        assert ("mINP >= 0.35" in asked["outcome_constraints"]) == ("constraints" in objective)
        return point_of(space, answer(ax, asked))

    assert float(proposal({"metric": "mAP, mINP"})["clips.erase"]) < 0.3
    kept = proposal({"metric": "mAP", "constraints": ["mINP >= baseline"]})
    assert 1 - float(kept["clips.flip"]) - 0.3 * float(kept["clips.erase"]) > 0.3


def two_figures(index: int, mean_ap: float, mean_inp: float) -> list[Event]:
    """The rest of a trial after its suggestion, with these figures in the end."""
    events = completed(index, mean_ap)[1:]
    (at,) = [number for number, event in enumerate(events) if isinstance(event, TrialReported)]
    result = epoch_result(1, mean_ap)
    assert result.validation is not None
    validation = result.validation.model_copy(update={"mINP": mean_inp})
    events[at] = TrialReported(trial=f"t{index:04d}", result=result.model_copy(update={"validation": validation}))
    return events


RAISING = """
import ax.exceptions, importlib, inspect, pkgutil
import orchestrator.algorithms.ax_worker as worker
from trainer.child import Parent

modules = [importlib.import_module("ax.exceptions." + each.name) for each in pkgutil.iter_modules(ax.exceptions.__path__)]
kinds = [RuntimeError, StopIteration, MemoryError, RecursionError, KeyError]
kinds += {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)
          if issubclass(kind, Exception) and kind.__module__.startswith("ax.")}

def answers(question):
    if question["number"] == len(kinds):
        return [{"params": {"over": True}}]
    kind = kinds[question["number"]]
    try:
        error = kind("poison")
    except TypeError:
        error = kind.__new__(kind)  # whose text cannot even be had
    raise error

worker.answers = answers
worker.main(Parent())
"""  # noqa: E501


def test_every_exception_of_ax_is_an_answer_and_leaves_the_child_alive(tmp_path: Path) -> None:
    process, failures = AxProcess(tmp_path / "ax.log", command=(sys.executable, "-c", RAISING)), []
    try:
        for number in range(100):
            try:
                assert answer(process, {"number": number}) == {"params": {"over": True}}
                break
            except AxFailed as error:
                failures.append(str(error))
    finally:
        process.close()
    names = {failure.partition(":")[0] for failure in failures}
    assert {"StopIteration", "MemoryError", "DataRequiredError", "SearchSpaceExhausted", "ModelError"} <= names
    assert len(failures) >= 35
    assert not any("ended" in failure or "\n" in failure for failure in failures)


ONE_BY_ONE = """
import torch
import orchestrator.algorithms.ax_worker as worker
from trainer.child import Parent

def one_by_one(question):
    client = worker.told_client({**question, "trials": []})
    for trial in question["trials"]:
        index = client.attach_trial(trial["params"])
        if trial["state"] == "completed":
            client.complete_trial(index, raw_data={**trial["metrics"], question["metric"]: trial["value"]})
        elif trial["state"] == "failed":
            client.mark_trial_abandoned(index)
    return client

def answers(question):
    known, proposed = [], []
    for client in (one_by_one(question), worker.told_client(question)):
        known.append(client.summarize().to_csv(index=False))
        torch.manual_seed(question["seed"])
        proposed.append(client.get_next_trials(max_trials=1))
    return [{"params": {"same": known[0] == known[1] and proposed[0] == proposed[1], "rows": known[1].count("\\n")}}]

worker.answers = answers
worker.main(Parent())
"""


def test_trials_told_in_one_go_are_what_ax_knows_of_trials_told_one_by_one(tmp_path: Path) -> None:
    process, asked = AxProcess(tmp_path / "ax.log", command=(sys.executable, "-c", ONE_BY_ONE)), question()
    asked["model"] = "ax"
    asked["trials"][1]["metrics"] = {"mINP": 0.3}
    asked["trials"][3] = {"params": asked["trials"][3]["params"], "state": "failed"}
    try:
        assert answer(process, asked) == {"params": {"same": True, "rows": 1 + 5}}
    finally:
        process.close()


def test_poison_in_a_question_is_an_error_and_the_next_question_is_answered(ax: AxProcess) -> None:
    poisoned = question()
    poisoned["trials"][0]["curve"] = "high"
    with pytest.raises(AxFailed):
        answer(ax, poisoned)
    assert answer(ax, question())


def test_a_child_that_dies_is_an_error_and_the_one_after_it_answers_as_it_would_have(ax: AxProcess) -> None:
    expected = answer(ax, question())
    ax.ask(question())
    (child,) = children()
    child.kill()
    with pytest.raises(AxFailed, match="killed by SIGKILL"):
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
