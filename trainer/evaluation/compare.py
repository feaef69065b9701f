"""Two evaluations of the same queries compared: size and confidence of the difference, and where it comes from.

Q queries, P identities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import special

from trainer.data.dataset import named
from trainer.errors import DataError
from trainer.evaluation.query_metrics import QueryMetrics, read_query_metrics
from trainer.files import loads_checked, open_regular
from trainer.formatting import one_line, shortened, shown

DESCRIPTION = "evaluation.json"
MAX_BYTES = 2**20  # of the description; it has about 1 kB
CONFIDENCE = 0.95
EQUAL = 1e-9  # a smaller difference of average precisions is rounding
DRAWN_AT_ONCE = 2**20  # identities drawn together: their sums, 8 MiB, stay in a processor's cache


class Comparison(NamedTuple):
    """By how much the second of two evaluations is better in mAP."""

    delta: float
    """mAP after less mAP before, over the queries valid in both; in [-1, 1]."""
    low: float
    """Lower end of the 95 % confidence interval of `delta`."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided: the largest at which an interval like this one would just leave out 0; in (0, 1]."""
    better: int
    """Queries with a higher average precision after."""
    worse: int
    equal: int


class CameraPairChange(NamedTuple):
    """mAP of the queries of one camera in the gallery of another, before and after."""

    query_camera: int
    gallery_camera: int
    before: float
    after: float
    queries: int
    """Those with a match, at least 1."""

    @property
    def delta(self) -> float:
        """mAP after less mAP before."""
        return self.after - self.before


class QueryChange(NamedTuple):
    """Average precision of one query, before and after."""

    place: int
    """Place among the queries, from 0."""
    identity: int
    camera: int
    frames: int
    first_frame: str
    before: float
    after: float

    @property
    def delta(self) -> float:
        """Average precision after less before."""
        return self.after - self.before


class EvaluationComparison(NamedTuple):
    """Two evaluations of the same queries under the same protocol."""

    protocol: str
    queries: int
    """Queries valid in both."""
    before: float
    """mAP over them."""
    after: float
    comparison: Comparison
    """Confidence by resampling identities."""
    cameras: tuple[CameraPairChange, ...]
    """All pairs of cameras with a match, by what they add to the difference: those first that gained most times their
    number of queries."""
    gains: tuple[QueryChange, ...]
    """Queries that gained most, largest gain first."""
    losses: tuple[QueryChange, ...]
    """Queries that lost most, largest loss first."""
    deltas: Float64[np.ndarray, " Q"]
    """Average precision after less before, NaN for queries not valid in both."""
    synthetic: bool
    """Whether either was on generated data; pictures are marked so."""
    other_data: tuple[str | None, str | None] = (None, None)
    """`trained on A, tested on B` before and after; None where a network was tested on the data set of its training."""


def compare_evaluations(
    before: Path, after: Path, *, count: int = 10, draws: int = 10_000, seed: int = 0
) -> EvaluationComparison:
    """Compares what two evaluations wrote into their folders, naming at most `count` gains and losses.

    A folder holds per_query.npz (`trainer.evaluation.query_metrics`) and evaluation.json, an object with the
    `protocol`'s name, the `fingerprint` of queries and gallery, and whether they are `synthetic`.

    Raises:
        DataError: a file is missing or damaged, or the evaluations have other queries, protocols or data.
    """
    described = _checked_descriptions(before, after)
    first, second = read_query_metrics(before), read_query_metrics(after)
    _check_same_queries(first, second, before, after)
    if described[0].fingerprint != described[1].fingerprint:
        raise DataError(f"{after}: another gallery was searched than in {before}; evaluate both on the same data")
    change = partial(_query_change, first, second, described[1].cameras)
    valid = first.valid & second.valid
    if not valid.any():
        raise DataError(f"{after}: no query has a match both here and in {before}; there is nothing to compare")
    deltas = _differences(first.average_precision, second.average_precision)
    order = [int(place) for place in np.argsort(-deltas, kind="stable")[: valid.sum()]]  # NaN comes last
    return EvaluationComparison(
        protocol=described[0].protocol,
        queries=int(valid.sum()),
        before=float(first.average_precision[valid].mean()),
        after=float(second.average_precision[valid].mean()),
        comparison=paired_bootstrap(
            first.average_precision, second.average_precision, groups=first.identity, draws=draws, seed=seed
        ),
        cameras=_camera_changes(first, second, described[1].cameras),
        gains=tuple(change(place) for place in order[:count] if deltas[place] > 0),
        losses=tuple(change(place) for place in order[::-1][:count] if deltas[place] < 0),
        deltas=deltas,
        synthetic=any(each.synthetic for each in described),
        other_data=(described[0].other_data, described[1].other_data),
    )


