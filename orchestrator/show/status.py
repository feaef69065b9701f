"""`reidsearch status`: one search, or all of a storage, for machines and for people."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.algorithms.health import Proposals
from orchestrator.algorithms.replicates import Best, Confirmation
from orchestrator.base.errors import EnvironmentProblem, OrchestratorError
from orchestrator.base.formatting import percent
from orchestrator.base.hints import hint
from orchestrator.show.logs import news
from orchestrator.show.search_text import progress_parts, summary_line
from orchestrator.show.terminal import LiveView, output, plain_table, print_summary
from orchestrator.space.problems import SpaceError
from orchestrator.stores.base import Store, existing_search, searches
from orchestrator.study.study import Finalization, SearchState, Trial, UseOfTestSet
from orchestrator.summary import SearchReader, Summary, read_summary, with_forecasts
from orchestrator.summary.costs import trial_cost

HINT = "Ctrl-C ends the watching, not the search"
WATCH_PERIOD_S = 2.0
SHARE, LONGEST_PAUSE_S = 0.01, 10.0  # of a core that watching takes at most, unless it paused longer for that
SEARCH_COLUMNS = ("search", "state", "completed", "failed", "best mAP", "seeds", "trial", "data")
TRY_OUT = ("demo.yaml",)


def show_search(storage: Store, name: str, *, as_json: bool, watch: bool) -> None:
    """Prints one search; with `watch` again and again until no process drives it any more."""
    reader, console = SearchReader(existing_search(storage, name)), output()
    if watch and not as_json:
        with suppress(KeyboardInterrupt):  # the state of now stays on the screen
            _watch(reader, console)
    while True:
        is_running = _show(reader, console, as_json=as_json, watch=watch) == "running"
        if not (watch and as_json and is_running):
            return
        time.sleep(WATCH_PERIOD_S)


def _show(reader: SearchReader, console: Console, *, as_json: bool, watch: bool) -> SearchState:
    """Prints a search as it is now; its state."""
    summary = reader.read()
    if summary.space.stopping.pauses and summary.state != "finished":
        summary = with_forecasts(summary)
    if as_json:
        print(json.dumps(status_document(summary), indent=None if watch else 2, allow_nan=False), flush=True)
    else:
        print_summary(console, summary)
        if summary.state == "interrupted":
            console.print(f"next      {hint('resume', summary.name, storage=summary.folder.storage)}", soft_wrap=True)
    return summary.state


def _watch(reader: SearchReader, console: Console) -> None:
    """Redraws a search, or prints a line whenever it is further, until no process drives it any more."""
    said = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            began = time.process_time()
            summary = reader.read()
            if summary.state != "running":
                return
            parts = progress_parts(summary)
            if console.is_terminal:
                live.update(LiveView(summary, parts, HINT, news(reader.recent)), refresh=True)
            elif said != (said := ", ".join([summary_line(summary), *parts])):
                console.print(said, soft_wrap=True)
            time.sleep(min(max(WATCH_PERIOD_S, (time.process_time() - began) / SHARE), LONGEST_PAUSE_S))


def show_searches(storage: Store, *, as_json: bool) -> None:
    """Prints one line per search, the latest first.

    Raises:
        EnvironmentProblem: searches that cannot be read, a line each, after all others are shown.
    """
    summaries, unreadable = read_searches(storage)
    if as_json and (summaries or not unreadable):
        print(json.dumps([status_document(each) for each in summaries], indent=2, allow_nan=False))
    elif summaries:
        output().print(searches_table(summaries))
    elif not unreadable:
        print(f"no searches in {storage.name}; start one with: {hint('launch', *TRY_OUT, storage=storage.name)}")
    if unreadable:
        raise EnvironmentProblem("\n".join(unreadable))


def read_searches(storage: Store) -> tuple[list[Summary], list[str]]:
    """The searches of a storage, the latest first, and a line for each that cannot be read."""
    summaries: list[Summary] = []
    unreadable: list[str] = []
    for folder in searches(storage):
        try:
            summaries.append(read_summary(folder))
        except (OrchestratorError, SpaceError) as error:
            unreadable.append(str(error))
        except OSError as error:
            unreadable.append(f"{error.filename or folder.path}: {error.strerror}")
    return summaries, unreadable


def searches_table(summaries: Sequence[Summary]) -> Table:
    """One line per search."""
    table = plain_table()
    table.add_column(SEARCH_COLUMNS[0], overflow="fold")
    for column in SEARCH_COLUMNS[1:]:
        table.add_column(column, no_wrap=True)
    for summary in summaries:
        table.add_row(summary.name, *search_cells(summary))
    return table


def search_cells(summary: Summary) -> tuple[str, ...]:
    """A search in `SEARCH_COLUMNS`, without its name."""
    completed = summary.counts["completed"]
    return (
        summary.state,
        str(completed) if summary.space.stopping.pauses else f"{completed}/{summary.space.budget.trials}",
        str(summary.counts["failed"]),
        *(("-", "-", "-") if summary.best is None else _best_cells(summary.best)),
        summary.description.data_kind,
    )


def _best_cells(best: Best) -> tuple[str, str, str]:
    if best.confirmation is not None and best.confirmed:
        return percent(best.confirmation.metrics, "mAP"), str(len(best.confirmation.values)), best.trial.key
    return percent(best.score.result.metrics(), "mAP"), "1", best.trial.key


def status_document(summary: Summary) -> dict[str, Any]:
    """What `--json` prints; docs/running.md lists its keys. Shares and precisions are in [0, 1]."""
    study, space = summary.study, summary.space
    return {
        "search": summary.name,
        "state": summary.state,
        "reason": study.reason,
        "synthetic": summary.description.synthetic,
        "own_data": summary.description.own_data,
        "storage": summary.folder.storage,
        "objective": space.objective.model_dump(mode="json"),
        "budget": space.budget.trials,
        "trainings": summary.trainings,
        "replicates": space.replicates.model_dump(mode="json"),
        "proposals": _proposals_document(summary.proposals),
        "counts": summary.counts,
        "repeats": summary.repeat_counts,
        "best": _best_document(summary.best),
        "confirmations": [
            {"trial": each.trial, "values": each.values, **_confirmation_document(each)}
            for each in summary.confirmations
        ],
        "epochs_saved": summary.costs.epochs_saved,
        "outlook": None if study.outlook is None else study.outlook.model_dump(),
        "front": _front_document(summary),
        "trials": [_trial_document(summary, trial) for trial in summary.trials],
        "finalizations": [_finalization_document(each) for each in study.finalizations],
        "test_set_uses": [_use_document(each) for each in study.test_set_uses],
        "finals": [{**_trial_document(summary, trial), **_test_document(trial)} for trial in study.finals.values()],
    }


def _finalization_document(finalization: Finalization) -> dict[str, Any]:
    """That the test set was opened; `time` is in seconds since 1970 UTC."""
    asked = finalization.asked
    return {
        "number": asked.finalization,
        "time": finalization.moment,
        "by": asked.by,
        "leaders": asked.leaders,
        "seeds": asked.seeds,
        "epochs": asked.epochs,
        "evaluation": asked.evaluation,
    }


def _use_document(use: UseOfTestSet) -> dict[str, Any]:
    """That the test set was opened for one trial's network; `time` is in seconds since 1970 UTC."""
    return {
        "time": use.moment,
        "by": use.asked.by,
        "trial": use.asked.trial,
        "use": use.asked.use,
        "weights": use.asked.weights,
        "data": None if use.asked.data is None else use.asked.data.model_dump(),
    }


