"""The search algorithms: which point to try next, as a pure function of the space, the seed and the study.

With `ax`, points come from the list `start` of the space, or from its middle if it lists none, then from a scrambled
Sobol sequence, then from the model (`orchestrator.algorithms.ax_worker`), which is fitted anew for every question. The
same history always gives the same proposal, so that a restart cannot change a search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.points import (
    MAX_DRAWS,
    first_untried,
    grid_points,
    point_key,
    random_points,
    sobol_points,
    tried_points,
)
from orchestrator.space.parameters import Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Forecast, Source
from orchestrator.study.study import Study, TrialStatus
from trainer.errors import ConfigError
from trainer.plugins import Plugin, blamed, is_plugin, load_plugin

if TYPE_CHECKING:
    from trainer.config import TrialConfig

# With fewer trials that have values a model says too little to be worth its time.
OBSERVATIONS_FOR_A_MODEL = 2
# Trials before the model is asked.
FIRST_TRIALS = 5


class Suggestion(NamedTuple):
    """A point of the space and its source."""

    params: dict[str, Value]
    source: Source
    note: str = ""
    """Why it does not come from the search's algorithm; empty if it does."""
    config: TrialConfig | None = None
    """The trainer's configuration at the point, where a check of the point has built it."""
    until: int | None = None
    """Epoch after which it first pauses, that of its end where it does not; None: as the stopping rule says."""


class Continuation(NamedTuple):
    """A paused trial that goes on."""

    trial: str
    """Its key."""
    until: int | None
    """Epoch after which it pauses again; None trains it to its end."""
    reason: str
    forecast: Forecast | None


class AskModel(NamedTuple):
    """Ask the model; see `orchestrator.algorithms.async_suggester`."""

    experiment: dict[str, Any]
    """As `ax_experiment` returned it."""


class Exhausted(NamedTuple):
    """Nothing is left to try."""

    reason: str


Proposal: TypeAlias = Suggestion | Continuation | AskModel | Exhausted
"""What an algorithm proposes: a point, a paused trial, to ask the model for one of them, or that there is none."""
Algorithm: TypeAlias = Callable[[SearchSpace, int, Study], Proposal]
"""Proposes from the space, the seed and the study; same history, same answer."""


def initial_trials(space: SearchSpace) -> int:
    """Trials before the model is asked: the space's `start`, and at least a handful."""
    return max(len(space.start), min(FIRST_TRIALS, space.budget.trials))


def initial_suggestion(space: SearchSpace, seed: int, study: Study) -> Suggestion | None:
    """The next point of the initial design; None if the model is to be asked or the design has no new point.

    The design goes on while too few trials have values, so that a search never waits for a first result. The best point
    of an earlier search (warm start) is in it. With the rule `freeze_thaw` these trials train to their end.
    """
    found = _initial_point(space, seed, study)
    if found is None or space.stopping.rule != "freeze_thaw":
        return found
    config = space.config(found.params, seed=study.seed)
    return found._replace(config=config, until=config.optim.epochs)


def _initial_point(space: SearchSpace, seed: int, study: Study) -> Suggestion | None:
    if (start := start_suggestion(space, study) or center_suggestion(space, study)) is not None:
        return start
    known = _in_place_of_design(space, study)
    finished = known + sum(
        trial.status == TrialStatus.COMPLETED or bool(trial.pauses) for trial in study.trials.values()
    )
    if len(study.trials) + known < initial_trials(space) or finished < OBSERVATIONS_FOR_A_MODEL:
        return earlier_suggestion(space, study) or sobol_suggestion(space, seed, study)
    return None


def _in_place_of_design(space: SearchSpace, study: Study) -> int:
    """Number of completed trials of earlier searches (warm start) that count as trials of the initial design.

    None of them do with our model, which has to learn from trials of this search what an earlier one tells of it.
    """
    return 0 if space.has_curve_model else sum(map(len, study.attached))


def asks_model(space: SearchSpace, study: Study) -> bool:
    """Whether the model will be asked before the budget of trials is spent."""
    if space.algorithm.name != "ax":
        return False
    first = initial_trials(space) - _in_place_of_design(space, study)
    # Where trials pause, there may be more of them than the budget has whole trainings.
    return space.stopping.pauses or max(first, len(study.trials)) < space.budget.trials


def start_suggestion(space: SearchSpace, study: Study) -> Suggestion | None:
    """The next point of the space's `start`, or None after the last."""
    index = len(study.trials)
    return Suggestion(dict(space.start[index]), "start") if index < len(space.start) else None


