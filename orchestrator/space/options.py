"""The settings of a space beside its parameters: algorithm, budget, early stopping, replicates, resources."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticKnownError

from orchestrator.space.parameters import StrictConfig
from trainer.formatting import shown
from trainer.plugins import is_plugin

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
ALGORITHM_NAMES = ("ax", "sobol", "random", "grid")
MEMORY = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})")


class Resources(StrictConfig):
    """Resources of one trial; null values follow from the machines."""

    cpus_per_trial: int | None = Field(None, ge=1)
    """CPU cores; null divides those of a machine among its trials."""
    gpus_per_trial: float | None = Field(None, ge=0, json_schema_extra={"maximum": 1})
    """GPUs: 1, a share of one, or 0; null is 1 if there are any. A trial trains on one GPU."""
    memory_per_trial: str | None = None
    """Memory, such as `16 GiB`, that a machine must have left; null counts none."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _one_or_part_of_one(cls, value: float | None) -> float | None:
        if value is not None and not value <= 1:
            raise ValueError(f"must be at most 1, for a trial trains on one GPU; 0.5 lets two share one (is {value:g})")
        return value

    @field_validator("memory_per_trial")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            memory_bytes(value)
        return value

    def overridden(self, other: Self) -> Self:
        """These, with the values of `other` that are not null."""
        return self.model_copy(update=other.model_dump(exclude_none=True))


def memory_bytes(text: str) -> int:
    """Bytes in a text such as `16 GiB` or `500MB`.

    Raises:
        ValueError: the text is no size.
    """
    found = MEMORY.fullmatch(text)
    number = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if number == 0:
        raise ValueError(f"must be a number and one of {', '.join(UNITS)}, such as 16 GiB (is {text!r})")
    return number


def _known_algorithm(name: str) -> str:
    if name not in ALGORITHM_NAMES and not is_plugin(name):
        *others, last = (f"'{each}'" for each in ALGORITHM_NAMES)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


AlgorithmName = Annotated[
    str,
    AfterValidator(_known_algorithm),
    WithJsonSchema({"anyOf": [{"enum": list(ALGORITHM_NAMES)}, {"type": "string", "pattern": r"^plugin:\S+$"}]}),
]


class AlgorithmConfig(StrictConfig):
    """How the next point is chosen."""

    name: AlgorithmName = "ax"
    """`ax`: Bayesian optimisation after an initial design. `sobol`: even coverage. `random`: independent points.
    `grid`: every combination that the budget allows. `plugin:NAME`: the algorithm of an installed package."""
    method: Literal["fast", "quality"] = "fast"
    """Model of `ax`. `fast`: one Gaussian process. `quality`: a fully Bayesian one that assumes that few parameters
    have an effect (SAAS), with warped inputs; needs `pip install 'reidsearch[quality]'` and takes many times longer."""

    @field_validator("method")
    @classmethod
    def _of_the_model(cls, method: str, info: ValidationInfo) -> str:
        name = info.data.get("name", "ax")
        if name != "ax" and method != "fast":
            raise ValueError(f"is a setting of ax; {name} has no model (is {shown(method)})")
        return method


class Budget(StrictConfig):
    """Limits of a search; it ends with the one that is reached first."""

    trials: int = Field(ge=1, le=100_000)
    """Number of trials; where they pause (`stopping`), the number of whole trainings that their epochs add up to."""
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; null runs as many as the machines hold."""
    epochs: int | None = Field(None, ge=1)
    """Epochs of all trials together."""
    hours: float | None = Field(None, gt=0)
    """Wall time of all sessions together."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours times the GPUs that trials held."""
    target: float | None = Field(None, ge=0, le=1)
    """Value of the objective, a share between 0 and 1, at which the search ends."""
    patience: int | None = Field(None, ge=1)
    """Completed trials in a row without improvement after which the search ends."""
    gain: float | None = Field(None, gt=0, le=1)
    """Improvement of the objective, in its own units (0.002 is 0.2 points of mAP); the search ends when less is
    expected of 10 more trials, by a model of all values, once 20 are completed. For `ax` with one objective and no
    constraints on metrics."""


