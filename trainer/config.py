"""Everything one trial is told."""

from __future__ import annotations

from pydantic import Field

from trainer.clips import ClipConfig
from trainer.data import DataConfig
from trainer.evaluation import EvaluationConfig
from trainer.frozen import FrozenConfig
from trainer.losses import LossConfig
from trainer.model import ModelConfig
from trainer.schedule import OptimConfig


class TrialConfig(FrozenConfig):
    """Everything one trial is told; the same configuration on the same machine gives the same figures."""

    seed: int = Field(0, ge=0, lt=2**31)
    """All randomness of the trial derives from this, the epoch and the purpose."""
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
