"""Embeddings of tracklets, and how they are evaluated.

B clips, T frames, D embedding, H height, W width, N tracklets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from trainer.compute import ComputeConfig, laid_out
from trainer.data import Tracklet
from trainer.data.dataset import ProtocolName
from trainer.data.frames import DamagedFrames
from trainer.errors import DivergedError
from trainer.evaluation.rerank import RerankConfig
from trainer.frozen import FrozenConfig
from trainer.input.augment import normalised
from trainer.input.clips import frame_windows
from trainer.input.loader import EvaluationClips, FrameWait, Window, evaluation_loader
from trainer.model.attention import attention_entropy
from trainer.model.inference import inference_copy
from trainer.model.network import Feature, TemporalAttentionResNet
from trainer.progress import Progress, no_progress


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
    pooling: Literal["mean", "max"] = "mean"
    """How the embeddings of a tracklet's clips become one. The paper's code has the maximum as an option, for the
    gallery only; here it holds for queries too, as in the code of the MARS authors."""
    batch: int = Field(64, ge=1)
    """Clips that pass through the network at once."""
    feature: Feature = "after_neck"
    """The embedding that is ranked: the neck's output, or what goes into it."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance between embeddings. `cosine` is what normalising them to length 1 gives (Luo et al. 2019); the
    paper's code uses the Euclidean distance of embeddings as they are."""
    protocol: ProtocolName = "mars"
    """Ranking protocol, see `trainer.data.dataset`; left out, it is the one usual for the data set."""
    reranking: bool = True
    """Whether the last evaluation of a training, and those of `evaluate`, also give figures after re-ranking."""
    rerank: RerankConfig = RerankConfig()
    """Re-ranking by k-reciprocal neighbours."""
    folder: bool = True
    """Whether a training leaves every query's figures and pictures of its best network, on the validation split."""
    images: bool = False
    """Whether those pictures may show real people, and go to MLflow; generated ones are always shown."""

    @property
    def frames_seen(self) -> str:
        """Which frames of a tracklet are looked at: `even, 2 clips`, `dense`, `dense, at most 41 clips`."""
        if self.sampling == "even":
            return f"even, {self.clips} clip{'s' * (self.clips > 1)}"
        return "dense" if self.max_clips is None else f"dense, at most {self.max_clips} clips"


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
    waited_s: float = 0.0
    """Seconds for which the device waited for frames."""


def embed(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    config: EvaluationConfig,
    viewing: Viewing,
    *,
    damage: DamagedFrames | None = None,
    progress: Progress = no_progress,
) -> Embeddings:
    """One embedding per tracklet, the mean or maximum of its clips', on the device of the model.

    Clips of several tracklets share a batch and only running sums or maxima are kept, so that memory depends neither on
    the length of a tracklet nor on the size of the data set beyond [N D]. Of each batch the frames alone are copied to
    a GPU, and the host waits for it once, at the end.

    Args:
        model: the network; left as it is, a copy made for inference embeds.
        tracklets: N tracklets.
        config: sampling, pooling and batch size.
        viewing: how the tracklets reach the network.
        damage: counts frames that cannot be decoded; None allows 0.1 % of the frames of these tracklets.
        progress: told after every batch.

    Raises:
        DataError: a frame is missing, or too many are damaged.
        DivergedError: an embedding is not finite.
    """
    device = next(model.parameters()).device
    windows = evaluation_windows(tracklets, config, viewing.frames)
    clips = EvaluationClips(tracklets, windows, size=viewing.size)
    loader = evaluation_loader(clips, batch=config.batch, workers=viewing.workers, device=device)
    damage = damage or DamagedFrames(sum(len(tracklet.frames) for tracklet in tracklets))
    pooled = _Pooled(len(tracklets), model.embedding_dim, config.pooling, device)
    entropy = torch.zeros((), device=device)
    network = inference_copy(model, viewing.compute)
    waited, wait, done = 0.0, FrameWait(device), 0
    with torch.inference_mode():
        tracklet_of = torch.tensor([window.tracklet for window in windows]).to(device)
        wait.ask()
        for pixels, damaged in loader:
            waited += wait.came()
            damage.add(damaged)
            frames = normalised(pixels.to(device, non_blocking=True))
            output = network(laid_out(frames, viewing.compute))
            shown = slice(done, done := done + len(pixels))
            pooled.add(tracklet_of[shown], output.feature(config.feature))
            entropy += attention_entropy(output.weights).sum()
            progress("embedding", done, len(windows))
            wait.ask()
    vectors = pooled.vectors()
    if not bool(vectors.isfinite().all()):
        raise DivergedError("an embedding holds NaN or infinity")
    return Embeddings(vectors, float(entropy) / len(windows), waited + wait.known())


class Attention(NamedTuple):
    """The weights of one clip's frames."""

    frames: tuple[int, ...]
    """Indices of the T frames in their tracklet."""
    weights: Float[Tensor, " T"]
    """Adding up to 1, on the CPU."""


def attention_over_frames(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], config: EvaluationConfig, viewing: Viewing
) -> list[Attention]:
    """What the network attends to in the first clip of each tracklet, as an evaluation sees it.

    Raises:
        DataError: a frame is missing.
    """
    device = next(model.parameters()).device
    first = {window.tracklet: window for window in reversed(evaluation_windows(tracklets, config, viewing.frames))}
    windows = [first[index] for index in range(len(tracklets))]
    clips = EvaluationClips(tracklets, windows, size=viewing.size)
    network = inference_copy(model, viewing.compute)
    found: list[Tensor] = []
    with torch.inference_mode():
        for pixels, _ in evaluation_loader(clips, batch=config.batch, workers=0, device=device):
            found += network(laid_out(normalised(pixels.to(device)), viewing.compute)).weights.float().cpu()
    return [Attention(window.frames, weights) for window, weights in zip(windows, found, strict=True)]


class _Pooled:
    """Running mean or maximum of the clips of each tracklet."""

    def __init__(self, tracklets: int, dimension: int, pooling: str, device: torch.device) -> None:
        self._maximum = pooling == "max"
        start = -torch.inf if self._maximum else 0.0
        self._values = torch.full((tracklets, dimension), start, device=device)
        self._counts = torch.zeros(tracklets, 1, device=device)

    def add(self, tracklets: Int[Tensor, " B"], embeddings: Float[Tensor, "B D"]) -> None:
        """Takes in the embeddings of clips of the given tracklets."""
        if self._maximum:
            self._values.scatter_reduce_(0, tracklets[:, None].expand_as(embeddings), embeddings, "amax")
        else:
            self._values.index_add_(0, tracklets, embeddings)
            self._counts.index_add_(0, tracklets, torch.ones_like(embeddings[:, :1]))

    def vectors(self) -> Float[Tensor, "N D"]:
        """One embedding per tracklet, of the clips taken in."""
        return self._values if self._maximum else self._values / self._counts


def evaluation_windows(tracklets: Sequence[Tracklet], config: EvaluationConfig, frames: int) -> list[Window]:
    """The clips, of so many frames each, that an evaluation looks at."""
    return [
        Window(index, tuple(window))
        for index, tracklet in enumerate(tracklets)
        for window in frame_windows(
            config.sampling, len(tracklet.frames), frames, clips=config.clips, max_clips=config.max_clips
        ).tolist()
    ]
