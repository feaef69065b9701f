"""A search on disk: which file holds what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import SearchError
from orchestrator.base.hints import hint
from orchestrator.study.events import NAME
from trainer.formatting import did_you_mean

MAX_LISTED = 20  # searches that a message names

# What a storage holds beside searches: MLflow's files and logs, generated data, the URI of what it mirrors.
RESERVED = re.compile(
    r"mlartifacts|mlflow\.db.*|mlflow-ui\.log|mini-mars(-.*)?|storage-uri\.txt.*|cache", re.IGNORECASE
)


@dataclass(frozen=True)
class SearchFolder:
    """Paths inside `<storage>/<search>/`, all derived, none stored, so that the folder can be moved."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.path.name

    @property
    def description(self) -> Path:
        """The resolved space, options, versions: all that a resume needs besides the journal."""
        return self.path / "search.yaml"

    @property
    def journal(self) -> Path:
        """The truth."""
        return self.path / "journal.jsonl"

    @property
    def lease(self) -> Path:
        """Who may write."""
        return self.path / "lease"

    @property
    def split(self) -> Path:
        """The validation split that all trials share but the repeats on other folds."""
        return self.path / "split.json"

    def split_of(self, fold: int | None) -> Path:
        """The validation split that holds out another fold, for repeats; that of all other trials where None."""
        return self.split if fold is None else self.path / f"split-fold-{fold}.json"

    @property
    def logs(self) -> Path:
        """What background processes had to say."""
        return self.path / "logs"

    def trial(self, key: str) -> Path:
        """Folder of one trial."""
        return self.path / "trials" / key


def search_folder(storage: Path, name: str) -> SearchFolder:
    """The folder of the search `name`.

    Raises:
        SearchError: the name would not be a plain folder name, or a storage has something else of that name.
    """
    if not NAME.fullmatch(name):
        raise SearchError(
            f"{name!r} cannot name a search; use letters, digits, '.', '_' and '-', 64 at most, "
            "beginning with a letter or digit"
        )
    if RESERVED.fullmatch(name):
        raise SearchError(
            f"{name!r} cannot name a search: a storage keeps other things under that name; choose another one"
        )
    return SearchFolder(storage.absolute() / name)


def new_search(storage: Path, name: str) -> SearchFolder:
    """The folder of a search that is not there yet.

    Raises:
        SearchError: the name is none, or taken.
        JournalError, StorageProblem: the storage cannot be asked.
    """
    from orchestrator.stores.cache import storage_name
    from orchestrator.stores.pull import bring_search

    folder = search_folder(storage, name)
    bring_search(folder)
    if folder.path.exists():
        raise SearchError(
            f"{name}: there is already a search of this name in {storage_name(storage)}; continue it with "
            f"`{hint('resume', name, storage=storage)}`, or choose another --name"
        )
    return folder


def existing_search(storage: Path, name: str) -> SearchFolder:
    """The folder of a search that is there; from a storage with a URI what is new of it is brought down first.

    Raises:
        SearchError: there is none; the message lists those that are and names the nearest, or says that `name` is one
            of a trial.
        JournalError, StorageProblem: it cannot be brought down.
    """
    from orchestrator.stores.cache import storage_name
    from orchestrator.stores.pull import bring_search  # most storages are folders

    search, slash, trial = name.partition("/")
    if slash and NAME.fullmatch(search) and NAME.fullmatch(trial):
        raise SearchError(
            f"{name!r} names a trial, and a search is asked for: {search}; what the trial did is shown by "
            f"`{hint('logs', name, storage=storage)}`"
        )
    folder = search_folder(storage, name.removesuffix("/"))
    bring_search(folder)
    if not folder.journal.exists():
        names = [found.name for found in searches(storage)]
        there, near = _some(names), did_you_mean(name, names)
        where = storage_name(storage)
        raise SearchError(f"no search {name!r} in {where} (there: {there}); --storage names another place{near}")
    return folder


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "none") + more


def searches(storage: Path) -> list[SearchFolder]:
    """All searches in a storage, the latest first; from a storage with a URI what is new of them is brought down first.

    Raises:
        JournalError, StorageProblem: they cannot be brought down.
    """
    from orchestrator.stores.pull import bring_searches

    bring_searches(storage)
    return searches_here(storage)


def searches_here(storage: Path) -> list[SearchFolder]:
    """The searches of a storage that this machine knows, the latest first."""
    journals = [path for path in storage.glob("*/journal.jsonl") if can_name_a_search(path.parent.name)]
    journals.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [SearchFolder(journal.parent.absolute()) for journal in journals]


def can_name_a_search(name: str) -> bool:
    """Whether `search_folder` takes the name."""
    return NAME.fullmatch(name) is not None and RESERVED.fullmatch(name) is None
