"""Where searches lie: the storage as an interface, and the files of one search."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.hints import hint
from orchestrator.study.events import NAME
from trainer.formatting import did_you_mean

if TYPE_CHECKING:
    from orchestrator.study.lease import Holder
    from orchestrator.study.recorder import Recorder

MAX_LISTED = 20  # searches that a message names

# What a storage holds beside searches: MLflow's files and logs, generated data, the URI of what it mirrors.
RESERVED = re.compile(
    r"mlartifacts|mlflow\.db.*|mlflow-ui\.log|mini-mars(-.*)?|storage-uri\.txt.*|cache", re.IGNORECASE
)
REQUESTS = "requests"
"""Folder of the requests to the driver, in a search."""


class StorageProblem(EnvironmentProblem):
    """A storage cannot be reached, or refuses what was asked; the message names it."""


class Upload(Protocol):
    """Copies the files of one trial to a storage while an attempt trains."""

    problem: str | None
    """Why something is not copied yet."""

    def pull(self) -> list[str]:
        """Fetches what the attempt continues from; returns the files that are damaged."""

    def begin(self) -> None:
        """Starts copying."""

    def changed(self) -> None:
        """Schedules the copy of what has changed; never waits."""

    def finish(self, patience: float, alive: Callable[[], None]) -> None:
        """Copies the rest within `patience` seconds, else raises StorageProblem; calls `alive` meanwhile."""


class Store(Protocol):
    """A storage of searches: a folder, or a bucket with a copy on this machine.

    Every method raises StorageProblem if the storage cannot be reached.
    """

    @property
    def path(self) -> Path:
        """The folder that holds the searches on this machine."""

    @property
    def uri(self) -> str | None:
        """The URI; None for a folder."""

    @property
    def name(self) -> str:
        """The URI, or the path as it was given."""

    def check(self) -> None:
        """Raises SearchError or StorageProblem if no search can be written; writes nothing."""

    def pull(self, search: SearchFolder, *, journal: bool = True) -> None:
        """Updates this machine's copy of description, splits and journal.

        Raises:
            JournalError: the journal is damaged.
        """

    def pull_all(self) -> None:
        """The same for every search."""

    def pull_trial(self, search: SearchFolder, trial: str, *patterns: str) -> None:
        """Updates this machine's copy of the files of a trial that match one of the patterns."""

    def delete_file(self, search: SearchFolder, trial: str, path: str) -> None:
        """Deletes a checkpoint of a trial, here and where other machines see it; does nothing where there is none.

        Raises:
            TimeoutError: an attempt of the trial runs on this machine.
        """

    def publish(self, search: SearchFolder) -> None:
        """Makes a new search, written to `path`, visible to other machines.

        Raises:
            SearchError: there is a search of this name.
            LeaseError: another process makes or drives one.
        """

    def record(self, search: SearchFolder) -> AbstractContextManager[Recorder]:
        """Takes the lease and opens the journal for writing, for as long as the block runs.

        Raises:
            LeaseError: another process drives the search.
            JournalError: the journal is damaged or cannot be opened.
        """

    def driver(self, search: SearchFolder) -> Holder | None:
        """The live process that drives a search."""

    def upload(self, search: SearchFolder, trial: str, start: int) -> Upload | None:
        """What copies the files of a trial; None where all nodes see them anyway. `start` orders the attempts."""

    def delete(self, search: SearchFolder) -> None:
        """Deletes what other machines see of a search; this machine's copy stays.

        Raises:
            LeaseError: a process drives the search.
        """

    def request(self, search: SearchFolder, name: str) -> None:
        """Leaves a request to the driver of a search, on whichever machine that is."""

    def is_requested(self, search: SearchFolder, name: str) -> bool:
        """Whether a request is not answered yet."""

    def read(self, path: str) -> bytes:
        """A small file; FileNotFoundError where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Writes a small file."""

    def remove(self, path: str) -> None:
        """Deletes a file, if it is there."""


