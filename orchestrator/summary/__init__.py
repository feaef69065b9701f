"""The read model: what is known of a search at one moment. Status, tables, reports, cards and MLflow's note render it.

Everything here is computed from a copy of the study, so that a search that goes on does not change a summary.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from orchestrator.algorithms.budget import trainings_taken
from orchestrator.algorithms.health import Proposals, proposals
from orchestrator.algorithms.replicates import Best, Confirmation, best_configuration, confirmations
from orchestrator.algorithms.scoring import Score, outcome_limits, pareto_front, satisfies_all, score
from orchestrator.base.errors import SearchError
from orchestrator.base.process import without_collector
from orchestrator.space.objective import Objective
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder, Store, existing_search
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.events import FinalizationStarted, Forecast, TrialReported
from orchestrator.study.journal import JournalReader, Record
from orchestrator.study.study import SearchState, Study, Trial, TrialStatus, fold_records
from orchestrator.summary.costs import Costs, search_costs
from trainer.result import UNIFORM_ENTROPY, EpochResult, Evaluation

BEST = "best"
"""In place of a trial's key: the configuration that is best so far."""
RECENT = 100
"""Events that a reader keeps."""
MOST_FORECAST = 400
"""Configurations up to which the model is asked for forecasts, which takes a second then, and ten for a thousand."""


class TracePoint(NamedTuple):
    """One configuration in the order of suggestion."""

    trial: str
    number: int
    """Place in the order of suggestion, from 0."""
    status: TrialStatus
    value: float | None
    """Of the first objective, at the epoch that counts or at which the trial was stopped; None before an evaluation."""
    standard_error: float | None
    """Standard error of the value over queries."""
    feasible: bool
    """Whether the metrics keep the objective's constraints."""
    best: float | None
    """The best value of completed, feasible trials up to here."""
    source: str
    """What proposed it: `ax`, `sobol`, `random`, `start`, ..."""


class Mean(NamedTuple):
    """A metric over several trainings."""

    value: float
    standard_deviation: float | None
    """Sample standard deviation (n - 1); None for one training."""


class FinalResult(NamedTuple):
    """The results of one configuration on the test set."""

    asked: FinalizationStarted
    """The finalization that trained and judged it."""
    configuration: str
    """Key of its first trial."""
    trainings: list[Trial]
    evaluations: list[Evaluation]
    """One per training that was judged."""
    metrics: dict[str, Mean]
    """Means of the metrics that all evaluations have, by name; shares in [0, 1]."""
    data: str | None = None
    """Fingerprint of the data set that was tested, where it is not that of the search."""

    @property
    def other_data(self) -> str | None:
        """`trained on A, tested on B 1a2b3c4d`, where B is told by its fingerprint; None for the search's own data."""
        if self.data is None:
            return None
        names, beginning = self.evaluations[0].other_data or "", f" {self.data[:8]}"
        return names.removesuffix(beginning) + beginning


