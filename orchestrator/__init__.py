"""Hyperparameter search for video person re-identification.

The public face below, for notebooks and programs, is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import launch, load, resume, searches
    from orchestrator.search import Search

_HOME = {
    "Search": "orchestrator.search",
    "launch": "orchestrator.notebook",
    "load": "orchestrator.notebook",
    "resume": "orchestrator.notebook",
    "searches": "orchestrator.notebook",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


__all__ = ["Search", "launch", "load", "resume", "searches"]
