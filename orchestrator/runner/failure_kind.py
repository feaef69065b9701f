"""Classifies the exception that ended a training; the kind of failure decides whether the trial is retried."""

from __future__ import annotations

import errno
import re

from orchestrator.study.events import FailureKind
from orchestrator.study.journal import NO_SPACE

# torch has a class of its own for what its allocator for GPUs could not give, and for nothing else: CUDA, its libraries
# and the allocator for CPUs raise AcceleratorError or RuntimeError, told apart by their texts alone.
OUT_OF_MEMORY = re.compile(
    r"out of memory|_ALLOC_FAILED|ALLOCATION_FAILED|DefaultCPUAllocator|[Cc]annot allocate memory|bad_alloc"
)
LOADER_LOST = re.compile(r"DataLoader worker \(pid|DataLoader timed out after|Pin memory thread exited")
DEVICE = re.compile(r"\b(CUDA|HIP|cuDNN|MIOpen|cuFFT|cusolver|cusparse)\b[^:]*error", re.IGNORECASE)
# Of errors that a device reports those that the same step would meet again on every device.
OF_THE_PROGRAM = re.compile(
    r"device-side assert|kernel image|invalid|not supported|insufficient|NOT_SUPPORTED|BAD_PARAM|INVALID|MISMATCH"
)
# torch's text of a process with a limit: "Tried to allocate 20.00 MiB. ... 17.69 GiB allowed; Of the allocated memory
# 17.44 GiB is allocated by PyTorch, and 59.88 MiB is reserved by PyTorch but unallocated".
SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
LIMITED = re.compile(
    rf"Tried to allocate {SIZE}\..* {SIZE} allowed; Of the allocated memory {SIZE} is allocated by PyTorch, "
    rf"(?:with .* \(e\.g\., .*\), )?and {SIZE} is reserved"
)
BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
ROUNDING = 4 * 0.005 * 2**30  # four sizes in hundredths of a GiB


def failure_kind(error: BaseException) -> FailureKind:
    """The kind of failure that an exception raised by a training stands for.

    Any allocation that failed, on the GPU or the CPU, is `out_of_memory`. A loader process that died or hangs, and a
    GPU that failed (an uncorrectable ECC error, an unspecified launch failure, a lost device), say nothing about the
    configuration: they are `worker_lost`, which is retried. So is memory of a shared GPU that neighbours have, where
    the process is below its own limit.
    """
    import torch

    from trainer import ConfigError, DataError, DivergedError

    match error:
        case DivergedError():
            return "diverged"
        case DataError():
            return "bad_data"
        case ConfigError():
            return "bad_config"
        case torch.OutOfMemoryError() if _neighbours_have_it(str(error)):
            return "worker_lost"
        case torch.OutOfMemoryError() | MemoryError():
            return "out_of_memory"
        case OSError(errno=errno.ENOMEM):
            return "out_of_memory"
        case OSError() if error.errno in NO_SPACE:
            return "disk_full"
        case ConnectionError() | EOFError():
            return "worker_lost"  # a loader's process that died while it handed over a batch
        case RuntimeError():
            return _of_text(str(error), is_devices=isinstance(error, torch.AcceleratorError))
    return "error"


def _neighbours_have_it(text: str) -> bool:
    """Whether a process that has a limit of GPU memory was refused some below it."""
    found = LIMITED.search(text)
    if found is None:
        return False
    numbers, units = found.groups()[::2], found.groups()[1::2]
    asked, limit, allocated, kept = (float(n) * BYTES[unit] for n, unit in zip(numbers, units, strict=True))
    return asked + allocated + kept < limit - ROUNDING


def _of_text(text: str, *, is_devices: bool) -> FailureKind:
    """The kind of one of torch's RuntimeErrors; what follows its first line is advice."""
    first = text.partition("\n")[0]
    if OUT_OF_MEMORY.search(first):
        return "out_of_memory"
    if LOADER_LOST.match(first):
        return "worker_lost"
    if (is_devices or DEVICE.match(first)) and not OF_THE_PROGRAM.search(first):
        return "worker_lost"
    return "error"
