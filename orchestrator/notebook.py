"""Searches from a notebook or a program, with the options of the command line.

The command `reidsearch` runs a search in a process of its own: the notebook imports neither Ray nor torch, keeps its
signal handlers, and can be restarted while the search goes on.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from orchestrator.base.hints import default_storage
from orchestrator.cli.options import LaunchOptions, ResumeOptions, SessionOptions
from orchestrator.commands import RunningCommand, check_options, documented, setting_words, with_arguments
from orchestrator.search import Search
from orchestrator.show.status import read_searches
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores import open_store
from orchestrator.stores.base import existing_search, search_folder
from orchestrator.summary import read_summary


def load(name: str, storage: str | Path | None = None) -> Search:
    """Reads a search, which may be running.

    Raises:
        SearchError: there is none of this name in the storage, or it is damaged.
        JournalError: its journal is damaged.
    """
    return Search(read_summary(existing_search(open_store(storage or default_storage()), name)))


def searches(storage: str | Path | None = None) -> list[Search]:
    """All searches of a storage, the latest first; warns of those that cannot be read."""
    found, unreadable = read_searches(open_store(storage or default_storage()))
    for problem in unreadable:
        warnings.warn(problem, stacklevel=2)
    return [Search(summary) for summary in found]


# Options of the commands that make no sense where the call returns the search.
NOT_HERE = ("file", "assignments", "space", "name", "submit", "follow", "open_report", "dry_run", "strict")


@documented(LaunchOptions, without=(*NOT_HERE, "storage", "overrides"))
def launch(
    space: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    storage: str | Path | None = None,
    settings: Mapping[str, object] | Sequence[str] = (),
    wait: bool = True,
    show: bool = True,
    **options: Any,
) -> Search:
    """Starts a new search and drives it to its end, as `reidsearch launch` does.

    Interrupting the call (Ctrl-C, or the notebook's stop button) stops the search in good order, a second time at
    once; `resume` goes on with it.

    Args:
        space: File or built-in name, or the content of a space file as a mapping.
        name: Name of the search.  [default: the space's name and four digits]
        storage: Folder that holds searches, or s3://, gs://, az://, file://.  [default: REIDSEARCH_STORAGE, or runs]
        settings: Settings by their paths, such as `{"optim.epochs": 10}`, or as `--set` takes them, such as
            `["optim.epochs=10"]`.
        wait: Whether to wait for its end. Otherwise the call returns as soon as everything is checked and the search
            runs, which then goes on when this process ends; the result's `wait` and `stop` end it.
        show: Print one line per event, as long as the call waits.
        **options:

    Raises:
        SpaceError: the space is wrong; every problem is a line of the message.
        SearchError: the search cannot be created, or no trial was completed; the message is the command's.
        EnvironmentProblem: the machine or the cluster cannot run it.
    """
    check_options(LaunchOptions, options, without=NOT_HERE)
    overrides, place = tuple(setting_words(settings)), str(storage or default_storage())
    with _space_file(space) as file:
        try:
            name = name or f"{SearchSpace.parse(file, overrides).name}-{secrets.token_hex(2)}"
            given = LaunchOptions(space=file, name=name, storage=place, overrides=overrides, **options)
            return _run("launch", name, given, wait=wait, show=show)
        except SpaceError as error:
            problems = [with_arguments(each, LaunchOptions) for each in error.problems]
            if isinstance(space, Mapping):
                problems = [re.sub(rf"{re.escape(file)}(:\d+)*", "the given space", each) for each in problems]
            raise SpaceError(*problems) from error


@documented(ResumeOptions, without=(*NOT_HERE, "storage", "errored"))
def resume(
    name: str,
    storage: str | Path | None = None,
    *,
    retry_failed: bool = False,
    wait: bool = True,
    show: bool = True,
    **options: Any,
) -> Search:
    """Goes on with a search that was interrupted, as `reidsearch resume` does.

    Args:
        name: Name of the search.
        storage: Folder that holds it.
        retry_failed: Try trials that failed for good again.
        wait: Whether to wait for its end, as of `launch`.
        show: Print one line per event, as long as the call waits.
        **options:

    Raises:
        SearchError: there is none, another process drives it, or no trial was completed.
        EnvironmentProblem: the machine or the cluster cannot run it.
    """
    check_options(ResumeOptions, options, without=NOT_HERE)
    place = str(storage or default_storage())
    given = ResumeOptions(name=name, storage=place, errored="retry" if retry_failed else "skip", **options)
    return _run("resume", name, given, wait=wait, show=show)


def _run(verb: str, name: str, given: SessionOptions, *, wait: bool, show: bool) -> Search:
    """Runs the command to its end or, without `wait`, until its process drives the search."""
    command, store = RunningCommand(verb, given, detached=not wait), open_store(given.storage)

    def drives() -> bool:
        holder = store.driver(search_folder(store, name))
        return holder is not None and holder.pid == command.pid

    if wait:
        command.wait(show=show)
        return load(name, given.storage)
    command.wait(show=show, until=drives)
    return Search(read_summary(existing_search(store, name)), command)


@contextmanager
def _space_file(space: str | Path | Mapping[str, Any]) -> Iterator[str]:
    """The space as the command takes it; a mapping is written to a temporary file."""
    if not isinstance(space, Mapping):
        yield str(space)
        return
    with tempfile.TemporaryDirectory(prefix="reidsearch-") as folder:
        path = Path(folder) / "space.yaml"
        try:
            path.write_text(yaml.safe_dump(dict(space), sort_keys=False), encoding="utf-8")
        except yaml.representer.RepresenterError as error:
            value = error.args[-1]
            raise SpaceError(f"space: {value!r} is no text, number, list or mapping; convert it") from error
        yield str(path)
