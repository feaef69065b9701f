"""Hypothesis strategies for what losses and metrics are fed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
"""For properties of small tensors: the same examples in every run, and no clock: torch's start is slow."""

seeds = st.integers(0, 2**31 - 1)
"""Seeds of a generator; tensors drawn from one shrink no further, but come fast and without NaN."""


class Batch(NamedTuple):
    """Embeddings of clips, whose they are, and a vector per identity; float64."""

    embeddings: Tensor
    labels: Tensor
    class_vectors: Tensor


@st.composite
def batches(draw: st.DrawFn, *, least_clips: int = 1) -> Batch:
    """Batches of any composition: one clip per identity, one identity only, and what lies between."""
    clips, identities, dimensions = (
        draw(st.integers(least_clips, 9)),
        draw(st.integers(1, 4)),
        draw(st.integers(2, 5)),
    )
    labels = draw(st.lists(st.integers(0, identities - 1), min_size=clips, max_size=clips))
    generator = torch.Generator().manual_seed(draw(seeds))
    normal = torch.randn(clips + identities, dimensions, generator=generator, dtype=torch.float64)
    return Batch(normal[:clips], torch.tensor(labels), normal[clips:])


class RankingCase(NamedTuple):
    """The arguments of `evaluate_ranking`."""

    distances: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor


@st.composite
def ranking_cases(draw: st.DrawFn, *, ties: bool) -> RankingCase:
    """Few identities and cameras, junk and distractors in the gallery, and at least one query with a match."""
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    generator = torch.Generator().manual_seed(draw(seeds))
    distances = torch.rand(queries, gallery, generator=generator, dtype=torch.float64)
    if ties:
        distances = (distances * 4).floor()
    query_ids = torch.randint(1, 4, (queries,), generator=generator)
    gallery_ids = torch.randint(-1, 4, (gallery,), generator=generator)
    query_cameras = torch.randint(1, 3, (queries,), generator=generator)
    gallery_cameras = torch.randint(1, 3, (gallery,), generator=generator)
    gallery_ids[-1], gallery_cameras[-1] = query_ids[0], 3 - query_cameras[0]
    return RankingCase(distances, query_ids, gallery_ids, query_cameras, gallery_cameras)


class EmbeddingsCase(NamedTuple):
    """The arguments of `rank_embeddings`."""

    query: Tensor
    gallery: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor
    gallery_cameras: Tensor


@st.composite
def embeddings_cases(draw: st.DrawFn, *, ties: bool) -> EmbeddingsCase:
    """As `ranking_cases`, from embeddings; for ties all are corners of a cube, whose distances are exact."""
    _, *labels = draw(ranking_cases(ties=False))
    generator = torch.Generator().manual_seed(draw(seeds))
    dimensions = draw(st.integers(2, 5))

    def drawn(count: int) -> Tensor:
        if ties:
            return 1 - 2 * torch.randint(2, (count, dimensions), generator=generator).float()
        return torch.randn(count, dimensions, generator=generator, dtype=torch.float64)

    return EmbeddingsCase(drawn(len(labels[0])), drawn(len(labels[1])), *labels)


mutations = st.tuples(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.3]),
)


def mutated(content: bytes, mutation: tuple[list[tuple[float, int]], float]) -> bytes:
    """Some bytes changed, and the end cut off at times."""
    changed = bytearray(content)
    edits, kept = mutation
    for place, value in edits:
        changed[int(place * len(changed))] = value
    return bytes(changed[: int(kept * len(changed))])
