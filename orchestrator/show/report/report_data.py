"""Everything that a report says, read and computed once for all of its formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple, TypeVar

from orchestrator.algorithms.replicates import Best
from orchestrator.algorithms.scoring import Score, ranked
from orchestrator.show.report.evaluations import EvaluationView, full_curve, read_evaluation
from orchestrator.show.report.model import ModelProcess, ModelView
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import Forecast
from orchestrator.study.study import Trial, TrialStatus
from orchestrator.summary import Summary, read_summary, with_forecasts
from orchestrator.summary.warnings import Notice, warnings

WITHOUT_MODEL = ModelView([], "the model was not asked (--without-model)")
MOST_POINTS = 80  # of one curve; a chart is some hundred pixels wide
LEADERS = 5  # whose CMC curves are drawn beside each other
RANKS = (1, 5, 10, 20)

Item = TypeVar("Item")


class Curve(NamedTuple):
    """A metric of one trial by epoch."""

    trial: str
    status: TrialStatus
    epochs: list[int]
    values: list[float]
    pauses: list[tuple[int, float]]
    """Epochs after which the trial paused, and the metric there."""
    planned: int
    """Epochs of the whole training."""


@dataclass
class ReportData:
    """A search and what follows from it, at one moment."""

    summary: Summary
    evaluation: EvaluationView | None
    """Of the best configuration's first seed."""
    written: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When, ISO 8601, UTC."""
    model: ModelView = WITHOUT_MODEL
    """What Ax's model says; the warnings depend on it."""

    @property
    def best(self) -> Best | None:
        """The best configuration so far."""
        return self.summary.best

    @property
    def best_key(self) -> str | None:
        """Key of its first trial."""
        return None if self.best is None else self.best.trial.key

    @property
    def metric(self) -> str:
        """Name of the first objective."""
        return self.summary.metric

    @property
    def drawn_metric(self) -> str:
        """The metric of the learning curves: the first objective, or mAP where that has no curve."""
        return self.metric if self.metric in VALIDATION_METRICS else "mAP"

    @cached_property
    def warnings(self) -> list[Notice]:
        """What speaks against the result, warnings before notes."""
        return warnings(self.summary, self.model.fits())

    @cached_property
    def data_set(self) -> str:
        """Name of the data set's layout."""
        space = self.summary.space
        return space.config(space.any_sample()).data.name

    @cached_property
    def ranked(self) -> list[tuple[Trial, Score]]:
        """Completed configurations, best first."""
        return ranked(self.summary.study, self.summary.objective)

    @cached_property
    def scored(self) -> list[tuple[Trial, Score]]:
        """Configurations with a value, in the order of suggestion."""
        scores = self.summary.scores
        return [(trial, scores[trial.key]) for trial in self.summary.configurations if trial.key in scores]

    @cached_property
    def first_values(self) -> dict[str, float]:
        """Of each configuration with fresh seeds, the value by which it was chosen."""
        scores = self.summary.scores
        return {each.trial: scores[each.trial].value for each in self.summary.confirmations if each.trial in scores}

    @cached_property
    def forecasts(self) -> Mapping[str, Forecast]:
        """By trial what an unfinished or stopped one is, or was, expected to reach, the most promising first."""
        sign, known = self.summary.objective.first.sign, self.summary.forecasts
        return dict(sorted(known.items(), key=lambda item: -sign * item[1].value))

    def curves(self, metric: str) -> list[Curve]:
        """A metric of every configuration by epoch, thinned to what a chart can show."""
        return learning_curves(self.summary.study.trials.values(), metric)

    @cached_property
    def cmc_curves(self) -> dict[str, list[tuple[int, float]]]:
        """CMC of the best trials, the best first: at every rank if the evaluation kept it, else at 1, 5, 10 and 20."""
        leaders = sorted(self.ranked, key=lambda row: row[0].key != self.best_key)[:LEADERS]
        curves: dict[str, list[tuple[int, float]]] = {}
        for trial, found in leaders:
            if found.result.validation is not None:
                full = full_curve(self.summary.folder, trial.key)
                curves[trial.key] = list(enumerate(full, 1)) or [(rank, found.metrics[f"rank{rank}"]) for rank in RANKS]
        return curves

    @cached_property
    def by_value(self) -> list[tuple[Trial, float]]:
        """Completed and stopped configurations with their values, best first."""
        sign = self.summary.objective.first.sign
        rows = [
            (trial, found.value)
            for trial, found in self.scored
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED)
        ]
        return sorted(rows, key=lambda row: -sign * row[1])


def read_report(folder: SearchFolder, *, model: bool, images: bool) -> ReportData:
    """Reads a search, which may be running.

    Args:
        folder: of the search.
        model: whether Ax's model is asked, which takes 10 seconds and more.
        images: whether pictures of real people are wanted; those of generated ones always are.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged.
    """
    if not model:
        return _read(folder, read_summary(folder), images=images)
    log = folder.logs / "report.log" if folder.logs.is_dir() else None
    with ModelProcess(log) as process:
        summary = read_summary(folder)
        process.ask(summary)
        report = _read(folder, summary, images=images)
        report.model = process.answer(summary)
        return report


def _read(folder: SearchFolder, summary: Summary, *, images: bool) -> ReportData:
    pictures = images or summary.description.synthetic
    evaluation = None if summary.best is None else read_evaluation(folder, summary.best.trial.key, pictures=pictures)
    return ReportData(with_forecasts(summary), evaluation)


def learning_curves(trials: Iterable[Trial], metric: str, *, most: int | None = MOST_POINTS) -> list[Curve]:
    """The curves of the trials that have the metric, each thinned to at most so many points; None keeps all."""
    curves = []
    for trial in trials:
        points = [(result.epoch, value) for result in trial.results if (value := result.metric(metric)) is not None]
        if points:
            epochs, values = zip(*(points if most is None else thinned(points, most)), strict=True)
            pauses = [point for point in points if point[0] in trial.pauses]
            curves.append(Curve(trial.key, trial.status, list(epochs), list(values), pauses, trial.epochs))
    return curves


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spread, the first and the last among them.

    Raises:
        ValueError: fewer than two may be kept.
    """
    if most < 2:
        raise ValueError(f"{most} points cannot hold both ends")
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
