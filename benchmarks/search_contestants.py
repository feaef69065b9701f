"""The searches that `benchmarks.bench_search` compares: ours, Optuna's and Ax's own, all on the unit cube."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import yaml

from benchmarks.search_problems import Problem
from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.stopping import decide
from orchestrator.algorithms.suggest import ALGORITHMS, AskModel, Suggestion
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import TrialCompleted, TrialReported, TrialStarted, TrialStopped, TrialSuggested
from orchestrator.study.study import Study
from trainer.result import EpochResult, Evaluation


class Search(Protocol):
    """Proposes points and hears how they do; trials are told apart by their number, from 0 on."""

    def propose(self, trial: int) -> list[float]:
        """The point of the next trial."""

    def stops(self, trial: int, values: list[float]) -> bool:
        """Hears the values so far, larger is better; whether the trial ends after this epoch, which is not its last."""

    def end(self, trial: int, values: list[float], *, stopped: bool) -> None:
        """The trial is over."""


# --- ours ------------------------------------------------------------------------------------------------------------

# Settings of the trainer that stand for the coordinates: any that are numbers with room between their bounds.
PATHS = (
    *("clips.flip", "clips.erase", "loss.label_smoothing", "loss.osm_alpha", "loss.osm_sigma", "loss.osm_balance"),
    *("loss.center_learning_rate", "optim.learning_rate", "optim.weight_decay", "loss.triplet_margin"),
)
LOW, HIGH = 0.1, 0.9


class _AxHere:
    """Ax in this process, with the face of `AxProcess`: the same question, the same answer."""

    def __init__(self) -> None:
        self._question: dict[str, Any] | None = None

    @property
    def awaited(self) -> int:
        """Answers that `poll` has to give: each question here asks for one."""
        return int(self._question is not None)

    def ask(self, question: dict[str, Any]) -> None:
        """Keeps the question."""
        self._question = question

    def poll(self) -> dict[str, Any]:
        """Answers it.

        Raises:
            AxFailed: as in a search, which goes on without the model then.
        """
        from orchestrator.algorithms.ax_worker import answers

        question, self._question = self._question, None
        assert question is not None
        try:
            return next(answers(question))
        except Exception as error:
            raise AxFailed(repr(error)) from error


class Ours:
    """An algorithm and a stopping rule of this project, through the functions that a search runs.

    The algorithm's step, the question to the model, its answer and what becomes of it, the study and the stopping
    rule are the orchestrator's own. Left out are the journal, Ray and the model's own process; and with several slots
    the model is asked about the history as it is, where a search may use an answer that is one result short.
    """

    def __init__(self, problem: Problem, algorithm: dict[str, Any], stopping: dict[str, Any], seed: int) -> None:
        self.space = _space(problem, algorithm, stopping)
        self.study = Study(seed=seed)
        self._algorithm = ALGORITHMS[algorithm["name"]]
        self._problem = problem
        self._ahead = AsyncSuggester(cast("AxProcess", _AxHere()), self.space, stale=0)
        self._points: dict[int, list[float]] = {}

    def propose(self, trial: int) -> list[float]:
        """As the searcher asks."""
        suggestion = self._suggestion()
        params, source = suggestion.params, suggestion.source
        key = _key(trial)
        self.study.apply(
            TrialSuggested(trial=key, index=trial, params=params, source=source, seed=0, epochs=self._problem.epochs)
        )
        self.study.apply(TrialStarted(trial=key, attempt=1))
        point = [(float(params[path]) - LOW) / (HIGH - LOW) for path in self.space.parameters]
        self._points[trial] = point
        return point

    def _suggestion(self) -> Suggestion:
        step = self._algorithm(self.space, self.study.seed, self.study)
        found = self._ahead.take(step, self.study) if isinstance(step, AskModel) else step
        while found is None:
            assert isinstance(step, AskModel)
            found = self._ahead.take(step, self.study)
        assert isinstance(found, Suggestion), "a space of real numbers has no end"
        return found

    def stops(self, trial: int, values: list[float]) -> bool:
        """As the scheduler does: the epoch is recorded, then judged."""
        self._report(trial, values)
        return decide(self.study.trials[_key(trial)], self.study, self.space.stopping, self.space.objective) is not None

    def _report(self, trial: int, values: list[float]) -> None:
        error = self._problem.standard_error(self._points[trial])
        self.study.apply(TrialReported(trial=_key(trial), result=_result(len(values), values[-1], error)))

    def end(self, trial: int, values: list[float], *, stopped: bool) -> None:
        """Records it."""
        rule = self.space.stopping.rule
        if stopped:
            assert rule != "none"
            self.study.apply(TrialStopped(trial=_key(trial), rule=rule, epoch=len(values), reason=""))
            return
        self._report(trial, values)
        self.study.apply(TrialCompleted(trial=_key(trial)))


def _key(trial: int) -> str:
    return f"t{trial:04d}"


def _space(problem: Problem, algorithm: dict[str, Any], stopping: dict[str, Any]) -> SearchSpace:
    bounds = {"type": "float", "low": LOW, "high": HIGH}
    parameters = dict.fromkeys(PATHS[: problem.dimensions], bounds)
    fixed = {
        "loss": {"osm_share": 0.5, "center_weight": 0.1},
        "optim": {"epochs": problem.epochs},
        "evaluation": {"every": 1},
    }
    budget = {"trials": problem.trials}
    told = {"version": 1, "name": problem.name, "budget": budget, "parameters": parameters}
    return SearchSpace.model_validate({**told, "algorithm": algorithm, "stopping": stopping, "trainer": fixed})


class _Shown(EpochResult):
    """An epoch that shows the objective and its standard error, and takes no time to say so."""

    def metrics(self) -> dict[str, float]:
        """What the search looks at."""
        assert self.validation is not None
        return {"mAP": self.validation.mAP, "mAP_standard_error": self.validation.mAP_standard_error}


_OTHERS = dict.fromkeys(("mINP", "rank1", "rank5", "rank10", "rank20", "attention_entropy"), 0.0)
_TIMES: dict[str, Any] = {"images_per_second": 1.0, "data_wait_share": 0.0, "seconds": 1.0, "time": 0.0}


def _result(epoch: int, value: float, error: float) -> EpochResult:
    evaluation = Evaluation(
        mAP=value, mAP_standard_error=error, protocol="none", queries=1, dropped_queries=0, **_OTHERS
    )
    return _Shown(epoch=epoch, losses={}, learning_rate=1.0, validation=evaluation, **_TIMES)


# --- others ----------------------------------------------------------------------------------------------------------


class OptunaSearch:
    """Optuna's TPE and one of its pruners, each with its defaults."""

    def __init__(self, problem: Problem, pruner: str, seed: int) -> None:
        import optuna  # type: ignore[import-not-found]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions, self._pruned = problem.dimensions, optuna.trial.TrialState.PRUNED
        self._trials: dict[int, Any] = {}
        self._study = optuna.create_study(
            study_name=str(seed),  # Hyperband draws its brackets by the name
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=getattr(optuna.pruners, pruner)(),
        )

    def propose(self, trial: int) -> list[float]:
        """Asks."""
        asked = self._trials[trial] = self._study.ask()
        return [asked.suggest_float(f"x{index}", 0.0, 1.0) for index in range(self._dimensions)]

    def stops(self, trial: int, values: list[float]) -> bool:
        """Reports, and asks the pruner."""
        self._trials[trial].report(values[-1], len(values))
        return bool(self._trials[trial].should_prune())

    def end(self, trial: int, values: list[float], *, stopped: bool) -> None:
        """Tells."""
        asked = self._trials.pop(trial)
        if stopped:
            self._study.tell(asked, state=self._pruned)
            return
        asked.report(values[-1], len(values))
        self._study.tell(asked, values[-1])


