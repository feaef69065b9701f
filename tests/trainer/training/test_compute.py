"""Precision, layout and compilation of a network, and the settings of a process."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.compute import (
    ComputeConfig,
    autocast,
    compiled,
    exact_products,
    float32_products,
    keep_freed_memory,
    limit_gpu_memory,
    memory_format,
    placed,
    prepare_process,
    require_precision,
    tried_convolutions,
)
from trainer.errors import ConfigError
from trainer.evaluation.metrics import pairwise_distance, rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.input.clips import ClipConfig
from trainer.model.network import ModelConfig, TemporalAttentionResNet

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
COMPILE = ComputeConfig(precision="fp32", compile=True)


def network() -> TemporalAttentionResNet:
    torch.manual_seed(0)
    config = ModelConfig(backbone="tiny", weights="none", height=32, width=16, attention_hidden=8)
    return TemporalAttentionResNet(config, 5)


def clips() -> Tensor:
    return torch.randn(4, 2, 3, 32, 16, generator=torch.Generator().manual_seed(1))


def learned(model: nn.Module) -> list[Tensor]:
    """Outputs and gradients of a training step."""
    model.train().zero_grad()
    output = model(clips())
    output.logits.logsumexp(1).mean().backward()
    return [*output, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


# --- precision


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)], ids=["fp32", "bf16"]
)
def test_products_are_computed_in_the_precision_asked_for(precision: Any, dtype: torch.dtype) -> None:
    with autocast(ComputeConfig(precision=precision), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_half_precision_without_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"compute\.precision: fp16 needs a CUDA GPU.*set it to auto, bf16 or fp32"):
        autocast(ComputeConfig(precision="fp16"), CPU)


@pytest.mark.parametrize(("capability", "has_it"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_needs_a_gpu_that_has_it_and_an_emulation_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_it: bool
) -> None:
    gpu = types.SimpleNamespace(major=capability[0], minor=capability[1])
    for name, value in {
        "is_available": True,
        "current_device": 0,
        "get_device_properties": gpu,
        "_check_bf16_tensor_supported": True,  # torch can make such a tensor on any GPU
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    bf16 = ComputeConfig(precision="bf16")
    if has_it:
        require_precision(bf16, CUDA)
        return
    with pytest.raises(ConfigError, match=r"compute\.precision: this GPU has no bf16 .*; set it to auto, fp16 or fp32"):
        require_precision(bf16, CUDA)


def set_by_hand(**settings: str) -> Callable[[], None]:
    """Sets `fp32_precision` of matrix products, convolutions, or all, as a process of a user may."""
    named = {
        "matmul": torch.backends.cuda.matmul,
        "conv": torch.backends.cudnn.conv,
        "cpu": torch.backends.mkldnn.matmul,
        "all": torch.backends,
    }

    def apply() -> None:
        for name, precision in settings.items():
            named[name].fp32_precision = precision

    return apply


def allowed_by_hand() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


PROCESSES: dict[str, Callable[[], None]] = {
    "as torch comes": lambda: None,
    "both switches": allowed_by_hand,
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "newer names": set_by_hand(matmul="tf32", conv="tf32"),
    "newer names, forbidden": set_by_hand(matmul="ieee", conv="ieee"),
    "all of torch": set_by_hand(all="tf32"),
    "bf16 on a CPU": set_by_hand(cpu="bf16"),
}


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process that has set how float32 is multiplied, in one of torch's ways."""
    PROCESSES[request.param]()
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    set_by_hand(matmul="none", cpu="none")()


def products() -> list[object]:
    """All that torch tells of how float32 is multiplied; None where it refuses to tell."""
    read: list[Callable[[], object]] = [
        lambda: torch.backends.cuda.matmul.fp32_precision,
        lambda: torch.backends.cudnn.conv.fp32_precision,
        lambda: torch.backends.cudnn.rnn.fp32_precision,
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
        lambda: torch.backends.fp32_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision,
    ]
    found: list[object] = []
    for each in read:
        try:
            found.append(each())
        except RuntimeError:
            found.append(None)
    return found


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("tf32", [False, True])
def test_networks_take_tf32_as_configured_and_rankings_never_whatever_the_process_has_set(tf32: bool) -> None:
    before = products()
    with float32_products(ComputeConfig(tf32=tf32), CUDA):
        within = products()
        assert [precision == "tf32" for precision in within[:3]] == [tf32] * 3
        assert within[5:7] == [tf32, tf32]  # what compilers ask is told
        with exact_products():
            assert products()[0] == products()[3] == "ieee"
        assert products() == within
    assert products() == before
    with pytest.raises(ZeroDivisionError), exact_products():
        assert products()[0] == products()[3] == "ieee"
        raise ZeroDivisionError
    assert products() == before


