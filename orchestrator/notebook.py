"""Searches from a notebook or a program, with the options of the command line.

The command `reidsearch` runs a search in a process of its own: the notebook imports neither Ray nor torch, keeps its
signal handlers, and can be restarted while the search goes on.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, get_type_hints

import yaml

from orchestrator.base.errors import PROBLEMS_FILE, EnvironmentProblem, Exit, OrchestratorError, SearchError
from orchestrator.base.hints import STORAGE_VARIABLE, default_storage
from orchestrator.cli.options import LaunchOptions, ResumeOptions, SessionOptions, command_arguments, parameters
from orchestrator.show.status import status_document
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores import open_store
from orchestrator.stores.base import SearchFolder, existing_search
from orchestrator.study.description import SearchDescription
from orchestrator.study.study import SearchState, Study, Trial
from orchestrator.summary import Summary, read_summary
from trainer.child import die_with_parent, python_command, start_child

if TYPE_CHECKING:
    from pandas import DataFrame

# Exit codes of a search that can be loaded.
LOADABLE = (Exit.OK, Exit.SOME_TRIALS_FAILED, Exit.PREEMPTED, Exit.INTERRUPTED)

PERIOD_S = 0.1
# What the command does not inherit. A notebook's kernel claims to be a colour terminal, where a table that is redrawn
# would be shown line by line; the storage is an argument, left out where it is the default.
NOT_INHERITED = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", STORAGE_VARIABLE)


@dataclass(frozen=True, repr=False)
class Search:
    """The state of a search when it was loaded; load it again for newer results."""

    summary: Summary
    """All that is known of the search, typed."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.summary.name

    @property
    def state(self) -> SearchState:
        """`running`, `finished`, `interrupted` or `failed`."""
        return self.summary.state

    @property
    def folder(self) -> SearchFolder:
        """The folder of the search."""
        return self.summary.folder

    @property
    def description(self) -> SearchDescription:
        """What does not change: options, versions, data set."""
        return self.summary.description

    @property
    def space(self) -> SearchSpace:
        """The space that holds now: that of the launch, or that to which the search was extended."""
        return self.summary.space

    @property
    def study(self) -> Study:
        """Trials and what happened to them."""
        return self.summary.study

    @cached_property
    def status(self) -> dict[str, Any]:
        """The document of `reidsearch status --json`."""
        return status_document(self.summary)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best configuration: trial, value, metrics, params, results with fresh seeds; None before there is one."""
        best: dict[str, Any] | None = self.status["best"]
        return best

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One record per trial and replicate, with `params` and the `metrics` of its last evaluation."""
        trials: list[dict[str, Any]] = self.status["trials"]
        return trials

    def frame(self) -> DataFrame:
        """A table with a row per trial, and a column per metric and per setting.

        Where the search made forecasts, also `forecast` and `forecast_error`: the objective at the end of training and
        its standard deviation.
        """
        import pandas

        named = ("trial", "status", "source", "seed", "repeats", "fold", "attempts", "epoch", "epochs", "reason")
        rows = [
            {name: trial[name] for name in named} | _forecast(trial) | trial["metrics"] | dict(trial["params"])
            for trial in self.trials
        ]
        return pandas.DataFrame(rows, columns=None if rows else list(named)).set_index("trial")

    def curves(self, metric: str = "mAP") -> DataFrame:
        """A metric by epoch, with a column per trial; cells are empty at epochs without evaluation.

        Args:
            metric: any name in the `metrics` of `trials`, such as `rank1` or `loss/total`.

        Raises:
            SearchError: no trial has this metric.
        """
        import pandas

        found: dict[str, dict[int, float]] = {}
        known: dict[str, None] = {}
        for key, trial in self.study.all_trials.items():
            for result in trial.results:
                metrics = result.metrics()
                known |= dict.fromkeys(metrics)
                if metric in metrics:
                    found.setdefault(key, {})[result.epoch] = metrics[metric]
        if not found:
            raise SearchError(f"{self.name} has no metric {metric!r} (there are: {', '.join(known) or 'none yet'})")
        return pandas.DataFrame(found).sort_index().rename_axis(index="epoch", columns="trial")

    def __repr__(self) -> str:
        from orchestrator.show.search_text import summary_line

        return summary_line(self.summary)

    def trial(self, key: str) -> Trial:
        """The trial with a key such as `t0003` or `t0003-r1`; `best` is the best configuration so far.

        Raises:
            SearchError: there is none.
        """
        return self.summary.trial(key)

    def _repr_html_(self) -> str:
        """The summary and the table, for notebooks."""
        from html import escape

        from orchestrator.show.search_text import data_mark

        said = data_mark(self.description)
        mark = f"<p><b>{said}</b></p>" if said else ""
        frame = self.frame()
        searched = [path for path in self.space.parameters if path in frame]
        shown = [
            *("status", "source", "epoch"),
            *(name for name in ("mAP", "rank1", "forecast") if name in frame),
            *searched,
        ]
        return f"<p>{escape(repr(self))}</p>{mark}{frame[shown].to_html(float_format='%.4g')}"


