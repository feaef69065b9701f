"""How a network computes: precision, memory layout, compilation; and what suits a process that trains.

B clips, T frames, H height, W width.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.formatting import first_line
from trainer.settings import Auto, FrozenConfig, auto_or

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# What CUDA takes of a GPU for each process beside torch's memory, for its context and kernels; estimated, not measured.
CUDA_BYTES = 3 << 28
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
KEPT_BYTES = 1 << 30  # more than any one tensor of a training step; freed memory below it is not given back


class ComputeConfig(FrozenConfig):
    """How the network computes; results change only within the accuracy of the precision."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of convolutions and matrix products; weights, batch norms, losses and optimizer stay in float32.
    `auto`: bf16 on GPUs of compute capability 8.0 and later, fp16 from 7.0 on, fp32 below; on a CPU bf16 where it has
    AMX (`amx_bf16` among its flags) and feature maps are more than a pixel wide, and fp32 otherwise: without AMX bf16
    is slower (docs/performance.md).
    fp16 scales the loss, and needs a CUDA GPU."""
    channels_last: bool = True
    """Keep the channels of a pixel side by side in memory, which convolutions like best on CPU and GPU."""
    compile: bool = False
    """Compile the network with torch.compile before training; without a working compiler training goes on."""
    tf32: Annotated[Auto | bool, auto_or("true or false", lambda value: isinstance(value, bool))] = "auto"
    """Let a CUDA GPU compute float32 products of training and embedding with 10 bits of mantissa instead of 23, several
    times as fast; distances are ranked with all 23. `auto`: on GPUs of compute capability 8.0 and later, which have
    it."""


def weight_dtype(compute: ComputeConfig) -> torch.dtype:
    """Type of the numbers that convolutions multiply.

    Raises:
        ValueError: it is still `auto`; `trainer.automatic` resolves a trial before it computes.
    """
    if compute.precision == "auto":
        raise ValueError("compute.precision: auto was not resolved; see trainer.automatic")
    return DTYPES[compute.precision]


def memory_format(compute: ComputeConfig) -> torch.memory_format:
    """Layout of weights and maps; convolutions take it over from their weights, whatever the frames come in."""
    return torch.channels_last if compute.channels_last else torch.contiguous_format


def laid_out(frames: Float[Tensor, "B T 3 H W"], compute: ComputeConfig) -> Float[Tensor, "B T 3 H W"]:
    """The frames in the layout of `compute`; decoders leave channels last, and convolutions follow either operand."""
    return frames if compute.channels_last else frames.contiguous()


def require_precision(compute: ComputeConfig, device: torch.device) -> None:
    """Raises ConfigError where the device cannot compute in this precision.

    torch 2.15 trains in float16 on a CPU, but far slower than in float32: there are no kernels for the gradients.
    """
    dtype, is_gpu = weight_dtype(compute), device.type == "cuda"
    if dtype == torch.float16 and not is_gpu:
        raise ConfigError("compute.precision: fp16 needs a CUDA GPU, and this is a CPU; set it to auto, bf16 or fp32")
    if dtype == torch.bfloat16 and is_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            "compute.precision: this GPU has no bf16 (before Ampere it is emulated); set it to auto, fp16 or fp32"
        )


def autocast(compute: ComputeConfig, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision for the forward pass and the losses; nothing for fp32.

    Raises:
        ConfigError: the device cannot compute in this precision.
    """
    require_precision(compute, device)
    if weight_dtype(compute) == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, weight_dtype(compute))


def placed(model: nn.Module, compute: ComputeConfig, device: torch.device) -> None:
    """Moves the network to the device, in place, and lays its weights out as `compute` says."""
    model.to(device=device, memory_format=memory_format(compute))  # type: ignore[call-overload]


@contextmanager
def float32_products(compute: ComputeConfig, device: torch.device) -> Iterator[None]:
    """Makes a GPU compute float32 products as `compute.tf32` says, forward and backward, for as long as it lasts.

    For networks alone; distances are ranked under `exact_products`, which wins. torch by itself takes TF32 for
    convolutions and not for matrix products. On a CPU there is no TF32.
    """
    if device.type != "cuda":
        yield
        return
    if compute.tf32 == "auto":
        raise ValueError("compute.tf32: auto was not resolved; see trainer.automatic")
    cudnn: Any = torch.backends.cudnn
    with _matrix_products(compute.tf32), _tf32(cudnn, (cudnn.conv, cudnn.rnn), allowed=compute.tf32):
        yield


