"""The kind of failure that an exception of a training stands for, over texts that torch and CUDA really give."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest
import torch

from orchestrator.runner.failure_kind import failure_kind
from orchestrator.study.events import FailureKind
from orchestrator.study.study import ATTEMPTS
from trainer import ConfigError, DataError, DivergedError, TrialConfig
from trainer.data import read_splits
from trainer.input.clips import Window
from trainer.input.loader import EvaluationClips, evaluation_loader

ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
CUDA_ERRORS: dict[FailureKind, tuple[str, ...]] = {
    "out_of_memory": ("out of memory",),
    "worker_lost": (
        "uncorrectable ECC error encountered",
        "uncorrectable NVLink error detected during the execution",
        "Invalid access of peer GPU memory over nvlink or a hardware error",
        "hardware stack error",
        "unspecified launch failure",
        "an illegal memory access was encountered",
        "CUDA-capable device(s) is/are busy or unavailable",
        "the launch timed out and was terminated",
        "unknown error",
    ),
    "error": (
        "device-side assert triggered",
        "no kernel image is available for execution on the device",
        "invalid device ordinal",
        "invalid configuration argument",
        "operation not supported",
    ),
}
RUNTIME_ERRORS: dict[FailureKind, tuple[str, ...]] = {
    "out_of_memory": (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "HIP out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 63.98 GiB",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)",
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to "
        "allocate 8 bytes.",
        "unable to mmap 602144 bytes from file <filename not specified>: Cannot allocate memory (12)",
        "std::bad_alloc",
    ),
    "worker_lost": (
        "DataLoader worker (pid 4711) is killed by signal: Killed. ",
        "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit.",
        "DataLoader worker (pid 4711) is killed by signal: Segmentation fault. ",
        "DataLoader worker (pid(s) 4711, 4712) exited unexpectedly",
        "DataLoader worker (pid 4711) exited unexpectedly with exit code 1. Details are lost due to multiprocessing. "
        "Rerunning with num_workers=0 may give better error trace.",
        "DataLoader timed out after 120 seconds",
        "Pin memory thread exited unexpectedly",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA driver error: unknown error",
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
        "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
    ),
    "error": (
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx(handle, opa, opb, m, n, k)`",
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "Trying to backward through the graph a second time",
    ),
}
# What torch says where a process is limited to a part of a GPU's memory.
LIMITED = "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of 79.19 GiB of which {} is free. "
HELD = "Including non-PyTorch memory, this process has 77.11 GiB memory in use. {} allowed; Of the allocated memory {} "
HELD += "is allocated by PyTorch, {}and {} is reserved by PyTorch but unallocated. If reserved but unallocated memory"
GRAPHS = "with 17.00 MiB allocated in private pools (e.g., CUDA Graphs), "
OF_A_SHARE: tuple[tuple[str, FailureKind], ...] = (
    (
        LIMITED.format("250.00 MiB", "2.07 GiB") + HELD.format("75.23 GiB", "74.23 GiB", "", "943.54 MiB"),
        "out_of_memory",
    ),
    (LIMITED.format("4.00 GiB", "3.00 GiB") + HELD.format("3.00 GiB", "0 bytes", "", "0 bytes"), "out_of_memory"),
    (LIMITED.format("20.00 MiB", "0 bytes") + HELD.format("50.00 GiB", "9.58 GiB", "", "1.00 GiB"), "worker_lost"),
    (LIMITED.format("1.00 GiB", "2.00 MiB") + HELD.format("20.00 GiB", "9.58 GiB", GRAPHS, "8.00 KiB"), "worker_lost"),
    (LIMITED.format("80.00 GiB", "79.00 GiB") + "Of the allocated memory 0 bytes is allocated by", "out_of_memory"),
)
OTHERS: tuple[tuple[BaseException, FailureKind], ...] = (
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total"), "out_of_memory"),
    (MemoryError(), "out_of_memory"),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out_of_memory"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_full"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), "error"),
    (DivergedError("loss/osm is nan in epoch 3"), "diverged"),
    (DataError("CUDA error: out of memory.jpg: is empty"), "bad_data"),
    (ConfigError("clips.identities: 8 identities per batch"), "bad_config"),
    (KeyError("out of memory"), "error"),
    (ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), "worker_lost"),
    (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), "worker_lost"),
    (EOFError(), "worker_lost"),
)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in CUDA_ERRORS.items() for text in texts])
def test_errors_of_the_device_are_told_apart_by_what_cuda_says(kind: FailureKind, text: str) -> None:
    assert failure_kind(torch.AcceleratorError(f"CUDA error: {text}{ADVICE}")) == kind


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in RUNTIME_ERRORS.items() for text in texts])
def test_errors_of_libraries_and_loaders_are_told_apart_by_their_text(kind: FailureKind, text: str) -> None:
    assert failure_kind(RuntimeError(text)) == kind


@pytest.mark.parametrize(("error", "kind"), OTHERS)
def test_other_errors_are_told_apart_by_their_class(error: BaseException, kind: FailureKind) -> None:
    assert failure_kind(error) == kind


@pytest.mark.parametrize(("text", "kind"), OF_A_SHARE)
def test_memory_of_a_shared_gpu_that_neighbours_have_is_not_the_configurations_fault(
    text: str, kind: FailureKind
) -> None:
    assert failure_kind(torch.OutOfMemoryError(text)) == kind


def test_what_is_no_doing_of_the_configuration_is_tried_again() -> None:
    assert ATTEMPTS["worker_lost"] > ATTEMPTS["out_of_memory"] > ATTEMPTS["error"] == 1


def test_memory_that_torch_cannot_have_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert failure_kind(caught.value) == "out_of_memory"


def killed_while_decoding(config: TrialConfig, answer: Connection) -> None:
    """Says how the death of a process that decodes frames is classified, and ends."""
    tracklets = read_splits(config.data).train
    clips = EvaluationClips(tracklets, [Window(0, (0, 1))] * 64, size=(32, 16))
    batches = iter(evaluation_loader(clips, batch=1, workers=1, device=torch.device("cpu")))
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    try:
        try:
            os.kill(worker.pid, signal.SIGKILL)
            list(batches)
        finally:  # the handler raises each time that a child ends
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except Exception as error:  # noqa: BLE001  # it may also be that of a connection that broke
        answer.send(failure_kind(error))
    os._exit(0)


def test_a_process_that_decodes_frames_and_is_killed_is_a_lost_worker(tiny_config: TrialConfig) -> None:
    # In a process of its own: torch's handler raises wherever the interpreter is when it hears of the death.
    answer, ours = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=killed_while_decoding, args=(tiny_config, ours))
    process.start()
    ours.close()
    assert answer.recv() == "worker_lost"
    process.join()
