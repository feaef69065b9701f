"""Searches or trials side by side: what differs, by how much, and whether that is more than noise.

Metrics are of the network that a trial keeps: that of the epoch with the highest validation mAP. All are measured
against the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from orchestrator.algorithms.replicates import fresh_seeds
from orchestrator.base.errors import SearchError
from orchestrator.base.hints import command_line
from orchestrator.show.search_text import data_mark
from orchestrator.space.schema import flattened
from orchestrator.stores.base import Store
from orchestrator.study.study import Trial, TrialStatus
from orchestrator.summary import Summary, find_trial
from orchestrator.summary.intervals import Runs, SeedDifference, seed_difference
from orchestrator.tracking.sync import tracking_uri
from trainer.files import loads_checked, read_regular
from trainer.result import EpochResult, Evaluation, kept_epoch

if TYPE_CHECKING:
    from trainer.evaluation.compare import EvaluationComparison

# Where and how fast a trial runs, and what it keeps: no metric depends on it.
NEUTRAL = ("data.root", "clips.workers", "clips.augment_on", "checkpoint.", "evaluation.folder", "evaluation.images")
SPLIT = "data.validation."


@dataclass(frozen=True)
class Side:
    """One of the compared trials."""

    search: Summary = field(repr=False)
    trial: Trial
    epoch: EpochResult = field(repr=False)
    """The epoch of the network that it keeps."""
    validation: Evaluation = field(repr=False)
    """Evaluation of this epoch on the validation split."""

    @property
    def name(self) -> str:
        """As the command takes it."""
        return f"{self.search.name}/{self.trial.key}"

    @property
    def folder(self) -> Path:
        """Folder of the trial."""
        return self.search.folder.trial(self.trial.key)

    @property
    def split(self) -> Path:
        """The validation split of the trial."""
        return self.search.folder.split_of(self.trial.fold)

    @property
    def evaluation(self) -> Path | None:
        """Folder with the metrics of every query; None where there are none."""
        found = self.folder / "evaluation"
        return found if (found / "evaluation.json").is_file() and (found / "per_query.npz").is_file() else None

    @property
    def evaluation_command(self) -> str:
        """The command that makes the missing evaluation."""
        return command_line(
            *("evaluate", self.folder / "config.json", "--checkpoint", self.folder / "checkpoint/best.pt"),
            *("--part", "validation", "--split", self.split, "--out", self.folder / "evaluation"),
        )

    @cached_property
    def config(self) -> dict[str, JsonValue]:
        """The trainer's configuration, nested.

        Raises:
            SearchError: the file is missing or damaged.
        """
        path = self.folder / "config.json"
        try:
            found = loads_checked(read_regular(path))
        except OSError as error:
            raise SearchError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise SearchError(f"{path}: damaged, no JSON") from error
        if not isinstance(found, dict):
            raise SearchError(f"{path}: damaged, no configuration of a trial")
        return found

    @cached_property
    def settings(self) -> dict[str, JsonValue]:
        """The configuration by dotted paths, without the settings that no metric depends on."""
        found = {".".join(keys): value for keys, value in flattened(self.config)}
        return {path: value for path, value in found.items() if not path.startswith(NEUTRAL)}

    @property
    def runs(self) -> Runs:
        """mAP of this configuration: of its fresh seeds or, where there are none, of this trial.

        Of the last evaluated epoch: the best of many is too good on average, as is the seed by which a configuration
        was chosen (`orchestrator.algorithms.replicates`).
        """
        return _fresh_runs(self.search, self.original) or _last_values([self.trial])

    @property
    def original(self) -> str:
        """Key of the configuration's first trial."""
        return self.trial.repeats or self.trial.key


class MetricChange(NamedTuple):
    """One metric of two networks."""

    before: float
    after: float

    @property
    def delta(self) -> float:
        """After minus before."""
        return self.after - self.before


class Pair(NamedTuple):
    """A side measured against the first."""

    before: Side
    after: Side
    metrics: dict[str, MetricChange]
    queries: EvaluationComparison | None
    """Query by query; None where one of them left no evaluation."""
    seeds: SeedDifference | None
    """Over seeds; None where nothing was repeated."""


class Comparison(NamedTuple):
    """The compared trials and how they differ."""

    sides: list[Side]
    pairs: list[Pair]
    settings: dict[str, list[JsonValue]]
    """Settings that differ, each with the value on every side; None where it has none."""
    notes: list[str]
    """Caveats, one line each."""

    @property
    def synthetic(self) -> bool:
        """Whether the data is generated."""
        return any(side.search.description.synthetic for side in self.sides)

    @property
    def mark(self) -> str | None:
        """What has to be said of the data beside the metrics; None where the data set is a published one."""
        return next(filter(None, (data_mark(side.search.description) for side in self.sides)), None)

    @property
    def tracking(self) -> str | None:
        """The MLflow server that holds the runs of all sides; None where they are elsewhere."""
        uris = {tracking_uri(side.search.folder, side.search.description.options) for side in self.sides}
        is_server = len(uris) == 1 and next(iter(uris)).startswith(("http://", "https://"))
        return next(iter(uris)) if is_server else None

    def __repr__(self) -> str:
        """What `reidsearch compare` prints, without MLflow's link."""
        from orchestrator.show.compare_view import comparison_text

        return comparison_text(self)


