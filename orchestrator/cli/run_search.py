"""Running a search: its options, its live output, its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint

if TYPE_CHECKING:
    from orchestrator.stores.base import SearchFolder, Store
    from orchestrator.study.description import Options
    from orchestrator.study.study import Study


def find_search(storage: str, name: str) -> SearchFolder:
    """The search of this name; raises SearchError where the storage has none."""
    from orchestrator.stores import open_store
    from orchestrator.stores.base import existing_search

    return existing_search(open_store(storage), name)


def options_as_before(folder: SearchFolder, **changed: Any) -> Options:
    """The options that a search was launched with, changed by those that are given and not None.

    Raises:
        SearchError: they name a server that the user has not given.
    """
    from orchestrator.cluster.trusted_servers import ADDRESS, TRACKING, require_trusted, trust
    from orchestrator.study.description import Options, read_description

    before = read_description(folder.description).options
    given = {name: value for name, value in changed.items() if value is not None}
    for option, field in ((ADDRESS, "address"), (TRACKING, "tracking_uri")):
        if field in given:
            trust(folder.store, option, given[field])
        else:
            require_trusted(folder.store, folder.name, option, getattr(before, field))
    return Options.model_validate(before.model_dump() | given)


def drive_and_show(folder: SearchFolder, asked: Options, strict: bool, *, retry_failed: bool = False) -> int:
    """Runs the search to its end with live output and returns the exit code."""
    try:
        from orchestrator.cluster.ray import RAY_LOG, stderr_kept
        from orchestrator.runner.session import run_search
        from orchestrator.show.live import Display
        from orchestrator.show.search_text import summary_line

        display = Display(folder)
        with stderr_kept(folder.logs / RAY_LOG), display.showing():
            ending = run_search(folder, display.watch(), overrides=asked, retry_failed=retry_failed)
    except KeyboardInterrupt:  # outside the session, which handles Ctrl-C itself
        command = hint("resume", folder.name, storage=folder.storage)
        click.echo(f"{folder.name}: stopped; `{command}` continues it", err=True)
        return Exit.INTERRUPTED
    except Exception as error:
        _tell(f"{folder.name}: failed: {error}")
        raise
    summary = display.ending(ending)
    if ending.exit_code not in (Exit.INTERRUPTED, Exit.PREEMPTED):
        _tell(summary_line(summary))
    return exit_code(ending.exit_code, ending.study, strict=strict)


def _tell(text: str) -> None:
    """Tells `notify` of the project file or of the environment; a failure of that is only a line."""
    from orchestrator.base.notification import notify

    if problem := notify(text):
        click.echo(problem, err=True)


def exit_code(code: Exit, study: Study, *, strict: bool) -> Exit:
    """The exit code; with `strict` 1 if trials failed, or the model did while the search suggested trials."""
    from orchestrator.algorithms.health import proposals

    is_choosing = not study.finalizations
    fails = code == Exit.SOME_TRIALS_FAILED or (code == Exit.OK and is_choosing and proposals(study).fails)
    return Exit.SEARCH_FAILED if strict and fails else code


def say_where_runs_are(storage: Store, asked: Options) -> None:
    """Says once, for a storage with a URI, where MLflow's runs are kept."""
    uri = storage.uri
    if uri is not None and asked.tracking_uri is None:
        click.echo(
            f"MLflow keeps its runs in {storage.path / 'mlflow.db'}, on this machine only: a database cannot lie in "
            f"{uri}; --tracking-uri names a server that all machines reach",
            err=True,
        )
