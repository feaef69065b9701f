"""A search read from its folder, as everything that shows, compares or uses results begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.pull import bring_search
from orchestrator.stores.remote_lease import driver_of
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.journal import read_journal
from orchestrator.study.study import SearchState, Study, fold_records


@dataclass(frozen=True)
class LoadedSearch:
    """What a search's folder says of it at one moment."""

    folder: SearchFolder
    description: SearchDescription
    study: Study
    is_driven: bool
    """Whether a live process drives it."""

    @property
    def name(self) -> str:
        """Of the search."""
        return self.description.search

    @cached_property
    def space(self) -> SearchSpace:
        """That holds now: of the launch, or that to which the search was extended.

        Raises:
            SearchError: the journal's space is of another version of this program.
        """
        return current_space(self.description, self.study)

    @property
    def state(self) -> SearchState:
        """A search that nobody drives and that did not end is interrupted."""
        return self.study.ended or ("running" if self.is_driven else "interrupted")


def load_search(folder: SearchFolder) -> LoadedSearch:
    """Reads a search; it may be running.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged, or of another version.
        StorageProblem: the storage has a URI and cannot be reached.
    """
    bring_search(folder)
    study = fold_records(read_journal(folder.journal), folder.journal)
    is_driven = driver_of(folder) is not None
    return LoadedSearch(folder, read_description(folder.description), study, is_driven)
