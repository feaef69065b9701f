"""The configuration of one trial, composed of the small configurations of its parts.

Most of those stand beside the code that they configure. The ones of packages that need a whole `TrialConfig`,
`trainer.evaluation` and `trainer.training`, stand here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from trainer.checkpoint import CheckpointConfig
from trainer.compute import ComputeConfig
from trainer.data import DataConfig, find_data_set
from trainer.data.dataset import ProtocolName
from trainer.errors import ConfigError
from trainer.formatting import KeyPath
from trainer.input.clips import ClipConfig
from trainer.losses.reid_loss import LossConfig
from trainer.model.network import Feature, ModelConfig
from trainer.settings import FrozenConfig

Recipe = Literal["fixed", "paper"]
Distance = Literal["cosine", "euclidean"]
Share = Annotated[float, Field(ge=0, le=1)]

# Normal numbers of IEEE 754's binary32: below, precision and speed are lost; above is infinity.
SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
# Identities of Market-1501, whatever the data set: the default that the paper's code never overrides.
PAPER_CENTERS = 751

# What `recipe: paper` means: values of the paper's code where the defaults are others. docs/paper.md lists every
# difference with its reason, and what no recipe reproduces.
PAPER: dict[str, dict[str, Any]] = {
    "clips": {"sampling": "consecutive_paper", "crop": "translate", "erase_fill": "light_grey"},
    "loss": {"attention_on": "scores"},
    "evaluation": {"sampling": "dense", "max_clips": 41, "distance": "euclidean"},
}
# Parts of the paper's code that only run along with another one.
WITH_ATTENTION_LOSS = {"clips": {"second_erase": 0.5, "erased_labels": "second"}}
WITH_CENTERS = {"loss": {"center_count": PAPER_CENTERS}}


def _as_tuple(value: Any) -> Any:
    """A list from a file as the tuple it stands for; strict validation by itself tells them apart."""
    return tuple(value) if isinstance(value, list) else value


class OptimConfig(FrozenConfig):
    """How long and how fast the network learns. Shares are of `epochs`, so that a short search and a long
    final run mean the same schedule."""

    epochs: int = Field(120, ge=1)
    """Passes over the training identities."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adam`: decay is L2 added to the gradient, as in the paper's code. `adamw`: decay apart from the gradient
    (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    learning_rate: float = Field(3.5e-4, gt=0)
    """Learning rate after warm-up."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay."""
    decay_norm_and_bias: bool = True
    """Whether the scales of batch norms and all biases decay too, as in the paper's code."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """After the warm-up: steps at `milestones`, or half a cosine down to `cosine_floor`."""
    warmup: Share = 10 / 120
    """Share of the epochs over which the learning rate rises linearly."""
    warmup_factor: float = Field(0.01, gt=0, le=1)
    """Factor of the learning rate in the first epoch of the warm-up."""
    warmup_per: Literal["epoch", "step"] = "epoch"
    """Whether the rate rises from epoch to epoch, as published, or from step to step between the same values."""
    backbone_rate: float = Field(1.0, gt=0, le=1)
    """Learning rate of the backbone as a share of the others'; below 1 for a pretrained one."""
    freeze_epochs: int = Field(0, ge=0)
    """Epochs at the beginning in which the backbone learns nothing: neither its weights nor the statistics of its batch
    norms."""
    milestones: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple)] = (40 / 120, 70 / 120)
    """Shares of the epochs after which the learning rate is multiplied by `gamma`, ascending."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of the learning rate at each milestone."""
    cosine_floor: Share = 0.0
    """Factor of the learning rate towards which the cosine schedule falls."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged before a step of the optimizer."""
    clip_norm: float | None = Field(None, gt=0)
    """Greatest length of the gradient over all of the network's parameters; longer ones are scaled down."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay, per step, of an exponential moving average of the weights, which is then what gets evaluated."""

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: tuple[Share, ...]) -> tuple[Share, ...]:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ValueError(f"must ascend (is {list(milestones)})")
        return milestones


class RerankConfig(FrozenConfig):
    """The settings of `k_reciprocal_distance`; the defaults are those of its paper and of everyone who reports it."""

    k1: int = Field(20, ge=1, le=1000)
    """Nearest tracklets of which the mutual ones are neighbours. As many as an identity has tracklets serve well."""
    k2: int = Field(6, ge=1, le=1000)
    """Nearest tracklets, itself among them, over which a tracklet's neighbours are averaged; 1 averages nothing."""
    lambda_value: float = Field(0.3, ge=0, le=1)
    """Share of the distance itself beside that of the neighbours: 1 re-ranks nothing."""


class EvaluationConfig(FrozenConfig):
    """How often and how thoroughly a network is evaluated."""

    every: int = Field(10, ge=1)
    """Epochs between two evaluations on the validation split; the last epoch is always evaluated."""
    sampling: Literal["even", "dense"] = "even"
    """`even`: `clips` clips of evenly spaced frames, cheap. `dense`: every frame, in consecutive clips."""
    clips: int = Field(2, ge=1)
    """Clips per tracklet under `even` sampling."""
    max_clips: int | None = Field(None, ge=1)
    """Clips per tracklet under `dense` sampling at most, the first ones; 41 in the paper's code, null for all."""
    pooling: Literal["mean", "max"] = "mean"
    """How the embeddings of a tracklet's clips become one. The paper's code has the maximum as an option, for the
    gallery only; here it holds for queries too, as in the code of the MARS authors."""
    batch: int = Field(64, ge=1)
    """Clips that pass through the network at once."""
    feature: Feature = "after_neck"
    """The embedding that is ranked: the neck's output, or what goes into it."""
    distance: Distance = "cosine"
    """Distance between embeddings. `cosine` is what normalising them to length 1 gives (Luo et al. 2019); the
    paper's code uses the Euclidean distance of embeddings as they are."""
    protocol: ProtocolName = "mars"
    """Ranking protocol, see `trainer.data.dataset`; left out, it is the one usual for the data set."""
    reranking: bool = True
    """Whether the last evaluation of a training, and those of `evaluate`, also give metrics after re-ranking."""
    rerank: RerankConfig = RerankConfig()
    """Re-ranking by k-reciprocal neighbours."""
    folder: bool = True
    """Whether a training leaves every query's metrics and pictures of its best network, on the validation split."""
    images: bool = False
    """Whether those pictures may show real people, and go to MLflow; generated ones are always shown."""

    @property
    def frames_seen(self) -> str:
        """Which frames of a tracklet are looked at: `even, 2 clips`, `dense`, `dense, at most 41 clips`."""
        if self.sampling == "even":
            return f"even, {self.clips} clip{'s' * (self.clips > 1)}"
        return "dense" if self.max_clips is None else f"dense, at most {self.max_clips} clips"