def compare(storage: Store, names: Sequence[str]) -> Comparison:
    """Compares searches or trials, named `SEARCH`, which is its best trial, `SEARCH/TRIAL` or `SEARCH/best`.

    Raises:
        SearchError: one is missing or was never evaluated, or they have other data, protocols or queries.
        JournalError: a journal is damaged.
    """
    sides = [_side(*find_trial(storage, name)) for name in names]
    if len({side.name for side in sides}) < len(sides):
        raise SearchError(f"{', '.join(side.name for side in sides)}: name each trial once")
    for side in sides[1:]:
        _check_comparable(sides[0], side)
    repeated = _repeated({side.search.name: side.search for side in sides}.values())
    pairs = [_pair(sides[0], side, repeated) for side in sides[1:]]
    return Comparison(sides, pairs, _differing(sides), _notes(sides))


def _fresh_runs(search: Summary, original: str) -> dict[tuple[int, int | None], float]:
    """mAP of the completed repeats of a configuration."""
    repeats = fresh_seeds(search.study, original)
    return _last_values([trial for trial in repeats if trial.status == TrialStatus.COMPLETED])


def _last_values(trials: Sequence[Trial]) -> dict[tuple[int, int | None], float]:
    """mAP of the last evaluated epoch of each."""
    return {
        (trial.seed, trial.fold): epoch.validation.mAP
        for trial in trials
        for epoch in trial.results
        if epoch.validation is not None
    }


def _differing(sides: Sequence[Side]) -> dict[str, list[JsonValue]]:
    """The settings that differ, in alphabetical order."""
    paths = sorted({path for side in sides for path in side.settings})
    rows = {path: [side.settings.get(path) for side in sides] for path in paths}
    return {path: values for path, values in rows.items() if any(value != values[0] for value in values)}


def _side(search: Summary, trial: Trial) -> Side:
    search.folder.store.pull_trial(search.folder, trial.key, "config.json", "evaluation/*")
    epoch = kept_epoch(trial.results)
    if epoch is None or epoch.validation is None:
        raise SearchError(
            f"{search.name}/{trial.key}: no epoch of it was evaluated on the validation split ({trial.status})"
        )
    return Side(search, trial, epoch, epoch.validation)


def _check_comparable(first: Side, other: Side) -> None:
    """Metrics on other data, of other queries or under other protocols are not comparable.

    Raises:
        SearchError: they differ in one of these.
    """
    data = [side.search.description.data_fingerprint for side in (first, other)]
    if data[0] != data[1]:
        raise SearchError(
            f"{other.name} was trained on other data than {first.name} (fingerprints {data[1][:12]} and "
            f"{data[0][:12]}); their metrics must not be compared"
        )
    protocols = [side.validation.protocol for side in (first, other)]
    if protocols[0] != protocols[1]:
        raise SearchError(
            f"{other.name} was judged under protocol {protocols[1]}, {first.name} under {protocols[0]}; their metrics "
            "must not be compared, evaluate both under one (`evaluate` with --set evaluation.protocol=...)"
        )
    if _identities(first) != _identities(other):
        raise SearchError(
            f"{other.name} was judged on other identities than {first.name} (another validation split or fold); their "
            "metrics must not be compared"
        )


def _identities(side: Side) -> JsonValue:
    """The content of the validation split file or, where it is missing, the settings that determine it."""
    try:
        found: JsonValue = loads_checked(read_regular(side.split))
        return found
    except OSError:
        known = {path: value for path, value in side.settings.items() if path.startswith(SPLIT)}
        return {**known, "queries": side.validation.queries}
    except ValueError as error:
        raise SearchError(f"{side.split}: damaged, no JSON") from error


def _pair(before: Side, after: Side, repeated: Mapping[tuple[str, str], list[float]]) -> Pair:
    queries = None
    if before.evaluation is not None and after.evaluation is not None:
        from trainer.evaluation.compare import compare_evaluations  # imports torch

        queries = compare_evaluations(before.evaluation, after.evaluation)
    left, right = (side.validation.metrics() for side in (before, after))
    metrics = {name: MetricChange(value, right[name]) for name, value in left.items() if name in right}
    named = {(side.search.name, side.original) for side in (before, after)}
    others = [runs for configuration, runs in repeated.items() if configuration not in named]
    return Pair(before, after, metrics, queries, seed_difference(before.runs, after.runs, others))


def _repeated(searches: Iterable[Summary]) -> dict[tuple[str, str], list[float]]:
    """mAP of the fresh seeds of all configurations of the searches, from which the noise of seeds is estimated."""
    return {
        (search.name, key): list(runs.values())
        for search in searches
        for key in search.study.trials
        if len(runs := _fresh_runs(search, key)) > 1
    }


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = []
    for side in sides:
        if side.trial.status != TrialStatus.COMPLETED:
            notes.append(f"{side.name} is {side.trial.status}: metrics of its best epoch so far, {side.epoch.epoch}")
        if side.evaluation is None:
            notes.append(
                f"{side.name} left no metrics per query, so that the noise of the choice of queries is not known; "
                f"make them with: {side.evaluation_command}"
            )
        if not _fresh_runs(side.search, side.original):
            notes.append(f"{side.name} was trained with one seed, and is better than it should be if chosen for it")
    return notes
