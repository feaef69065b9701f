"""A search read from its folder, as everything that shows, compares or uses results begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.algorithms.replicates import best_configuration
from orchestrator.base.errors import SearchError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.pull import bring_search
from orchestrator.stores.remote_lease import driver_of
from orchestrator.study.description import SearchDescription, read_description
from orchestrator.study.extension import current_space
from orchestrator.study.folder import SearchFolder
from orchestrator.study.journal import read_journal
from orchestrator.study.study import SearchState, Study, Trial, fold_records

BEST = "best"
"""In place of a trial's key: the configuration that is best so far."""


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

    def trial(self, key: str) -> Trial:
        """The trial with a key such as `t0003` or `t0003-r1`; `best` is the best configuration so far.

        Raises:
            SearchError: there is none.
        """
        if key == BEST:
            best = best_configuration(self.study, self.space.objective)
            if best is None:
                raise SearchError(f"{self.name}: no trial is completed yet, so that none is best")
            return best.trial
        found = self.study.all_trials.get(key)
        if found is None:
            known = sorted(self.study.all_trials)
            there = ", ".join(known if len(known) <= 3 else [known[0], "...", known[-1]]) or "none"
            raise SearchError(f"{self.name} has no trial {key!r} (there: {there}; {BEST!r} is the best one)")
        return found


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
