"""Slow references, written from the formulas with plain loops, that share no code with the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

CASES = Path(__file__).parent / "reference_cases"
"""Outputs of public reference code on small fixed inputs; its README says what each file holds."""

Matrix = np.ndarray
Labels = Sequence[int]


def cases(name: str) -> dict[str, np.ndarray]:
    """Arrays of a reference case."""
    with np.load(CASES / name) as arrays:
        return dict(arrays)


def distance(left: Matrix, right: Matrix) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)))


def cosine(left: Matrix, right: Matrix) -> float:
    """Cosine of two vectors, 0 if one of them is zero."""
    lengths = math.sqrt(sum(a * a for a in left)) * math.sqrt(sum(b * b for b in right))
    return sum(a * b for a, b in zip(left, right, strict=True)) / lengths if lengths else 0.0


def triplet(embeddings: Matrix, labels: Labels, margin: float | None, metric: str) -> float:
    """Batch-hard triplet loss; clips without a negative cost 0."""
    costs = []
    for anchor, identity in zip(embeddings, labels, strict=True):
        gaps = [distance(anchor, other) if metric == "euclidean" else 1 - cosine(anchor, other) for other in embeddings]
        positives = [gap for gap, label in zip(gaps, labels, strict=True) if label == identity]
        negatives = [gap for gap, label in zip(gaps, labels, strict=True) if label != identity]
        if not negatives:
            costs.append(0.0)
            continue
        gap = max(positives) - min(negatives)
        costs.append(math.log(1 + math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return sum(costs) / len(costs)


def center(embeddings: Matrix, labels: Labels, centers: Matrix) -> float:
    """Mean squared distance to the own center."""
    return sum(distance(x, centers[y]) ** 2 for x, y in zip(embeddings, labels, strict=True)) / len(labels)


def osm(
    embeddings: Matrix,
    labels: Labels,
    vectors: Matrix,
    alpha: float,
    sigma: float,
    balance: float,
    temperature: float = 1.0,
    weighed_at: Matrix | None = None,
) -> float:
    """OSM-CAA in linear space, as the paper's code writes it; a kind of pair that is absent costs 0.

    The weights are those of the embeddings `weighed_at`, where they are given.
    """
    weighed = embeddings if weighed_at is None else weighed_at
    attention = [_attention(x, y, vectors, temperature) for x, y in zip(weighed, labels, strict=True)]
    sums = {kind: [0.0, 0.0] for kind in ("positive", "negative")}
    for i, j in np.ndindex(len(labels), len(labels)):
        if i == j:
            continue
        squared = max(2 - 2 * cosine(embeddings[i], embeddings[j]), 0.0)
        weighed_squared = max(2 - 2 * cosine(weighed[i], weighed[j]), 0.0)
        pair = min(attention[i], attention[j])
        if labels[i] == labels[j]:
            kind, weight, value = "positive", math.exp(-weighed_squared / sigma**2) * pair, squared
        else:
            weight = max(alpha - math.sqrt(weighed_squared), 1e-12) * pair
            kind, value = "negative", max(alpha - math.sqrt(squared), 0.0) ** 2
        sums[kind][0] += weight * value
        sums[kind][1] += weight
    means = {kind: total / weight if weight else 0.0 for kind, (total, weight) in sums.items()}
    return ((1 - balance) * means["positive"] + balance * means["negative"]) / 2


def _attention(clip: Matrix, identity: int, vectors: Matrix, temperature: float) -> float:
    """Softmax over identities of the cosines / temperature, at the clip's own."""
    exponentials = [math.exp(cosine(clip, vector) / temperature) for vector in vectors]
    return exponentials[identity] / sum(exponentials)


def erased_attention(attention: Matrix, erased: Matrix, reduction: str) -> float:
    """Attention of erased frames: per clip summed, or averaged over all its frames; then averaged over clips."""
    clips = []
    for strengths, flags in zip(attention, erased, strict=True):
        given = sum(strength for strength, flag in zip(strengths, flags, strict=True) if flag)
        clips.append(given / len(strengths) if reduction == "mean" else given)
    return sum(clips) / len(clips)


def wen(embeddings: Matrix, labels: Labels, centers: Matrix, rate: float) -> Matrix:
    """The centers c - rate * sum (c - x) / (1 + n), identity by identity (Wen et al. 2016, Eq. 4)."""
    moved = []
    for identity, center in enumerate(centers):
        clips = [x for x, y in zip(embeddings, labels, strict=True) if y == identity]
        moved.append(center - rate * sum((center - x for x in clips), np.zeros_like(center)) / (1 + len(clips)))
    return np.stack(moved)


class Ranked(NamedTuple):
    """Figures of one query."""

    average_precision: float
    first: int
    """Rank of the first match."""
    inverse_negative_penalty: float


