"""The pretended GPU finds what a GPU refuses and what makes its host wait, and counts as the CPU does."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import pytest
import torch
from pretend_gpu import CUDA, FROM_GPU, TO_GPU, MixedDevices, PretendGpu
from torch import Tensor, nn

WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "copied over": lambda x: torch.empty(2, 3).copy_(x),
    "to the GPU": lambda x: torch.ones(3).to(x.device),
    "made there of a list": lambda x: torch.tensor([1.0], device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "several numbers at a mask": lambda x: x.__setitem__(x > 0, x.new_ones(6)),
    "list of places": lambda x: x[[0, 1]],
    "list of places in a column": lambda x: x[[0, 1], 2],
    "numbers at a list of places": lambda x: x.__setitem__([0, 1], 2.0),
    "places on the CPU": lambda x: x[torch.tensor([0, 1])],
    "a place on the GPU": lambda x: x[torch.zeros((), dtype=torch.long, device=x.device)],
    "unique": lambda x: x.unique(),
    "counts": lambda x: x.long().flatten().bincount(),
    "repeated": lambda x: x[0].repeat_interleave(x[0].long()),
    "equal": lambda x: torch.equal(x, x),
    "synchronize": lambda x: torch.cuda.synchronize(x.device),
}
FREE: dict[str, Callable[[Tensor], object]] = {
    "copy that does not block": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "there already": lambda x: x.to("cuda"),
    "made there": lambda x: torch.zeros(3, device=x.device) + torch.full((), 2.0, device="cuda"),
    "numbers": lambda x: x * 2 + torch.tensor(3.0),
    "one number at a mask": lambda x: x.__setitem__(x > 0, 1.0),
    "sizes": lambda x: (len(x), x.shape, x.numel(), x.dtype, x.device),
    "places on the GPU": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "repeated to a known size": lambda x: x[0].repeat_interleave(x[0].long(), output_size=3),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", WAITS)
def test_what_makes_the_host_wait_is_counted_once(what: str, inference: bool) -> None:
    with PretendGpu() as gpu, torch.inference_mode() if inference else nullcontext():
        found = WAITS[what](torch.ones(2, 3, device="cuda"))
        assert gpu.waits.total() == 1, gpu.waits
        if isinstance(found, Tensor):
            assert torch.equal(found.cpu(), cast(Tensor, WAITS[what](torch.ones(2, 3))))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", FREE)
def test_what_does_not_make_the_host_wait_is_not_counted(what: str, inference: bool) -> None:
    with PretendGpu() as gpu, torch.inference_mode() if inference else nullcontext():
        FREE[what](torch.ones(2, 3, device="cuda"))
    assert not gpu.waits


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "product": lambda gpu, cpu: cpu @ gpu.T,
    "in place": lambda gpu, cpu: cpu.add_(gpu),
    "number of the GPU": lambda gpu, cpu: cpu * gpu.sum(),
    "joined": lambda gpu, cpu: torch.stack([gpu.sum(), cpu.sum()]),
    "places of the GPU": lambda gpu, cpu: cpu[gpu.long()],
    "layer": lambda gpu, cpu: nn.Linear(3, 2)(gpu),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("how", MIXED)
def test_tensors_of_the_gpu_and_of_the_cpu_do_not_mix(how: str, inference: bool) -> None:
    with PretendGpu(), torch.inference_mode() if inference else nullcontext(), pytest.raises(MixedDevices):
        MIXED[how](torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3))


def test_a_tensor_of_the_gpu_says_where_it_is_and_is_no_array() -> None:
    with PretendGpu():
        x = torch.ones(3).to("cuda")
        assert (x.device, x.is_cuda, x.is_cpu, x.is_meta) == (CUDA, True, False, False)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()


def test_a_copy_is_apart_from_what_was_copied_and_a_view_is_not() -> None:
    for context in (nullcontext(), torch.inference_mode()):
        with PretendGpu() as gpu, context:
            here = torch.zeros(3)
            there = here.to("cuda")
            there[1:].add_(1)
            back = there.cpu()
            there.zero_()
            assert here.tolist() == [0, 0, 0]
            assert back.tolist() == [0, 1, 1]
        assert gpu.copies == {TO_GPU: 1, FROM_GPU: 1}


def test_a_network_learns_as_on_the_cpu_and_its_state_is_loaded_there() -> None:
    def learned(device: str) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        network.to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
        frames = torch.randn(5, 3, 4, 4).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(frames), torch.tensor([0, 1, 1, 0, 1]).to(device)).backward()
            optimizer.step()
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        return torch.cat([tensor.flatten().double() for tensor in loaded.values()])

    expected = learned("cpu")
    with PretendGpu():
        found = learned("cuda")
    assert torch.equal(found, expected)


def test_torch_is_as_before_when_the_gpu_is_gone() -> None:
    before = torch.cuda.synchronize, torch.cuda._lazy_init, torch.cuda.Event
    with pytest.raises(ZeroDivisionError), PretendGpu():
        raise ZeroDivisionError
    assert (torch.cuda.synchronize, torch.cuda._lazy_init, torch.cuda.Event) == before
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
