"""Summaries of searches that are on no disk."""

from __future__ import annotations

from pathlib import Path

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription
from orchestrator.study.study import Study
from orchestrator.summary import Summary, summarise


def description_of(space: SearchSpace) -> SearchDescription:
    """Of a search `s` on generated data."""
    return SearchDescription(
        search="s",
        uid="s-1",
        created="2026-11-22T00:00:00+00:00",
        seed=0,
        synthetic=True,
        data_fingerprint="0",
        options=Options(),
        command=["reidsearch", "launch"],
        host="h",
        commit=None,
        versions={},
        space=space,
    )


def summary_of(study: Study, space: SearchSpace | None = None, *, is_driven: bool = False) -> Summary:
    """The summary of a study in a space, `smoke` where none is given."""
    description = description_of(space or SearchSpace.load("smoke.yaml"))
    return summarise(local_search(Path("/runs/s")), description, study, is_driven=is_driven)