def comparison_document(comparison: EvaluationComparison) -> dict[str, Any]:
    """The comparison as a JSON document."""
    return {
        "protocol": comparison.protocol,
        "queries": comparison.queries,
        "before": comparison.before,
        "after": comparison.after,
        **comparison.comparison._asdict(),
        "cameras": [change._asdict() for change in comparison.cameras],
        "gains": [change._asdict() for change in comparison.gains],
        "losses": [change._asdict() for change in comparison.losses],
        **({"other_data": comparison.other_data} if any(comparison.other_data) else {}),
    }


def paired_bootstrap(
    before: Float64[np.ndarray, " Q"],
    after: Float64[np.ndarray, " Q"],
    *,
    groups: Shaped[np.ndarray, " Q"] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """The mean difference of two evaluations' average precisions, with a bootstrap interval.

    Queries are resampled in pairs of before and after; NaN in either leaves a query out. With `groups`, whole groups
    are resampled: the queries of one identity are not independent, and intervals that take them so are too narrow. The
    interval is the expanded percentile interval, which is not too narrow for few groups either (Hesterberg 2015,
    arXiv:1411.5279). Of one group none can be estimated: then it is the widest possible, [-1, 1].

    Raises:
        ValueError: the sizes differ, no query is in both, or `draws` is below 1.
    """
    if before.shape != after.shape or (groups is not None and groups.shape != before.shape) or draws < 1:
        raise ValueError(f"sizes {before.shape} and {after.shape} must agree, also with groups; draws {draws} be >= 1")
    differences = _differences(before, after)
    valid = ~np.isnan(differences)
    if not valid.any():
        raise ValueError("no query is in both evaluations")
    kept = differences[valid]
    low, high, p_value = _interval(kept, np.arange(len(kept)) if groups is None else groups[valid], draws, seed)
    return Comparison(
        delta=float(kept.mean()),
        low=low,
        high=high,
        p_value=p_value,
        better=int((kept > 0).sum()),
        worse=int((kept < 0).sum()),
        equal=int((kept == 0).sum()),
    )


def _differences(before: Float64[np.ndarray, " Q"], after: Float64[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """After less before, exactly 0 where they differ by rounding."""
    differences = after - before
    return np.where(np.abs(differences) <= EQUAL, 0.0, differences)


def _interval(
    differences: Float64[np.ndarray, " Q"], groups: Shaped[np.ndarray, " Q"], draws: int, seed: int
) -> tuple[float, float, float]:
    """Lower and upper end of the interval, and the p-value."""
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group).astype(np.float64)
    if len(sizes) == 1:
        return -1.0, 1.0, 1.0
    means = _resampled_means(np.bincount(group, weights=differences), sizes, draws, seed)
    freedom = len(sizes) - 1
    spread = math.sqrt(len(sizes) / freedom)
    tail = special.ndtr(spread * special.stdtrit(freedom, (1 - CONFIDENCE) / 2))
    low, high = np.quantile(means, [tail, 1 - tail])
    beyond = (1 + min((means <= 0).sum(), (means >= 0).sum())) / (1 + draws)
    return float(low), float(high), float(min(1.0, 2 * special.stdtr(freedom, special.ndtri(beyond) / spread)))


def _resampled_means(
    sums: Float64[np.ndarray, " P"], sizes: Float64[np.ndarray, " P"], draws: int, seed: int
) -> Float64[np.ndarray, " draws"]:
    """Mean over the queries of as many identities as there are, drawn with replacement, again and again."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWN_AT_ONCE // len(sums))
    means = []
    for start in range(0, draws, rows):
        chosen = generator.integers(len(sums), size=(min(rows, draws - start), len(sums)))
        means.append(sums[chosen].sum(1) / sizes[chosen].sum(1))
    return np.concatenate(means)


class _Description(BaseModel):
    """What is read of evaluation.json; it holds more."""

    model_config = ConfigDict(frozen=True, strict=True)

    protocol: str
    fingerprint: str
    synthetic: bool
    cameras: dict[int, str] = {}
    """Names by number."""
    trained_on: str | None = None
    tested_on: str | None = None

    @property
    def other_data(self) -> str | None:
        if self.trained_on is None:
            return None
        return one_line(f"trained on {shortened(self.trained_on)}, tested on {shortened(str(self.tested_on))}")


def _checked_descriptions(before: Path, after: Path) -> tuple[_Description, _Description]:
    first, second = _description(before), _description(after)
    if first.protocol != second.protocol:
        raise DataError(
            f"{after}: protocol {shown(second.protocol)}, but {before} has {shown(first.protocol)}; metrics under "
            "different protocols must not be compared, evaluate again under one"
        )
    return first, second


def _description(folder: Path) -> _Description:
    path = folder / DESCRIPTION
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES} bytes; this is not the description of an evaluation")
        loads_checked(data)
        return _Description.model_validate_json(data)
    except OSError as error:
        advice = "name a folder that an evaluation was written to"
        raise DataError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise DataError(f"{path}: {where}: not as an evaluation writes it; evaluate again") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no JSON; evaluate again") from error


def _check_same_queries(first: QueryMetrics, second: QueryMetrics, before: Path, after: Path) -> None:
    if len(first.valid) != len(second.valid):
        raise DataError(
            f"{after}: {len(second.valid)} queries, but {before} has {len(first.valid)}; evaluate both on the same part"
        )
    fields = ("identity", "camera", "frames", "first_frame")
    same = np.logical_and.reduce([getattr(first, field) == getattr(second, field) for field in fields])
    if not same.all():
        place = int(np.flatnonzero(~same)[0])
        names = [shown(str(queries.first_frame[place])) for queries in (second, first)]
        raise DataError(
            f"{after}: query {place} starts with {names[0]}, in {before} with {names[1]}, or differs in identity, "
            "camera or length; evaluate both on the same part of the same data"
        )


def _camera_changes(
    first: QueryMetrics, second: QueryMetrics, names: Mapping[int, str]
) -> tuple[CameraPairChange, ...]:
    """Changes by pair of cameras, of the cameras that both galleries have."""
    changes = []
    for camera in np.intersect1d(first.gallery_cameras, second.gallery_cameras).tolist():
        before, after = (
            queries.by_camera[:, queries.gallery_cameras.tolist().index(camera)] for queries in (first, second)
        )
        for asked in np.unique(first.camera).tolist():
            kept = (first.camera == asked) & ~np.isnan(before + after)
            if kept.any():
                means = float(before[kept].mean()), float(after[kept].mean())
                pair = named(asked, names), named(camera, names)
                changes.append(CameraPairChange(*pair, *means, int(kept.sum())))
    return tuple(
        sorted(changes, key=lambda change: (-change.delta * change.queries, change.query_camera, change.gallery_camera))
    )


def _query_change(first: QueryMetrics, second: QueryMetrics, names: Mapping[int, str], place: int) -> QueryChange:
    return QueryChange(
        place=place,
        identity=int(first.identity[place]),
        camera=named(int(first.camera[place]), names),
        frames=int(first.frames[place]),
        first_frame=str(first.first_frame[place]),
        before=float(first.average_precision[place]),
        after=float(second.average_precision[place]),
    )