@contextmanager
def tried_convolutions(device: torch.device) -> Iterator[None]:
    """Makes cuDNN try its algorithms for each shape of a convolution and keep the fastest, for as long as it lasts.

    For trainings, where all batches have one shape; a shape that comes once would be tried for nothing.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def exact_products() -> Iterator[None]:
    """Makes matrix products of float32 exact to rounding on every device, whatever the process allows otherwise.

    Neighbours differ by amounts that 10 bits of mantissa do not hold. May decorate functions.
    """
    backends: Any = torch.backends
    on_cpu = backends.mkldnn.matmul  # may take bf16 where the processor multiplies it faster
    before = on_cpu.fp32_precision
    try:
        with _matrix_products(tf32=False):
            on_cpu.fp32_precision = "ieee"
            yield
    finally:
        on_cpu.fp32_precision = before


@contextmanager
def _matrix_products(tf32: bool) -> Iterator[None]:
    """Allows or forbids a GPU TF32 for matrix products."""
    products: Any = torch.backends.cuda.matmul
    is_medium = products.fp32_precision == "tf32" and _known(torch.get_float32_matmul_precision) == "medium"
    try:
        with _tf32(products, (products,), allowed=tf32):
            yield
    finally:
        if is_medium:  # which the switch restored as high
            torch.set_float32_matmul_precision("medium")


@contextmanager
def _tf32(switch: Any, named: Sequence[Any], *, allowed: bool) -> Iterator[None]:
    """Sets both interfaces of torch: `allow_tf32` of `switch` and `fp32_precision` of each that is `named`.

    The newer one counts, and torch refuses to read the older one where they disagree, as compilers do.
    """
    before = [each.fp32_precision for each in named]
    older = _known(lambda: switch.allow_tf32)
    switch.allow_tf32 = allowed
    for each in named:
        each.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        switch.allow_tf32 = before[0] != "tf32" if older is None else older
        for each, precision in zip(named, before, strict=True):
            each.fp32_precision = precision


def _known(read: Callable[[], Any]) -> Any:
    """What torch tells, or None where the process has set the same through both interfaces, differently."""
    try:
        return read()
    except RuntimeError:
        return None


def compiled(model: nn.Module, clips: Float[Tensor, "B T 3 H W"], compute: ComputeConfig) -> bool:
    """Compiles the network in place where `compute` asks for it, and tells whether it is compiled now.

    Forward and backward are both compiled here, by one pass over `clips` in training mode: a backward pass is compiled
    no sooner than it is first used, and a compiler that fails there would end the training. Gradients are dropped;
    weights, batch norms' statistics and names in the state dict stay as they are. Clips of another shape, or laid out
    otherwise in memory, compile again, where a compiler that fails ends the training.

    A compiler that fails is a warning: the network then goes on without one.
    """
    if not compute.compile:
        return False
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        model.train().compile()
        with autocast(compute, clips.device):
            output = model(clips)
        torch.autograd.backward([part.sum() for part in output if part.requires_grad])
    except _compiler_errors() as error:
        model._compiled_call_impl = None  # nn.Module.compile() has no way back
        logger.warning("torch.compile failed (%s); training goes on without it", first_line(error))
        return False
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
    return True


def _compiler_errors() -> tuple[type[Exception], ...]:
    """What comes out of torch.compile, found with compilers that are missing and that fail, and unusable caches."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    return TorchDynamoException, OSError


class ProcessSettings(NamedTuple):
    """What `prepare_process` could set; False where this machine does not have it."""

    keeps_freed_memory: bool
    flushes_denormals: bool


def prepare_process() -> ProcessSettings:
    """Settings of the whole process that make training on a CPU faster; for entry points, before other threads start.

    Numbers below 1e-38, which processors compute many times more slowly, become 0 in this thread and those it starts.
    """
    return ProcessSettings(keep_freed_memory(), torch.set_flush_denormal(True))


def limit_gpu_memory(share: float) -> None:
    """Limits this process to its share, in (0, 1), of its GPU's memory; what it asks for beyond is an OutOfMemoryError.

    The limit is one of torch's memory and lower than the share by `CUDA_BYTES`. It holds for the first GPU that the
    process sees; without a GPU nothing is limited.
    """
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share / 2, share - CUDA_BYTES / total), 0)


def container_memory() -> int | None:
    """The limit of this container's memory in bytes; None where there is none."""
    limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip() if CONTAINER_LIMIT.is_file() else "max"
    return None if limit == "max" else int(limit)


def memory_here() -> int:
    """Bytes of memory of this machine, or of this container where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, container_memory() or machine)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep_freed_memory() -> bool:
    """Makes glibc keep up to 1 GiB of freed memory instead of handing every large tensor back to the kernel.

    Memory from the kernel comes in pages that are zeroed one by one on first touch: 100,000 of them in a training step
    of 8 images through ResNet-50 in fp32, a sixth of its processor time, and none with this (benchmarks.bench_levers).
    It does what MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ in the environment do, also in a process that has
    trained already, except for tensors that the main thread allocates only.

    Returns whether it was set; False without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, KEPT_BYTES) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
