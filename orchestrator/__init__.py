"""Hyperparameter search for video person re-identification.

The public face below, for notebooks and programs, is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.base.errors import EnvironmentProblem, JournalError, LeaseError, OrchestratorError, SearchError
    from orchestrator.notebook import launch, load, resume, searches
    from orchestrator.search import Search
    from orchestrator.space.problems import SpaceError
    from trainer.errors import CheckpointError

_HOME = {
    "Search": "orchestrator.search",
    "launch": "orchestrator.notebook",
    "load": "orchestrator.notebook",
    "resume": "orchestrator.notebook",
    "searches": "orchestrator.notebook",
    "SpaceError": "orchestrator.space.problems",
    "OrchestratorError": "orchestrator.base.errors",
    "SearchError": "orchestrator.base.errors",
    "JournalError": "orchestrator.base.errors",
    "LeaseError": "orchestrator.base.errors",
    "EnvironmentProblem": "orchestrator.base.errors",
    "CheckpointError": "trainer.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


__all__ = [
    "CheckpointError",
    "EnvironmentProblem",
    "JournalError",
    "LeaseError",
    "OrchestratorError",
    "Search",
    "SearchError",
    "SpaceError",
    "launch",
    "load",
    "resume",
    "searches",
]
