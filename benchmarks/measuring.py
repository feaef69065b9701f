"""How every benchmark measures: rivals take turns, medians are reported, processor time stands beside wall time."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

LEAST_RUNS = 5


class Measurement(NamedTuple):
    """Medians over the runs of one candidate."""

    wall_s: float
    cpu_s: float
    """Processor seconds of all threads of this process: what a shared machine disturbs least."""
    runs: int

    def as_dict(self, digits: int = 6) -> dict[str, float]:
        """Rounded, for the report."""
        return {"wall_s": round(self.wall_s, digits), "cpu_s": round(self.cpu_s, digits), "runs": self.runs}


def measure(candidates: Mapping[str, Callable[[], object]], *, runs: int, warmup: int = 1) -> dict[str, Measurement]:
    """Times the candidates in turn, `runs` rounds after `warmup` rounds that are not counted.

    Taking turns spreads what else the machine does over all of them. On a GPU a candidate has to synchronise itself.

    Raises:
        ValueError: fewer than 5 runs.
    """
    if runs < LEAST_RUNS:
        raise ValueError(f"{runs} runs; a median of fewer than {LEAST_RUNS} is noise")
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in range(warmup + runs):
        for name, candidate in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            candidate()
            if turn >= warmup:
                samples[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Measurement(statistics.median(w for w, _ in taken), statistics.median(c for _, c in taken), runs)
        for name, taken in samples.items()
    }


def measure_once(candidate: Callable[[], object]) -> Measurement:
    """One run without warmup: for what takes minutes."""
    wall, cpu = time.perf_counter(), time.process_time()
    candidate()
    return Measurement(time.perf_counter() - wall, time.process_time() - cpu, 1)


def extra_memory(candidate: Callable[[], object]) -> int:
    """MiB by which the largest memory of a run exceeds that of the process before it.

    Measured in a forked copy of this process, which shares what is there: so torch has to be on one thread.
    """
    if torch.get_num_threads() != 1:
        raise ValueError("a forked process cannot use the threads of its parent; call torch.set_num_threads(1) first")
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)
    child = fork.Process(target=_send_extra_memory, args=(candidate, sending))
    child.start()
    sending.close()
    try:
        return int(receiving.recv())
    finally:
        child.join()


def _send_extra_memory(candidate: Callable[[], object], sending: Any) -> None:
    import resource  # Unix only

    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    candidate()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sending.send(max(0, after - before) // 2**20)


def environment() -> dict[str, Any]:
    """What a figure depends on besides the code: machine, load, threads, versions."""
    return {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a pseudo file
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def say(**report: Any) -> None:
    """Prints the report as one JSON line."""
    print(json.dumps({**report, "environment": environment()}), flush=True)