def _forecast(trial: Mapping[str, Any]) -> dict[str, float]:
    known = trial["forecast"]
    return {} if known is None else {"forecast": known["value"], "forecast_error": known["error"]}


def load(name: str, storage: str | Path | None = None) -> Search:
    """Reads a search, which may be running.

    Raises:
        SearchError: there is none of this name in the storage, or it is damaged.
        JournalError: its journal is damaged.
    """
    return Search(read_summary(existing_search(open_store(storage or default_storage()), name)))


# Options of the commands that make no sense where the call waits for the search and returns it.
NOT_HERE = ("file", "assignments", "space", "name", "submit", "follow", "dry_run", "strict")
Function = TypeVar("Function", bound=Callable[..., Any])


def _documented(kind: type, *, without: Collection[str]) -> Callable[[Function], Function]:
    """Gives the `**options` of a function the names, defaults and help of a command's options."""

    def made(function: Function) -> Function:
        shown = [each for each in parameters(kind) if each.name not in without]
        hints = get_type_hints(kind)
        own = inspect.signature(function)
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, _, default in shown
        ]
        setattr(function, "__signature__", own.replace(parameters=[*list(own.parameters.values())[:-1], *named]))  # noqa: B010
        lines = "\n".join(f"    {each.name}: {each.declared.settings['help']}" for each in shown)
        function.__doc__ = (function.__doc__ or "").replace("        **options:\n", indent(lines, "    ") + "\n")
        return function

    return made


@_documented(LaunchOptions, without=(*NOT_HERE, "storage", "overrides"))
def launch(
    space: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    storage: str | Path | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    show: bool = True,
    **options: Any,
) -> Search:
    """Starts a new search and drives it to its end, as `reidsearch launch` does.

    Interrupting the call (Ctrl-C, or the notebook's stop button) stops the search in good order, a second time at
    once; `resume` goes on with it.

    Args:
        space: File or built-in name, or the content of a space file as a mapping.
        name: Name of the search.  [default: the space's name and four digits]
        storage: Folder that holds searches, or s3://, gs://, file://.  [default: REIDSEARCH_STORAGE, or runs]
        overrides: Settings by their paths, such as `{"optim.epochs": 10}`, or as `--set` takes them, such as
            `["optim.epochs=10"]`.
        show: Print one line per event.
        **options:

    Raises:
        SpaceError: the space is wrong; every problem is a line of the message.
        SearchError: the search cannot be created, or no trial was completed; the message is the command's.
        EnvironmentProblem: the machine or the cluster cannot run it.
    """
    _refuse(NOT_HERE, options)
    with _space_file(space) as file:
        settings = tuple(_overrides(overrides))
        if name is None:
            name = f"{SearchSpace.load(file, settings).name}-{secrets.token_hex(2)}"
        given = LaunchOptions(
            space=file, name=name, storage=str(storage or default_storage()), overrides=settings, **options
        )
        _run("launch", given, show=show)
    return load(name, storage)


