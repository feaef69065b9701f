"""The searches that are compared: ours, Optuna's, Syne Tune's and Ax's, each with its defaults, on the unit cube."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, cast

import yaml

from benchmarks.search.engine import Contestant, Continue, Start, Verdict
from benchmarks.search.problems import Problem
from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.curve_history import History
from orchestrator.algorithms.freeze_thaw import answer, decide
from orchestrator.algorithms.suggest import ALGORITHMS, AskModel
from orchestrator.runner.next_step import (
    AddTrial,
    ContinueTrial,
    EndPaused,
    SearchOver,
    Step,
    Wait,
    next_step,
    pause_after_epoch,
    step_of,
    stop_after_epoch,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import AttemptFailed, TrialCompleted, TrialFailed, TrialReported, TrialStarted
from orchestrator.study.study import Study
from trainer.result import EpochResult, Evaluation

# --- ours ------------------------------------------------------------------------------------------------------------

# Settings of the trainer that stand for the coordinates: any that are numbers with room between their bounds.
PATHS = (
    *("clips.flip", "clips.erase", "loss.label_smoothing", "loss.osm_alpha", "loss.osm_sigma", "loss.osm_balance"),
    *("loss.center_learning_rate", "optim.learning_rate", "optim.weight_decay", "loss.triplet_margin"),
    *("optim.gamma", "optim.warmup"),
)
LOW, HIGH = 0.1, 0.9
# An mAP lies in [0, 1]; merits with their noise lie well within this range.
LOWEST, RANGE = -50.0, 60.0


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
        """Answers it. What fails here ends the benchmark, where a search goes on without the model."""
        question, self._question = self._question, None
        assert question is not None
        if question["model"] == "curves":  # Ax's client would only pass its answer on
            history = History.of(question)
            decision = decide(history)
            assert decision is not None, "a space of real numbers has no end"
            return answer(question, history.space, decision)
        from orchestrator.algorithms.ax_worker import answers

        return next(answers(question))


class Ours:
    """An algorithm and a stopping rule of this project, through the functions that a search runs.

    The next step, the question to the model, its answer and what becomes of it, the study, pauses and the stopping
    rule are the orchestrator's own. Left out are the journal, Ray and the model's own process; and with several slots
    the model is asked about the history as it is, where a search may use an answer that is one result short.
    """

    def __init__(self, problem: Problem, algorithm: dict[str, Any], stopping: dict[str, Any], seed: int) -> None:
        self.space = _space(problem, algorithm, stopping)
        self.study = Study(seed=seed)
        self._problem = problem
        self._ahead = AsyncSuggester(cast("AxProcess", _AxHere()), self.space, stale=0)
        self._points: dict[int, list[float]] = {}
        self._added: AddTrial | None = None

    def decide(self) -> Start | Continue | None:
        """As the runner asks."""
        step = self._step()
        if isinstance(step, EndPaused | SearchOver | Wait):
            return None
        if isinstance(step, ContinueTrial):
            self.study.apply(step.event)
            self.study.apply(TrialStarted(trial=step.event.trial, attempt=1))
            return Continue(int(step.event.trial[1:]))
        assert isinstance(step, AddTrial)
        self._added = step
        return Start([(float(step.event.params[path]) - LOW) / (HIGH - LOW) for path in self.space.parameters])

    def started(self, trial: int, point: list[float]) -> None:
        """Records the point, which in a table is a row's."""
        assert self._added is not None
        params = {path: LOW + (HIGH - LOW) * x for path, x in zip(self.space.parameters, point, strict=True)}
        self._points[trial] = point
        self.study.apply(self._added.event.model_copy(update={"params": params}))
        self.study.apply(TrialStarted(trial=_key(trial), attempt=1))

    def _step(self) -> Step:
        step = next_step(self.study, self.space, 0.0)
        while isinstance(step, AskModel):
            found = self._ahead.take(step, self.study)
            step = step if found is None else step_of(self.study, self.space, found) or step
        return step

    def report(self, trial: int, values: list[float]) -> Verdict:
        """As the runner does: the epoch is recorded, then the rule decides."""
        self._record(trial, values)
        known = self.study.trials[_key(trial)]
        if (paused := pause_after_epoch(known)) is not None:
            self.study.apply(paused)
            return Verdict.PAUSE
        if (stopped := stop_after_epoch(self.study, self.space, known)) is not None:
            self.study.apply(stopped)
            return Verdict.STOP
        return Verdict.GO

    def completed(self, trial: int, values: list[float]) -> None:
        """Records it."""
        self._record(trial, values)
        self.study.apply(TrialCompleted(trial=_key(trial)))

    def failed(self, trial: int, values: list[float]) -> None:
        """Records it as diverged, which is not tried again."""
        self.study.apply(AttemptFailed(trial=_key(trial), attempt=1, failure="diverged", reason="NaN"))
        self.study.apply(TrialFailed(trial=_key(trial), failure="diverged", reason="NaN"))

    def _record(self, trial: int, values: list[float]) -> None:
        error = self._problem.standard_error(self._points[trial]) / RANGE
        value = (values[-1] - LOWEST) / RANGE
        self.study.apply(TrialReported(trial=_key(trial), result=_result(len(values), value, error)))