class TrialConfig(FrozenConfig):
    """All settings of one trial; the same configuration on the same machine gives the same metrics."""

    seed: int = Field(0, ge=0, lt=2**31)
    """All randomness of the trial derives from this, the epoch and the purpose."""
    recipe: Recipe = "fixed"
    """What settings that are not given default to: `paper`, as far as sensible, what the paper's code does;
    `fixed`, what is right where that code deviates from its paper or errs."""
    data: DataConfig = DataConfig()
    """Which data set, and where."""
    clips: ClipConfig = ClipConfig()
    """Clips and batches."""
    model: ModelConfig = ModelConfig()
    """The network."""
    loss: LossConfig = LossConfig()
    """The losses."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation during and after training."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and memory layout."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """How often the state is saved."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.model.height, self.model.width

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, settings: Any) -> Any:
        return with_usual_protocol(filled_in(settings)) if isinstance(settings, Mapping) else settings

    @model_validator(mode="after")
    def _attention_loss_can_work(self) -> TrialConfig:
        """The attention loss compares the frames of a clip: there has to be attention, and something to compare."""
        if self.loss.attention_weight > 0 and (why := self._why_no_attention_loss()):
            raise _refused(_refusal(("loss", "attention_weight"), self.loss.attention_weight, why))
        return self

    @model_validator(mode="after")
    def _numbers_fit_float32(self) -> TrialConfig:
        """The trainer computes in 32 bits at most, where a number outside their range becomes 0 or infinity."""
        why = f"must be 0 or between {SMALLEST:.2g} and {LARGEST:.2g} in size, as 32 bits hold"
        wrong = [
            _refusal(place, number, f"{why} (is {number:g})")
            for place, number in _numbers(self)
            if number != 0 and not SMALLEST <= abs(number) <= LARGEST
        ]
        if wrong:
            raise _refused(*wrong)
        return self

    def _why_no_attention_loss(self) -> str:
        if self.model.pooling != "attention":
            return f"model.pooling {self.model.pooling} has no attention; set loss.attention_weight to 0"
        if self.clips.erase == 0 and self.clips.second_erase == 0:
            return "no frame is ever erased; set clips.erase above 0, or loss.attention_weight to 0"
        if self.clips.erased_labels == "second" and self.clips.second_erase == 0:
            return "clips.erased_labels second, but clips.second_erase is 0; set it, or label every eraser"
        if self.clips.erase_per == "clip":
            return "clips.erase_per clip erases all frames of a clip or none; set it to frame"
        if self.loss.attention_on == "scores" and not self.model.attention_score_relu:
            return (
                "without model.attention_score_relu scores have no lower bound, and the loss on them none either; "
                "set loss.attention_on to weights"
            )
        return ""


def filled_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial with the recipe's values where none is given; what is given always wins."""
    if settings.get("recipe") != "paper":
        return dict(settings)
    given = settings.get("loss", {})
    layers = [PAPER]
    if isinstance(given, Mapping):
        layers += [WITH_ATTENTION_LOSS] if given.get("attention_weight") else []
        layers += [WITH_CENTERS] if given.get("center_weight") else []
    filled = dict(settings)
    for layer in layers:
        for group, values in layer.items():
            below = filled.get(group, {})
            if isinstance(below, Mapping):  # anything else is complete, or an error that validation names
                filled[group] = {**values, **below}
    return filled


def with_usual_protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial with the protocol that is usual for its data set, if none is given."""
    data, evaluation = settings.get("data", {}), settings.get("evaluation", {})
    name = data.get("name", "mars") if isinstance(data, Mapping) else getattr(data, "name", None)
    if not isinstance(name, str) or not isinstance(evaluation, Mapping) or "protocol" in evaluation:
        return dict(settings)  # complete, or an error that validation names
    try:
        protocol = find_data_set(name).protocol
    except ConfigError:
        return dict(settings)
    return {**settings, "evaluation": {**evaluation, "protocol": protocol}}


def _numbers(config: BaseModel) -> Iterator[tuple[KeyPath, float]]:
    """Place and value of every number with a fraction."""
    for name, value in config:
        if isinstance(value, BaseModel):
            yield from (((name, *place), number) for place, number in _numbers(value))
        elif isinstance(value, float):
            yield (name,), value
        elif isinstance(value, tuple):
            yield from (((name, index), item) for index, item in enumerate(value) if isinstance(item, float))


def _refusal(place: KeyPath, value: object, why: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=place, input=value, ctx={"error": ValueError(why)})


def _refused(*refusals: InitErrorDetails) -> ValidationError:
    """The error of values that a whole trial rules out, each at its own place and not at the trial's."""
    return ValidationError.from_exception_data(TrialConfig.__name__, list(refusals))