@_documented(ResumeOptions, without=(*NOT_HERE, "storage", "errored"))
def resume(
    name: str, storage: str | Path | None = None, *, retry_failed: bool = False, show: bool = True, **options: Any
) -> Search:
    """Goes on with a search that was interrupted, as `reidsearch resume` does.

    Args:
        name: Name of the search.
        storage: Folder that holds it.
        retry_failed: Try trials that failed for good again.
        show: Print one line per event.
        **options:

    Raises:
        SearchError: there is none, another process drives it, or no trial was completed.
        EnvironmentProblem: the machine or the cluster cannot run it.
    """
    _refuse(NOT_HERE, options)
    errored = "retry" if retry_failed else "skip"
    _run(
        "resume",
        ResumeOptions(name=name, storage=str(storage or default_storage()), errored=errored, **options),
        show=show,
    )
    return load(name, storage)


def _refuse(names: Collection[str], options: Mapping[str, Any]) -> None:
    if wrong := [name for name in options if name in names]:
        raise TypeError(f"{wrong[0]} is an option of the command line only")


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


def _overrides(given: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Settings as `--set` takes them."""
    if isinstance(given, Mapping):
        return [f"{path}={json.dumps(value, default=_plain)}" for path, value in given.items()]
    if isinstance(given, str) or not all(isinstance(each, str) for each in given):
        raise TypeError(
            f"overrides: {given!r} is neither a mapping such as {{'optim.epochs': 10}} nor a list such as "
            "['optim.epochs=10']"
        )
    return list(given)


def _plain(value: Any) -> object:
    """A number of NumPy's as one of Python's, and a path as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _run(verb: str, given: SessionOptions, *, show: bool) -> None:
    """Runs the command to its end and shows its output line by line.

    Raises:
        KeyboardInterrupt: this process was interrupted; the command has ended in good order by then.
        SpaceError: the search space is wrong; the message holds all problems.
        OrchestratorError: the command failed; the message is its own, or its last line.
    """
    command = python_command("-m", "orchestrator", verb, *command_arguments(given))
    # A file, not a pipe: a search whose notebook was killed can still print, and end in good order.
    with (
        tempfile.NamedTemporaryFile("w", prefix="reidsearch-") as output,
        Path(output.name).open() as reader,
        tempfile.NamedTemporaryFile("r", prefix="reidsearch-", encoding="utf-8") as problems,
    ):
        child = start_child(
            command,
            {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
            | {PROBLEMS_FILE: problems.name},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A notebook interrupts all processes of the kernel's session, and a search that gets two signals stops at
            # once.
            start_new_session=True,
            preexec_fn=_stop_with_parent,
        )
        interrupted, message = _followed(child, reader, show=show)
        told = problems.read()
    if interrupted:
        raise KeyboardInterrupt(message)
    if child.returncode not in LOADABLE:
        raise _error(child.returncode, json.loads(told) if told else {"of_space": False, "lines": [message]})


def _followed(child: subprocess.Popen[bytes], output: TextIO, *, show: bool) -> tuple[bool, str]:
    """Waits for the command and passes interruptions on; returns whether there was one, and the last line."""
    interrupted, last, is_over = False, "", False
    while not is_over:
        try:
            is_over = child.poll() is not None
            for line in output:
                last = line.strip() or last
                if show:
                    print(line, end="", flush=True)
            if not is_over:
                time.sleep(PERIOD_S)
        except KeyboardInterrupt:
            interrupted = True
            child.send_signal(signal.SIGINT)
    return interrupted, last


def _stop_with_parent() -> None:
    die_with_parent(signal.SIGTERM)


def _error(code: int, told: Mapping[str, Any]) -> OrchestratorError | SpaceError:
    if told["of_space"]:
        return SpaceError(*told["lines"])
    kind = EnvironmentProblem if code == Exit.ENVIRONMENT else SearchError
    return kind("\n".join(told["lines"]) or f"reidsearch ended with exit code {code}")