@dataclass(frozen=True)
class SearchFolder:
    """Paths inside `<storage>/<search>/`, all derived, none stored, so that the folder can be moved."""

    path: Path
    store: Store = field(repr=False, compare=False)
    """The storage that holds the search."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.path.name

    @property
    def storage(self) -> str:
        """The storage, for people: its URI, or its path."""
        return self.store.uri or str(self.path.parent)

    @property
    def description(self) -> Path:
        """The resolved space, options, versions: all that a resume needs besides the journal."""
        return self.path / "search.yaml"

    @property
    def journal(self) -> Path:
        """The journal: the only source of the study's state."""
        return self.path / "journal.jsonl"

    @property
    def lease(self) -> Path:
        """Names the process that may write."""
        return self.path / "lease"

    @property
    def split(self) -> Path:
        """The validation split of all trials except replicates on other folds."""
        return self.path / "split.json"

    def split_of(self, fold: int | None) -> Path:
        """The validation split that holds out another fold, for replicates; that of all other trials for None."""
        return self.split if fold is None else self.path / f"split-fold-{fold}.json"

    @property
    def logs(self) -> Path:
        """Log files of the background processes."""
        return self.path / "logs"

    @property
    def requests(self) -> Path:
        """Requests to the driver, each an empty file."""
        return self.path / REQUESTS

    def trial(self, key: str) -> Path:
        """Folder of one trial."""
        return self.path / "trials" / key


def search_folder(store: Store, name: str) -> SearchFolder:
    """The folder of the search `name`, which need not exist.

    Raises:
        SearchError: see `check_name`.
    """
    check_name(name)
    return SearchFolder(store.path.absolute() / name, store)


def check_name(name: str) -> None:
    """Checks that a search can have the name.

    Raises:
        SearchError: it would not be a plain folder name, or a storage has something else of this name.
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


def new_search(store: Store, name: str) -> SearchFolder:
    """The folder of a search that does not exist yet.

    Raises:
        SearchError: the name is none, or taken.
        JournalError, StorageProblem: the storage cannot be asked.
    """
    folder = search_folder(store, name)
    store.pull(folder)
    if folder.path.exists():
        raise SearchError(
            f"{name}: there is already a search of this name in {store.name}; continue it with "
            f"`{hint('resume', name, storage=store.name)}`, or choose another --name"
        )
    return folder


def existing_search(store: Store, name: str) -> SearchFolder:
    """The folder of a search that exists, this machine's copy of it updated.

    Raises:
        SearchError: there is none; the message lists those that are and names the nearest, or says that `name` is one
            of a trial.
        JournalError, StorageProblem: the copy cannot be updated.
    """
    search, slash, trial = name.partition("/")
    if slash and NAME.fullmatch(search) and NAME.fullmatch(trial):
        raise SearchError(
            f"{name!r} names a trial, and a search is asked for: {search}; what the trial did is shown by "
            f"`{hint('logs', name, storage=store.name)}`"
        )
    folder = search_folder(store, name.removesuffix("/"))
    store.pull(folder)
    if not folder.journal.exists():
        names = [found.name for found in searches(store)]
        there, near = _some(names), did_you_mean(name, names)
        raise SearchError(f"no search {name!r} in {store.name} (there: {there}); another storage may hold it{near}")
    return folder


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "none") + more


def searches(store: Store) -> list[SearchFolder]:
    """All searches in a storage, the latest first, this machine's copies updated.

    Raises:
        JournalError, StorageProblem: they cannot be updated.
    """
    store.pull_all()
    return searches_here(store)


def searches_here(store: Store) -> list[SearchFolder]:
    """The searches that this machine knows, the latest first."""
    journals = [path for path in store.path.glob("*/journal.jsonl") if can_name_a_search(path.parent.name)]
    journals.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [SearchFolder(journal.parent.absolute(), store) for journal in journals]


def can_name_a_search(name: str) -> bool:
    """Whether `search_folder` takes the name."""
    return NAME.fullmatch(name) is not None and RESERVED.fullmatch(name) is None