class Gallery(NamedTuple):
    """Identities and cameras of queries and of the gallery."""

    query_ids: Labels
    gallery_ids: Labels
    query_cameras: Labels
    gallery_cameras: Labels


def rank(distances: Matrix, labels: Gallery, protocol: str) -> list[Ranked | None]:
    """Figures query by query, None for a dropped one, by walking down each ranked list."""
    return [_rank_one(distances[query], labels, query, protocol) for query in range(len(distances))]


def _rank_one(distances: Matrix, labels: Gallery, query: int, protocol: str) -> Ranked | None:
    identity, camera = labels.query_ids[query], labels.query_cameras[query]
    hits = []
    for item in sorted(range(len(distances)), key=lambda item: (distances[item], item)):
        same = labels.gallery_ids[item] == identity
        if labels.gallery_ids[item] == -1 or (same and labels.gallery_cameras[item] == camera):
            continue
        hits.append(bool(same))
    if not any(hits):
        return None
    ranks = [position for position, hit in enumerate(hits, 1) if hit]
    area = _rectangles(hits) if protocol == "standard" else _trapezoids(hits)
    return Ranked(area, ranks[0], len(ranks) / ranks[-1])


def _rectangles(hits: list[bool]) -> float:
    precisions = [sum(hits[:position]) / position for position, hit in enumerate(hits, 1) if hit]
    return sum(precisions) / len(precisions)


def _trapezoids(hits: list[bool]) -> float:
    area, old_recall, old_precision = 0.0, 0.0, 1.0
    for position in range(1, len(hits) + 1):
        found = sum(hits[:position])
        recall, precision = found / sum(hits), found / position
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def cmc(ranked: list[Ranked | None], ranks: int) -> list[float]:
    """Share of the queries not dropped that have a match within each of the ranks."""
    firsts = [query.first for query in ranked if query is not None]
    return [sum(first <= within for first in firsts) / len(firsts) for within in range(1, ranks + 1)]


def temporal_attention(
    maps: Matrix, spatial: tuple[Matrix, Matrix], temporal: tuple[Matrix, Matrix], gate: str, *, score_relu: bool = True
) -> tuple[Matrix, Matrix, Matrix]:
    """Pooled features, scores and weights of clips of maps "B T C h w", frame by frame."""
    floor = 0.0 if score_relu else -math.inf
    pooled, scores, weights = [], [], []
    for clip in maps:
        hidden = [np.maximum([(kernel * frame).sum() for kernel in spatial[0]] + spatial[1], 0) for frame in clip]
        padded = [np.zeros_like(hidden[0]), *hidden, np.zeros_like(hidden[0])]
        score = np.array(
            [
                max(
                    floor,
                    sum((temporal[0][0, :, tap] * padded[t + tap]).sum() for tap in range(3)) + temporal[1][0],
                )
                for t in range(len(clip))
            ]
        )
        strength = np.exp(score) if gate == "softmax" else 1 / (1 + np.exp(-score))
        weight = strength / strength.sum()
        pooled.append(sum(w * frame.mean((1, 2)) for w, frame in zip(weight, clip, strict=True)))
        scores.append(score)
        weights.append(weight)
    return np.stack(pooled), np.stack(scores), np.stack(weights)


def k_reciprocal(query: Matrix, gallery: Matrix, k1: int, k2: int, share: float) -> Matrix:
    """Re-ranked distances of Zhong et al. 2017, tracklet by tracklet."""
    rows = np.concatenate([query, gallery])
    squared = np.array([[distance(left, right) ** 2 for right in rows] for left in rows])
    scaled = squared / squared.max(axis=1, keepdims=True)
    order = [sorted(range(len(rows)), key=lambda other: scaled[row, other]) for row in range(len(rows))]

    def reciprocal(row: int, count: int) -> set[int]:
        return {other for other in order[row][: count + 1] if row in order[other][: count + 1]}

    vectors = np.zeros_like(scaled)
    for row in range(len(rows)):
        near = reciprocal(row, k1)
        wider = set(near)
        for candidate in near:
            own = reciprocal(candidate, round(k1 / 2))
            if len(own & near) > 2 / 3 * len(own):
                wider |= own
        for other in wider:
            vectors[row, other] = math.exp(-scaled[row, other])
        vectors[row] /= vectors[row].sum()
    if k2 > 1:
        vectors = np.stack([vectors[order[row][:k2]].mean(axis=0) for row in range(len(rows))])
    result = np.empty((len(query), len(gallery)))
    for row, column in np.ndindex(result.shape):
        left, right = vectors[row], vectors[len(query) + column]
        jaccard = 1 - np.minimum(left, right).sum() / np.maximum(left, right).sum()
        result[row, column] = (1 - share) * jaccard + share * scaled[row, len(query) + column]
    return result
