"""What a trial reports after every epoch: the one type between trainer, journal, Ax, MLflow and Ray."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field, ValidationError

from trainer.errors import DataError
from trainer.files import in_place, loads_checked, read_regular, write_atomically
from trainer.settings import FrozenConfig

MAX_LINE = 1024 * 1024
"""Bytes of a result in a file; ours have about one thousand."""
# A mean of shares may be above 1 by a rounding.
Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]
Count = Annotated[int, Field(ge=0, le=10**12)]


def _is_empty(value: object) -> bool:
    return not value


def _is_none(value: object) -> bool:
    return value is None


class DataRecord(FrozenConfig):
    """Which data set a network was trained on, or judged on, wherever its folder is."""

    name: str = Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,300}$")
    """Name of its layout; that of generated data begins with `mini-`."""
    fingerprint: str = Field(pattern=r"^[0-9a-f]{1,64}$")
    """`trainer.data.dataset.dataset_fingerprint` of the partition."""
    joined: tuple[str, ...] = Field((), exclude_if=lambda joined: not joined)
    """`trainer.data.dataset.fingerprint` of the training tracklets of each data set that a joined one holds."""

    @property
    def label(self) -> str:
        """Name and beginning of the fingerprint, of characters that stand in the name of a folder and of a metric."""
        return f"{re.sub('[^A-Za-z0-9_-]', '-', self.name)[:64]}-{self.fingerprint[:8]}"


class RetrievalMetrics(FrozenConfig):
    """Metrics of one ranking, each a mean over the valid queries and in [0, 1]."""

    mAP: Share
    """Mean average precision."""
    mAP_standard_error: Share
    """Standard error of `mAP` over the valid queries."""
    mINP: Share
    """Mean inverse negative penalty (Ye et al. 2021)."""
    rank1: Share
    """CMC at rank 1: share of queries whose nearest gallery tracklet shows the same identity."""
    rank5: Share
    """CMC at rank 5."""
    rank10: Share
    """CMC at rank 10."""
    rank20: Share
    """CMC at rank 20."""


_OF_RANKING = frozenset(RetrievalMetrics.model_fields)


class DistanceThreshold(FrozenConfig):
    """A distance that tracklets of the same identity are at most apart."""

    distance: float = Field(ge=0)
    """In the distance that `evaluation.distance` names."""
    false_positive_rate: Share
    """Share of the pairs of different identities that are not farther apart."""


class VerificationMetrics(FrozenConfig):
    """Error rates of a threshold on the distance, over the pairs that the protocol ranks."""

    EER: Share
    """Equal error rate: where the false positive rate is the false negative rate."""
    TPR: dict[str, Share | None]
    """Largest true positive rate at a false positive rate of at most 1e-1 to 1e-4; None: not measurable, for there are
    fewer pairs of different identities than one error needs."""
    threshold: DistanceThreshold | None
    """Of a false positive rate of at most 1e-2; None: not measurable."""
    matching_pairs: Count
    """Pairs of the same identity."""
    other_pairs: Count
    """Pairs of different identities, distractors included."""


class PairMetrics(FrozenConfig):
    """Same identity or not, over one fold of a data set's own list of pairs."""

    accuracy: Share
    """Share of the fold's pairs that `threshold` tells right."""
    threshold: float
    """Distance up to which a pair is accepted, with the highest accuracy on the pairs of all other folds."""
    EER: Share
    """Equal error rate over the fold's pairs."""
    AUC: Share
    """Area under the ROC curve: how often a pair of the same identity is nearer than one of different identities, over
    all such couples of the fold; equal distances count by half."""
    matching_pairs: Count
    """Pairs of the same identity."""
    other_pairs: Count
    """Pairs of different identities."""


class Evaluation(RetrievalMetrics):
    """Metrics of one evaluation; everything that they depend on besides the network stands beside them."""

    attention_entropy: Share
    """Mean entropy of the attention over frames, divided by log T; 1 is uniform: nothing was learned."""
    protocol: str
    """Ranking protocol, a key of `trainer.data.dataset.PROTOCOLS`."""
    sampling: str = ""
    """Frames of a tracklet that were looked at, as `EvaluationConfig.frames_seen`; empty in results of before."""
    queries: Count
    """Valid queries."""
    dropped_queries: Count
    """Queries left out because the gallery holds no match for them."""
    reranked: RetrievalMetrics | None = None
    """The metrics after re-ranking, where it was done."""
    verification: VerificationMetrics | None = None
    """Same identity or not, by the distance without re-ranking; None where it was not measured."""
    pairs: PairMetrics | None = Field(None, exclude_if=_is_none)
    """The same over the data set's own list of pairs, on its test part; None, and left out of files, without a list."""
    trained_on: str | None = Field(None, exclude_if=_is_none)
    """Name of the data set that the network was trained on; None, and then not written, where it is the one tested."""
    tested_on: str | None = Field(None, exclude_if=_is_none)
    """Name of the data set that it was tested on, where that is another one."""

    @property
    def other_data(self) -> str | None:
        """`trained on A, tested on B`; None where both are one data set."""
        return None if self.trained_on is None else f"trained on {self.trained_on}, tested on {self.tested_on}"

    def metrics(self) -> dict[str, float]:
        """The metrics that a search can optimise or a tracker can draw, by name."""
        metrics = {name: value for name, value in self if isinstance(value, float)}
        again = () if self.reranked is None else self.reranked
        metrics |= {f"reranked/{name}": value for name, value in again}
        if self.pairs is not None:
            metrics |= {f"pairs/{name}": getattr(self.pairs, name) for name in ("accuracy", "EER", "AUC")}
        if self.verification is None:
            return metrics
        measured = {"EER": self.verification.EER, **self.verification.TPR}
        # MLflow takes neither @ nor = in a name.
        names = {name: name.replace("@", "_at_").replace("=", "_") for name in measured}
        return metrics | {f"verification/{names[name]}": value for name, value in measured.items() if value is not None}


