"""How long the report and the status of a large search take.

    python -m benchmarks.bench_report [--trials 200] [--epochs 60] [--without-model]

Writes the journal of a made-up search of the space `attn_cl` (a third of its trials stopped early, some failed, the two
best repeated with three seeds, an evaluation every epoch), then runs `reidsearch report` and `reidsearch status --json`
on it, each as a process of its own, and prints one JSON line. Processor seconds are of the command and its children.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.measuring import say
from orchestrator.space.parameters import Choice, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import Options, SearchDescription, write_description
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.journal import Record, encode
from trainer.result import EpochResult, Evaluation

EPOCH_S = 60.0
SEEDS, LEADERS = 3, 2
STOPPED_AFTER = 20  # epochs
FAILED_EVERY, STOPPED_EVERY = 25, 3
START = 1.79e9


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
        report = ["report", "large", "--storage", str(storage), *(["--without-model"] * arguments.without_model)]
        measured = {
            "report": _measured(report),
            "status": _measured(["status", "large", "--storage", str(storage), "--json"]),
        }
        sizes = {
            "report_mb": (folder.path / "report.html").stat().st_size / 1e6,
            "journal_mb": folder.journal.stat().st_size / 1e6,
        }
    rounded = {name: {key: round(value, 2) for key, value in times.items()} for name, times in measured.items()}
    say(
        benchmark="report",
        trials=arguments.trials,
        epochs=arguments.epochs,
        **rounded,
        **{k: round(v, 2) for k, v in sizes.items()},
    )


def _measured(arguments: list[str]) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "orchestrator", *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu}


def write_large_search(path: Path, *, trials: int, epochs: int, seed: int = 0) -> SearchFolder:
    """A search that nobody ran: points drawn at random, values from a smooth function of them with noise."""
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
        _events(space, trials, epochs, random.Random(seed)),
        [SessionEnded(state="finished", reason=f"{trials} trials")],
    )
    with folder.journal.open("wb") as file:
        for number, event in enumerate(events, 1):
            file.write(encode(Record(number, START + number, event)))
    return folder


def _events(space: SearchSpace, trials: int, epochs: int, source: random.Random) -> Iterator[Event]:
    points = list(itertools.islice(space.samples(0), trials))
    best: list[tuple[float, int]] = []
    for index, point in enumerate(points):
        key = f"t{index:04d}"
        final = _value(space, point)
        yield TrialSuggested(trial=key, index=index, params=point, source="ax", seed=0, epochs=epochs)
        yield TrialStarted(trial=key, attempt=1, gpus=1.0)
        if index % FAILED_EVERY == FAILED_EVERY - 1:
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
    for final, index in sorted(best, reverse=True)[:LEADERS]:
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


def _reports(key: str, final: float, last: int, epochs: int, source: random.Random) -> Iterator[Event]:
    for epoch in range(1, last + 1):
        value = min(0.99, max(0.01, final * (1 - math.exp(-4 * epoch / epochs)) + source.gauss(0, 0.01)))
        yield TrialReported(trial=key, result=_result(epoch, value, source))


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
