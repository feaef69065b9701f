"""`reidsearch simulate`: stopping rules compared on the recorded curves of a search."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.simulate import Candidate, Replay, candidates, order_of, replay
from orchestrator.base.errors import SearchError
from orchestrator.base.formatting import duration
from orchestrator.runner.replay import replayed_decisions
from orchestrator.show.search_text import SYNTHETIC_MARK, metric_text
from orchestrator.show.terminal import output, plain_table
from orchestrator.space.objective import parse_objective
from orchestrator.space.options import StoppingConfig
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.journal import read_journal
from orchestrator.summary import Summary, read_summary
from trainer.formatting import counted, located
from trainer.yaml_file import YamlError, parse_yaml

COLUMNS = ("epochs", "saved", "time", "stopped", "best found", "after epochs", "best stopped")


class SimulationOptions(NamedTuple):
    """The rules and orders that are compared."""

    rules: Sequence[str]
    algorithms: Sequence[str]
    overrides: Sequence[str]
    """`stopping.KEY=VALUE`: changes to the search's own settings."""
    slots: int
    seeds: int
    """Replays of each algorithm that draws; the order of the journal is replayed once."""


def show_simulation(folder: SearchFolder, asked: SimulationOptions, *, as_json: bool) -> None:
    """Replays a search and prints the results.

    Raises:
        SearchError: too little of it is finished.
        SpaceError: an override is no setting of the stopping rule.
    """
    document = simulation_document(read_summary(folder), asked)
    if as_json:
        print(json.dumps(document, indent=2, allow_nan=False))
        return
    console = output()
    if document["replays"]:
        _print_replays(console, document)
    else:
        console.print(f"{document['search']}: too few trials have whole curves to be replayed under other rules")
    if document["decisions"] is not None:
        console.print(_decisions_line(document["decisions"]))
    if document["synthetic"]:
        console.print(SYNTHETIC_MARK)


def _print_replays(console: Console, document: dict[str, Any]) -> None:
    best, metric = document["best"], parse_objective(document["objective"]["metric"])[0].metric
    console.print(
        f"{document['search']}: {counted(document['candidates'], 'trial', 'trials')} with whole curves, "
        f"{document['epochs']} epochs in all, "
        f"best {metric} {metric_text(metric, best['value'])} by the first seed ({best['trial']})"
    )
    console.print(_table(document))
    if document["left_out"]:
        console.print(f"left out: {document['left_out']} without a whole curve")


def simulation_document(search: Summary, asked: SimulationOptions) -> dict[str, Any]:
    """All replays as one document; of a search whose trials pause its own decisions, too, and perhaps nothing else."""
    study, space, decisions = search.study, search.space, _decisions(search)
    try:
        pool = candidates(study, space.objective)
    except SearchError:
        if decisions is None:
            raise
        pool = []
    best = min(pool, key=lambda candidate: candidate.rank, default=None)
    model = AxProcess(search.folder.logs / "simulate.log")
    try:
        replays = [found for rule in asked.rules if pool for found in _replays(rule, pool, space, asked, model)]
    finally:
        model.close()
    return {
        "search": search.name,
        "synthetic": search.description.synthetic,
        "objective": space.objective.model_dump(mode="json"),
        "candidates": len(pool),
        "left_out": len(study.trials) - len(pool),
        "epochs": sum(len(candidate.trial.results) for candidate in pool),
        "best": None if best is None else {"trial": best.trial.key, "value": best.value},
        "slots": asked.slots,
        "replays": replays,
        "decisions": decisions,
    }


def _decisions(search: Summary) -> dict[str, Any] | None:
    """The decisions of a search whose trials pause, made again from its journal; None for other searches."""
    if not any(trial.pauses for trial in search.study.trials.values()):
        return None
    counts, differences = replayed_decisions(read_journal(search.folder.journal), search.description.space)
    named = {"started": "trial_suggested", "paused": "trial_paused", "continued": "trial_continued"}
    return {**{name: counts[kind] for name, kind in named.items()}, "differences": differences}


def _decisions_line(decisions: dict[str, Any]) -> str:
    parts = [f"{decisions[name]} {name}" for name in ("started", "paused", "continued")]
    differences = decisions["differences"]
    outcome = f"{len(differences)} differ, first {differences[0]}" if differences else "all of them the same"
    return f"decided again from the journal: {', '.join(parts)}; {outcome}"


def _replays(
    rule: str, pool: Sequence[Candidate], space: SearchSpace, asked: SimulationOptions, model: AxProcess
) -> list[dict[str, Any]]:
    stopping = stopping_config(space, rule, asked.overrides)
    found = []
    for algorithm in asked.algorithms:
        for seed in range(1 if algorithm == "journaled" else asked.seeds):
            order = order_of(algorithm, space, seed, model)
            made = replay(pool, space.objective, order, stopping=stopping, slots=asked.slots)
            found.append({"rule": rule, "algorithm": algorithm, "seed": seed, **_document(made)})
    return found


def stopping_config(space: SearchSpace, rule: str, overrides: Sequence[str]) -> StoppingConfig:
    """The space's stopping rule with another name and some other settings.

    Raises:
        SpaceError: an override names no setting of it, or has no such value.
    """
    data: dict[str, Any] = space.stopping.model_dump() | {"rule": rule}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.startswith("stopping."):
            raise SpaceError(
                f"--set {override}: only settings of the rule can be replayed, as in --set stopping.grace=2"
            )
        try:
            data[path.removeprefix("stopping.")] = parse_yaml(text, name=f"--set {override}")[0]
        except YamlError as error:
            raise SpaceError(f"--set {override}: {error.what}") from error
    try:
        return StoppingConfig.model_validate(data)
    except ValidationError as error:
        raise SpaceError(*(f"stopping.{located(one)}" for one in error.errors())) from error


def _document(made: Replay) -> dict[str, Any]:
    last = made.found[-1]
    return {
        "epochs": made.epochs,
        "hours": made.hours,
        "stopped": made.stopped,
        "best": last.value,
        "epochs_to_best": last.epochs,
        "best_stopped": made.best_stopped,
        "found": [found._asdict() for found in made.found],
    }


def _table(document: dict[str, Any]) -> Table:
    table = plain_table()
    for column in ("rule", "order", *COLUMNS):
        table.add_column(column, no_wrap=True, justify="right" if column in COLUMNS else "left")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for made in document["replays"]:
        groups.setdefault((made["rule"], made["algorithm"]), []).append(made)
    for (rule, algorithm), replays in groups.items():
        metric = parse_objective(document["objective"]["metric"])[0].metric
        table.add_row(rule, algorithm, *_cells(replays, document["epochs"], metric))
    return table


def _cells(replays: Sequence[dict[str, Any]], all_epochs: int, metric: str) -> list[str]:
    """Means over the replays; how often the best trial was stopped is counted."""

    def mean(key: str) -> float:
        return statistics.mean(float(made[key]) for made in replays)

    return [
        f"{mean('epochs'):.0f}",
        f"{1 - mean('epochs') / all_epochs:.0%}",
        duration(3600 * mean("hours")),
        f"{mean('stopped'):.1f}",
        metric_text(metric, mean("best")),
        f"{mean('epochs_to_best'):.0f}",
        f"{sum(made['best_stopped'] for made in replays)} of {len(replays)}",
    ]
