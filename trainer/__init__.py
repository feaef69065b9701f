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
    from trainer.export import ExportedNetwork, export_network, missing_packages
    from trainer.model import require_weights
    from trainer.result import EpochResult, Evaluation, Report, ignore_report
    from trainer.testset import check_test_set, figures_on_test_set
    from trainer.training import FitResult, fit, last_checkpoint
    from trainer.trial_step import StepCost, measure_step
    from trainer.workload import multiplications_per_batch

_HOME = {
    "CheckpointError": "trainer.errors",
    "ConfigError": "trainer.errors",
    "DataError": "trainer.errors",
    "DivergedError": "trainer.errors",
    "EpochResult": "trainer.result",
    "Evaluation": "trainer.result",
    "ExportedNetwork": "trainer.export",
    "FitResult": "trainer.training",
    "Report": "trainer.result",
    "StepCost": "trainer.trial_step",
    "StoppedError": "trainer.errors",
    "TrialConfig": "trainer.config",
    "check_test_set": "trainer.testset",
    "evaluate": "trainer.assess",
    "figures_on_test_set": "trainer.testset",
    "export_network": "trainer.export",
    "fit": "trainer.training",
    "ignore_report": "trainer.result",
    "last_checkpoint": "trainer.training",
    "measure_step": "trainer.trial_step",
    "missing_packages": "trainer.export",
    "multiplications_per_batch": "trainer.workload",
    "prepare_process": "trainer.compute",
    "require_weights": "trainer.model",
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
    "ExportedNetwork",
    "FitResult",
    "Report",
    "StepCost",
    "StoppedError",
    "TrialConfig",
    "check_test_set",
    "evaluate",
    "export_network",
    "figures_on_test_set",
    "fit",
    "ignore_report",
    "last_checkpoint",
    "measure_step",
    "missing_packages",
    "multiplications_per_batch",
    "prepare_process",
    "require_weights",
]
