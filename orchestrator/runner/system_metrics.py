"""Measures the machine while an attempt trains, at the ends of its steps: no thread, and less than 1 ms per epoch
without a GPU (`pytest tests/runner/test_system_metrics.py -k millisecond`)."""

from __future__ import annotations

import logging
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from orchestrator.study.events import GpuLoad, NodeLoad

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# A GPU says how busy it was in the last second or less, so an epoch needs samples. A question takes it a millisecond.
SAMPLE_PERIOD_S = 5.0


class GpuSample(NamedTuple):
    """One GPU at one moment, in the units of `GpuLoad`."""

    memory_bytes: float
    memory_share: float
    utilization: float
    power_watts: float | None


class Gpus(NamedTuple):
    """How GPUs are asked; without one nothing is."""

    sample: Callable[[], Sequence[GpuSample]] = tuple
    take_peak: Callable[[], float | None] = lambda: None
    """The most that this process had of their memory since the last call, in bytes."""


NO_GPUS = Gpus()


class SystemMeter:
    """The load of this machine, epoch by epoch. A measurement that fails ends no trial: it is logged and left out."""

    def __init__(self, folder: Path, gpus: Gpus = NO_GPUS, now: Callable[[], float] = time.monotonic) -> None:
        """Begins to measure.

        Args:
            folder: on the file system that is looked at.
            gpus: those of the attempt.
            now: seconds on a clock that only goes forward.
        """
        self._folder, self._gpus, self._now = folder, gpus, now
        self._began = time.time()
        self._samples: list[Sequence[GpuSample]] = []
        self._sampled = now()
        self._is_broken = False
        self._network = self._measured(_network_bytes) or (0, 0)
        self._measured(psutil.cpu_percent)  # which counts from the call before

    def step(self) -> None:
        """Takes a sample of the GPUs where the last one was taken a while ago."""
        if self._now() - self._sampled >= SAMPLE_PERIOD_S:
            self._sample()

    def epoch(self, ended: float) -> NodeLoad | None:
        """The load since the epoch before; None for one that an earlier attempt trained, and where measuring failed.

        Args:
            ended: when the epoch ended, in seconds since 1970 UTC on this machine's clock.
        """
        if ended < self._began:
            return None
        self._sample()
        samples, self._samples = self._samples, []
        return self._measured(lambda: self._load(samples))

    def _load(self, samples: list[Sequence[GpuSample]]) -> NodeLoad:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        received, sent = _network_bytes()
        return NodeLoad(
            node=socket.gethostname(),
            cpu_utilization=round(psutil.cpu_percent() / 100, 4),
            memory_bytes=memory.used,
            memory_share=round(memory.used / memory.total, 4),
            disk_used_bytes=disk.used,
            disk_free_bytes=disk.free,
            disk_share=round(disk.percent / 100, 4),
            network_received_bytes=received - self._network[0],
            network_sent_bytes=sent - self._network[1],
            gpus=tuple(mean_load(each) for each in zip(*samples, strict=True)),
            gpu_memory_peak_bytes=self._gpus.take_peak(),
        )

    def _sample(self) -> None:
        self._sampled = self._now()
        sample = self._measured(self._gpus.sample)
        if sample is not None:
            self._samples.append(sample)

    def _measured(self, measure: Callable[[], _T]) -> _T | None:
        """The result of `measure`; None as soon as one measurement has failed."""
        if self._is_broken:
            return None
        try:
            return measure()
        except Exception as error:  # noqa: BLE001  # a driver or a container may refuse anything; it costs no trial
            log.warning("the load of this machine is not measured: %s: %s", type(error).__name__, error)
            self._is_broken = True
            return None


def _network_bytes() -> tuple[int, int]:
    """Received and sent by the machine since it started; a container may have no network at all."""
    counters = psutil.net_io_counters()
    return (0, 0) if counters is None else (counters.bytes_recv, counters.bytes_sent)


def mean_load(samples: Sequence[GpuSample]) -> GpuLoad:
    """The means over samples of one GPU."""
    powers = [sample.power_watts for sample in samples if sample.power_watts is not None]
    return GpuLoad(
        memory_bytes=round(statistics.fmean(sample.memory_bytes for sample in samples)),
        memory_share=round(statistics.fmean(sample.memory_share for sample in samples), 4),
        utilization=round(statistics.fmean(sample.utilization for sample in samples), 4),
        power_watts=round(statistics.fmean(powers), 1) if powers else None,
    )


def gpus_of_this_process() -> Gpus:
    """Those that torch sees, asked through NVML; none where there are none or NVML does not answer."""
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not torch.cuda.is_available():
        return NO_GPUS
    seen = range(torch.cuda.device_count())

    def take_peak() -> float:
        # There is nothing to reset then, which would be an error.
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0.0
        peak = sum(torch.cuda.max_memory_allocated(index) for index in seen)
        for index in seen:
            torch.cuda.reset_peak_memory_stats(index)
        return float(peak)

    def sample() -> list[GpuSample]:
        return [_sample(torch, index) for index in seen]

    try:
        sample()
    except Exception as error:  # noqa: BLE001  # no NVML, or a slice of a GPU that does not say how busy it is
        log.warning("GPUs are not asked how busy they are: %s: %s", type(error).__name__, error)
        return Gpus(take_peak=take_peak)
    return Gpus(sample, take_peak)


def _sample(torch: Any, index: int) -> GpuSample:
    """One GPU now; torch numbers GPUs as the process sees them, and asks NVML about the right ones."""
    used = torch.cuda.device_memory_used(index)
    total = torch.cuda.get_device_properties(index).total_memory
    power = torch.cuda.power_draw(index) / 1000  # milliwatts
    return GpuSample(used, used / total, torch.cuda.utilization(index) / 100, power)