class StoppingConfig(StrictConfig):
    """When a trial is paused or stopped; `grace` and `curves` count evaluations of the objective."""

    rule: Literal["none", "asha", "percentile", "promote", "freeze_thaw"] = "none"
    """`promote`: successive halving by promotion (Li et al. 2020, arXiv:1810.05934): every trial pauses early, and the
    best paused ones continue; where no rung has one to promote, our model may also train a paused one to its end.
    `freeze_thaw`: the trial with the largest expected improvement per remaining epoch trains, a paused one or a new one
    (Swersky et al. 2014, arXiv:1406.3896). `asha`: asynchronous successive halving by stopping, without pauses;
    `percentile`: compare with the other curves at every evaluation, as the median rule does (Golovin et al. 2017);
    `none`: train every trial to its end."""
    first: float = Field(0.0625, ge=0.001, lt=1)
    """`promote` and `freeze_thaw`: share of its epochs after which a trial first pauses, at the next evaluation."""
    grace: int = Field(1, ge=1)
    """Evaluations that every trial gets; with `asha` the first rung."""
    reduction: int = Field(3, ge=2)
    """`asha` and `promote`: each rung is this many times longer than the one before; the best one in so many trials
    continues."""
    percentile: float = Field(50.0, gt=0, lt=100)
    """`percentile`: a trial below this percentile of the others is stopped; 50 is the median rule."""
    curves: int = Field(5, ge=1)
    """`percentile`: other trials that must have as many evaluations before a trial is stopped."""

    @property
    def pauses(self) -> bool:
        """Whether trials pause and continue, so that the budget of trials counts whole trainings."""
        return self.rule in ("promote", "freeze_thaw")


def pause_shares(stopping: StoppingConfig) -> list[Fraction]:
    """The shares of its epochs after which a trial pauses, ascending, below 1; empty for rules that pause nothing.

    `first` times the powers of `reduction` or, for `freeze_thaw`, of 2.
    """
    if not stopping.pauses:
        return []
    factor = stopping.reduction if stopping.rule == "promote" else 2
    first = Fraction(stopping.first).limit_denominator(10_000)
    shares = (first * factor**times for times in itertools.count())
    return list(itertools.takewhile(lambda share: share < 1, shares))


def chunk_ends(epoch: int, epochs: int, every: int, stopping: StoppingConfig) -> list[int]:
    """The epochs after `epoch` at which a trial can pause, and its last one.

    Each pause falls on the first evaluated epoch at or after one of the shares.

    Args:
        epoch: finished epochs.
        epochs: of the whole training.
        every: epochs from one evaluation to the next.
        stopping: the rule.
    """
    ends = {math.ceil(share * epochs / every) * every for share in pause_shares(stopping)}
    return [*sorted(end for end in ends if epoch < end < epochs), epochs]


def next_pause(epoch: int, epochs: int, every: int, stopping: StoppingConfig) -> int | None:
    """The first of `chunk_ends`; None if a trial trains to its end."""
    first, *later = chunk_ends(epoch, epochs, every, stopping)
    return first if later else None


# Fresh seeds that a configuration has to complete before it is called the best.
CONFIRMING_SEEDS = 3
MAX_SEEDS = 100


class Replicates(StrictConfig):
    """How the best configuration is chosen and confirmed once no new ones are tried."""

    seeds: int = Field(CONFIRMING_SEEDS, ge=0, le=MAX_SEEDS)
    """Fresh seeds that confirm a configuration, at least 3; 0 leaves it with one seed, unconfirmed. `leaders`: each of
    the best configurations is trained again with them; `model`: the winner alone is."""
    leaders: int = Field(2, ge=1, le=MAX_SEEDS)
    """`leaders`: configurations that are trained again, the best by their first seed."""
    choose: Literal["leaders", "model"] = "leaders"
    """`leaders`: each of the best by their first seed is trained `seeds` times more, and the best mean wins. `model`:
    `trainings` more are spent where they tell most of which configuration is best, by a model of all values; the winner
    is then confirmed by `seeds` of its own. For one objective, without folds."""
    trainings: int = Field(3, ge=0, le=MAX_SEEDS)
    """`model`: trainings with fresh seeds that choose the winner; `seeds` come on top, so that `{trainings: 3, choose:
    model}` costs as much as `{seeds: 3, leaders: 2}`."""

    def planned(self, configurations: int) -> int:
        """Trainings with fresh seeds, in all, of a search of so many configurations."""
        if self.choose == "model":
            return self.trainings + self.seeds
        return self.seeds * min(self.leaders, configurations)


# Packages of Ax's fully Bayesian models; it imports them when it first needs them.
QUALITY_NEEDS = {"jax": "JAX", "numpyro": "NumPyro"}


def missing_for(method: str) -> str | None:
    """What to install before the model's method can be used here; None if nothing is missing."""
    needed = QUALITY_NEEDS if method == "quality" else {}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    return f"{method} needs {' and '.join(missing)}: pip install 'reidsearch[quality]', or use method: fast"
