"""`reidsearch purge`: deletes every copy of a search's data and lists what it cannot delete."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.errors import JournalError, OrchestratorError, SearchError
from orchestrator.base.uris import database_path, lies_in
from orchestrator.stores.base import SearchFolder, searches
from orchestrator.study.description import SearchDescription, read_description
from orchestrator.study.events import ObservationsAttached
from orchestrator.study.journal import read_journal
from orchestrator.study.lease import Lease
from orchestrator.tracking.database import ARTIFACTS
from orchestrator.tracking.purge import MlflowCopies, delete_copies, find_copies, is_own_folder
from orchestrator.tracking.sync import trusted_tracking_uri

ALWAYS_REMAINS = (
    "files that `export`, `evaluate`, `report`, `reproduce --out` and other commands were told to write elsewhere",
    "backups, snapshots and file-system copies that this machine or a server makes by itself",
)


class Copies(NamedTuple):
    """All known copies of a search's data."""

    folder: SearchFolder
    files: int
    bytes: int
    """Total size of the folder's files."""
    mlflow: MlflowCopies | None
    """None where MLflow's copies are kept."""
    data_root: str
    """The data set, which is not deleted."""


def find(folder: SearchFolder, *, keep_mlflow: bool = False, tracking: str | None = None) -> Copies:
    """Finds every copy; changes nothing.

    Args:
        folder: the search.
        keep_mlflow: whether MLflow is left alone.
        tracking: where MLflow keeps runs; None is where the search was launched with.

    Raises:
        SearchError: the folder is a link, `search.yaml` is damaged, or it alone says where MLflow keeps runs.
        EnvironmentProblem: MLflow does not answer.
    """
    if folder.path.is_symlink():
        raise SearchError(
            f"{folder.path}: is a link to {folder.path.readlink()}; only what lies in the storage itself is deleted: "
            "purge the search where it lies, and remove the link by hand"
        )
    description = read_description(folder.description)
    files = (path for path in folder.path.rglob("*") if not path.is_dir() or path.is_symlink())
    sizes = [path.lstat().st_size for path in files]
    data = description.space.trainer.get("data")
    root = data.get("root", "") if isinstance(data, dict) else ""
    return Copies(
        folder=folder,
        files=len(sizes),
        bytes=sum(sizes),
        mlflow=None if keep_mlflow else _mlflow_copies(folder, description, tracking),
        data_root=str(root),
    )


def _mlflow_copies(folder: SearchFolder, description: SearchDescription, tracking: str | None) -> MlflowCopies:
    storage = folder.path.parent
    uri = trusted_tracking_uri(folder, description, tracking)
    database = database_path(uri)
    if tracking is None and database is not None and not lies_in(database, storage):
        where = f"{database}: MLflow's database, which lies outside the storage; --tracking-uri {uri} names it"
        return MlflowCopies(uri, not_ours=(where,))
    return find_copies(uri, description.uid, storage / ARTIFACTS, description.options.experiment)


def purge(copies: Copies) -> list[str]:
    """Deletes all copies; returns what remains, one line each.

    MLflow's copies are deleted first, as only the folder names them, and the files that name them last: interrupted, it
    can be repeated.

    Raises:
        LeaseError: a process drives the search.
        EnvironmentProblem: MLflow does not answer; the folder is still there then.
    """
    remains = list(_remaining(copies))
    with Lease(copies.folder.lease):
        if copies.mlflow is not None:
            remains += delete_copies(copies.mlflow)
        _delete_folder(copies.folder)
    copies.folder.store.delete(copies.folder)
    shutil.rmtree(copies.folder.path)
    for draft in _drafts(copies.folder):
        shutil.rmtree(draft)
    return remains


def _delete_folder(folder: SearchFolder) -> None:
    """Deletes all but what a repetition needs, and the lease."""
    needed = {folder.description.name, folder.journal.name}
    for path in folder.path.iterdir():
        if path.name in needed or path.name.startswith(folder.lease.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _drafts(folder: SearchFolder) -> list[Path]:
    """Folders that killed launches of this name have left."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.\d+")
    return [path for path in folder.path.parent.iterdir() if pattern.fullmatch(path.name) and is_own_folder(path)]


def _remaining(copies: Copies) -> Iterator[str]:
    """What remains although it holds data of the search."""
    if copies.data_root:
        yield f"{copies.data_root}: the data set"
    if copies.mlflow is None:
        yield "MLflow: its runs, as --keep-mlflow asked"
    else:
        yield from (f"MLflow: the entry of {version}, without its files" for version in copies.mlflow.versions)
        yield from (f"{place}; not ours to delete" for place in copies.mlflow.not_ours)
    if copies.folder.store.uri is not None:
        yield "~/.cache/reidsearch/storage: on every other machine that trained or read it, files copied from there"
    yield from _in_other_searches(copies.folder)
    ray = Path(tempfile.gettempdir()) / f"reidsearch-{os.getuid()}" / "ray"
    if ray.is_dir():
        yield f"{ray}: Ray's logs of sessions on this machine, and on each other machine of its clusters"
    yield from ALWAYS_REMAINS


def _in_other_searches(folder: SearchFolder) -> Iterator[str]:
    """Searches of the storage that were started from this one."""
    for other in searches(folder.store):
        if other.name == folder.name:
            continue
        try:
            events = [record.event for record in read_journal(other.journal)]
            weights = str(read_description(other.description).space.trainer.get("model", ""))
        except (JournalError, OrchestratorError):
            yield f"{other.path}: cannot be read; it may have been started from this search"
            continue
        attached = [
            event for event in events if isinstance(event, ObservationsAttached) and event.search == folder.name
        ]
        if attached:
            count = sum(len(event.observations) for event in attached)
            yield f"{other.path}: settings and scores of {count} of its trials, from a warm start"
        if f"{folder.path}/" in weights:
            yield f"{other.path}: its networks were started from weights of this search"
