"""How full the driver keeps a cluster: simulated slots, trials of known length.

    python -m benchmarks.bench_cluster [--slots 4 16 64] [--seconds 60] [--rounds 3] [--algorithms random ax]
    python -m benchmarks.bench_cluster --slots 4 --seconds 1 --rounds 250 --algorithms random --commands

The space of the paper, 11 numbers, on a node of Ray with as many CPU cores as slots, whatever the machine has. Trials
sleep: each reports ten epochs at equal distances and ends. The first ones wait for all workers, and end one after the
other. Everything else is real: Tune, searcher, journal with its fsyncs, Ax, MLflow on SQLite. Each configuration is a
process of its own, with `rounds` trials a slot.

- utilisation: time that trials slept, as a share of all time of all slots, from the moment when every slot has had a
  trial until the last trial begins: the time in which no slot need be idle. The start of Ray's workers is not in it.
- gap: seconds that a slot stood idle between two trials: median, 95th percentile.
- suggestion: seconds from the end of a trial in the journal to the next trial in the journal: the same two.
- driver: processor seconds of the driver's process a trial, from the first that ended to the last, and how that grew
  from the first third of them to the last one. The processes of Ax and Ray are not in it.
- memory: resident MB of the driver's process when a third of the trials had ended and at the end, and the growth
  between the two per 100 trials. Its threads and open files: at the same two moments. With --objects, which takes
  memory itself, also MB of Python's objects per 100 trials, by the file that made them.
- unsent: events that MLflow had not taken half a minute after the last trial.
- commands, where asked for: those of `bench_report` on the search.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.bench_report import measured_commands
from benchmarks.measuring import say
from orchestrator.stores.local import local_search

EPOCHS = 10
FEW = 4  # workers hardly compete with the driver and Ax; on a machine that is busy otherwise they would never run
ROOT = Path(__file__).resolve().parents[1]
DRIVER_LOG, BUSY, UNSENT, GROWN, SEARCH = "driver.jsonl", "busy", "unsent", "grown.json", "bench"


def main() -> None:
    """Measures every configuration and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--algorithms", nargs="+", default=["random", "ax"])
    parser.add_argument(
        "--commands", action="store_true", help="then measure `status`, `report` and others on the search"
    )
    parser.add_argument("--objects", action="store_true", help="say which files' objects the driver's memory holds")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        folder, algorithm, address, slots, trials = asked.one
        if asked.objects:
            tracemalloc.start()
        _drive(Path(folder), algorithm, address, int(slots), int(trials), asked.seconds)
        return
    found: dict[str, Any] = {}
    for slots in asked.slots:
        for algorithm in asked.algorithms:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                figures = _measured(Path(folder), slots, algorithm, slots * asked.rounds, asked)
                if asked.commands:
                    figures |= measured_commands(local_search(Path(folder) / SEARCH), model=False)
            found[f"{slots} slots, {algorithm}"] = figures
            print(f"{slots} slots, {algorithm}: {figures}", file=sys.stderr, flush=True)
    say(benchmark="cluster", seconds_of_a_trial=asked.seconds, trials_a_slot=asked.rounds, metrics=found)


def _measured(folder: Path, slots: int, algorithm: str, trials: int, asked: argparse.Namespace) -> dict[str, Any]:
    (folder / BUSY).mkdir()
    with _node(folder, slots) as (address, environment):
        command = [sys.executable, "-m", "benchmarks.bench_cluster", "--seconds", str(asked.seconds)]
        command += ["--objects"] * asked.objects
        one = ["--one", str(folder), algorithm, address, str(slots), str(trials)]
        with (folder / "driver.log").open("w") as log:
            done = subprocess.run([*command, *one], env=environment, cwd=ROOT, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError((folder / "driver.log").read_text())
    return _figures(folder, slots, trials)


@contextmanager
def _node(folder: Path, slots: int) -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster of one node with so many cores; ends with the block."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # as where a search starts Ray
        "PYTHONPATH": str(ROOT),
    }
    arguments = ["--head", "--port", str(port), "--num-cpus", str(slots), "--include-dashboard", "false", "--block"]
    own = ["--object-store-memory", str(200 * 2**20), "--temp-dir", str(folder / "ray")]
    with (folder / "node.log").open("w") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *own],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(folder / "node.log")
        if slots > FEW:
            _let_pass(node.pid)
        yield f"127.0.0.1:{port}", environment
    finally:
        node.terminate()
        node.wait(60)