UNIFORM_ENTROPY = 0.995
"""Attention of this entropy or more prints as 1.00: all frames of a clip weigh the same."""


class EpochResult(FrozenConfig):
    """One epoch of training. Everything in it is finite; what failed is raised, never reported."""

    epoch: Count
    """Epochs finished, counted from 1."""
    losses: dict[str, float]
    """Mean over the epoch of the total and of each term that was computed, unweighted."""
    learning_rate: float
    """Learning rate of the epoch."""
    validation: Evaluation | None
    """Metrics on the validation split, in the epochs that are evaluated."""
    images_per_second: float
    """Frames trained on per second of training, until the device is done with them; evaluation excluded."""
    data_wait_share: float
    """Share of the training time in which the device waited for frames, in [0, 1]."""
    attention: dict[str, float] = Field(default_factory=dict)
    """Means over the training clips of the epoch: `entropy` of the weights over frames divided by log T (1 is
    uniform), `dead_scores` (share of scores that are exactly 0), `erased_weight` (weight of erased frames; 1 is
    as much as uniform, absent if none was erased). Empty without attention, and for clips of one frame."""
    seconds: float
    """Duration of the epoch, evaluation included."""
    evaluation_seconds: float = 0.0
    """How long the evaluation took; 0 in epochs that are not evaluated."""
    damaged_frames: int = 0
    """Frames met so far in the run that could not be decoded and were skipped."""
    precision: str = Field("", exclude_if=_is_empty)
    """Of the network's products, see `compute.precision`; empty in results of before."""
    time: float
    """When the epoch ended, in seconds since 1970 UTC."""

    def metrics(self) -> dict[str, float]:
        """Every metric by name, flat: the names that journal, MLflow, tables and `objective.metric` share."""
        metrics = {
            "learning_rate": self.learning_rate,
            "images_per_second": self.images_per_second,
            "data_wait_share": self.data_wait_share,
            "seconds": self.seconds,
        }
        metrics |= {f"loss/{name}": value for name, value in self.losses.items()}
        metrics |= {f"attention/{name}": value for name, value in self.attention.items()}
        return metrics | (self.validation.metrics() if self.validation else {})

    def metric(self, name: str) -> float | None:
        """One of `metrics`, without making all of them where it is of the ranking, the losses or the attention.

        None where it is not among them.
        """
        if self.validation is not None and name in _OF_RANKING:
            value: float = getattr(self.validation, name)
            return value
        kind, _, rest = name.partition("/")
        if kind in ("loss", "attention"):
            return (self.losses if kind == "loss" else self.attention).get(rest)
        return self.metrics().get(name)


Report = Callable[[EpochResult], None]
"""Called with each epoch's result, and with earlier ones again after a resume: results are known by their epoch."""


def ignore_report(result: EpochResult) -> None:
    """Discards what it is called with."""


def write_results(path: Path, results: Sequence[EpochResult]) -> None:
    """Replaces the file by the results, one JSON object per line."""
    write_atomically(path, "".join(result.model_dump_json() + "\n" for result in results))


def read_evaluation(path: Path) -> Evaluation | None:
    """The evaluation in a file; None where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return Evaluation.model_validate_json(read_regular(path, MAX_LINE))
    except ValidationError as error:
        raise DataError(f"{path}: damaged ({error.error_count()} errors); delete it to evaluate again") from error


def append_result(path: Path, result: EpochResult) -> None:
    """Adds a line to the file."""
    with open(path, "a", encoding="utf-8", opener=in_place) as file:
        file.write(result.model_dump_json() + "\n")


def read_results(path: Path) -> list[EpochResult]:
    """The results in the file; a last line that a crash cut short is left out. No file: an empty list.

    Raises:
        DataError: a line is damaged.
    """
    if not path.is_file():
        return []
    results = []
    for number, line in enumerate(read_regular(path).split(b"\n")[:-1], 1):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"longer than {MAX_LINE} bytes")
            results.append(EpochResult.model_validate(loads_checked(line)))
        except (ValueError, RecursionError) as error:
            what = f"{error.error_count()} errors" if isinstance(error, ValidationError) else error
            raise DataError(
                f"{path}:{number}: damaged ({what}); cut the file there to train on from the epoch before"
            ) from error
    return results


def kept_epoch(results: Iterable[EpochResult]) -> EpochResult | None:
    """The epoch whose network a trial keeps in `best.pt`: of the highest validation mAP, the earliest of equals.

    None where none of the epochs, which come in their order, was evaluated.
    """
    return reduce(better_epoch, results, None)


def better_epoch(known: EpochResult | None, result: EpochResult) -> EpochResult | None:
    """The epoch to keep of the one known so far, which was evaluated, and a later one."""
    if result.validation is None:
        return known
    if known is not None and known.validation is not None and known.validation.mAP >= result.validation.mAP:
        return known
    return result


class Progress(Protocol):
    """A listener to long work."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Called with the name of the work, the steps done, the steps in all, and a note."""


def no_progress(what: str, done: int, total: int, note: str = "") -> None:
    """Discards what it is called with."""
