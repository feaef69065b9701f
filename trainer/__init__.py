"""Training and evaluation of video person re-identification networks; knows nothing of any search.

The public face below is loaded when it is first used, so that reading results or configurations does not wait for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.assess import evaluate
    from trainer.compute import prepare_process
    from trainer.config import TrialConfig
    from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError, StoppedError
    from trainer.result import EpochResult, Evaluation, Report, ignore_report
    from trainer.training import FitResult, fit, last_checkpoint
    from trainer.trial_step import StepCost, measure_step
    from trainer.weights import require_weights
    from trainer.workload import multiplications_per_batch

_HOME = {
    "CheckpointError": "trainer.errors",
    "ConfigError": "trainer.errors",
    "DataError": "trainer.errors",
    "DivergedError": "trainer.errors",
    "EpochResult": "trainer.result",
    "Evaluation": "trainer.result",
    "FitResult": "trainer.training",
    "Report": "trainer.result",
    "StepCost": "trainer.trial_step",
    "StoppedError": "trainer.errors",
    "TrialConfig": "trainer.config",
    "evaluate": "trainer.assess",
    "fit": "trainer.training",
    "ignore_report": "trainer.result",
    "last_checkpoint": "trainer.training",
    "measure_step": "trainer.trial_step",
    "multiplications_per_batch": "trainer.workload",
    "prepare_process": "trainer.compute",
    "require_weights": "trainer.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "EpochResult",
    "Evaluation",
    "FitResult",
    "Report",
    "StepCost",
    "StoppedError",
    "TrialConfig",
    "evaluate",
    "fit",
    "ignore_report",
    "last_checkpoint",
    "measure_step",
    "multiplications_per_batch",
    "prepare_process",
    "require_weights",
]
