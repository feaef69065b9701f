"""A search read from its storage, for commands that show, compare or use results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.journal import read_journal
from orchestrator.study.study import SearchState, Study, fold_records


@dataclass(frozen=True)
class LoadedSearch:
    """A search as it was read at one moment."""

    folder: SearchFolder
    description: SearchDescription
    study: Study
    is_driven: bool
    """Whether a live process drives it."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.description.search

    @cached_property
    def space(self) -> SearchSpace:
        """The space that holds now: that of the launch, or that to which the search was extended.

        Raises:
            SearchError: the journal's space is of another version of this program.
        """
        return current_space(self.description, self.study)

    @property
    def state(self) -> SearchState:
        """The state; a search that nobody drives and that did not end is interrupted."""
        return self.study.ended or ("running" if self.is_driven else "interrupted")


def load_search(folder: SearchFolder) -> LoadedSearch:
    """Reads a search, which may be running.

    Raises:
        JournalError: the journal is damaged.
        SearchError: `search.yaml` is damaged, or of another version.
        StorageProblem: the storage cannot be reached.
    """
    folder.store.pull(folder)
    study = fold_records(read_journal(folder.journal), folder.journal)
    is_driven = folder.store.driver(folder) is not None
    return LoadedSearch(folder, read_description(folder.description), study, is_driven)