@dataclass(frozen=True)
class Summary:
    """A search at one moment."""

    folder: SearchFolder
    description: SearchDescription
    space: SearchSpace
    """The current one: of the launch, or the one to which the search was extended."""
    study: Study
    """A copy. A trial that was running when its driver was killed is pending: it waits for a resume."""
    state: SearchState

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.description.search

    @property
    def objective(self) -> Objective:
        """The objective of the search."""
        return self.space.objective

    @property
    def metric(self) -> str:
        """Name of the first objective."""
        return self.objective.first.metric

    def trial(self, key: str) -> Trial:
        """The trial with a key such as `t0003` or `t0003-r1`; `best` is the best configuration so far.

        Raises:
            SearchError: there is none.
        """
        if key == BEST:
            if self.best is None:
                raise SearchError(f"{self.name}: no trial is completed yet, so that none is best")
            return self.best.trial
        found = self.study.all_trials.get(key)
        if found is None:
            known = sorted(self.study.all_trials)
            there = ", ".join(known if len(known) <= 3 else [known[0], "...", known[-1]]) or "none"
            raise SearchError(f"{self.name} has no trial {key!r} (there: {there}; {BEST!r} is the best one)")
        return found

    @cached_property
    def configurations(self) -> list[Trial]:
        """The first trial of every configuration, in the order of suggestion."""
        return sorted(self.study.trials.values(), key=lambda trial: trial.index)

    @cached_property
    def trials(self) -> list[Trial]:
        """Configurations, then repeats with other seeds."""
        return [*self.configurations, *self.study.replicates.values()]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of configurations in each status, all statuses named."""
        return _counts(self.configurations)

    @cached_property
    def repeat_counts(self) -> dict[str, int]:
        """Number of repeats in each status, all statuses named."""
        return _counts(self.study.replicates.values())

    @cached_property
    def trainings(self) -> float:
        """How much of `budget.trials` is taken: a number of configurations or, where they pause, of whole trainings."""
        return float(trainings_taken(self.study, self.space))

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Score of each trial that was evaluated, by key."""
        found = ((trial.key, score(trial, self.objective)) for trial in self.trials)
        return {key: each for key, each in found if each is not None}

    @cached_property
    def latest_metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of each trial's last epoch, and those of its last evaluation, by key."""
        return {key: _latest_metrics(trial.results) for key, trial in self.study.all_trials.items()}

    @cached_property
    def best(self) -> Best | None:
        """The best configuration so far; None before the first completed trial."""
        return best_configuration(self.study, self.objective)

    @cached_property
    def confirmations(self) -> list[Confirmation]:
        """Means and intervals of the configurations with a completed fresh seed, confirmed ones and the best first."""
        return confirmations(self.study, self.objective)

    @cached_property
    def front(self) -> list[tuple[Trial, Score]]:
        """The feasible completed trials that no other one dominates, in the order of the first objective."""
        return pareto_front(self.study, self.objective)

    @cached_property
    def proposals(self) -> Proposals:
        """How many trials the model proposed, and for how many a random point stood in."""
        return proposals(self.study)

    @cached_property
    def trace(self) -> list[TracePoint]:
        """Value and best value so far, a point per configuration."""
        return _trace(self.configurations, self.study, self.objective)

    @cached_property
    def costs(self) -> Costs:
        """Time of each trial, and what stopping and pausing trials saved."""
        return search_costs(self.study)

    @cached_property
    def forecasts(self) -> dict[str, Forecast]:
        """By trial the latest forecast of the journal, of trials that never reached the end of their training."""
        over = (TrialStatus.COMPLETED, TrialStatus.FAILED)
        return {
            trial.key: trial.forecast
            for trial in self.configurations
            if trial.forecast is not None and trial.status not in over
        }

    @cached_property
    def final_results(self) -> list[FinalResult]:
        """Results on the test set, per finalization and configuration, in their order."""
        return [
            _final_result(each.asked, leader, self.study.finals.values())
            for each in self.study.finalizations
            for leader in each.asked.leaders
        ]

    @cached_property
    def other_results(self) -> list[FinalResult]:
        """Results on the test sets of other data sets, data set by data set; never beside those of the search's own."""
        finals = self.study.finals.values()
        data_sets = dict.fromkeys(fingerprint for trial in finals for fingerprint in trial.other_tests)
        found = [
            _final_result(each.asked, leader, finals, data)
            for data in data_sets
            for each in self.study.finalizations
            for leader in each.asked.leaders
        ]
        return [each for each in found if each.evaluations]

    @cached_property
    def protocol(self) -> Evaluation | None:
        """An evaluation on the validation split, whose protocol and number of queries hold for all trials."""
        best = None if self.best is None else self.best.score.result.validation
        results = (result for trial in self.study.all_trials.values() for result in reversed(trial.results))
        return best or next((result.validation for result in results if result.validation is not None), None)

    @cached_property
    def uniform_attention(self) -> list[str]:
        """Keys of the trials whose attention weighs all frames of a clip alike."""
        latest = self.latest_metrics
        return [each.key for each in self.trials if latest[each.key].get("attention/entropy", 0.0) >= UNIFORM_ENTROPY]


def read_summary(folder: SearchFolder) -> Summary:
    """Reads a search, which may be running.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged, or the space is of another version of this program.
        StorageProblem: the storage has a URI and cannot be reached.
    """
    return SearchReader(folder).read()


class SearchReader:
    """Reads a search again and again: each time only what was added to its journal."""

    def __init__(self, folder: SearchFolder) -> None:
        self.folder = folder
        self._description: SearchDescription | None = None
        self._begin()

    def read(self) -> Summary:
        """The search as it is now; raises what `read_summary` does."""
        folder = self.folder
        folder.store.pull(folder)
        if self._journal.is_another():
            self._begin()
        try:
            with without_collector():
                records = self._journal.new_records()
                fold_records(records, folder.journal, self._study)
                self.recent.extend(record for record in records if not isinstance(record.event, TrialReported))
                self._description = self._description or read_description(folder.description)
                is_driven = folder.store.driver(folder) is not None
                return summarise(folder, self._description, self._study, is_driven=is_driven)
        except BaseException:
            self._begin()  # the study may hold a part of the records
            raise

    def _begin(self) -> None:
        self._journal = JournalReader(self.folder.journal)
        self._study = Study()
        self._description = None
        self.recent: deque[Record] = deque(maxlen=RECENT)
        """The latest events, without epochs."""


