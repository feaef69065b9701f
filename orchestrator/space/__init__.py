"""Search spaces: a YAML file becomes a checked `SearchSpace`; docs/spaces.md describes the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace


def __getattr__(name: str) -> Any:
    """`SearchSpace`, loaded on first use: it imports the trainer's configuration, and with it torch."""
    if name != "SearchSpace":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator.space.search_space import SearchSpace

    return SearchSpace


__all__ = ["SearchSpace"]