def _let_pass(node: int) -> None:
    """Lets the node's processes wait for the driver and Ax, which on a cluster they would not meet."""
    # Where Linux groups processes by session, niceness counts within a session only, and this says that of the session.
    with suppress(OSError):
        Path(f"/proc/{node}/autogroup").write_text("15")


def _await(log: Path) -> None:
    end = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if time.monotonic() > end:
            raise RuntimeError(log.read_text())
        time.sleep(0.5)


def _sleeping(seconds: float, slots: int, busy: Path) -> Any:
    """In place of the trainable: sleeps, reports an mAP that depends on three weights, and notes when it did.

    The first trial of each worker waits until all workers are there, and then takes up to twice as long: trials of
    equal length that began together would all end together. Workers load it by value, and with it nothing of ours: 64
    of them that load torch as well do not fit into 24 GiB.
    """
    from orchestrator.runner.trial_spec import AttemptResult, WorkerMessage

    epochs = [WorkerMessage(epoch_result=_result(epoch)).model_dump(mode="json") for epoch in range(1, EPOCHS + 1)]
    attempt_result = WorkerMessage(attempt_result=AttemptResult(state="completed")).model_dump_json()
    folder = str(busy)

    def trainable(config: dict[str, Any]) -> None:
        import json
        import os
        import time
        from pathlib import Path

        from ray import tune

        mine, length = Path(folder) / f"{os.getpid()}.jsonl", seconds
        if not mine.exists():
            mine.touch()
            place = len(list(mine.parent.iterdir()))
            while len(list(mine.parent.iterdir())) < slots:
                time.sleep(0.2)
            length *= 1 + place / slots if place <= slots else 1
        loss = json.loads((Path(config["search"]) / "trials" / config["trial"] / "config.json").read_text())["loss"]
        best = (
            0.8 - 0.1 * (loss["osm_alpha"] - 2) ** 2 - (loss["osm_share"] - 0.4) ** 2 - (loss["osm_balance"] - 0.6) ** 2
        )
        began = time.time()
        for number, epoch in enumerate(epochs, start=1):
            time.sleep(max(0.0, began + length * number / len(epochs) - time.time()))
            epoch["epoch_result"]["time"] = time.time()
            epoch["epoch_result"]["validation"]["mAP"] = best * number / len(epochs)
            tune.report({"message": json.dumps(epoch)})
        with mine.open("a") as log:
            log.write(json.dumps([began, time.time()]) + "\n")
        tune.report({"message": attempt_result})

    return trainable


def _result(epoch: int) -> Any:
    from trainer.result import EpochResult, Evaluation

    figures = dict.fromkeys(("mAP", "mINP", "rank1", "rank5", "rank10", "rank20"), 0.5)
    validation = Evaluation(
        mAP_standard_error=0.01,
        **figures,
        attention_entropy=0.9,
        protocol="mars",
        queries=100,
        dropped_queries=0,
    )
    return EpochResult(
        epoch=epoch,
        losses={"total": 1 / epoch},
        learning_rate=1e-3,
        validation=validation,
        images_per_second=100.0,
        data_wait_share=0.0,
        seconds=1.0,
        time=time.time(),
    )


