"""Embedding tracklets: pooled over clips, whatever the batches, and what the network attends to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from pretend_gpu import PretendGpu, PretendTensor

from trainer.config import EvaluationConfig, TrialConfig
from trainer.data import READERS, Tracklet
from trainer.data.frames import DamagedFrames, read_clip
from trainer.errors import DataError
from trainer.evaluation.embed import attention_over_frames, embed
from trainer.input.augment import _scale_and_offset, normalised
from trainer.input.clips import frame_windows
from trainer.model.inference import inference_copy
from trainer.model.network import ModelOutput, TemporalAttentionResNet


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


class _OnTheGpu:
    """The network of an evaluation as a pretended GPU would run it: it takes and gives tensors of the GPU alone."""

    def __init__(self, model: TemporalAttentionResNet, config: TrialConfig) -> None:
        self.embedding_dim = model.embedding_dim
        self._network = inference_copy(model, config.compute)

    def parameters(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1, device="cuda")

    def __call__(self, frames: torch.Tensor) -> ModelOutput:
        assert isinstance(frames, PretendTensor)
        return ModelOutput(*map(PretendTensor, self._network(frames.held)))


class _Event:
    """What `torch.cuda.Event` is, where the GPU is never behind."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.monotonic()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: _Event) -> float:
        return 1000 * (end_event.time - self.time)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_an_evaluation_copies_frames_without_waiting_and_waits_for_the_gpu_at_its_end(
    model: TemporalAttentionResNet,
    tracklets: Sequence[Tracklet],
    tiny_config: TrialConfig,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
) -> None:
    config = evaluating(tiny_config, pooling=pooling, batch=3)
    expected = embed(model, tracklets, config)
    monkeypatch.setattr("trainer.evaluation.embed.inference_copy", lambda network, compute: network)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    network = cast(TemporalAttentionResNet, _OnTheGpu(model, config))
    batches: list[int] = []
    _scale_and_offset.cache_clear()
    with PretendGpu() as gpu:
        found = embed(
            network,
            tracklets,
            config,
            progress=lambda *_: batches.append(gpu.waits.total()),
        )
        vectors = found.vectors.cpu()
    _scale_and_offset.cache_clear()
    assert len(batches) > 3
    assert set(batches) == {batches[0]}, "a batch made the host wait"
    assert gpu.copies["to the GPU"] == len(batches) + 3, "frames, and once whose they are, scale and offset"
    assert torch.equal(vectors, expected.vectors)
    assert found.attention_entropy == expected.attention_entropy
