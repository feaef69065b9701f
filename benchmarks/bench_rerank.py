"""Re-ranking by k-reciprocal neighbours: ours, the arithmetic in it, and what others do.

    python -m benchmarks.bench_rerank [--sizes 3000 6000 13290] [--slow]

One thread; processor seconds, medians of 5 runs of ours and of the products, one run of each peer. A size is queries
and gallery together, at MARS's proportion; D = 2048. What goes tracklet by tracklet runs up to 3,000 tracklets, beyond
that with --slow. Of a million distances 10 may differ from ours by more than 2e-4, as they do where a peer's rounding
exchanges two neighbours: with more, the exit code is 1. Extra memory is that of a run in a process of its own. The
process keeps freed memory, as the trainer's do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.measuring import LEAST_RUNS, extra_memory, measure, measure_once, say
from trainer.compute import prepare_process
from trainer.evaluation.rerank import k_reciprocal_distance

DIMENSIONS = 2048
QUERIES = 1980 / 13290
TRACKLETS_OF_AN_IDENTITY = 18
SLOW_FROM = 3001
TOLERANCE = 2e-4
BEYOND = 1e-5  # share of the distances
GOAL_S, GOAL_MIB = 5.0, 1536


def main() -> int:
    """Measures every size, prints one JSON line, and says whether the distances agree."""
    asked = _arguments()
    torch.set_num_threads(1)
    # Memory first: what freed memory is kept would hide what a run needs.
    memory = {size: _memory(*embeddings(size)) for size in asked.sizes}
    prepare_process()
    rows = [{**_compared(size, slow=asked.slow), "extra_mib": memory[size]} for size in asked.sizes]
    agree = all(found["beyond"] <= BEYOND for row in rows for found in row["differences"].values())
    say(benchmark="rerank", goal_s=GOAL_S, goal_mib=GOAL_MIB, agree=agree, absent=peers.absent(), results=rows)
    return 0 if agree else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_rerank", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 6000, 13290])
    parser.add_argument("--slow", action="store_true", help="let what takes minutes run at every size")
    return parser.parse_args()


def embeddings(size: int) -> tuple[Tensor, Tensor]:
    """Of queries and gallery, so many tracklets in all, at MARS's proportion."""
    queries = round(size * QUERIES)
    case = peers.case(queries, size - queries, DIMENSIONS, 2 * size // TRACKLETS_OF_AN_IDENTITY, noise=1.5)
    return case.query, case.gallery


def _compared(size: int, *, slow: bool) -> dict[str, Any]:
    query, gallery = embeddings(size)
    fast: dict[str, Callable[[], object]] = {
        "ours": lambda: k_reciprocal_distance(query, gallery),
        **_products(torch.cat([query, gallery])),
    }
    seconds = {name: found.as_dict(3) for name, found in measure(fast, runs=LEAST_RUNS).items()}
    ours = k_reciprocal_distance(query, gallery).numpy()
    differences: dict[str, dict[str, float]] = {}
    for name, (rerank, is_slow) in peers.rerankers().items():
        if is_slow and size >= SLOW_FROM and not slow:
            continue
        found: list[np.ndarray] = []
        seconds[name] = measure_once(_keeping(rerank, query, gallery, found)).as_dict(3)
        differences[name] = _difference(found[0], ours)
    if "faiss-cpu" not in peers.absent():
        everyone = torch.cat([query, gallery])
        seconds["faiss, nearest alone"] = measure_once(lambda: peers.nearest_by_faiss(everyone, 21)).as_dict(3)
    return {"tracklets": size, "queries": len(query), "seconds": seconds, "differences": differences}


def _difference(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """The largest difference, and the share of those beyond the tolerance."""
    difference = np.abs(left - right)
    return {"largest": float(f"{difference.max():.1e}"), "beyond": float(f"{(difference > TOLERANCE).mean():.1e}")}


def _keeping(rerank: peers.Reranker, query: Tensor, gallery: Tensor, found: list[np.ndarray]) -> Callable[[], None]:
    return lambda: found.append(rerank(query, gallery))


def _products(everyone: Tensor) -> dict[str, Callable[[], object]]:
    """All inner products: in fp32, in bf16, and by two bf16 pieces of each number, nearly as exact as fp32."""
    halved = everyone.bfloat16()
    high = halved.float()
    low = (everyone - high).bfloat16().float()
    left, right = torch.cat([high, high, low], 1), torch.cat([high, low, high], 1)
    return {
        "product, all pairs": lambda: everyone @ everyone.T,
        "product, bf16": lambda: halved @ halved.T,
        "product, two bf16 pieces": lambda: _by_bf16(left, right),
    }


def _by_bf16(left: Tensor, right: Tensor) -> Tensor:
    """left right^T in fp32, its products in bf16 where the processor has them: torch has no such function on a CPU."""
    torch.set_float32_matmul_precision("medium")
    try:
        return left @ right.T
    finally:
        torch.set_float32_matmul_precision("highest")


def _memory(query: Tensor, gallery: Tensor) -> dict[str, int]:
    runs: dict[str, Callable[[], object]] = {"ours": lambda: k_reciprocal_distance(query, gallery)}
    for name, (rerank, is_slow) in peers.rerankers().items():
        if not is_slow:
            runs[name] = _keeping(rerank, query, gallery, [])
    return {name: extra_memory(run) for name, run in runs.items()}


if __name__ == "__main__":
    sys.exit(main())
