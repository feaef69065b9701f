"""Distances, CMC and mAP of a test set as large as MARS's: ours, its matrix product alone, and what others do.

    python -m benchmarks.bench_ranking [--queries 1980 --gallery 11310 --dimensions 2048] [--noise 6] [--quick]

One thread; processor seconds, medians of 7 runs that take turns; what takes tens of seconds is run once,
none with --quick. `product` writes into memory that is there, `product, new memory` does not. Extra memory is that of a
run in a process of its own. `settled_by_bf16` is the share of the queries whose matches a bf16 product ranks for
certain, by `mean_ap`, which falls with `--noise`. `verification` is the error rates of a threshold over all pairs,
distances included. Figures have to agree with ours to 1e-5: if not, the exit code is 1.
The process keeps freed memory, as the trainer's do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks import peers
from benchmarks.measuring import extra_memory, measure, measure_once, say
from trainer.compute import prepare_process
from trainer.data import Tracklet
from trainer.evaluation.analysis import pair_distances
from trainer.evaluation.metrics import Ranking, evaluate_ranking, pairwise_distance, rank_embeddings
from trainer.evaluation.retrieval import RetrievalData
from trainer.evaluation.verification import Verification, verify

IDENTITIES = 1252  # about 9 matches a query, as MARS has
RUNS = 7
TOLERANCE = 1e-5
GOAL = 1.15


def main() -> int:
    """Measures all, prints one JSON line, and says whether the figures agree."""
    asked = _arguments()
    torch.set_num_threads(1)
    given = peers.case(asked.queries, asked.gallery, asked.dimensions, IDENTITIES, noise=asked.noise)
    memory = _memory(given, asked.quick)
    prepare_process()
    others = peers.rankers()
    fast = {
        **_products(given),
        **_ours(given),
        **_verification(given),
        **{n: _bound(rank, given) for n, (rank, slow) in others.items() if not slow},
    }
    seconds = {name: found.as_dict(4) for name, found in measure(fast, runs=RUNS).items()}
    if not asked.quick:
        for name, (rank, slow) in others.items():
            if slow:
                seconds[name] = measure_once(_bound(rank, given)).as_dict(4)
    differences = _differences(given, asked.quick)
    over_product = {name: round(seconds[name]["cpu_s"] / seconds["product"]["cpu_s"], 3) for name in _ours(given)}
    agree = max(differences.values()) <= TOLERANCE
    say(
        benchmark="ranking",
        size=[asked.queries, asked.gallery, asked.dimensions],
        seconds=seconds,
        over_product=over_product,
        goal=GOAL,
        mean_ap=round(rank_embeddings(*given, metric="cosine").mean_ap, 3),
        settled_by_bf16=round(_settled_by_bf16(given), 3),
        extra_mib=memory,
        differences=differences,
        agree=agree,
        absent=peers.absent(),
    )
    return 0 if agree else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_ranking", description=__doc__)
    parser.add_argument("--queries", type=int, default=1980)
    parser.add_argument("--gallery", type=int, default=11310)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--noise", type=float, default=6.0, help="of an identity's embeddings, in units of identities'")
    parser.add_argument("--quick", action="store_true", help="leave out what takes tens of seconds")
    return parser.parse_args()


def _products(given: peers.Case) -> dict[str, Callable[[], object]]:
    out = torch.empty(len(given.query), len(given.gallery))
    halved = given.query.bfloat16(), given.gallery.bfloat16().T
    return {
        "product": lambda: torch.mm(given.query, given.gallery.T, out=out),
        "product, new memory": lambda: torch.mm(given.query, given.gallery.T),
        "product, bf16": lambda: torch.mm(*halved),
    }


def _ours(given: peers.Case) -> dict[str, Callable[[], Ranking]]:
    return {
        "rank_embeddings, cosine": lambda: rank_embeddings(*given, metric="cosine"),
        "rank_embeddings, euclidean": lambda: rank_embeddings(*given, metric="euclidean"),
        "pairwise_distance, evaluate_ranking": lambda: evaluate_ranking(
            pairwise_distance(given.query, given.gallery, "euclidean"), *given[2:]
        ),
    }


def _verification(given: peers.Case) -> dict[str, Callable[[], Verification]]:
    query, gallery = (
        [Tracklet((), *of) for of in zip(ids.tolist(), cameras.tolist(), strict=True)]
        for ids, cameras in ((given.query_ids, given.query_cameras), (given.gallery_ids, given.gallery_cameras))
    )
    data = RetrievalData(query, gallery, given.query, given.gallery)
    return {"verification": lambda: verify(*pair_distances(data))}


def _bound(rank: peers.Ranker, given: peers.Case) -> Callable[[], peers.Figures]:
    return lambda: rank(given)


def _differences(given: peers.Case, quick: bool) -> dict[str, float]:
    """Of mAP and rank-1 to ours, by Euclidean distances."""
    ours = _figures(rank_embeddings(*given, metric="euclidean"))
    theirs = {name: rank(given) for name, (rank, slow) in peers.rankers().items() if not (slow and quick)}
    theirs["evaluate_ranking"] = _figures(_ours(given)["pairwise_distance, evaluate_ranking"]())
    return {
        name: float(f"{max(abs(a - b) for a, b in zip(found, ours, strict=True)):.1e}")
        for name, found in theirs.items()
    }


def _settled_by_bf16(given: peers.Case) -> float:
    """Share of the queries none of whose matches is within rounding of a wrong tracklet, in cosines.

    For x and y rounded to x' and y', |xy - x'y'| <= |x - x'| |y| + |x'| |y - y'|, by Cauchy and Schwarz. Sums of D
    products in float32 may add D 2^-24 |x| |y| (Higham 2002, Accuracy and Stability of Numerical Algorithms, section
    3.1), which is left out, in favour of bf16.
    """
    asked, searched = (functional.normalize(side, dim=1) for side in (given.query, given.gallery))
    lost, lost_searched = (torch.linalg.vector_norm(x - x.bfloat16().float(), dim=1) for x in (asked, searched))
    settled = found = 0
    for query, row in enumerate(asked):
        cosines, bound = searched @ row, lost[query] + lost_searched
        wrong = given.gallery_ids != given.query_ids[query]
        match = ~wrong & (given.gallery_cameras != given.query_cameras[query])
        gaps = (cosines[match, None] - cosines[wrong]).abs()
        found += bool(match.any())
        settled += bool(match.any() and (gaps > bound[match, None] + bound[wrong]).all())
    return settled / found


def _figures(ranking: Ranking) -> peers.Figures:
    return peers.Figures(ranking.mean_ap, float(ranking.cmc[0]))


def _memory(given: peers.Case, quick: bool) -> dict[str, int]:
    others = {name: _bound(rank, given) for name, (rank, slow) in peers.rankers().items() if not (slow and quick)}
    return {name: extra_memory(work) for name, work in {**_ours(given), **_verification(given), **others}.items()}


if __name__ == "__main__":
    sys.exit(main())
