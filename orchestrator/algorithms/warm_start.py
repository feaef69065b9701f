"""Warm start: completed trials of an earlier search as observations for the model of a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.algorithms.scoring import modelled_metrics, score
from orchestrator.base.errors import SearchError
from orchestrator.space.expressions import satisfies
from orchestrator.space.parameters import Value
from orchestrator.space.problems import SpaceError
from orchestrator.space.schema import flattened
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.events import Observation, ObservationsAttached
from orchestrator.study.journal import read_journal
from orchestrator.study.study import Study, Trial, fold_records
from trainer.settings import differing_settings

# Another split is another `data.*` setting; another seed is only another draw of the same metrics.
IGNORED = {"seed"}
SHOWN = 4


class WarmStart(NamedTuple):
    """The search that a new one learns from."""

    earlier: SearchFolder
    anyway: bool
    """Whether to accept searches that differ in data, objective or fixed settings."""


def observations(start: WarmStart, new: SearchDescription) -> ObservationsAttached:
    """The completed trials of the earlier search that lie within the space of the new one.

    Raises:
        SearchError: the two measure different things, or there is no such trial; says what.
    """
    old = read_description(start.earlier.description)
    study = fold_records(read_journal(start.earlier.journal), start.earlier.journal)
    earlier = _Earlier(current_space(old, study), study)
    differences = [*_differences(old, earlier.space, new), *earlier.other_settings(new.space)]
    if differences and not start.anyway:
        raise SearchError(
            f"--warm-start {old.search}: its metrics do not compare with those of this search, which differs in "
            f"{_listed(differences)}; launch without it, or with --warm-start-anyway if they are still useful"
        )
    found = list(earlier.within(new.space))
    if not found:
        raise SearchError(
            f"--warm-start {old.search}: none of its {len(study.completed)} completed trials lies within the space of "
            "this search; launch without it"
        )
    note = f"although they differ in {_listed(differences)}" if differences else ""
    return ObservationsAttached(search=old.search, observations=found, note=note)


def _differences(old: SearchDescription, space: SearchSpace, new: SearchDescription) -> list[str]:
    return ["the data"] * (old.data_fingerprint != new.data_fingerprint) + ["the objective"] * (
        space.objective != new.space.objective
    )


def _listed(differences: list[str]) -> str:
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return ", ".join(differences[:SHOWN]) + more


class _Earlier(NamedTuple):
    """A search with completed trials."""

    space: SearchSpace
    study: Study

    def other_settings(self, new: SearchSpace) -> list[str]:
        """Settings that the new space does not search and that have another value in its trials."""
        found: dict[str, None] = {}
        for trial in self._completed():
            point = self._point(trial, new)
            if point is not None:
                theirs = self._settings(trial)
                ours = new.config(point).model_dump(mode="json")
                found |= dict.fromkeys(differing_settings(ours, theirs))
        return [path for path in found if path not in IGNORED]

    def within(self, new: SearchSpace) -> Iterator[Observation]:
        """Its completed trials as points of the new space."""
        for trial in self._completed():
            point, found = self._point(trial, new), score(trial, new.objective)
            if point is not None and found is not None:
                yield Observation(
                    trial=trial.key,
                    params=point,
                    value=found.value,
                    standard_error=found.standard_error,
                    metrics=modelled_metrics(found, new.objective),
                )

    def _completed(self) -> list[Trial]:
        # Without replicates: the model compares points by one seed each, as in the search itself.
        return [self.study.trials[key] for key in self.study.completed]

    def _settings(self, trial: Trial) -> dict[str, JsonValue]:
        return self.space.config(trial.params).model_dump(mode="json")

    def _point(self, trial: Trial, new: SearchSpace) -> dict[str, Value] | None:
        """The trial as a point of the new space; None if it lies outside."""
        values = _values(self._settings(trial), new)
        point = new.active(values)
        if any(new.parameters[path].refusal(value) is not None for path, value in point.items()):
            return None
        if not satisfies(values, new.linear_constraints()):
            return None
        try:
            new.config(point)
        except SpaceError:
            return None
        return point


def _values(settings: Mapping[str, JsonValue], new: SearchSpace) -> dict[str, Value]:
    flat = {".".join(keys): value for keys, value in flattened(settings)}
    known = {path: flat.get(path) for path in new.parameters}
    return {path: value for path, value in known.items() if isinstance(value, bool | int | float | str)}
