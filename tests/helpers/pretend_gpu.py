"""A GPU without a GPU: tensors that report `cuda:0`, hold their numbers on the CPU and refuse to be mixed with others.

What makes a host wait for a GPU is counted: values that are read back, and copies that block. It stands for what runs
under `torch.inference_mode`; there are no gradients. Numbers are those of the CPU, to the last bit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
COPIES = ("_to_copy", "to", "copy_")
# What needs a number from the device to go on: the size of its result, or a value of Python.
READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive"),
)


def reads_back(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a host that runs this operation waits for the device that its tensors are on."""
    name = func._schema.name.split("::")[1]
    if name == "repeat_interleave":
        return (kwargs or {}).get("output_size") is None
    by_mask = name in ("index", "index_put", "index_put_") and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )
    return name in READS or by_mask


class PretendTensor(Tensor):
    """A tensor on the pretended GPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=CUDA, requires_grad=False
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only reached outside of the mode."""
        raise AssertionError(f"{func} of a tensor of the pretended GPU, which is off")


class PretendGpu(TorchDispatchMode):
    """Keeps tensors made within on the device that they were made for, and counts waits and copies by name."""

    def __init__(self) -> None:
        super().__init__()
        torch._C._ensureCUDADeviceGuardSet()  # indexing asks for the current device; without a driver it is none
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation on the CPU, and says where its result would be."""
        name = func._schema.name.split("::")[1]
        given = {parameter.name: value for parameter, value in zip(func._schema.arguments, args, strict=False)}
        given |= kwargs or {}
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        made_for = None if given.get("device") is None else torch.device(given["device"]).type
        on_gpu = bool(ours) if made_for is None else made_for == "cuda"
        if name in COPIES:
            source = given["src"] if name == "copy_" else given["self"]
            on_gpu = isinstance(given["self"], PretendTensor) if name == "copy_" else on_gpu
            self._count_copy(isinstance(source, PretendTensor), on_gpu, bool(given.get("non_blocking")))
        elif ours:
            strangers = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
            assert not strangers, f"{func}: tensors of the GPU and of the CPU"
            self.waits.update([name] if reads_back(func, args, kwargs) else [])
        if made_for == "cuda":
            given["device"] = torch.device("cpu")
        result = func(**tree_map(_held, given))
        if not on_gpu or name == "_local_scalar_dense":
            return result
        known = {id(tensor.held): tensor for tensor in ours}
        return tree_map(lambda leaf: known.get(id(leaf), _pretend(leaf)), result)

    def _count_copy(self, from_gpu: bool, to_gpu: bool, non_blocking: bool) -> None:
        if from_gpu == to_gpu:
            return
        way = "to the GPU" if to_gpu else "from the GPU"
        self.copies[way] += 1
        if not non_blocking:
            self.waits[f"copy {way}"] += 1


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, PretendTensor) else leaf


def _pretend(leaf: Any) -> Any:
    return PretendTensor(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, PretendTensor) else leaf
