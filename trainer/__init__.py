"""Training and evaluation of video person re-identification networks, without any search.

The public face below is loaded when it is first used, so that reading results or configurations does not wait for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.compute import (
        container_memory,
        limit_gpu_memory,
        memory_here,
        prepare_process,
        require_precision,
    )
    from trainer.config import TrialConfig
    from trainer.errors import CheckpointError, ConfigError, DataError, DivergedError, StoppedError
    from trainer.evaluation.evaluate import evaluate
    from trainer.evaluation.test_set import check_test_set, evaluate_on_test_set
    from trainer.export import ExportedNetwork, export_network, missing_packages
    from trainer.model.network import require_weights
    from trainer.result import EpochResult, Evaluation, Report, ignore_report
    from trainer.training.fit import FitResult, fit
    from trainer.training.state import last_checkpoint
    from trainer.training.step_cost import StepCost, measure_step
    from trainer.training.workload import multiplications_per_batch

_NAMES = {
    "trainer.compute": ("container_memory", "limit_gpu_memory", "memory_here", "prepare_process", "require_precision"),
    "trainer.config": ("TrialConfig",),
    "trainer.errors": ("CheckpointError", "ConfigError", "DataError", "DivergedError", "StoppedError"),
    "trainer.evaluation.evaluate": ("evaluate",),
    "trainer.evaluation.test_set": ("check_test_set", "evaluate_on_test_set"),
    "trainer.export": ("ExportedNetwork", "export_network", "missing_packages"),
    "trainer.model.network": ("require_weights",),
    "trainer.result": ("EpochResult", "Evaluation", "Report", "ignore_report"),
    "trainer.training.fit": ("FitResult", "fit"),
    "trainer.training.state": ("last_checkpoint",),
    "trainer.training.step_cost": ("StepCost", "measure_step"),
    "trainer.training.workload": ("multiplications_per_batch",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


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
    "container_memory",
    "evaluate",
    "evaluate_on_test_set",
    "export_network",
    "fit",
    "ignore_report",
    "last_checkpoint",
    "limit_gpu_memory",
    "measure_step",
    "memory_here",
    "missing_packages",
    "multiplications_per_batch",
    "prepare_process",
    "require_precision",
    "require_weights",
]
