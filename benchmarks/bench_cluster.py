"""How full the driver keeps a cluster: simulated slots, trials of known length.

    python -m benchmarks.bench_cluster [--slots 4 16 64] [--seconds 60] [--rounds 3] [--algorithms random ax]

A node of Ray with as many CPU cores as slots, whatever the machine has, and trials that sleep: each reports ten epochs
at equal distances and ends. Everything else is real: Tune, searcher, journal with its fsyncs, Ax, MLflow on SQLite.
Each configuration is a process of its own, with `rounds` trials a slot.

- utilisation: time that slots slept, as a share of all time between the end of a slot's first trial and the beginning
  of its last one, over all slots. Start-up of Ray and its workers is not in it.
- gap: seconds that a slot stood idle between two trials: median, 95th percentile.
- driver: processor seconds of the driver's process a trial, and how that grew from the first third of the trials to
  the last one. The processes of Ax and Ray are not in it.
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
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measuring import say

EPOCHS = 10
ROOT = Path(__file__).resolve().parents[1]
FIRST_LOG, BUSY = "driver.jsonl", "busy"


def main() -> None:
    """Measures every configuration and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--algorithms", nargs="+", default=["random", "ax"])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        folder, algorithm, address, trials = asked.one
        _drive(Path(folder), algorithm, address, int(trials), asked.seconds)
        return
    found: dict[str, Any] = {}
    for slots in asked.slots:
        for algorithm in asked.algorithms:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                figures = _measured(Path(folder), slots, algorithm, slots * asked.rounds, asked.seconds)
            found[f"{slots} slots, {algorithm}"] = figures
            print(f"{slots} slots, {algorithm}: {figures}", file=sys.stderr, flush=True)
    say(benchmark="cluster", seconds_of_a_trial=asked.seconds, trials_a_slot=asked.rounds, figures=found)


def _measured(folder: Path, slots: int, algorithm: str, trials: int, seconds: float) -> dict[str, float]:
    (folder / BUSY).mkdir()
    with _node(folder, slots) as (address, environment):
        command = [sys.executable, "-m", "benchmarks.bench_cluster", "--seconds", str(seconds)]
        one = ["--one", str(folder), algorithm, address, str(trials)]
        with (folder / "driver.log").open("w") as log:
            done = subprocess.run([*command, *one], env=environment, cwd=ROOT, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError((folder / "driver.log").read_text())
    return _figures(folder, trials)


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
        "PYTHONPATH": str(ROOT),
        BUSY.upper(): str(folder / BUSY),
    }
    arguments = ["--head", "--port", str(port), "--num-cpus", str(slots), "--include-dashboard", "false", "--block"]
    memory = ["--object-store-memory", str(200 * 2**20)]
    with (folder / "node.log").open("w") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *memory],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _await(port, folder / "node.log")
        yield f"127.0.0.1:{port}", environment
    finally:
        node.terminate()
        node.wait(60)


def _await(port: int, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.5)
        else:
            time.sleep(5)  # the raylet registers after the head's port is open
            return
    raise RuntimeError(log.read_text())


def sleeping(config: dict[str, Any]) -> None:
    """In place of the trainable: sleeps, reports, and notes when it did."""
    from ray import tune

    from orchestrator.engine.attempt import Message, Outcome

    seconds = float(os.environ.get("BENCH_SECONDS", "60"))
    began = time.time()
    for epoch in range(1, EPOCHS + 1):
        time.sleep(max(0.0, began + seconds * epoch / EPOCHS - time.time()))
        tune.report({"message": Message(epoch_result=_result(epoch, config["trial"])).model_dump_json()})
    with (Path(os.environ[BUSY.upper()]) / f"{os.getpid()}.jsonl").open("a") as log:
        log.write(json.dumps([began, time.time()]) + "\n")
    tune.report({"message": Message(outcome=Outcome(state="completed")).model_dump_json()})


def _result(epoch: int, trial: str) -> Any:
    from trainer.result import EpochResult, Evaluation

    mAP = 0.5 + 0.04 * epoch + 0.003 * (hash(trial) % 11)
    figures = dict.fromkeys(("mINP", "rank1", "rank5", "rank10", "rank20"), mAP)
    validation = Evaluation(
        mAP=mAP,
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


def _drive(folder: Path, algorithm: str, address: str, trials: int, seconds: float) -> None:
    """One search; notes the driver's processor time whenever a trial ends."""
    os.environ["BENCH_SECONDS"] = str(seconds)
    from orchestrator.engine import session
    from orchestrator.engine.creation import create_search
    from orchestrator.engine.preparation import prepare_space
    from orchestrator.history.description import Options
    from orchestrator.history.events import TrialCompleted
    from orchestrator.history.ledger import Ledger

    session.trainable = _with_seconds(seconds)
    overrides = [f"algorithm.name={algorithm}", f"budget={{trials: {trials}}}"]
    space = prepare_space("smoke.yaml", data=None, overrides=overrides, storage=folder, dry_run=False)
    options = Options(address=address, cpus_per_trial=1)
    search = create_search(space, storage=folder, name="bench", seed=0, options=options)

    def listen(ledger: Ledger, _: object) -> None:
        def note(record: Any) -> None:
            if isinstance(record.event, TrialCompleted):
                with (folder / FIRST_LOG).open("a") as log:
                    log.write(json.dumps(time.process_time()) + "\n")

        ledger.subscribe(note)

    ending = session.drive(search, session.Watch(started=listen, connected=lambda *_: None))
    assert ending.exit_code == 0, ending.exit_code


def _with_seconds(seconds: float) -> Any:
    def trainable(config: dict[str, Any]) -> None:
        from benchmarks.bench_cluster import sleeping

        os.environ["BENCH_SECONDS"] = str(seconds)
        sleeping(config)

    return trainable


def _figures(folder: Path, trials: int) -> dict[str, float]:
    slots: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for file in (folder / BUSY).iterdir():
        slots[file.name] = sorted(tuple(json.loads(line)) for line in file.read_text().splitlines())
    gaps = [after[0] - before[1] for busy in slots.values() for before, after in pairwise(busy)]
    span = sum(busy[-1][0] - busy[0][1] for busy in slots.values())
    cpu = [float(line) for line in (folder / FIRST_LOG).read_text().splitlines()]
    third = len(cpu) // 3
    early, late = (cpu[third] - cpu[0]) / third, (cpu[-1] - cpu[-1 - third]) / third
    return {
        "slots_used": len(slots),
        "trials": trials,
        "utilisation": round(1 - sum(gaps) / span, 4),
        "gap_median_s": round(statistics.median(gaps), 2),
        "gap_p95_s": round(statistics.quantiles(gaps, n=20)[-1], 2),
        "driver_cpu_s_a_trial": round(cpu[-1] / trials, 3),
        "driver_cpu_growth": round(late / early, 2),
    }


if __name__ == "__main__":
    main()
