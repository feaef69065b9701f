"""What each lever of training and embedding on a processor is worth here, one by one, on one thread.

    python -m benchmarks.bench_levers [--images 8] [--height 224 --width 112]

- process: a training step in a fresh process, as it comes and after `trainer.prepare_process`, with its page faults;
- denormals: an AdamW step over 10 million parameters whose moments have decayed below 1e-38, flushed to 0 and not;
- layout and precision: the same step in fp32 and bf16, contiguous and channels last;
- attention: the paper's convolution over the whole map as torch computes it, and as one matrix product;
- embedding: the network in eval mode, and its inference copies, with how far their embeddings are from fp32.

Processor seconds, medians of 5 runs; rivals take turns except where a process of its own is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.bench_step import in_memory_batch, whole_step
from benchmarks.measuring import LEAST_RUNS, measure, say
from trainer.compute import ComputeConfig, prepare_process
from trainer.config import TrialConfig
from trainer.model.attention import TemporalAttention
from trainer.model.inference import inference_copy
from trainer.model.network import ModelConfig, TemporalAttentionResNet

CPU = torch.device("cpu")
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


def main() -> None:
    """Measures all levers and prints one JSON line; with --child, one training step for the parent."""
    asked = _arguments()
    torch.set_num_threads(1)
    if asked.child is not None:
        print(json.dumps(_one_process(asked)))
        return
    report = {
        "process": _process(asked),
        "denormals": _denormals(),
        "step": _step(asked),
        "attention": _attention(asked),
        "embedding": _embedding(asked),
    }
    say(benchmark="levers", images=asked.images, size=[asked.height, asked.width], unit="cpu_s", **report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_levers", description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=112)
    parser.add_argument("--child", metavar="JSON", help=argparse.SUPPRESS)
    return parser.parse_args()


def _config(asked: argparse.Namespace, **compute: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "clips": {"identities": 2, "tracklets": asked.images // 8, "frames": 4},
            "model": {"weights": "none", "height": asked.height, "width": asked.width},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 1.0},
            "compute": compute,
        }
    )


def _process(asked: argparse.Namespace) -> dict[str, Any]:
    """Each precision in processes of its own, started three ways."""
    starts: dict[str, tuple[bool, dict[str, str]]] = {
        "as it comes": (False, {}),
        "MALLOC_ variables": (False, MALLOC),
        "prepare_process": (True, {}),
    }
    found = {}
    for precision in ("fp32", "bf16"):
        for name, (prepared, environment) in starts.items():
            child = json.dumps({"precision": precision, "prepared": prepared})
            size = [f"--images={asked.images}", f"--height={asked.height}", f"--width={asked.width}"]
            command = [sys.executable, "-m", "benchmarks.bench_levers", *size, "--child", child]
            output = subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
            )
            found[f"{precision}, {name}"] = json.loads(output.stdout.splitlines()[-1])
    return found


def _one_process(asked: argparse.Namespace) -> dict[str, float]:
    """Processor seconds and page faults of a training step in this process."""
    told = json.loads(asked.child)
    if told["prepared"]:
        prepare_process()
    config = _config(asked, precision=told["precision"])
    step = whole_step(config, in_memory_batch(config, CPU), CPU)
    step()
    step()
    faults = [_page_faults(step) for _ in range(LEAST_RUNS)]
    seconds = measure({"step": step}, runs=LEAST_RUNS, warmup=0)["step"].cpu_s
    return {"cpu_s": round(seconds, 3), "page_faults": statistics.median(faults)}


def _page_faults(step: Callable[[], object]) -> int:
    import resource  # Unix only

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _denormals() -> dict[str, float]:
    parameter = torch.nn.Parameter(torch.full((10_000_000,), 0.01))
    optimizer = torch.optim.AdamW([parameter], weight_decay=0.0, fused=True)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def decayed(flush: bool) -> Callable[[], None]:
        def step() -> None:
            torch.set_flush_denormal(flush)
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][moment].fill_(1e-40)
            optimizer.step()

        return step

    found = measure({"kept": decayed(False), "flushed": decayed(True)}, runs=LEAST_RUNS)
    torch.set_flush_denormal(False)
    return _seconds(found)


def _step(asked: argparse.Namespace) -> dict[str, float]:
    prepare_process()
    steps = {}
    for precision in ("fp32", "bf16"):
        for channels_last in (False, True):
            config = _config(asked, precision=precision, channels_last=channels_last)
            name = f"{precision}, {'channels last' if channels_last else 'contiguous'}"
            steps[name] = whole_step(config, in_memory_batch(config, CPU), CPU)
    return _seconds(measure(steps, runs=LEAST_RUNS))


def _attention(asked: argparse.Namespace) -> dict[str, float]:
    height, width = -(-asked.height // 16), -(-asked.width // 16)
    attention = TemporalAttention(2048, (height, width)).to(memory_format=torch.channels_last)
    maps = torch.randn(asked.images, 2048, height, width).contiguous(memory_format=torch.channels_last)

    def convolution() -> None:
        attention.zero_grad(set_to_none=True)
        functional.relu(attention.spatial(maps.requires_grad_())).sum().backward()  # type: ignore[no-untyped-call]

    def product() -> None:
        attention.zero_grad(set_to_none=True)
        attention(maps.requires_grad_()[:, None]).scores.sum().backward()

    return _seconds(measure({"convolution": convolution, "whole head, as a product": product}, runs=LEAST_RUNS))


def _embedding(asked: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = TemporalAttentionResNet(ModelConfig(weights="none", height=asked.height, width=asked.width), 625)
    frames = torch.randn(asked.images // 4, 4, 3, asked.height, asked.width)
    with torch.no_grad():
        model(frames)  # statistics for the batch norms
    model.eval()
    networks = {
        "eval": model,
        "fp32 copy": inference_copy(model, ComputeConfig(precision="fp32")),
        "bf16 copy": inference_copy(model, ComputeConfig(precision="bf16")),
    }
    with torch.inference_mode():
        found = measure({name: lambda n=n: n(frames) for name, n in networks.items()}, runs=LEAST_RUNS)  # type: ignore[misc]
        exact = model(frames).embedding
        cosines = {
            name: round(float(functional.cosine_similarity(network(frames).embedding, exact).min()), 6)
            for name, network in networks.items()
        }
    return {"cpu_s": _seconds(found), "least_cosine_with_eval": cosines}


def _seconds(found: dict[str, Any]) -> dict[str, float]:
    return {name: round(measurement.cpu_s, 4) for name, measurement in found.items()}


if __name__ == "__main__":
    main()
