"""Embedding tracklets: pooled over clips, whatever the batches, and what the network attends to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from trainer.config import EvaluationConfig, TrialConfig
from trainer.data import READERS, Tracklet
from trainer.data.frames import DamagedFrames, read_clip
from trainer.errors import DataError, DivergedError
from trainer.evaluation.embed import attention_over_frames, embed
from trainer.input.augment import normalised
from trainer.input.clips import frame_windows
from trainer.model.inference import inference_copy
from trainer.model.network import TemporalAttentionResNet


@pytest.fixture(scope="module")
def tracklets(mini_mars: Path) -> Sequence[Tracklet]:
    """A few, of different lengths."""
    return sorted(READERS["mars"](mini_mars).train, key=lambda tracklet: len(tracklet.frames))[::6]


@pytest.fixture
def model(tiny_config: TrialConfig) -> TemporalAttentionResNet:
    torch.manual_seed(0)
    return TemporalAttentionResNet(tiny_config.model, 3).eval()


def evaluating(config: TrialConfig, **settings: object) -> TrialConfig:
    """The trial with these settings of its evaluation."""
    return config.model_copy(update={"evaluation": EvaluationConfig.model_validate(settings)})


def one_by_one(model: TemporalAttentionResNet, tracklet: Tracklet, trial: TrialConfig) -> torch.Tensor:
    """The embedding of a tracklet by the definition: each clip alone, then the mean or maximum."""
    config = trial.evaluation
    windows = frame_windows(config.sampling, len(tracklet.frames), trial.clips.frames, clips=config.clips)
    network = inference_copy(model, trial.compute)
    clips = []
    for window in windows.tolist():
        pixels = read_clip([tracklet.frames[index] for index in window], trial.model.height, trial.model.width)
        frames = normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2)[None])
        with torch.inference_mode():
            clips.append(network(frames).feature(config.feature)[0])
    stacked = torch.stack(clips)
    return stacked.amax(0) if config.pooling == "max" else stacked.mean(0)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("sampling", ["even", "dense"])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_an_embedding_is_the_mean_or_maximum_of_the_tracklets_own_clips(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    tiny_config: TrialConfig,
    pooling: str,
    sampling: str,
    batch: int,
) -> None:
    config = evaluating(tiny_config, pooling=pooling, sampling=sampling, batch=batch)
    found = embed(model, tracklets, config)
    slow = torch.stack([one_by_one(model, tracklet, config) for tracklet in tracklets])
    torch.testing.assert_close(found.vectors, slow, atol=1e-5, rtol=1e-4)


def test_what_is_attended_to_is_a_weight_for_each_frame_of_a_clip(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], tiny_config: TrialConfig
) -> None:
    found = attention_over_frames(model, tracklets, evaluating(tiny_config, clips=3))
    assert len(found) == len(tracklets)
    for attention, tracklet in zip(found, tracklets, strict=True):
        assert len(attention.frames) == len(attention.weights) == tiny_config.clips.frames
        assert max(attention.frames) < len(tracklet.frames)
        assert float(attention.weights.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("factor", [float("nan"), 1e25])
def test_embeddings_that_cannot_be_ranked_are_a_divergence(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], tiny_config: TrialConfig, factor: float
) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(factor if parameter.ndim == 1 else 1)
    with pytest.raises(DivergedError, match="NaN, infinity or numbers too large"):
        embed(model, tracklets, evaluating(tiny_config))


def test_damaged_frames_are_counted_and_too_many_are_named(
    model: TemporalAttentionResNet, tracklets: Sequence[Tracklet], tiny_config: TrialConfig, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(Path(tracklets[0].frames[0]).read_bytes()[:200])
    frames = tracklets[0].frames
    wounded = [tracklets[0]._replace(frames=(str(bad), *frames[1:])), *tracklets[1:]]
    config = evaluating(tiny_config, sampling="dense")
    tally = DamagedFrames(1000)
    assert bool(embed(model, wounded, config, damage=tally).vectors.isfinite().all())
    assert tally.count == 1
    with pytest.raises(DataError, match=str(bad)):
        embed(model, wounded, config)
