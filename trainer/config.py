"""Everything one trial is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from trainer.checkpoint import CheckpointConfig
from trainer.clips import ClipConfig
from trainer.compute import ComputeConfig
from trainer.data import READERS, DataConfig
from trainer.evaluation import EvaluationConfig, Viewing
from trainer.frozen import FrozenConfig
from trainer.model import ModelConfig
from trainer.recipe import Recipe, filled_in
from trainer.reid_loss import LossConfig
from trainer.schedule import OptimConfig


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
            raise _refused(("loss", "attention_weight"), self.loss.attention_weight, why)
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


def with_usual_protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial with the protocol that figures on its data set are usually given under, if none is given."""
    data, evaluation = settings.get("data", {}), settings.get("evaluation", {})
    name = data.get("name", "mars") if isinstance(data, Mapping) else getattr(data, "name", None)
    if name not in READERS or not isinstance(evaluation, Mapping) or "protocol" in evaluation:
        return dict(settings)  # complete, or an error that validation names
    return {**settings, "evaluation": {**evaluation, "protocol": READERS[name].protocol}}


def _refused(setting: tuple[str, ...], value: object, why: str) -> ValidationError:
    """The error of a value that other groups of settings rule out, at its own place and not at the whole trial's."""
    details = InitErrorDetails(type="value_error", loc=setting, input=value, ctx={"error": ValueError(why)})
    return ValidationError.from_exception_data(TrialConfig.__name__, [details])