class AxDefaults:
    """Ax's client as its documentation uses it: no settings, no standard errors, no stopping."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        self._indices: dict[int, int] = {}
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(
            [
                RangeParameterConfig(name=f"x{index}", parameter_type="float", bounds=(0.0, 1.0))
                for index in range(problem.dimensions)
            ]
        )
        self._client.configure_optimization("merit")

    def propose(self, trial: int) -> list[float]:
        """Asks."""
        ((self._indices[trial], params),) = self._client.get_next_trials(max_trials=1).items()
        return [float(cast("float", params[f"x{index}"])) for index in range(len(params))]

    def stops(self, trial: int, values: list[float]) -> bool:
        """Never."""
        return False

    def end(self, trial: int, values: list[float], *, stopped: bool) -> None:
        """Tells."""
        self._client.complete_trial(self._indices.pop(trial), raw_data={"merit": values[-1]})


# --- by name ---------------------------------------------------------------------------------------------------------

Maker = Callable[[Problem, int], Search]


class Contestant(NamedTuple):
    """A search by name."""

    name: str
    make: Maker


PRUNERS = {
    "optuna": "NopPruner",
    "optuna+median": "MedianPruner",
    "optuna+asha": "SuccessiveHalvingPruner",
    "optuna+hyperband": "HyperbandPruner",
}
NAMES = (
    *("random", "sobol+asha", "ax", "ax+asha", "ax+percentile"),
    *("optuna", "optuna+median", "optuna+asha", "optuna+hyperband", "ax-defaults"),
)
_TOLD = r"(\(([^()]*)\))?"
_OURS = re.compile(rf"(?P<algorithm>\w+){_TOLD}(\+(?P<rule>\w+){_TOLD})?")


def contestant(name: str) -> Contestant:
    """The search that a name means: one of `NAMES`, or as `ax(noise: queries)+asha(grace: 3)` any of ours.

    With `grace: half` a trial gets half of its epochs, rounded up, before it is judged.

    Raises:
        ValueError: it means none.
    """
    if name in PRUNERS:
        return Contestant(name, lambda problem, seed: OptunaSearch(problem, PRUNERS[name], seed))
    if name == "ax-defaults":
        return Contestant(name, AxDefaults)
    found = _OURS.fullmatch(name)
    if found is None or found["algorithm"] not in ALGORITHMS:
        raise ValueError(f"{name} is no search: {', '.join([*ALGORITHMS, *PRUNERS, 'ax-defaults'])}")
    algorithm = {"name": found["algorithm"], **_settings(found[3])}
    stopping = {"rule": found["rule"] or "none", **_settings(found[7])}
    return Contestant(name, lambda problem, seed: Ours(problem, algorithm, _with_grace(stopping, problem), seed))


def _settings(text: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(f"{{{text or ''}}}")
    return settings


def _with_grace(stopping: dict[str, Any], problem: Problem) -> dict[str, Any]:
    return {**stopping, "grace": (problem.epochs + 1) // 2} if stopping.get("grace") == "half" else stopping
