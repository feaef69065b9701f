"""A GPU without a GPU: tensors that report `cuda:0`, hold their numbers on the CPU and refuse to be mixed with others.

What makes a host wait for a GPU is counted: values that are read back, and copies that block. Networks learn on it too,
and all numbers are those of the CPU, to the last bit. It has no streams, no pinned memory, and autocast casts nothing.

    with PretendGpu() as gpu:
        network.to("cuda")(clips.to("cuda", non_blocking=True)).logits.sum().backward()
    assert not gpu.waits
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import trainer
from trainer.input import augment, warp

CUDA, META = torch.device("cuda", 0), torch.device("meta")
CODE = str(Path(trainer.__file__).parent)
TO_GPU, FROM_GPU = "to the GPU", "from the GPU"
# What needs a number from the device to go on: the size of its result, or a value of Python.
READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive"),
)
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
KEPT = (augment._scale_and_offset, warp._tables, warp._fill)  # what the trainer keeps for each device


class MixedDevices(RuntimeError):
    """Tensors of the GPU and of the CPU meet, which a GPU refuses."""


class PretendTensor(Tensor):
    """A tensor on the pretended GPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        # To torch's own code it is a tensor without memory: gradients of a GPU's need streams, which need a driver.
        with torch.inference_mode(held.is_inference()):
            made: PretendTensor = torch.Tensor._make_wrapper_subclass(
                *(cls, held.size()),
                strides=held.stride() if held.layout == torch.strided else None,
                dtype=held.dtype,
                device=META,
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only reached outside of the mode."""
        raise AssertionError(f"{func} of a tensor of the pretended GPU, which is off")

    def __getitem__(self, index: Any) -> Any:
        """Places in lists are copied to the GPU first, as torch does."""
        return super().__getitem__(_with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """As `__getitem__`."""
        super().__setitem__(_with_tensors(index), value)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """With its numbers, which are not counted as read."""
        return f"PretendTensor({self.held})"

    def tolist(self) -> Any:
        """Through a copy, as any tensor of a GPU."""
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as it is loaded, on the CPU."""
        return self.detach().cpu().__reduce_ex__(protocol)


class PretendEvent:
    """`torch.cuda.Event` on a GPU that is never behind."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.monotonic()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: PretendEvent) -> float:
        return 1000 * (end_event.time - self.time)


class PretendGpu(TorchDispatchMode):
    """Keeps tensors made within on the device that they were made for, and counts what would cost time on a GPU."""

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.capability = capability
        """What kind of GPU."""
        self.waits: Counter[str] = Counter()
        """How often the host waits: what for, and the trainer's function that does it."""
        self.copies: Counter[str] = Counter()
        """Copies `to the GPU` and `from the GPU`, those that block and those that do not."""

    def forget(self) -> None:
        """Starts to count again."""
        self.waits.clear()
        self.copies.clear()

    def __enter__(self) -> PretendGpu:
        """From here on there is a GPU."""
        torch._C._ensureCUDADeviceGuardSet()  # `cuda` is the current device; without a driver there is none
        with ExitStack() as stack:
            replaced = {
                "_lazy_init": lambda: None,
                "synchronize": lambda device=None: self._wait("synchronize"),
                "is_bf16_supported": lambda including_emulation=True: including_emulation or self.capability >= (8, 0),
                "get_device_capability": lambda device=None: self.capability,
                "get_device_name": lambda device=None: "pretended GPU",
                "Event": PretendEvent,
            }
            stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
            torch._C._set_only_lift_cpu_tensors(True)  # a list is copied to the GPU in sight of the mode
            stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
            torch.__future__.set_overwrite_module_params_on_conversion(True)  # what a module held is of another type
            for name, value in replaced.items():
                stack.enter_context(patch.object(torch.cuda, name, value))
            stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
            for kept in KEPT:
                kept.cache_clear()
                stack.callback(kept.cache_clear)
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """It is gone again; its tensors cannot be used any more."""
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation on the CPU, and says where its result would be."""
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with _ModeAlone(self):
                return func.decompose(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given = {parameter.name: value for parameter, value in zip(func._schema.arguments, args, strict=False)}
        given |= kwargs or {}
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        made_for = None if given.get("device") is None else torch.device(given["device"]).type
        on_gpu = bool(ours) if made_for is None else made_for != "cpu"  # torch's own code says meta, see PretendTensor
        if name in ("_to_copy", "copy_"):
            source = given["src"] if name == "copy_" else given["self"]
            on_gpu = isinstance(given["self"], PretendTensor) if name == "copy_" else on_gpu
            self._copied(isinstance(source, PretendTensor), on_gpu, bool(given.get("non_blocking")))
        elif ours:
            self._check(func, name, given, [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)])
        if made_for is not None:
            given["device"] = torch.device("cpu")
        result = func(**tree_map(_held, given))
        if not on_gpu or name == "_local_scalar_dense":
            return result
        known = {id(tensor.held): tensor for tensor in ours}
        return tree_map(lambda leaf: known.get(id(leaf), _pretend(leaf)), result)

    def _check(self, func: Any, name: str, given: dict[str, Any], strangers: list[Tensor]) -> None:
        """Refuses tensors of the CPU beside those of the GPU, except numbers and indices, and counts a wait."""
        if name in INDEXING and isinstance(given["self"], PretendTensor):
            indices = [
                index for index in given["indices"] if index is not None and not isinstance(index, PretendTensor)
            ]
            assert not any(index.is_meta for index in indices), f"{func}: torch made places without their numbers"
            strangers = [tensor for tensor in strangers if not any(tensor is index for index in indices)]
            for _ in indices:
                self._copied(False, True, False)
        if any(tensor.dim() > 0 or name in ("cat", "stack") for tensor in strangers):
            assert not any(tensor.is_meta for tensor in strangers), f"{func}: torch made a tensor without its numbers"
            raise MixedDevices(f"{func}: tensors of the GPU and of the CPU, in {_place()}")
        if _reads_back(name, given):
            self._wait(name)

    def _copied(self, from_gpu: bool, to_gpu: bool, non_blocking: bool) -> None:
        if from_gpu == to_gpu:
            return
        way = TO_GPU if to_gpu else FROM_GPU
        self.copies[way] += 1
        if not non_blocking:
            self._wait(f"copy {way}")

    def _wait(self, what: str) -> None:
        self.waits[f"{what} in {_place()}"] += 1


class _ModeAlone:
    """The mode within itself: in `inference_mode` torch shows it whole operations, and it has to see their parts."""

    def __init__(self, gpu: PretendGpu) -> None:
        self._gpu = gpu

    def __enter__(self) -> None:
        TorchDispatchMode.__enter__(self._gpu)

    def __exit__(self, *error: Any) -> None:
        TorchDispatchMode.__exit__(self._gpu, *error)


def _reads_back(name: str, given: dict[str, Any]) -> bool:
    """Whether a host that runs this operation waits for the device that its tensors are on."""
    if name == "repeat_interleave":
        return given.get("output_size") is None
    if name in INDEXING:
        masks = [index for index in given["indices"] if index is not None and index.dtype == torch.bool]
        # To write one number where a mask is true torch needs no places.
        return bool(masks) and (name == "index" or len(masks) > 1 or given["values"].numel() > 1)
    return name in READS


def _place() -> str:
    """The innermost function of the trainer that is running."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(CODE):
        frame = frame.f_back  # type: ignore[assignment]
    return "the test" if frame is None else f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"


def _with_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    return torch.tensor(index, device=CUDA) if isinstance(index, list | np.ndarray) else index


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, PretendTensor) else leaf


def _pretend(leaf: Any) -> Any:
    return PretendTensor(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, PretendTensor) else leaf