def _test_document(trial: Trial) -> dict[str, Any]:
    """What the test set says of a trial's network."""
    test = trial.test
    return {
        "finalization": trial.finalization,
        "test": None if test is None else test.metrics(),
        "protocol": None if test is None else test.protocol,
        "sampling": None if test is None else test.sampling,
        "queries": None if test is None else test.queries,
        "dropped_queries": None if test is None else test.dropped_queries,
        "other_tests": [
            {
                "trained_on": each.trained_on,
                "tested_on": each.tested_on,
                "fingerprint": fingerprint,
                "test": each.metrics(),
                "protocol": each.protocol,
            }
            for fingerprint, each in trial.other_tests.items()
        ],
    }


def _proposals_document(found: Proposals) -> dict[str, Any]:
    return {
        "by_model": found.by_model,
        "random": found.random,
        "reason": found.reason or None,
        "fails": found.fails,
        "text": str(found) if found.fails else None,
    }


def _best_document(best: Best | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "trial": best.trial.key,
        "value": best.score.value,
        "metrics": best.score.result.metrics(),
        "params": best.trial.params,
        **_confirmation_document(best.confirmation),
    }


def _front_document(summary: Summary) -> list[dict[str, Any]]:
    names = [term.metric for term in summary.objective.terms]
    return [
        {"trial": trial.key, "values": dict(zip(names, found.values, strict=True))} for trial, found in summary.front
    ]


def _confirmation_document(found: Confirmation | None) -> dict[str, Any]:
    """What the fresh seeds say; all of it is None without one."""
    return {
        "confirmed": found is not None and found.confirmed,
        "seeds": 0 if found is None else len(found.values),
        "lost": 0 if found is None else found.lost,
        "mean": None if found is None else found.mean,
        "standard_deviation": None if found is None else found.standard_deviation,
        "interval": None if found is None else found.interval,
        "means": None if found is None else found.metrics,
    }


def _trial_document(summary: Summary, trial: Trial) -> dict[str, Any]:
    """A trial; `until` is the epoch after which it pauses, `pauses` are the epochs after which it did."""
    return {
        "trial": trial.key,
        "status": trial.status,
        "attempts": trial.attempts,
        "epoch": trial.epoch,
        "epochs": trial.epochs,
        "until": trial.until,
        "pauses": trial.pauses,
        "forecast": None if trial.forecast is None else trial.forecast.model_dump(),
        "epochs_saved": trial_cost(trial).epochs_saved,
        "metrics": summary.latest_metrics[trial.key],
        "params": trial.params,
        "ax_index": trial.index,
        "source": trial.source,
        "note": trial.note,
        "seed": trial.seed,
        "repeats": trial.repeats,
        "fold": trial.fold,
        "mlflow_run_id": trial.mlflow_run_id,
        "reason": trial.reason,
    }