def _key(trial: int) -> str:
    return f"t{trial:04d}"


def _space(problem: Problem, algorithm: dict[str, Any], stopping: dict[str, Any]) -> SearchSpace:
    bounds = {"type": "float", "low": LOW, "high": HIGH}
    parameters = dict.fromkeys(PATHS[: problem.dimensions], bounds)
    assert len(parameters) == problem.dimensions, "a setting for each coordinate"
    fixed = {
        "loss": {"osm_share": 0.5, "center_weight": 0.1},
        "optim": {"epochs": problem.epochs},
        "evaluation": {"every": 1},
    }
    # The engine ends a search by its epochs. Trials that stop early or diverge leave some for others.
    is_whole = stopping["rule"] in ("promote", "freeze_thaw")
    budget = {"trials": problem.trials * (1 if is_whole else problem.epochs)}
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


class Optuna:
    """A sampler of Optuna and one of its pruners."""

    def __init__(self, problem: Problem, sampler: str, pruner: str, seed: int) -> None:
        import optuna  # type: ignore[import-not-found]

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._names = [f"x{index}" for index in range(problem.dimensions)]
        self._asked: Any = None
        self._trials: dict[int, Any] = {}
        self._study = optuna.create_study(
            study_name=str(seed),  # Hyperband draws its brackets by the name
            direction="maximize",
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            pruner=getattr(optuna.pruners, pruner)(),
        )

    def decide(self) -> Start | Continue:
        """Asks."""
        self._asked = self._study.ask()
        return Start([self._asked.suggest_float(name, 0.0, 1.0) for name in self._names])

    def started(self, trial: int, point: list[float]) -> None:
        """A point that a table moved is told as a trial of its own; the one that was asked for fails."""
        params = dict(zip(self._names, point, strict=True))
        if params != self._asked.params:
            self._study.tell(self._asked, state=self._optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(params)
            self._asked = self._study.ask()
            for name in self._names:
                self._asked.suggest_float(name, 0.0, 1.0)
        self._trials[trial] = self._asked

    def report(self, trial: int, values: list[float]) -> Verdict:
        """Reports, and asks the pruner."""
        asked = self._trials[trial]
        asked.report(values[-1], len(values))
        if not asked.should_prune():
            return Verdict.GO
        self._study.tell(asked, state=self._optuna.trial.TrialState.PRUNED)
        return Verdict.STOP

    def completed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._trials[trial].report(values[-1], len(values))
        self._study.tell(self._trials[trial], values[-1])

    def failed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._study.tell(self._trials[trial], state=self._optuna.trial.TrialState.FAIL)


class SyneTune:
    """A scheduler of Syne Tune; those that stop trials get `max_t` epochs and their other defaults."""

    def __init__(self, problem: Problem, name: str, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial  # type: ignore[import-not-found]
        from syne_tune.config_space import uniform  # type: ignore[import-not-found]
        from syne_tune.optimizer import baselines  # type: ignore[import-not-found]

        space = {f"x{index}": uniform(0.0, 1.0) for index in range(problem.dimensions)}
        stops = name in ("ASHA", "ASHACQR", "BOHB")
        rungs = {"time_attr": "epoch", "max_t": problem.epochs} if stops else {}
        maker = getattr(baselines, name)
        self._scheduler = maker(space, metric="value", do_minimize=False, random_seed=seed, **rungs)
        self._make, self._trials = Trial, cast("dict[int, Any]", {})
        self._names, self._stops, self._proposed = list(space), stops, cast("dict[str, float]", {})

    def decide(self) -> Start | Continue:
        """Asks."""
        self._proposed = self._scheduler.suggest().config
        return Start([float(self._proposed[name]) for name in self._names])

    def started(self, trial: int, point: list[float]) -> None:
        """Adds the trial with the point that it got."""
        config = {**self._proposed, **dict(zip(self._names, point, strict=True))}
        self._trials[trial] = self._make(trial_id=trial, config=config, creation_time=datetime.now())
        self._scheduler.on_trial_add(self._trials[trial])

    def report(self, trial: int, values: list[float]) -> Verdict:
        """Reports; schedulers of whole trials hear nothing before the end."""
        if not self._stops:
            return Verdict.GO
        decision = self._scheduler.on_trial_result(self._trials[trial], self._told(values))
        return {"CONTINUE": Verdict.GO, "STOP": Verdict.STOP, "PAUSE": Verdict.PAUSE}[decision]

    def completed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._scheduler.on_trial_complete(self._trials[trial], self._told(values))

    def failed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._scheduler.on_trial_error(self._trials[trial])

    def _told(self, values: list[float]) -> dict[str, float]:
        return {"value": values[-1], "epoch": len(values)}


class AxDefaults:
    """Ax's client as its documentation uses it: no settings, no standard errors, no stopping."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        self._names = [f"x{index}" for index in range(problem.dimensions)]
        self._asked, self._indices = (-1, cast("dict[str, Any]", {})), cast("dict[int, int]", {})
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(
            [RangeParameterConfig(name=name, parameter_type="float", bounds=(0.0, 1.0)) for name in self._names]
        )
        self._client.configure_optimization("merit")

    def decide(self) -> Start | Continue:
        """Asks."""
        ((index, params),) = self._client.get_next_trials(max_trials=1).items()
        self._asked = (index, dict(params))
        return Start([float(cast("float", params[name])) for name in self._names])

    def started(self, trial: int, point: list[float]) -> None:
        """A point that a table moved is attached as a trial of its own; the one that was asked for is abandoned."""
        index, params = self._asked
        moved = dict(zip(self._names, point, strict=True))
        if moved != params:
            self._client.mark_trial_abandoned(index)
            index = self._client.attach_trial(cast("Any", moved))
        self._indices[trial] = index

    def report(self, trial: int, values: list[float]) -> Verdict:
        """Never stops a trial."""
        return Verdict.GO

    def completed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._client.complete_trial(self._indices[trial], raw_data={"merit": values[-1]})

    def failed(self, trial: int, values: list[float]) -> None:
        """Tells."""
        self._client.mark_trial_failed(self._indices[trial])


# --- by name ---------------------------------------------------------------------------------------------------------

Maker = Callable[[Problem, int], Contestant]


class Named(NamedTuple):
    """A contestant by name."""

    name: str
    make: Maker


OURS = {"ours": "ax", "random": "random", "sobol": "sobol"}
OPTUNA = {
    "tpe": ("TPESampler", "NopPruner"),
    "tpe+median": ("TPESampler", "MedianPruner"),
    "tpe+asha": ("TPESampler", "SuccessiveHalvingPruner"),
    "tpe+hyperband": ("TPESampler", "HyperbandPruner"),
    "gp": ("GPSampler", "NopPruner"),
}
SYNE_TUNE = {"asha": "ASHA", "bohb": "BOHB", "cqr": "CQR", "ashacqr": "ASHACQR"}
NAMES = (*OURS, *OPTUNA, *SYNE_TUNE, "ax-defaults")
_TOLD = r"(\(([^()]*)\))?"
_FORM = re.compile(rf"(?P<algorithm>\w+){_TOLD}(\+(?P<rule>\w+){_TOLD})?")


def contestant(name: str) -> Named:
    """The search that a name means: one of `NAMES`, or as `ax(noise: queries)+asha(grace: 3)` any of ours.

    Raises:
        ValueError: it means none.
    """
    if name in OPTUNA:
        sampler, pruner = OPTUNA[name]
        return Named(name, lambda problem, seed: Optuna(problem, sampler, pruner, seed))
    if name in SYNE_TUNE:
        return Named(name, lambda problem, seed: SyneTune(problem, SYNE_TUNE[name], seed))
    if name == "ax-defaults":
        return Named(name, AxDefaults)
    found = _FORM.fullmatch(OURS.get(name, name))
    if found is None or found["algorithm"] not in ALGORITHMS:
        raise ValueError(f"{name}: no such search; known are {', '.join(NAMES)}, and forms such as ax+asha(grace: 3)")
    algorithm = {"name": found["algorithm"], **_settings(found[3])}
    stopping = {"rule": found["rule"] or "none", **_settings(found[7])}
    return Named(name, lambda problem, seed: Ours(problem, algorithm, stopping, seed))


def _settings(text: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(f"{{{text or ''}}}")
    return settings
