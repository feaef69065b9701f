"""An evaluation on a GPU, pretended: the metrics are the CPU's, and the host waits for it no more than it has to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pretend_gpu import FROM_GPU, TO_GPU, PretendGpu
from torch import Tensor
from trainings import changed

from trainer.config import TrialConfig
from trainer.data import READERS, Tracklet
from trainer.data.dataset import Pair
from trainer.evaluation import metrics, rerank
from trainer.evaluation.analysis import distance_sample, nearest, pair_distances, precision_by_camera
from trainer.evaluation.embed import attention_over_frames, embed
from trainer.evaluation.evaluate import (
    EvaluationResult,
    _with_pairs,
    evaluate_network,
    with_reranking,
    with_verification,
)
from trainer.evaluation.metrics import evaluate_ranking, pairwise_distance, rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.model.network import TemporalAttentionResNet
from trainer.result import no_progress

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
READ = "_local_scalar_dense"


@pytest.fixture(scope="module")
def query(mini_mars: Path) -> Sequence[Tracklet]:
    return READERS["mars"](mini_mars).query


@pytest.fixture(scope="module")
def gallery(mini_mars: Path) -> Sequence[Tracklet]:
    return READERS["mars"](mini_mars).gallery


def network(config: TrialConfig) -> TemporalAttentionResNet:
    torch.manual_seed(0)
    return TemporalAttentionResNet(config.model, 3).eval()


# --- embedding


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"evaluation__pooling": "max", "evaluation__sampling": "dense"},
        {"evaluation__feature": "before_neck", "compute__channels_last": False},
        {"compute__precision": "bf16"},
        {"model__pooling": "max", "loss__attention_weight": 0},
    ],
    ids=str,
)
def test_embedding_copies_the_frames_alone_and_waits_at_its_end(
    tiny_config: TrialConfig, gallery: Sequence[Tracklet], settings: dict[str, Any]
) -> None:
    config = changed(tiny_config, evaluation__batch=3, **settings)
    expected = embed(network(config), gallery, config)
    batches: list[int] = []
    with PretendGpu() as gpu:
        model = network(config).to("cuda")
        gpu.forget()
        found = embed(model, gallery, config, progress=lambda *_: batches.append(gpu.waits.total()))
        copies, waits = +gpu.copies, +gpu.waits
        vectors = found.vectors.cpu()
    assert len(batches) > 3
    assert set(batches) == {3}, "a batch made the host wait"
    assert copies == {TO_GPU: len(batches) + 3}, "frames, and once whose they are, scale and offset"
    assert waits.total() - 3 == waits[f"{READ} in embed.embed_clips"] == 2, "whether all is finite, and the entropy"
    assert torch.equal(vectors, expected.vectors)
    assert found.attention_entropy == expected.attention_entropy


def test_attention_over_frames_is_copied_back_once_a_batch(
    tiny_config: TrialConfig, gallery: Sequence[Tracklet]
) -> None:
    config = changed(tiny_config, evaluation__batch=3)
    expected = attention_over_frames(network(config), gallery, config)
    with PretendGpu() as gpu:
        model = network(config).to("cuda")
        gpu.forget()
        found = attention_over_frames(model, gallery, config)
    batches = -(-len(gallery) // 3)
    assert gpu.copies == {TO_GPU: batches + 2, FROM_GPU: batches}
    assert all(torch.equal(ours.weights, theirs.weights) for ours, theirs in zip(found, expected, strict=True))


# --- ranking


class Embedded(NamedTuple):
    """Queries and a gallery with ties, junk and distractors."""

    query: Tensor
    gallery: Tensor
    labels: tuple[Tensor, Tensor, Tensor, Tensor]


def embedded(queries: int, seed: int = 0, tracklets: int = 60) -> Embedded:
    draws = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-2, 3, (queries + tracklets, 4), generator=draws).float()
    identities = torch.randint(-1, 6, (tracklets,), generator=draws)
    cameras = torch.randint(3, (tracklets,), generator=draws)
    asked = torch.arange(queries) % 5 + 1
    return Embedded(vectors[:queries], vectors[queries:], (asked, identities, asked % 3, cameras))


Rank = Callable[[Embedded], metrics.Ranking]
RANKINGS: dict[str, Rank] = {
    "cosine": lambda data: rank_embeddings(data.query, data.gallery, *data.labels, metric="cosine"),
    "Euclidean": lambda data: rank_embeddings(
        data.query, data.gallery, *data.labels, metric="euclidean", protocol="mars_official"
    ),
    "distances": lambda data: evaluate_ranking(pairwise_distance(data.query, data.gallery, "cosine"), *data.labels),
    "Euclidean distances": lambda data: evaluate_ranking(
        pairwise_distance(data.query, data.gallery, "euclidean").double(), *data.labels
    ),
}


def on_gpu(data: Embedded) -> Embedded:
    """The embeddings on the GPU; labels come from the data set and stay on the CPU."""
    return data._replace(query=data.query.to("cuda"), gallery=data.gallery.to("cuda"))


def assert_same_ranking(found: metrics.Ranking, expected: metrics.Ranking) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("how", RANKINGS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_ranking_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch, how: str, blocks: int) -> None:
    data = embedded(12)
    monkeypatch.setattr(metrics, "BLOCK", 12 * 60 // blocks)
    expected = RANKINGS[how](data)
    with PretendGpu() as gpu:
        there = on_gpu(data)
        gpu.forget()
        found = RANKINGS[how](there)
    assert gpu.copies == {TO_GPU: 4, FROM_GPU: 3 * blocks}, "labels; queries, ranks and sizes of each block"
    assert_same_ranking(found, expected)


@pytest.mark.parametrize("how", RANKINGS)
def test_a_ranking_waits_for_blocks_and_not_for_queries(how: str) -> None:
    waits: list[Counter[str]] = []
    for queries in (5, 40):
        with PretendGpu() as gpu:
            there = on_gpu(embedded(queries))
            gpu.forget()
            RANKINGS[how](there)
        waits.append(gpu.waits)
    assert waits[0] == waits[1]


# --- re-ranking


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (3, 2)])
@pytest.mark.parametrize("blocks", [1, 4])
def test_reranked_distances_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, k1: int, k2: int, blocks: int
) -> None:
    draws = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(20, 8, generator=draws), torch.randn(300, 8, generator=draws)
    gallery[7] = gallery[3] = query[0]
    monkeypatch.setattr(rerank, "BLOCK_BYTES", 4 * 320 * 320 // blocks)
    expected = k_reciprocal_distance(query, gallery, k1=k1, k2=k2)
    with PretendGpu() as gpu:
        there = query.to("cuda"), gallery.to("cuda")
        gpu.forget()
        found = k_reciprocal_distance(*there, k1=k1, k2=k2)
    assert gpu.copies == {TO_GPU: 2, FROM_GPU: 3}, "who is whose neighbour; neighbours, distances and weights"
    assert torch.equal(found, expected)


def test_reranking_does_not_wait_for_single_tracklets() -> None:
    waits: list[Counter[str]] = []
    for tracklets in (50, 200):
        with PretendGpu() as gpu:
            there = on_gpu(embedded(20, tracklets=tracklets))
            gpu.forget()
            k_reciprocal_distance(there.query, there.gallery)
        waits.append(gpu.waits)
    assert waits[0] == waits[1]


# --- the whole evaluation


def evaluated(config: TrialConfig, query: Sequence[Tracklet], gallery: Sequence[Tracklet], device: str) -> Any:
    """All metrics, and what charts and sheets are made of."""
    model = network(config).to(device)
    ranked = evaluate_network(model, query, gallery, config, reranking=True)
    return with_verification(ranked)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", ["mars", "mars_query_in_gallery"])
def test_an_evaluation_has_the_metrics_of_the_cpu(
    tiny_config: TrialConfig, query: Sequence[Tracklet], gallery: Sequence[Tracklet], distance: str, protocol: str
) -> None:
    config = changed(tiny_config, evaluation__distance=distance, evaluation__protocol=protocol)
    expected: EvaluationResult = evaluated(config, query, gallery, "cpu")
    with PretendGpu() as gpu:
        found: EvaluationResult = evaluated(config, query, gallery, "cuda")
        again = with_reranking(found)
        gpu.forget()
        matching, others = pair_distances(found.data)
        assert gpu.copies == {FROM_GPU: 1} and gpu.waits.total() == 1
        analysed = (nearest(found.data, [0, 2]), precision_by_camera(found.data), distance_sample(found.data))
    assert again is found
    assert found.evaluation == expected.evaluation and found.evaluation.verification is not None
    assert found.roc == expected.roc
    assert_same_ranking(found.ranking, expected.ranking)
    assert found.reranked is not None and expected.reranked is not None
    assert_same_ranking(found.reranked, expected.reranked)
    for ours, theirs in zip((matching, others), pair_distances(expected.data), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert analysed[0] == nearest(expected.data, [0, 2])
    np.testing.assert_array_equal(analysed[1].average_precision, precision_by_camera(expected.data).average_precision)
    for ours, theirs in zip(analysed[2], distance_sample(expected.data), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_listed_pairs_are_judged_as_on_the_cpu_by_one_copy_of_their_distances(
    tiny_config: TrialConfig, query: Sequence[Tracklet], gallery: Sequence[Tracklet]
) -> None:
    everyone = [*query, *gallery]
    pairs = [Pair(*both, number % 2) for number, both in enumerate(combinations(everyone, 2))]

    def judged(model: TemporalAttentionResNet) -> EvaluationResult:
        result = evaluate_network(model, query, gallery, tiny_config, reranking=False)
        return _with_pairs(result, pairs, None, no_progress)

    expected = judged(network(tiny_config))
    with PretendGpu() as gpu:
        found = judged(network(tiny_config).to("cuda"))
    assert found.evaluation == expected.evaluation and found.evaluation.pairs is not None
    assert gpu.waits["copy from the GPU in evaluate._with_pairs"] == 1