def _drive(folder: Path, algorithm: str, address: str, slots: int, trials: int, seconds: float) -> None:
    """One search; notes the driver's processor time whenever a trial ends."""
    from orchestrator.runner import session
    from orchestrator.runner.launch import create_search
    from orchestrator.runner.prepare_space import prepare_space
    from orchestrator.stores.local import LocalStore
    from orchestrator.study.description import Options
    from orchestrator.study.events import TrialCompleted, TrialSuggested
    from orchestrator.study.recorder import Recorder

    overrides = [f"algorithm.name={algorithm}", f"budget={{trials: {trials}}}", "replicates=0"]
    space = prepare_space(
        "attn_cl.yaml", data="mini-mars", overrides=overrides, storage=LocalStore(folder), dry_run=False
    )
    options = Options(address=address, cpus_per_trial=1, concurrent=slots)
    search = create_search(space, storage=LocalStore(folder), name=SEARCH, seed=0, options=options)

    driver, snapshots = psutil.Process(), []

    def listen(recorder: Recorder, _: object) -> None:
        def note(record: Any) -> None:
            ended = len(recorder.study.completed) if isinstance(record.event, TrialCompleted) else 0
            if tracemalloc.is_tracing() and ended in (trials // 3, trials):
                snapshots.append(tracemalloc.take_snapshot())
            if isinstance(record.event, TrialCompleted | TrialSuggested):
                held = [driver.memory_info().rss / 1e6, driver.num_threads(), driver.num_fds()]
                line = [type(record.event).__name__, time.time(), time.process_time(), *held]
                with (folder / DRIVER_LOG).open("a") as log:
                    log.write(json.dumps(line) + "\n")

        recorder.subscribe(note)

    with mock.patch.object(session, "trainable", _sleeping(seconds, slots, folder / BUSY)):
        ending = session.run_search(search, session.SessionCallbacks(started=listen, connected=lambda *_: None))
    assert ending.exit_code == 0, ending.exit_code
    (folder / UNSENT).write_text(str(ending.unsent))
    if snapshots:
        grown = snapshots[1].compare_to(snapshots[0], "filename")[:8]
        scale = 1e6 * (trials - trials // 3) / 100
        found = {each.traceback[0].filename: round(each.size_diff / scale, 2) for each in grown}
        (folder / GROWN).write_text(json.dumps(found))


def _figures(folder: Path, slots: int, trials: int) -> dict[str, Any]:
    workers: dict[str, list[tuple[float, float]]] = {}
    for file in (folder / BUSY).iterdir():
        workers[file.name] = sorted(tuple(json.loads(line)) for line in file.read_text().splitlines())
    slept = [each for busy in workers.values() for each in busy]
    begin, end = sorted(first for first, _ in slept)[slots - 1], max(first for first, _ in slept)
    busy = sum(max(0.0, min(last, end) - max(first, begin)) for first, last in slept)
    gaps = [after[0] - before[1] for each in workers.values() for before, after in pairwise(each)]
    lines = [json.loads(line) for line in (folder / DRIVER_LOG).read_text().splitlines()]
    suggested = [when for event, when, *_ in lines if event == "TrialSuggested"]
    completed = [(when, cpu) for event, when, cpu, *_ in lines if event == "TrialCompleted"]
    # The first trial that ends makes room for the first one after those that filled the slots, and so on.
    waits = [max(0.0, after - when) for (when, _), after in zip(completed, suggested[slots:], strict=False)]
    cpu = [spent for _, spent in completed]
    third = len(cpu) // 3
    held = [line[3:] for line in lines if line[0] == "TrialCompleted"]
    (before, *others_before), (after, *others_after) = held[third], held[-1]
    early, late = (cpu[third] - cpu[0]) / third, (cpu[-1] - cpu[-1 - third]) / third
    return {
        "trials": trials,
        "workers": len(workers),
        "utilisation": round(busy / (slots * (end - begin)), 4),
        **_middle_and_tail("gap", gaps),
        **_middle_and_tail("suggestion", waits),
        "driver_cpu_s_a_trial": round((cpu[-1] - cpu[0]) / (len(cpu) - 1), 3),
        "driver_cpu_growth": round(late / early, 2),
        "driver_mb": [round(before), round(after)],
        "driver_mb_growth_per_100_trials": round(100 * (after - before) / (len(held) - 1 - third), 1),
        "driver_threads_and_files": [others_before, others_after],
        "unsent": int((folder / UNSENT).read_text()),
        **({"python_mb_per_100_trials": json.loads((folder / GROWN).read_text())} if (folder / GROWN).exists() else {}),
    }


def _middle_and_tail(name: str, seconds: list[float]) -> dict[str, float]:
    tail = statistics.quantiles(seconds, n=20)[-1]
    return {f"{name}_median_s": round(statistics.median(seconds), 2), f"{name}_p95_s": round(tail, 2)}


if __name__ == "__main__":
    main()
