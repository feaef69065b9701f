"""What ranking and re-ranking are compared with: packages where they are installed, and the usual algorithms as told.

Packages are those of `benchmarks/peers.txt`, where they are installed; their imports are not part of any figure. The
algorithms are written from their descriptions: the figures of a ranking query by query, as the codes of the paper and
of most of this field have them; the same with dense masks; re-ranking with dense matrices and a loop over tracklets.

Q queries, G gallery, N = Q + G tracklets, D embedding.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IMPORTED = {
    "torchreid": ("torchreid.reid.metrics", "torchreid.reid.utils.rerank"),
    "oml": ("oml.functional.knn", "oml.functional.metrics"),
    "faiss": ("faiss",),
}


class Case(NamedTuple):
    """Embeddings of queries and gallery, their identities and cameras."""

    query: Tensor
    gallery: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor


class Figures(NamedTuple):
    """Over queries that have a match, in [0, 1]."""

    mean_ap: float
    rank1: float


Ranker = Callable[[Case], Figures]
Reranker = Callable[[Tensor, Tensor], np.ndarray]


def case(queries: int, gallery: int, dimensions: int, identities: int, *, cameras: int = 6, noise: float = 6.0) -> Case:
    """Tracklets of as many identities, the queries' among them, whose embeddings lie around the identity's; seeded."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)

    ids = draw(identities // 2, queries), draw(identities, gallery)
    centers = torch.randn(identities, dimensions, generator=generator)
    query, found = (
        (centers[who] + noise * torch.randn(len(who), dimensions, generator=generator)).contiguous() for who in ids
    )
    return Case(query, found, *ids, draw(cameras, queries), draw(cameras, gallery))


def rankers() -> dict[str, tuple[Ranker, bool]]:
    """What ranks, by name, and whether it takes tens of seconds."""
    found: dict[str, tuple[Ranker, bool]] = {
        "query by query (the paper's code)": (rank_query_by_query, True),
        "dense masks, argsort": (rank_by_masks, False),
    }
    if _installed("torchreid"):
        found["torchreid"] = rank_by_torchreid, True
    if _installed("oml"):
        found["open-metric-learning"] = rank_by_oml, False
    return found


def rerankers() -> dict[str, tuple[Reranker, bool]]:
    """What re-ranks, by name, and whether it takes minutes."""
    found: dict[str, tuple[Reranker, bool]] = {"tracklet by tracklet (as published)": (rerank_densely, True)}
    if _installed("torchreid"):
        found["torchreid"] = rerank_by_torchreid, False
    return found


def absent() -> list[str]:
    """Packages of peers.txt that are not installed here."""
    packages = {"torchreid": "torchreid", "oml": "open-metric-learning", "faiss": "faiss-cpu"}
    return [name for module, name in packages.items() if not _installed(module)]


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances as a product, as all of them are computed in this field."""
    squared = left.square().sum(1, keepdim=True) + right.square().sum(1)
    return squared.addmm_(left, right.T, alpha=-2).clamp_min_(0)


def rank_query_by_query(given: Case) -> Figures:
    """A sort of all distances, then a pass over the ranked list of each query."""
    distances = squared_distances(given.query, given.gallery).numpy()
    order = np.argsort(distances, axis=1)
    identities, cameras = given.gallery_ids.numpy(), given.gallery_cameras.numpy()
    matches = (identities[order] == given.query_ids.numpy()[:, None]).astype(np.int32)
    curves, precisions = [], []
    for query, (identity, camera) in enumerate(
        zip(given.query_ids.tolist(), given.query_cameras.tolist(), strict=True)
    ):
        ranked = order[query]
        kept = ~((identities[ranked] == identity) & (cameras[ranked] == camera))
        hits = matches[query][kept]
        if not hits.any():
            continue
        curve = hits.cumsum()
        curves.append(np.minimum(curve, 1)[:50])
        precision = [found / (rank + 1.0) for rank, found in enumerate(curve)]
        precisions.append((np.asarray(precision) * hits).sum() / hits.sum())
    return Figures(float(np.mean(precisions)), float(np.mean([curve[0] for curve in curves])))


def rank_by_masks(given: Case) -> Figures:
    """One sort and masks of all pairs, without a loop."""
    distances = squared_distances(given.query, given.gallery)
    same = given.query_ids[:, None] == given.gallery_ids
    removed = same & (given.query_cameras[:, None] == given.gallery_cameras)
    order = distances.masked_fill_(removed, torch.inf).argsort(1)
    hits = (same & ~removed).gather(1, order)
    counts = hits.sum(1)
    ranks = torch.arange(1, hits.shape[1] + 1)
    precision = (hits.cumsum(1) / ranks * hits).sum(1)[counts > 0] / counts[counts > 0]
    return Figures(float(precision.mean()), float(hits[counts > 0, 0].double().mean()))


def rank_by_torchreid(given: Case) -> Figures:
    """`torchreid.reid.metrics`, in Python: the package comes without its compiled form."""
    with _quiet():
        from torchreid.reid.metrics import compute_distance_matrix  # type: ignore[import-not-found]
        from torchreid.reid.metrics.rank import evaluate_rank  # type: ignore[import-not-found]

        distances = compute_distance_matrix(given.query, given.gallery, "euclidean").numpy()
        labels = [part.numpy() for part in given[2:]]
        curve, mean_ap = evaluate_rank(distances, *labels, use_cython=False)
    return Figures(float(mean_ap), float(curve[0]))


def rank_by_oml(given: Case) -> Figures:
    """`oml.functional`: what one camera saw of an identity is a sequence there, which is left out likewise."""
    from oml.functional.knn import batched_knn_qg  # type: ignore[import-not-found]
    from oml.functional.metrics import calc_retrieval_metrics  # type: ignore[import-not-found]

    cameras = 1 + int(max(given.query_cameras.max(), given.gallery_cameras.max()))
    _, retrieved, truth = batched_knn_qg(
        given.query,
        given.gallery,
        len(given.gallery),
        given.query_ids,
        given.gallery_ids,
        sequence_ids_query=given.query_ids * cameras + given.query_cameras,
        sequence_ids_gallery=given.gallery_ids * cameras + given.gallery_cameras,
    )
    valid = [query for query, items in enumerate(truth) if len(items)]
    found = calc_retrieval_metrics(
        [retrieved[query] for query in valid],
        [truth[query] for query in valid],
        cmc_top_k=(1,),
        precision_top_k=(),
        map_top_k=(len(given.gallery),),
        verbose=False,
    )
    return Figures(float(found["map"][len(given.gallery)]), float(found["cmc"][1]))


def rerank_by_torchreid(query: Tensor, gallery: Tensor) -> np.ndarray:
    """`torchreid.reid.utils.re_ranking`, given distances: it squares them itself."""
    with _quiet():
        from torchreid.reid.utils.rerank import re_ranking  # type: ignore[import-not-found]
    pairs = (query, gallery), (query, query), (gallery, gallery)
    distances = [squared_distances(left, right).sqrt_().numpy() for left, right in pairs]
    return np.asarray(re_ranking(*distances))


def rerank_densely(
    query: Tensor, gallery: Tensor, *, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> np.ndarray:
    """Zhong et al. 2017 with N x N matrices, a loop over all tracklets, and one over the queries."""
    everyone = torch.cat([query, gallery])
    distances = squared_distances(everyone, everyone).numpy()
    np.fill_diagonal(distances, 0)
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1)
    vectors = np.zeros_like(distances)
    for tracklet in range(len(everyone)):
        near = _reciprocal(order, tracklet, k1)
        wider = near
        for candidate in near:
            own = _reciprocal(order, candidate, round(k1 / 2))
            if len(np.intersect1d(own, near)) > 2 / 3 * len(own):
                wider = np.append(wider, own)
        wider = np.unique(wider)
        weights = np.exp(-distances[tracklet, wider])
        vectors[tracklet, wider] = weights / weights.sum()
    if k2 > 1:
        vectors = np.stack([vectors[order[tracklet, :k2]].mean(axis=0) for tracklet in range(len(everyone))])
    holders = [np.flatnonzero(vectors[:, column]) for column in range(len(everyone))]
    result = np.empty((len(query), len(gallery)), dtype=np.float32)
    for row in range(len(query)):
        shared = np.zeros(len(everyone), dtype=np.float32)
        for column in np.flatnonzero(vectors[row]):
            others = holders[column]
            shared[others] += np.minimum(vectors[row, column], vectors[others, column])
        result[row] = (1 - shared / (2 - shared))[len(query) :]
    return (1 - lambda_value) * result + lambda_value * distances[: len(query), len(query) :]


def _reciprocal(order: np.ndarray, tracklet: int, count: int) -> np.ndarray:
    forward = order[tracklet, : count + 1]
    return forward[(order[forward, : count + 1] == tracklet).any(axis=1)]


def nearest_by_faiss(everyone: Tensor, count: int) -> np.ndarray:
    """The nearest of each by faiss's exact index: the part of re-ranking that costs most, alone."""
    import faiss  # type: ignore[import-not-found]

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(everyone.shape[1])
    index.add(everyone.numpy())
    return np.asarray(index.search(everyone.numpy(), count)[1])


def _installed(module: str) -> bool:
    """Whether it is there; then it is imported now, and not while somebody measures."""
    if importlib.util.find_spec(module) is None:
        return False
    with _quiet():
        for part in IMPORTED[module]:
            importlib.import_module(part)
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