def with_forecasts(summary: Summary) -> Summary:
    """The same search with what the model expects of its unfinished trials now, in place of what the journal holds.

    A search of several objectives has forecasts of the first one. With few completed trials, more than `MOST_FORECAST`,
    or points that the space no longer has, the journal's stay: those with which paused trials were continued.
    """
    if len(summary.configurations) > MOST_FORECAST:
        return summary
    from orchestrator.algorithms.freeze_thaw import forecasts

    try:
        found = forecasts(summary.study, summary.space)
    except SpaceError:
        return summary
    trials = {
        key: replace(trial, forecast=found.get(key, trial.forecast)) for key, trial in summary.study.trials.items()
    }
    return replace(summary, study=replace(summary.study, trials=trials))


def find_trial(storage: Store, name: str) -> tuple[Summary, Trial]:
    """The search and the trial that a user names by `SEARCH/TRIAL`, or by `SEARCH` for its best trial.

    Raises:
        JournalError, SearchError, StorageProblem: as `existing_search` and `read_summary`, or there is no such trial.
    """
    search, _, key = name.partition("/")
    summary = read_summary(existing_search(storage, search))
    return summary, summary.trial(key or BEST)


def summarise(folder: SearchFolder, description: SearchDescription, study: Study, *, is_driven: bool) -> Summary:
    """The summary of a search as it is now; while a process writes to the study, hold its lock.

    Args:
        folder: of the search.
        description: of the search.
        study: its state.
        is_driven: whether a live process drives it. A search that nobody drives and that did not end is interrupted.

    Raises:
        SearchError: the space is of another version of this program.
    """
    state: SearchState = study.ended or ("running" if is_driven else "interrupted")
    space = current_space(description, study)
    return Summary(folder, description, space, _copied(study, is_running=state == "running"), state)


def _copied(study: Study, *, is_running: bool) -> Study:
    def copied(trials: Mapping[str, Trial]) -> dict[str, Trial]:
        return {
            key: replace(
                trial,
                results=[*trial.results],
                pauses=[*trial.pauses],
                other_tests={**trial.other_tests},
                status=status(trial),
            )
            for key, trial in trials.items()
        }

    def status(trial: Trial) -> TrialStatus:
        return TrialStatus.PENDING if trial.status == TrialStatus.RUNNING and not is_running else trial.status

    return replace(
        study,
        trials=copied(study.trials),
        replicates=copied(study.replicates),
        finals=copied(study.finals),
        finalizations=[*study.finalizations],
        test_set_uses=[*study.test_set_uses],
        completed=[*study.completed],
        gpu_hours=replace(study.gpu_hours, held={**study.gpu_hours.held}),
    )


def _latest_metrics(results: Sequence[EpochResult]) -> dict[str, float]:
    evaluated = next((result for result in reversed(results) if result.validation is not None), None)
    latest = results[-1].metrics() if results else {}
    return latest if evaluated is None or evaluated is results[-1] else evaluated.metrics() | latest


def _counts(trials: Iterable[Trial]) -> dict[str, int]:
    found = Counter(trial.status for trial in trials)
    return {status.value: found[status] for status in TrialStatus}


def _trace(configurations: Sequence[Trial], study: Study, objective: Objective) -> list[TracePoint]:
    limits, sign = outcome_limits(study, objective), objective.first.sign
    best: float | None = None
    points = []
    for trial in configurations:
        found = score(trial, objective)
        value = found.value if found is not None and math.isfinite(found.value) else None
        feasible = found is not None and satisfies_all(found.metrics, limits)
        if value is not None and feasible and trial.status == TrialStatus.COMPLETED:
            best = value if best is None else sign * max(sign * best, sign * value)
        error = None if found is None else found.standard_error
        points.append(TracePoint(trial.key, trial.index, trial.status, value, error, feasible, best, trial.source))
    return points


def _final_result(
    asked: FinalizationStarted, configuration: str, finals: Iterable[Trial], data: str | None = None
) -> FinalResult:
    """The results on the test set of the search's data set, or of the one with this fingerprint."""
    wanted = (asked.finalization, configuration)
    trainings = [trial for trial in finals if (trial.finalization, trial.repeats) == wanted]
    tests = [trial.test if data is None else trial.other_tests.get(data) for trial in trainings]
    evaluations = [test for test in tests if test is not None]
    metrics = [each.metrics() for each in evaluations]
    shared = [name for name in (metrics[0] if metrics else ()) if all(name in each for each in metrics)]
    means = {name: _mean([each[name] for each in metrics]) for name in shared}
    return FinalResult(asked, configuration, trainings, evaluations, means, data)


def _mean(values: Sequence[float]) -> Mean:
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