def center_suggestion(space: SearchSpace, study: Study) -> Suggestion | None:
    """The middle of all ranges, on their scales, as the first point of a space without `start`; otherwise None.

    Ranges are usually centred on a good guess; where a parameter has a prior, its value is the guess. None, too, if a
    constraint forbids the point.
    """
    if study.trials or _in_place_of_design(space, study) or space.start:
        return None
    priors = [(parameter, parameter.prior) for parameter in space.parameters.values()]
    middle = space.sample([0.5 if prior is None else each.place(prior.value) for each, prior in priors])
    return None if middle is None else Suggestion(middle, "center")


def earlier_suggestion(space: SearchSpace, study: Study) -> Suggestion | None:
    """The best point of an earlier search (warm start) whose best point was not tried; None if there is none."""
    tried = tried_points(study)
    for observations in study.attached:
        best = max(observations, key=lambda known: space.objective.first.sign * known.value)
        if point_key(best.params) not in tried:
            return Suggestion(dict(best.params), "start")
    return None


def sobol_suggestion(space: SearchSpace, seed: int, study: Study) -> Suggestion | None:
    """The first untried point of the Sobol sequence; None if it has none."""
    # Each trial from the sequence took at least one draw, so that nothing new lies before this one.
    start = sum(trial.source == "sobol" for trial in study.trials.values())
    point = first_untried(sobol_points(space, seed, start), tried_points(study))
    return None if point is None else Suggestion(point, "sobol")


def new_random_suggestion(space: SearchSpace, seed: int, study: Study, note: str = "") -> Suggestion | Exhausted:
    """A random point that was not tried before, or `Exhausted` if there is none."""
    tried = tried_points(study)
    point = first_untried(random_points(space, seed, len(study.trials)), tried)
    if point is not None:
        return Suggestion(point, "random", note)
    if space.point_count() is None:
        return Exhausted(f"{MAX_DRAWS:,} random points all broke a constraint or had been tried; widen the space")
    point = first_untried(space.every_point(), tried)
    return Exhausted("every point of the space was tried") if point is None else Suggestion(point, "random", note)


def ax(space: SearchSpace, seed: int, study: Study) -> Proposal:
    """An initial design from the Sobol sequence, then Bayesian optimisation by Ax."""
    if (initial := initial_suggestion(space, seed, study)) is not None:
        return initial
    # The model is asked only if the space still holds an untried point.
    fallback = new_random_suggestion(space, seed, study)
    return fallback if isinstance(fallback, Exhausted) else AskModel(ax_experiment(space, seed, study))


def sobol(space: SearchSpace, seed: int, study: Study) -> Proposal:
    """A scrambled Sobol sequence (Owen 1998): even coverage of the space, independent of results."""
    return (
        start_suggestion(space, study)
        or sobol_suggestion(space, seed, study)
        or new_random_suggestion(space, seed, study, note="the Sobol sequence brought no new point")
    )


def random(space: SearchSpace, seed: int, study: Study) -> Proposal:
    """Independent uniform points, each on its parameter's scale (Bergstra and Bengio 2012)."""
    return start_suggestion(space, study) or new_random_suggestion(space, seed, study)


def grid(space: SearchSpace, seed: int, study: Study) -> Proposal:
    """The points of `orchestrator.algorithms.points.grid_points`, one after the other."""
    if (start := start_suggestion(space, study)) is not None:
        return start
    point = first_untried(grid_points(space, seed), tried_points(study))
    return Exhausted("every point of the grid was tried") if point is None else Suggestion(point, "grid")


ALGORITHMS: Mapping[str, Algorithm] = {
    "ax": ax,
    "sobol": sobol,
    "random": random,
    "grid": grid,
}
"""By the name under `algorithm` in a space."""


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name: one of `ALGORITHMS`, or `plugin:` and the name of an installed package's.

    Points under `start` come first there, too.

    Raises:
        ConfigError: the plug-in is not installed or cannot be imported.
    """
    return partial(_ask_plugin, *load_plugin("algorithms", name)) if is_plugin(name) else ALGORITHMS[name]


def _ask_plugin(plugin: Plugin, algorithm: Algorithm, space: SearchSpace, seed: int, study: Study) -> Proposal:
    """The proposal of a plug-in, checked: a point of the space, or that none is left.

    Raises:
        ConfigError: it raised, or proposed something else.
    """
    if (start := start_suggestion(space, study)) is not None:
        return start
    with blamed(plugin):
        proposal = algorithm(space, seed, study)
        if isinstance(proposal, Suggestion):
            point = dict(proposal.params)
            return Suggestion(point, "plugin", proposal.note, space.config(point, seed=study.seed))
    if not isinstance(proposal, Exhausted):
        raise ConfigError(f"{plugin}: proposed {type(proposal).__name__}, neither Suggestion nor Exhausted")
    return proposal
