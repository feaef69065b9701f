"""How long the commands take that read a large search, and how large its report is.

    python -m benchmarks.bench_report [--trials 200] [--epochs 60] [--without-model]

Writes the journal of a made-up search of the space `attn_cl` (a third of its trials stopped early, some failed, the two
best repeated with three seeds, an evaluation every epoch), then runs `reidsearch report`, `status` and `tables` on
it, each as a process of its own, and prints one JSON line. Processor seconds are of the command and its children.
`journal` is its reading alone, in a process that has imported everything.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import LEAST_RUNS, measure, say
from orchestrator.base.uris import database_uri
from orchestrator.show.report.formats import FILE
from orchestrator.space.parameters import Choice, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription, write_description
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    NodeLoad,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.journal import Record, encode, read_journal
from orchestrator.study.study import fold_records
from orchestrator.tracking.database import ARTIFACTS, DATABASE
from orchestrator.tracking.pages import SHOWN_RUNS, comparison_view, view_of
from orchestrator.tracking.server import mlflow_server
from trainer.result import EpochResult, Evaluation

EPOCH_S = 60.0
SEEDS, LEADERS = 3, 2
STOPPED_AFTER = 20  # epochs
FAILED_EVERY, STOPPED_EVERY = 25, 3
START = 1.79e9
LOAD = NodeLoad(
    node="nowhere",
    cpu_utilization=0.5,
    memory_bytes=4e10,
    memory_share=0.3,
    disk_used_bytes=1e11,
    disk_free_bytes=1e11,
    disk_share=0.5,
    network_received_bytes=0,
    network_sent_bytes=0,
    gpu_memory_peak_bytes=9e9,
)


def main() -> None:
    """Measures both commands and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--without-model", action="store_true", help="leave out Ax's model")
    parser.add_argument("--storage", type=Path, help="write the search there and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        storage = arguments.storage or Path(temporary)
        folder = write_large_search(storage / "large", trials=arguments.trials, epochs=arguments.epochs)
        figures = measured_commands(folder, model=not arguments.without_model)
    say(benchmark="report", trials=arguments.trials, epochs=arguments.epochs, **figures)


def measured_commands(folder: SearchFolder, *, model: bool) -> dict[str, Any]:
    """What each command that reads the search takes, and how large the journal and the page are.

    Args:
        folder: of the search.
        model: whether the report asks Ax's model.
    """
    name, report = folder.name, [] if model else ["--without-model"]
    commands = {
        "report": ["report", name, *report],
        "status": ["status", name],
        "status --json": ["status", name, "--json"],
        "tables": ["tables", name],
    }
    if folder.trial("t0000").exists():  # of a made-up search there is only the journal
        commands["compare"] = ["compare", f"{name}/t0000", f"{name}/best"]
    figures = {key: _measured([*command, "--storage", folder.storage]) for key, command in commands.items()}
    reload = measure({"journal": lambda: fold_records(read_journal(folder.journal))}, runs=LEAST_RUNS)
    return {
        **figures,
        "journal": reload["journal"].as_dict(2),
        "report_mb": round((folder.path / FILE).stat().st_size / 1e6, 2),
        "journal_mb": round(folder.journal.stat().st_size / 1e6, 2),
        **(_pages(folder) if (folder.path.parent / DATABASE).exists() else {}),
    }


def _pages(folder: SearchFolder) -> dict[str, Any]:
    """Seconds for which MLflow's page waits: for the runs of the search, and for a chart of a metric's curves."""
    parent, shown = folder.path.parent, view_of(folder.name, [])
    found: dict[str, Any] = {}
    with mlflow_server(database_uri(parent / DATABASE), parent / ARTIFACTS, 0, parent / "mlflow-ui.log") as server:
        address = comparison_view(server, shown)
        experiment = address.partition("/experiments/")[2].partition("/")[0]
        for most in (SHOWN_RUNS, 1000):
            asked: dict[str, Any] = {
                "experiment_ids": [experiment],
                "filter": shown["searchFilter"],
                "max_results": most,
            }
            asked["order_by"] = [f"{shown['orderByKey']} DESC"]
            seconds, answer = _asked(server, "runs/search", asked)
            found[f"search for {most} runs"] = {"wall_s": seconds, "runs": len(answer["runs"])}
            runs = [run["info"]["run_id"] for run in answer["runs"]][:SHOWN_RUNS]
        curves = "&".join(["metric_key=mAP", *(f"run_ids={run}" for run in runs)])
        seconds, answer = _asked(server, f"metrics/get-history-bulk-interval?{curves}&max_results=320")
        found[f"mAP by epoch of {len(runs)} runs"] = {"wall_s": seconds, "points": len(answer["metrics"])}
    return {"mlflow": found}


def _asked(server: str, path: str, body: dict[str, Any] | None = None) -> tuple[float, Any]:
    """Seconds and the answer, of the second of two equal questions: the first one makes the server ready."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/ajax-api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    for _ in range(2):
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as found:
            answer = json.load(found)
    return round(time.perf_counter() - began, 2), answer


def _measured(arguments: list[str]) -> dict[str, float]:
    """Seconds of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "orchestrator", *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def write_large_search(path: Path, *, trials: int, epochs: int, running: int = 0, seed: int = 0) -> SearchFolder:
    """A search that nobody ran: points drawn at random, values from a smooth function of them with noise.

    With `running`, so many of its trials run, one is paused, and it has not ended.
    """
    overrides = [f"budget.trials={trials}", "stopping.rule=asha", f"trainer.optim.epochs={epochs}", "replicates=3"]
    space = SearchSpace.load("attn_cl.yaml", overrides=overrides)
    folder = local_search(path)
    folder.logs.mkdir(parents=True)
    description = SearchDescription(
        search=path.name,
        uid="large",
        created="2026-01-01T00:00:00+00:00",
        seed=seed,
        synthetic=True,
        data_fingerprint="0" * 64,
        options=Options(),
        command=[],
        host="nowhere",
        commit=None,
        versions={},
        space=space,
    )
    write_description(folder.description, description)
    events: Iterator[Event] = itertools.chain(
        [SearchCreated(search=path.name, space="0", seed=seed), SessionStarted(session=1, host="nowhere", pid=1)],
        _events(space, trials, epochs, running, random.Random(seed)),
        [] if running else [SessionEnded(state="finished", reason=f"{trials} trials")],
    )
    written = list(events)
    pace, start = (EPOCH_S / running, time.time() - EPOCH_S * len(written) / running) if running else (1.0, START)
    with folder.journal.open("wb") as file:
        for number, event in enumerate(written, 1):
            file.write(encode(Record(number, start + pace * number, event)))
    return folder


def _events(space: SearchSpace, trials: int, epochs: int, running: int, source: random.Random) -> Iterator[Event]:
    points = list(itertools.islice(space.samples(0), trials))
    best: list[tuple[float, int]] = []
    now: list[list[Event]] = []
    for index, point in enumerate(points):
        key = f"t{index:04d}"
        final = _value(space, point)
        yield TrialSuggested(trial=key, index=index, params=point, source="ax", seed=0, epochs=epochs)
        yield TrialStarted(trial=key, attempt=1, gpus=1.0)
        if index >= trials - running:
            now.append(list(_reports(key, final, 1 + source.randrange(epochs - 1), epochs, source, load=LOAD)))
        elif running and index == trials - running - 1:
            yield from _reports(key, final, epochs // 2, epochs, source)
            yield TrialPaused(trial=key, epoch=epochs // 2, reason="until others are as far")
        elif index % FAILED_EVERY == FAILED_EVERY - 1:
            yield from _reports(key, final, min(5, epochs), epochs, source)
            reason = "the loss is NaN in epoch 6"
            yield AttemptFailed(trial=key, attempt=1, failure="diverged", reason=reason)
            yield TrialFailed(trial=key, failure="diverged", reason=reason)
        elif index % STOPPED_EVERY == STOPPED_EVERY - 1:
            last = min(STOPPED_AFTER, epochs)
            yield from _reports(key, final, last, epochs, source)
            yield TrialStopped(trial=key, rule="asha", epoch=last, reason="not among the best third")
        else:
            yield from _reports(key, final, epochs, epochs, source)
            yield TrialCompleted(trial=key)
            best.append((final, index))
    for turn in reversed([*itertools.zip_longest(*map(reversed, now))]):  # they end together
        yield from filter(None, turn)
    for final, index in sorted(best, reverse=True)[: 0 if running else LEADERS]:
        for number in range(1, SEEDS + 1):
            key, first = f"t{index:04d}-r{number}", f"t{index:04d}"
            yield TrialSuggested(
                trial=key, index=index, params=points[index], source="repeat", seed=number, epochs=epochs, repeats=first
            )
            yield TrialStarted(trial=key, attempt=1, gpus=1.0)
            yield from _reports(key, final + source.gauss(0, 0.01), epochs, epochs, source)
            yield TrialCompleted(trial=key)


def _value(space: SearchSpace, point: Mapping[str, Value]) -> float:
    """A share with one optimum, on which the first settings of the space act most."""
    total = 0.0
    for place, (path, parameter) in enumerate(space.parameters.items()):
        if path in point and not (isinstance(parameter, Choice) and not parameter.ordered):
            total += (parameter.place(point[path]) - 0.6) ** 2 / (1 + place)
    return 0.2 + 0.6 * math.exp(-total)


def _reports(
    key: str, final: float, last: int, epochs: int, source: random.Random, load: NodeLoad | None = None
) -> Iterator[Event]:
    for epoch in range(1, last + 1):
        value = min(0.99, max(0.01, final * (1 - math.exp(-4 * epoch / epochs)) + source.gauss(0, 0.01)))
        yield TrialReported(trial=key, result=_result(epoch, value, source), load=load)


def _result(epoch: int, value: float, source: random.Random) -> EpochResult:
    names = ("total", "identity", "triplet", "center", "osm", "attention")
    return EpochResult(
        epoch=epoch,
        losses={name: 5 / epoch + source.random() / 10 for name in names},
        learning_rate=3e-4,
        validation=Evaluation(
            mAP=value,
            mAP_standard_error=0.012,
            mINP=value / 2,
            rank1=min(1.0, value + 0.05),
            rank5=min(1.0, value + 0.15),
            rank10=min(1.0, value + 0.2),
            rank20=min(1.0, value + 0.25),
            attention_entropy=0.3 + 0.5 * source.random(),
            protocol="mars",
            queries=1000,
            dropped_queries=3,
        ),
        images_per_second=900.0,
        data_wait_share=0.1,
        attention={"entropy": 0.3 + 0.5 * source.random()},
        seconds=EPOCH_S,
        time=START,
    )


if __name__ == "__main__":
    main()
