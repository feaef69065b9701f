"""Embeddings of tracklets, and the figures of a ranking.

B clips, T frames, D embedding, H height, W width, N tracklets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trainer.attention import attention_entropy
from trainer.augment import normalised
from trainer.batches import EvaluationClips, Window, evaluation_loader
from trainer.clips import frame_windows
from trainer.compute import ComputeConfig, laid_out
from trainer.data import Tracklet
from trainer.errors import DivergedError
from trainer.frozen import FrozenConfig
from trainer.inference import inference_copy
from trainer.metrics import Ranking, evaluate_ranking, pairwise_distance
from trainer.model import Feature, TemporalAttentionResNet
from trainer.progress import Progress, no_progress
from trainer.result import Evaluation


class EvaluationConfig(FrozenConfig):
    """How often and how thoroughly a network is evaluated."""

    every: int = Field(10, ge=1)
    """Epochs between two evaluations on the validation split; the last epoch is always evaluated."""
    sampling: Literal["even", "dense"] = "even"
    """`even`: `clips` clips of evenly spaced frames, cheap. `dense`: every frame, in consecutive clips."""
    clips: int = Field(2, ge=1)
    """Clips per tracklet under `even` sampling."""
    max_clips: int | None = Field(None, ge=1)
    """Clips per tracklet under `dense` sampling at most, the first ones; 41 in the paper's code, null for all."""
    batch: int = Field(64, ge=1)
    """Clips that pass through the network at once."""
    feature: Feature = "after_neck"
    """The embedding that is ranked: the neck's output, or what goes into it."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance between embeddings. `cosine` is what normalising them to length 1 gives (Luo et al. 2019); the
    paper's code uses the Euclidean distance of embeddings as they are."""
    protocol: Literal["standard", "mars_official"] = "standard"
    """Ranking protocol of the figures; see `trainer.metrics.evaluate_ranking`."""


class Viewing(NamedTuple):
    """How tracklets reach the network."""

    frames: int
    """Frames per clip, T."""
    size: tuple[int, int]
    """Height and width of the network's input, in pixels."""
    workers: int
    """Processes that decode frames."""
    compute: ComputeConfig
    """Precision of the weights and memory layout; embeddings are in float32 whatever it is."""


class Embeddings(NamedTuple):
    """Tracklets as the network sees them."""

    vectors: Float[Tensor, "N D"]
    attention_entropy: float


def embed(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: EvaluationConfig,
    viewing: Viewing,
    *,
    progress: Progress = no_progress,
) -> Embeddings:
    """The mean embedding of each tracklet's clips, on the device of the model.

    Clips of several tracklets share a batch and only running sums are kept, so that memory depends neither on the
    length of a tracklet nor on the size of the data set beyond [N D].

    Args:
        model: the network; left as it is, a copy made for inference embeds.
        tracklets: N tracklets.
        config: sampling and batch size.
        viewing: how the tracklets reach the network.
        progress: told after every batch.

    Raises:
        DataError: a frame is missing or damaged.
        DivergedError: an embedding is not finite.
    """
    device = next(model.parameters()).device
    windows = _windows(tracklets, config, viewing.frames)
    clips = EvaluationClips(tracklets, windows, size=viewing.size)
    loader = evaluation_loader(clips, batch=config.batch, workers=viewing.workers, device=device)
    sums = torch.zeros(len(tracklets), model.embedding_dim, device=device)
    counts = torch.zeros(len(tracklets), device=device)
    entropy = torch.zeros((), device=device)
    network = inference_copy(model, viewing.compute)
    with torch.inference_mode():
        for step, (pixels, indices) in enumerate(loader, 1):
            indices = indices.to(device)
            frames = normalised(pixels.to(device, non_blocking=True))
            output = network(laid_out(frames, viewing.compute))
            sums.index_add_(0, indices, output.feature(config.feature))
            counts.index_add_(0, indices, torch.ones_like(indices, dtype=counts.dtype))
            entropy += attention_entropy(output.weights).sum()
            progress("embedding", min(step * config.batch, len(windows)), len(windows))
    vectors = sums / counts[:, None]
    if not bool(vectors.isfinite().all()):
        raise DivergedError("an embedding holds NaN or infinity")
    return Embeddings(vectors, float(entropy) / len(windows))


def _windows(tracklets: Sequence[Tracklet], config: EvaluationConfig, frames: int) -> list[Window]:
    return [
        Window(index, tuple(window))
        for index, tracklet in enumerate(tracklets)
        for window in frame_windows(
            config.sampling, len(tracklet.frames), frames, clips=config.clips, max_clips=config.max_clips
        ).tolist()
    ]


def rank_tracklets(
    model: TemporalAttentionResNet,
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    config: EvaluationConfig,
    viewing: Viewing,
    *,
    progress: Progress = no_progress,
) -> Evaluation:
    """Embeds query and gallery, ranks the gallery for each query and sums it up; arguments as in `embed`.

    Under `mars_official` the queries are part of the gallery.

    Raises:
        DataError: a frame is missing or damaged.
        ValueError: no query has a match in the gallery.
    """
    embeddings = embed(model, [*query, *gallery], config, viewing, progress=progress)
    first = 0 if config.protocol == "mars_official" else len(query)
    searched = [*query, *gallery][first:]
    ranking = evaluate_ranking(
        pairwise_distance(embeddings.vectors[: len(query)], embeddings.vectors[first:], config.distance),
        torch.tensor([tracklet.person for tracklet in query]),
        torch.tensor([tracklet.person for tracklet in searched]),
        torch.tensor([tracklet.camera for tracklet in query]),
        torch.tensor([tracklet.camera for tracklet in searched]),
        protocol=config.protocol,
    )
    return _summary(ranking, embeddings.attention_entropy, config.protocol)


def _summary(ranking: Ranking, entropy: float, protocol: str) -> Evaluation:
    def rank(k: int) -> float:
        return float(ranking.cmc[min(k, len(ranking.cmc)) - 1])

    return Evaluation(
        mAP=float(ranking.mean_ap),
        mAP_standard_error=float(ranking.standard_error),
        mINP=float(ranking.mean_inp),
        rank1=rank(1),
        rank5=rank(5),
        rank10=rank(10),
        rank20=rank(20),
        attention_entropy=entropy,
        protocol=protocol,
        queries=int(ranking.valid.sum()),
        dropped_queries=int(ranking.dropped),
    )