class Multiplied(TorchDispatchMode):
    """Notes the precision of every product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation."""
        if any(name in str(func) for name in ("mm", "matmul", "cdist", "euclidean_dist")):
            self.seen.append((products()[0], products()[3]))
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_are_ranked_and_ranked_again_with_exact_products(metric: Any) -> None:
    draws = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(5, 8, generator=draws), torch.randn(30, 8, generator=draws)
    identities, cameras = torch.arange(30) % 5, torch.arange(30) % 3
    labels = (identities[:5], identities, cameras[:5] + 3, cameras)
    with float32_products(ComputeConfig(tf32=True), CUDA):  # as in a training
        for rank in (
            lambda: pairwise_distance(query, gallery, metric),
            lambda: rank_embeddings(query, gallery, *labels, metric=metric),
            lambda: k_reciprocal_distance(query, gallery, k1=3, k2=2),
        ):
            with Multiplied() as multiplied:
                rank()
            assert multiplied.seen and set(multiplied.seen) == {("ieee", "ieee")}


@pytest.mark.parametrize("before", [False, True])
def test_convolutions_are_tried_on_a_gpu_alone_and_the_process_gets_its_setting_back(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    for device, tried in ((CUDA, True), (CPU, before)):
        with pytest.raises(ZeroDivisionError), tried_convolutions(device):
            assert torch.backends.cudnn.benchmark == tried
            raise ZeroDivisionError
        assert torch.backends.cudnn.benchmark == before


def test_nothing_computes_with_settings_that_are_still_open() -> None:
    for compute in (
        lambda: autocast(ComputeConfig(), CPU),
        lambda: require_precision(ComputeConfig(), CPU),
        lambda: float32_products(ComputeConfig(), CUDA).__enter__(),
        lambda: ClipConfig().worker_count,
    ):
        with pytest.raises(ValueError, match=r"auto was not resolved; see trainer\.automatic"):
            compute()


@pytest.mark.parametrize("channels_last", [True, False])
def test_placing_a_network_lays_out_its_weights(channels_last: bool) -> None:
    model = network()
    compute = ComputeConfig(precision="fp32", channels_last=channels_last)
    placed(model, compute, CPU)
    weight = model.backbone[1][0].weight
    assert weight.is_contiguous(memory_format=memory_format(compute))
    assert model.backbone(clips().flatten(0, 1)).is_contiguous(memory_format=memory_format(compute))


# --- compilation

Compiler = Callable[[Any, Any], Any]


def use_compilers(monkeypatch: pytest.MonkeyPatch, forward: Compiler, backward: Compiler) -> None:
    """Has nn.Module.compile use these compilers instead of one that needs seconds and g++."""
    from torch._dynamo.backends.common import aot_autograd

    real = nn.Module.compile
    backend = aot_autograd(fw_compiler=forward, bw_compiler=backward)
    monkeypatch.setattr(nn.Module, "compile", lambda module: real(module, backend=backend))


def working(graph: Any, _: Any) -> Any:
    from torch._functorch.aot_autograd import make_boxed_func

    return make_boxed_func(graph.forward)


def failing(graph: Any, _: Any) -> Any:
    from torch._inductor.exc import InductorError

    raise InductorError(OSError("no space left\nand much more"), None)  # as the compiler with g++ does


def test_what_is_not_asked_for_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    use_compilers(monkeypatch, failing, failing)
    assert not compiled(network(), clips(), ComputeConfig(precision="fp32"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_network_is_the_same_network(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    use_compilers(monkeypatch, lambda *graph: graphs.append(graph) or working(*graph), working)
    model, compute = network(), ComputeConfig(compile=True, precision=precision)
    before = copy.deepcopy(model.state_dict())
    assert compiled(model.eval(), clips(), compute)
    assert graphs
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)  # batch norms have learned nothing
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    seen = len(graphs)
    with autocast(compute, CPU):
        pair = learned(model), learned(network())
    assert len(graphs) == seen  # the training step found everything compiled
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize(("forward", "backward"), [(failing, working), (working, failing)], ids=["forward", "backward"])
def test_training_goes_on_without_a_compiler_that_fails(
    forward: Compiler, backward: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_compilers(monkeypatch, forward, backward)
    model = network()
    with caplog.at_level(logging.WARNING, logger="trainer.compute"):
        assert not compiled(model, clips(), COMPILE)
    (message,) = caplog.messages
    assert message.startswith("torch.compile failed (")
    assert message.endswith("no space left); training goes on without it")
    for ours, theirs in zip(learned(model), learned(network()), strict=True):
        assert torch.equal(ours, theirs)


def test_training_goes_on_where_the_compiler_has_no_folder_to_write_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compile_into(module: nn.Module) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/none")

    monkeypatch.setattr(nn.Module, "compile", compile_into)
    assert not compiled(network(), clips(), COMPILE)
    assert "No such file or directory: '/proc/none'); training goes on" in caplog.text


def test_errors_of_the_network_itself_are_not_taken_for_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    use_compilers(monkeypatch, working, working)
    with pytest.raises(ValueError, match="built for frames of"):
        compiled(network(), torch.zeros(1, 1, 3, 8, 8), COMPILE)


NETWORKS: dict[str, dict[str, Any]] = {
    "resnet50": {"backbone": "resnet50"},
    "mobilenet_v2": {"backbone": "mobilenet_v2"},
    "softmax": {},
    "sigmoid": {"attention_gate": "sigmoid"},
    "factorised": {"attention_factorised": True},
    "without the second ReLU": {"attention_score_relu": False},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "without neck": {"neck": "none"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_backbone_and_head_is_one_graph_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: real(module, backend="eager"))
    settings = {"backbone": "tiny", "weights": "none", "height": 16, "width": 16} | NETWORKS[name]
    model = TemporalAttentionResNet(ModelConfig.model_validate(settings), 5)
    torch._dynamo.reset()
    counters.clear()
    try:
        assert compiled(model, torch.zeros(2, 2, 3, 16, 16), COMPILE)
        for _ in range(2):  # as the steps of a training, whose clips have one shape
            model.train()(torch.randn(2, 2, 3, 16, 16)).logits.sum().backward()
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]
    finally:
        torch._dynamo.reset()


REAL_COMPILER = """
import logging, torch
from trainer.compute import ComputeConfig, compiled
from trainer.evaluation.metrics import pairwise_distance, rank_embeddings
from trainer.model.network import ModelConfig, TemporalAttentionResNet
logging.basicConfig(format="%(message)s")
torch.set_num_threads(1)
config = ModelConfig(backbone="tiny", weights="none", height=32, width=16)
clips = torch.randn(4, 2, 3, 32, 16)
model, twin = TemporalAttentionResNet(config, 5), TemporalAttentionResNet(config, 5)
twin.load_state_dict(model.state_dict())
print("compiled", compiled(model, clips, ComputeConfig(precision="fp32", compile=True)))
for network in (model, twin):
    network.train()(clips).logits.logsumexp(1).mean().backward()
for (name, mine), other in zip(model.named_parameters(), twin.parameters()):
    if other.grad is not None:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
for (name, mine), other in zip(model.named_buffers(), twin.buffers()):
    torch.testing.assert_close(mine, other, msg=name)
"""


def run_real_compiler(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", REAL_COMPILER],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.e2e
@pytest.mark.long
def test_torchs_own_compiler_learns_the_same() -> None:
    assert run_real_compiler({}).stdout == "compiled True\n"


@pytest.mark.e2e
def test_torchs_own_compiler_may_be_missing(tmp_path: Path) -> None:
    process = run_real_compiler({"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": "/nonexistent"})
    assert process.stdout == "compiled False\n"
    assert "torch.compile failed (InvalidCxxCompiler: No working C++ compiler found" in process.stderr
    assert "); training goes on without it" in process.stderr


# --- the process

PAGE_FAULTS = """
import resource
import torch
from trainer.compute import prepare_process
torch.set_num_threads(1)
def steps(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(1 << 24).sum()  # 64 MiB, above any threshold that glibc takes by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = steps(4)
assert prepare_process() == (True, True)
steps(8)  # a handful of them until the heap has grown to what a step needs
print(plain, steps(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted by Linux, mallopt is glibc's")
def test_memory_is_not_fetched_from_the_kernel_again_and_again() -> None:
    command = [sys.executable, "-c", PAGE_FAULTS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    plain, prepared = map(int, output.split())
    assert prepared < plain / 10


def test_without_glibc_nothing_is_set_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


@pytest.mark.parametrize(("gib", "share", "limit"), [(80, 0.5, 39.25), (16, 0.25, 3.25), (4, 0.25, 0.5)])
def test_a_share_of_a_gpu_leaves_each_process_what_cuda_takes_besides(
    gib: int, share: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: types.SimpleNamespace(total_memory=gib * 2**30))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda part, _: limits.append(part * gib))
    limit_gpu_memory(share)
    assert limits == [limit]


def test_denormal_numbers_become_zero_in_a_prepared_process() -> None:
    try:
        if prepare_process().flushes_denormals:
            assert (torch.tensor([1e-39]) * 1).item() == 0
    finally:
        torch.set_flush_denormal(False)
