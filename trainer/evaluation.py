"""Embeddings of tracklets, and the figures of a ranking.

B clips, T frames, D embedding, H height, W width, N tracklets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trainer.augment import normalised
from trainer.batches import EvaluationClips, Window, evaluation_loader
from trainer.clips import frame_windows
from trainer.data import Tracklet
from trainer.errors import DivergedError
from trainer.frozen import FrozenConfig
from trainer.metrics import Ranking, evaluate_ranking, pairwise_distance
from trainer.model import TemporalAttentionResNet
from trainer.result import Evaluation

Progress = Callable[[str, int, int], None]
"""Told (what is being done, steps done, steps in all)."""


def no_progress(what: str, done: int, total: int) -> None:
    """The listener that does not listen."""


class EvaluationConfig(FrozenConfig):
    """How often and how thoroughly a network is evaluated."""

    every: int = Field(10, ge=1)
    """Epochs between two evaluations on the validation split; the last epoch is always evaluated."""
    sampling: Literal["even", "dense"] = "even"
    """`even`: `clips` clips of evenly spaced frames, cheap. `dense`: every frame, in consecutive clips."""
    clips: int = Field(2, ge=1)
    """Clips per tracklet under `even` sampling."""
    batch: int = Field(64, ge=1)
    """Clips that pass through the network at once."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance between embeddings; the paper's code uses the Euclidean one."""
    protocol: Literal["standard", "mars_official"] = "standard"
    """Ranking protocol of the figures; see `trainer.metrics.evaluate_ranking`."""


class Embeddings(NamedTuple):
    """Tracklets as the network sees them."""

    vectors: Float[Tensor, "N D"]
    attention_entropy: float


def embed(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: EvaluationConfig,
    *,
    frames: int,
    size: tuple[int, int],
    workers: int = 0,
    progress: Progress = no_progress,
) -> Embeddings:
    """The mean embedding of each tracklet's clips, on the device of the model.

    Clips of several tracklets share a batch and only running sums are kept, so that memory depends neither on the
    length of a tracklet nor on the size of the data set beyond [N D].

    Args:
        model: the network; evaluated in eval mode and left in the mode it came in.
        tracklets: N tracklets.
        config: sampling and batch size.
        frames: frames per clip, T.
        size: (height, width) of the network's input in pixels.
        workers: processes that decode frames.
        progress: told after every batch.

    Raises:
        DataError: a frame is missing or damaged.
        DivergedError: an embedding is not finite.
    """
    device = next(model.parameters()).device
    windows = _windows(tracklets, config, frames)
    clips = EvaluationClips(tracklets, windows, size=size)
    loader = evaluation_loader(clips, batch=config.batch, workers=workers, device=device)
    sums = torch.zeros(len(tracklets), model.embedding_dim, device=device)
    counts = torch.zeros(len(tracklets), device=device)
    entropy = torch.zeros((), device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for step, (pixels, indices) in enumerate(loader, 1):
                indices = indices.to(device)
                output = model(normalised(pixels.to(device, non_blocking=True)))
                sums.index_add_(0, indices, output.embedding.float())
                counts.index_add_(0, indices, torch.ones_like(indices, dtype=counts.dtype))
                entropy += attention_entropy(output.weights).sum()
                progress("embedding", min(step * config.batch, len(windows)), len(windows))
    finally:
        model.train(was_training)
    vectors = sums / counts[:, None]
    if not bool(vectors.isfinite().all()):
        raise DivergedError("an embedding holds NaN or infinity")
    return Embeddings(vectors, float(entropy) / len(windows))


def _windows(tracklets: Sequence[Tracklet], config: EvaluationConfig, frames: int) -> list[Window]:
    return [
        Window(index, tuple(window))
        for index, tracklet in enumerate(tracklets)
        for window in frame_windows(config.sampling, len(tracklet.frames), frames, clips=config.clips).tolist()
    ]


def attention_entropy(weights: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Entropy of each clip's weights over frames divided by log T, in [0, 1]; 1 for clips of a single frame."""
    frames = weights.shape[1]
    if frames == 1:
        return torch.ones_like(weights[:, 0])
    entropy: Tensor = torch.special.entr(weights).sum(dim=1)
    return entropy / math.log(frames)


def rank_tracklets(
    model: TemporalAttentionResNet,
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    config: EvaluationConfig,
    *,
    frames: int,
    size: tuple[int, int],
    workers: int = 0,
    progress: Progress = no_progress,
) -> Evaluation:
    """Embeds query and gallery, ranks the gallery for each query and sums it up; arguments as in `embed`.

    Under `mars_official` the queries are part of the gallery.

    Raises:
        DataError: a frame is missing or damaged.
        ValueError: no query has a match in the gallery.
    """
    embeddings = embed(model, [*query, *gallery], config, frames=frames, size=size, workers=workers, progress=progress)
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
