"""Priors on parameters: their densities, how they are forgotten, and what a space says of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from events import completed
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import mixed
from strategies import quick

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.coded_points import CodedSpace
from orchestrator.algorithms.curve_history import History
from orchestrator.algorithms.freeze_thaw import Start, decide
from orchestrator.algorithms.priors import FLOORS, ParameterPrior, prior_weight
from orchestrator.algorithms.suggest import center_suggestion
from orchestrator.space.parameters import Point, Value
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import TrialSuggested
from orchestrator.study.study import Study, fold

sure = st.sampled_from(sorted(FLOORS))


@given(place=st.floats(0, 1), sure=sure)
@quick
def test_the_density_of_a_range_has_mean_1_is_highest_at_the_value_and_never_0(place: float, sure: str) -> None:
    prior = ParameterPrior.of(place, sure)
    places = (np.arange(4000) + 0.5) / 4000
    density = prior.density(places)
    assert density.mean() == pytest.approx(1, abs=1e-3)
    assert abs(places[density.argmax()] - place) < 1e-3
    assert density.min() >= FLOORS[sure]


@given(values=st.integers(3, 8), data=st.data(), sure=sure)
@quick
def test_the_density_of_a_choice_has_mean_1_over_its_values(values: int, data: st.DataObject, sure: str) -> None:
    places = np.arange(values) / (values - 1)
    chosen = data.draw(st.integers(0, values - 1))
    density = ParameterPrior.of(places[chosen], sure, values).density(places)
    assert density.mean() == pytest.approx(1)
    assert density.argmax() == chosen
    assert len(set(np.delete(density, chosen))) == 1, "the others are alike"


def test_the_surer_a_value_the_higher_its_density() -> None:
    at = [ParameterPrior.of(0.3, each).density(np.array([0.3]))[0] for each in ("weak", "medium", "strong")]
    assert at == sorted(at)


def with_priors(values: dict[str, Value], sure: str = "strong") -> SearchSpace:
    """A space of every kind of parameter."""
    whole: dict[str, Any] = mixed().resolved()
    for path, value in values.items():
        whole["parameters"][path]["prior"] = {"value": value, "sure": sure}
    return SearchSpace.model_validate(whole)


BELIEVED: dict[str, Value] = {"optim.learning_rate": 1e-2, "model.pooling": "attention", "model.attention_hidden": 16}


def test_priors_add_up_and_that_of_a_parameter_that_is_not_active_says_nothing() -> None:
    where = with_priors(BELIEVED)
    point = {**next(iter(where.samples(0))), **BELIEVED}
    idle = {path: value for path, value in point.items() if path != "model.attention_hidden"}
    at, unpooled = (log_prior(where, each) for each in (point, idle | {"model.pooling": "mean"}))
    rate = ParameterPrior.of(0.75, "strong").density(np.array([0.75]))[0]
    hidden = ParameterPrior.of(0.5, "strong").density(np.array([0.5]))[0]
    pooling = ParameterPrior.of(1.0, "strong", 2).density(np.array([1.0, 0.0]))
    assert at == pytest.approx(np.log(rate * hidden * pooling[0]), rel=1e-3)
    assert unpooled == pytest.approx(np.log(rate * pooling[1]), rel=1e-3)


def log_prior(where: SearchSpace, point: Point) -> float:
    space_ = CodedSpace.of(ax_experiment(where, 0, Study()))
    asked = fold([TrialSuggested(trial="t0000", index=0, params=point, source="start", seed=0, epochs=3)])
    told = ax_experiment(where, 0, asked)["trials"][0]["params"]
    return float(space_.log_prior(space_.places(told)[None])[0])


def test_the_middle_of_a_space_is_where_its_priors_are() -> None:
    found = center_suggestion(with_priors(BELIEVED), Study())
    assert found is not None
    assert {path: found.params[path] for path in BELIEVED} == pytest.approx(BELIEVED)


@pytest.mark.parametrize("rate", [0.0001, 0.01])
def test_proposals_begin_around_a_value_that_is_probably_good(rate: float) -> None:
    where = space(f"{{value: {rate}, sure: strong}}")
    events = [event for index, value in enumerate((0.6, 0.5, 0.55)) for event in completed(index, value)]
    for event in events:
        if isinstance(event, TrialSuggested):
            event.params.update(next(itertools.islice(where.samples(0), event.index, None)))
    history = History.of(ax_experiment(where, 0, fold(events)))
    found = decide(history)
    assert isinstance(found, Start)
    assert found.places[0] == pytest.approx(0.0 if rate == 0.0001 else 1.0, abs=0.25)


def test_a_prior_that_no_model_uses_is_warned_of() -> None:
    where = SearchSpace.load(
        "smoke.yaml", overrides=["parameters.optim.learning_rate.prior={value: 0.002}", "algorithm.name=sobol"]
    )
    assert any("only the model of algorithm 'ax'" in line for line in where.warnings())


def test_a_prior_is_forgotten_as_trials_come_in() -> None:
    weights = [prior_weight(trials, 60) for trials in (0, 1, 6, 60, 600)]
    assert weights == [6, 6, 1, 0.1, 0.01]


# --- spaces ----------------------------------------------------------------------------------------------------------


def space(prior: str, path: str = "optim.learning_rate") -> SearchSpace:
    return SearchSpace.load("smoke.yaml", overrides=[f"parameters.{path}.prior={prior}"])


def test_a_prior_is_a_value_and_how_sure_it_is() -> None:
    found = space("{value: 0.002, sure: strong}")
    prior = found.parameters["optim.learning_rate"].prior
    assert prior is not None
    assert (prior.value, prior.sure) == (0.002, "strong")
    assert SearchSpace.model_validate(found.resolved()) == found
    medium = space("{value: softmax}", "model.attention_gate").parameters["model.attention_gate"].prior
    assert medium is not None
    assert medium.sure == "medium"


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("{value: 7}", "prior.value must lie in [0.0001, 0.01] (is 7)"),
        ("{value: 0.002, sure: very}", "prior.sure: must be 'weak', 'medium' or 'strong'"),
        ("{sure: weak}", "prior.value: is missing"),
        ("0.002", "prior: must be a mapping"),
    ],
)
def test_a_prior_that_is_no_value_of_its_parameter_is_refused_in_one_line(prior: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(prior)
    (line,) = caught.value.problems
    assert said in str(line)
