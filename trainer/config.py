"""Everything one trial is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from trainer.checkpoint import CheckpointConfig
from trainer.compute import ComputeConfig
from trainer.data import READERS, DataConfig
from trainer.evaluation.embed import EvaluationConfig, Viewing
from trainer.formatting import KeyPath
from trainer.frozen import FrozenConfig
from trainer.input.clips import ClipConfig
from trainer.losses.reid_loss import LossConfig
from trainer.model.network import ModelConfig
from trainer.recipe import Recipe, filled_in
from trainer.training.schedule import OptimConfig

# Normal numbers of IEEE 754's binary32: below, precision and speed are lost; above is infinity.
SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class TrialConfig(FrozenConfig):
    """Everything one trial is told; the same configuration on the same machine gives the same figures."""

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
    def viewing(self) -> Viewing:
        """How tracklets reach the network in an evaluation: as in training, without augmentation."""
        size = (self.model.height, self.model.width)
        return Viewing(self.clips.frames, size, self.clips.workers, self.compute)

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


def _numbers(config: BaseModel) -> Iterator[tuple[KeyPath, float]]:
    """Place and value of every number with a fraction."""
    for name, value in config:
        if isinstance(value, BaseModel):
            yield from (((name, *place), number) for place, number in _numbers(value))
        elif isinstance(value, float):
            yield (name,), value
        elif isinstance(value, tuple):
            yield from (((name, index), item) for index, item in enumerate(value) if isinstance(item, float))


def with_usual_protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial with the protocol that figures on its data set are usually given under, if none is given."""
    data, evaluation = settings.get("data", {}), settings.get("evaluation", {})
    name = data.get("name", "mars") if isinstance(data, Mapping) else getattr(data, "name", None)
    if name not in READERS or not isinstance(evaluation, Mapping) or "protocol" in evaluation:
        return dict(settings)  # complete, or an error that validation names
    return {**settings, "evaluation": {**evaluation, "protocol": READERS[name].protocol}}


def _refusal(place: KeyPath, value: object, why: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=place, input=value, ctx={"error": ValueError(why)})


def _refused(*refusals: InitErrorDetails) -> ValidationError:
    """The error of values that a whole trial rules out, each at its own place and not at the trial's."""
    return ValidationError.from_exception_data(TrialConfig.__name__, list(refusals))
