"""Points of a space as rows of numbers: drawn at random or near a point, moved to valid values, seen by a model.

A row holds a place in [0, 1] for each parameter: of a range the place on its own scale, of a list the index of a value
divided by the largest index. A model sees a choice without an order as one coordinate for each of its values, 1 for
that value and 0 for the others, so that all its values lie equally far apart.

m rows, p parameters, d coordinates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from orchestrator.algorithms.curve_values import Array
from orchestrator.algorithms.priors import ParameterPrior
from orchestrator.space.expressions import parse_constraint

# Steps away from a point have a standard deviation between these, drawn on a log scale.
NEAR = (0.01, 0.25)
# Chance that a step moves a coordinate, and at least so many of them on average.
MOVED, LEAST_MOVED = 0.5, 2.0
MAX_LISTED = 1024  # points of a space that are all looked at
DIGITS = 10  # of places that are the same
ROUNDING = 1e-9  # by which a constraint may be missed; the answer is checked exactly


@dataclass(frozen=True)
class CodedSpace:
    """The parameters of a question to the model, as `orchestrator.algorithms.ax_experiment` codes them."""

    names: tuple[str, ...]
    levels: tuple[Array | None, ...]
    """The places of each parameter, ascending; None for any in [0, 1]."""
    is_unordered: tuple[bool, ...]
    is_counted: tuple[bool, ...]
    """Whether codes are indices of values."""
    highest: Array
    """(p,): the code of place 1; that of place 0 is 0."""
    when: tuple[Mapping[int, Array], ...]
    """Of each parameter, by the parameters that activate it: the places of these at which they do."""
    inactive: Array
    """(p,): the place of a parameter that is not active."""
    weights: Array
    """(constraints, p): on codes."""
    limits: Array
    """(constraints,): of the weighted sums."""
    priors: Mapping[int, ParameterPrior]
    """Of the parameters that have one, by their columns."""

    @classmethod
    def of(cls, question: Mapping[str, Any]) -> Self:
        """The space of a question."""
        specs: Mapping[str, Mapping[str, Any]] = question["parameters"]
        names = tuple(specs)
        highest = np.array([_highest(spec) for spec in specs.values()], dtype=float)
        constraints = [parse_constraint(text) for text in question["constraints"]]
        return cls(
            names,
            tuple(_levels(spec) for spec in specs.values()),
            tuple(spec["type"] == "choice" and not spec["ordered"] for spec in specs.values()),
            tuple(
                spec["type"] == "int" or (spec["type"] == "choice" and not spec["ordered"]) for spec in specs.values()
            ),
            highest,
            tuple(
                {names.index(path): np.array(codes) / highest[names.index(path)] for path, codes in told.items()}
                for told in (spec.get("when", {}) for spec in specs.values())
            ),
            np.array([spec.get("inactive", 0.0) for spec in specs.values()]) / highest,
            np.array([[each.weights.get(name, 0.0) for name in names] for each in constraints]).reshape(-1, len(names)),
            np.array([each.limit for each in constraints]),
            {column: _prior(spec) for column, spec in enumerate(specs.values()) if "prior" in spec},
        )

    def places(self, codes: Mapping[str, float]) -> Array:
        """(p,): of codes."""
        found: Array = np.array([codes[name] for name in self.names], dtype=float) / self.highest
        return found

    def codes(self, places: Array) -> dict[str, float]:
        """The codes of valid places (p,)."""
        coded = zip(self.names, self.is_counted, self.highest, places, strict=True)
        return {
            name: round(place * highest) if is_counted else float(place) for name, is_counted, highest, place in coded
        }

    def moved(self, places: Array) -> Array:
        """(m, p): the nearest values of the space; parameters that are not active have one place."""
        moved = np.clip(places, 0.0, 1.0)
        for column, levels in enumerate(self.levels):
            if levels is not None:
                between = (levels[1:] + levels[:-1]) / 2
                moved[:, column] = levels[np.searchsorted(between, moved[:, column])]
        for column, when in enumerate(self.when):
            if when:
                moved[~self._is_active(column, moved), column] = self.inactive[column]
        return moved

    def _is_active(self, column: int, places: Array) -> Any:
        active = np.ones(len(places), dtype=bool)
        for other, allowed in self.when[column].items():
            matches = np.abs(places[:, [other]] - allowed).min(1) < 0.1 / self.highest[other]
            active &= matches & self._is_active(other, places)
        return active

    def log_prior(self, places: Array) -> Array:
        """(m,): logarithm of the prior density; a parameter that is not active neither adds nor takes."""
        found = np.zeros(len(places))
        for column, prior in self.priors.items():
            density = prior.density(places[:, column])
            found += np.where(self._is_active(column, places), np.log(density), 0.0)
        return found

    def are_allowed(self, places: Array) -> Any:
        """(m,): whether rows satisfy all constraints."""
        return (places @ (self.weights * self.highest).T <= self.limits + ROUNDING).all(1)

    def coordinates(self, places: Array) -> Array:
        """(m, d): what a model sees."""
        return np.hstack([self._columns(column, places[:, [column]]) for column in range(len(self.names))])

    def _columns(self, column: int, places: Array) -> Array:
        levels = self.levels[column]
        if levels is None or not self.is_unordered[column] or len(levels) == 2:
            return places
        columns: Array = (np.abs(places - levels) < 0.5 / self.highest[column]).astype(float)
        return columns

    def random(self, draws: np.random.Generator, count: int) -> Array:
        """(at most `count`, p): uniform on the values of each parameter, without those that break a constraint."""
        shares = draws.random((count * (4 if len(self.limits) else 1), len(self.names)))
        return self._valid(self._at(shares))[:count]

    def _at(self, shares: Array) -> Array:
        """Like a parameter's `at`: each value of a list has the same chance."""
        places = shares.copy()
        for column, levels in enumerate(self.levels):
            if levels is not None:
                places[:, column] = levels[np.minimum((shares[:, column] * len(levels)).astype(int), len(levels) - 1)]
        return places

    def near(self, draws: np.random.Generator, center: Array, count: int) -> Array:
        """(at most `count`, p): some coordinates of a point moved, a little or far; lists jump half of the time."""
        shape = (count, len(self.names))
        low, high = (math.log(each) for each in NEAR)
        steps = draws.standard_normal(shape) * np.exp(draws.uniform(low, high, (count, 1)))
        is_moved = draws.random(shape) < max(MOVED, LEAST_MOVED / len(self.names))
        jumps = draws.random(shape) < np.array([self._jumps(column) for column in range(len(self.names))])
        stepped = np.where(jumps, self._at(draws.random(shape)), center + steps)
        return self._valid(np.where(is_moved, stepped, center))

    def _jumps(self, column: int) -> float:
        return 0.0 if self.levels[column] is None else 1.0 if self.is_unordered[column] else 0.5

    def around(self, draws: np.random.Generator, centers: Array, count: int, width: float) -> Array:
        """(at most `count` for each center, p): normal steps of a standard deviation of `width`."""
        steps = width * draws.standard_normal((len(centers), count, len(self.names)))
        return self._valid((centers[:, None] + steps).reshape(-1, len(self.names)))

    def every(self) -> Array | None:
        """All points of a small space without continuous parameters, otherwise None."""
        levels = [each for each in self.levels if each is not None]
        if len(levels) < len(self.levels) or math.prod(map(len, levels)) > MAX_LISTED:
            return None
        return self._valid(np.array(list(itertools.product(*levels))))

    def _valid(self, places: Array) -> Array:
        moved = self.moved(places)
        allowed: Array = moved[self.are_allowed(moved)]
        return allowed


def keys(places: Array) -> Iterator[tuple[float, ...]]:
    """Of each row; equal for rows that are the same point."""
    return map(tuple, np.round(places, DIGITS).tolist())


def _prior(spec: Mapping[str, Any]) -> ParameterPrior:
    told, is_unordered = spec["prior"], spec["type"] == "choice" and not spec["ordered"]
    return ParameterPrior.of(told["code"] / _highest(spec), told["sure"], len(spec["values"]) if is_unordered else 0)


def _highest(spec: Mapping[str, Any]) -> float:
    if spec["type"] == "choice":
        values: Sequence[float] = spec["values"]
        return values[-1]
    return float(spec["high"])


def _levels(spec: Mapping[str, Any]) -> Array | None:
    if spec["type"] == "float":
        return None
    if spec["type"] == "choice":
        places: Array = np.array(spec["values"], dtype=float) / _highest(spec)
        return places
    return np.linspace(0.0, 1.0, int(spec["high"]) + 1)
