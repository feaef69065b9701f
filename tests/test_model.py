"""The network: attention against a slow reference, shapes, initial values, and where weights come from."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import reference
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

from trainer.errors import ConfigError
from trainer.model import (
    Gate,
    ModelConfig,
    TemporalAttention,
    TemporalAttentionResNet,
    feature_map_size,
)

TINY = ModelConfig(backbone="tiny", weights="none", height=64, width=32)
GATES: tuple[Gate, ...] = ("softmax", "sigmoid")
every_gate = pytest.mark.parametrize("gate", GATES)


def network(config: ModelConfig = TINY, *, persons: int = 5) -> TemporalAttentionResNet:
    torch.manual_seed(0)
    return TemporalAttentionResNet(config, persons)


def clips(count: int = 2, frames: int = 3, height: int = 64, width: int = 32) -> Tensor:
    return torch.randn(count, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def resnet18(**changes: int) -> ModelConfig:
    return ModelConfig(backbone="resnet18", weights="none").model_copy(update=changes)


# --- attention over time


@every_gate
@pytest.mark.parametrize("seed", range(4))
def test_attention_is_the_slow_reference(gate: Gate, seed: int) -> None:
    torch.manual_seed(seed)
    attention = TemporalAttention(3, (2, 2), hidden=4, gate=gate).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    maps = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    convolutions = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (attention.spatial, attention.temporal)
    ]
    slow = reference.temporal_attention(maps.numpy(), *convolutions, gate)
    for ours, theirs in zip(attention(maps), slow, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, atol=1e-12)


@every_gate
def test_weights_over_frames_are_positive_and_sum_to_one(gate: Gate) -> None:
    weights = TemporalAttention(3, (2, 2), gate=gate)(torch.randn(2, 5, 3, 2, 2)).weights
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


@every_gate
def test_dead_scores_weigh_frames_uniformly(gate: Gate) -> None:
    attention = TemporalAttention(3, (2, 2), gate=gate)
    nn.init.constant_(attention.temporal.bias, -1e3)
    output = attention(torch.randn(2, 4, 3, 2, 2))
    assert (output.scores == 0).all()
    torch.testing.assert_close(output.weights, torch.full((2, 4), 0.25))


@every_gate
def test_attention_passes_gradcheck(gate: Gate) -> None:
    torch.manual_seed(0)
    attention = TemporalAttention(2, (1, 2), hidden=3, gate=gate).double()
    maps = torch.randn(1, 3, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (maps,))


def test_attention_starts_from_kaiming_kernels_and_zero_biases() -> None:
    torch.manual_seed(0)
    attention = TemporalAttention(64, (4, 4))
    fan_in = 64 * 4 * 4
    assert attention.spatial.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert attention.temporal.weight.std().item() == pytest.approx((2 / (256 * 3)) ** 0.5, rel=0.1)
    assert all((layer.bias == 0).all() for layer in (attention.spatial, attention.temporal))


def test_attention_refuses_maps_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"built for maps of \(2, 2\), got \(3, 2\)"):
        TemporalAttention(3, (2, 2))(torch.randn(1, 1, 3, 3, 2))


# --- the network


@pytest.mark.parametrize("training", [True, False])
def test_output_has_the_same_structure_in_training_and_evaluation(training: bool) -> None:
    output = network().train(training)(clips())
    shapes = {name: tuple(tensor.shape) for name, tensor in output._asdict().items()}
    assert shapes == {"logits": (2, 5), "embedding": (2, 64), "scores": (2, 3), "weights": (2, 3)}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101", "tiny"])
@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(64, 32), (50, 33)])
def test_feature_map_has_the_computed_size(backbone: str, last_stride: int, height: int, width: int) -> None:
    config = ModelConfig.model_validate(
        {
            "backbone": backbone,
            "weights": "none",
            "last_stride": last_stride,
            "height": height,
            "width": width,
        }
    )
    with torch.device("meta"):
        model = TemporalAttentionResNet(config, 5)
        maps = model.backbone(torch.empty(1, 3, height, width))
    assert maps.shape[1:] == (model.embedding_dim, *feature_map_size(config))


def test_the_papers_input_gives_the_papers_map_and_parameters() -> None:
    config = ModelConfig(weights="none", height=224, width=112)
    with torch.device("meta"):
        model = TemporalAttentionResNet(config, 625)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.attention.spatial)]
    assert feature_map_size(config) == (14, 7)
    assert counts == [23_508_032, 51_380_480]


@pytest.mark.parametrize(("backbone", "stride"), [("resnet18", 32), ("resnet50", 32), ("tiny", 16)])
def test_too_small_frames_are_refused(backbone: str, stride: int) -> None:
    config = ModelConfig.model_validate(
        {"backbone": backbone, "weights": "none", "last_stride": 2, "height": 64, "width": stride - 1}
    )
    with pytest.raises(ConfigError, match=f"give at least {stride} x {stride}"):
        network(config)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"built for frames of \(64, 32\), got \(32, 64\)"):
        network()(clips(height=32, width=64))


def test_embedding_is_the_feature_after_the_neck() -> None:
    model = network().train()
    embedding = model(clips(count=8)).embedding
    torch.testing.assert_close(embedding.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.classifier(embedding), model(clips(count=8)).logits)


def test_neck_has_no_trainable_bias_and_the_classifier_none_at_all() -> None:
    model = network()
    assert not model.neck.bias.requires_grad
    assert (model.neck.bias == 0).all()
    assert model.classifier.bias is None


def test_classifier_starts_near_zero() -> None:
    weight = network(persons=300).classifier.weight
    assert weight.std().item() == pytest.approx(1e-3, rel=0.05)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = network()
    nn.init.ones_(model.attention.temporal.bias)
    output = model(clips(count=4))
    (output.logits.square().sum() + output.scores.sum()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_same_seed_gives_the_same_network() -> None:
    ours, theirs = network().state_dict(), network().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_frames_are_embedded_apart_until_the_attention() -> None:
    model = network().eval()
    batch = clips(count=1, frames=2)
    apart = [model.backbone(frame[None]) for frame in batch[0]]
    torch.testing.assert_close(model.backbone(batch[0]), torch.cat(apart))


def test_tiny_network_learns_colours_and_layout_quickly() -> None:
    model = network(persons=4).train()
    frames = torch.zeros(4, 1, 3, 64, 32)
    frames[0, :, 0, :32] = 1
    frames[1, :, 0, 32:] = 1
    frames[2, :, 2, :32] = 1
    frames[3, :, 2, 32:] = 1
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        batch = frames.repeat(2, 1, 1, 1, 1) + 0.3 * torch.randn(8, 1, 3, 64, 32, generator=generator)
        logits = model(batch).logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
        optimizer.step()
    assert logits.argmax(1).tolist() == [0, 1, 2, 3] * 2


# --- weights


def saved(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def test_random_weights_load_nothing() -> None:
    assert network().loaded_weights == ((), ())


def test_checkpoint_fills_all_but_classifier_and_tensors_of_another_shape(tmp_path: Path) -> None:
    source = network(persons=9)
    nn.init.constant_(source.neck.running_mean, 3)
    path = saved({"model": source.state_dict(), "epoch": 7}, tmp_path / "last.pt")
    model = network(TINY.model_copy(update={"weights": path, "height": 72}))
    report = model.loaded_weights
    assert set(report.skipped) == {"classifier.weight", "attention.spatial.weight"}
    assert set(report.loaded) == set(source.state_dict()) - set(report.skipped)
    assert (model.neck.running_mean == 3).all()


def test_classifier_is_not_loaded_even_where_it_fits(tmp_path: Path) -> None:
    source = network()
    nn.init.ones_(source.classifier.weight)
    path = saved(source.state_dict(), tmp_path / "weights.pt")
    model = network(TINY.model_copy(update={"weights": path}))
    assert model.loaded_weights.skipped == ("classifier.weight",)
    assert (model.classifier.weight < 1).all()


def test_torchvisions_state_dict_fills_the_backbone(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(weights=None)
    path = saved(source.state_dict(), tmp_path / "resnet18.pth")
    model = network(resnet18().model_copy(update={"weights": path}))
    assert set(model.loaded_weights.skipped) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = saved(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    config = ModelConfig(backbone="resnet34", weights=path)
    with pytest.raises(ConfigError, match=r"resnet18\.pth: does not fit model\.backbone resnet34"):
        network(config)


def test_missing_file_is_named(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"weights": str(tmp_path / "none.pt")})
    with pytest.raises(ConfigError, match=r"none\.pt: no such file"):
        network(config)


@pytest.mark.parametrize("damage", [b"", b"not a file of torch", b"\x80\x02]q\x00(", b"PK\x03\x04"])
def test_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"damaged\.pt: not a readable weights file \(.+\)$"):
        network(TINY.model_copy(update={"weights": str(path)}))


def test_file_cut_short_is_named(tmp_path: Path) -> None:
    path = Path(saved(network().state_dict(), tmp_path / "short.pt"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"short\.pt: not a readable"):
        network(TINY.model_copy(update={"weights": str(path)}))


class Payload:
    """Something that only unsafe unpickling would make."""


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_file_without_a_state_dict_is_named(tmp_path: Path, content: object) -> None:
    path = saved(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"other\.pt: holds neither a state dict nor a checkpoint"):
        network(TINY.model_copy(update={"weights": path}))


def test_pickled_objects_are_never_made(tmp_path: Path) -> None:
    path = saved({"model": Payload()}, tmp_path / "pickle.pt")
    with pytest.raises(ConfigError, match=r"pickle\.pt: not a readable weights file"):
        network(TINY.model_copy(update={"weights": path}))


def test_tiny_has_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match="there are none for model"):
        network(TINY.model_copy(update={"weights": "imagenet"}))


def offline(error: Exception) -> Callable[..., dict[str, Tensor]]:
    def get_state_dict(*_: object, **__: object) -> dict[str, Tensor]:
        raise error

    return get_state_dict


@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        HTTPError("https://host/file", 503, "unavailable", None, None),
        TimeoutError("timed out"),
        RuntimeError("invalid hash value\n(expected ...)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_download_says_in_one_line_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline(error))
    with pytest.raises(ConfigError) as caught:
        network(resnet18().model_copy(update={"weights": "imagenet"}))
    message = str(caught.value)
    assert message.startswith("model.weights: imagenet: cannot download https://")
    assert message.endswith("); set model.weights to none or to the path of a weights file")
    assert "\n" not in message


def test_download_is_checked_quiet_and_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object], float | None]] = []

    def get_state_dict(weights: WeightsEnum, **options: object) -> dict[str, Tensor]:
        asked.append((weights.name, options, socket.getdefaulttimeout()))
        return torchvision.models.resnet18(weights=None).state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    before = socket.getdefaulttimeout()
    model = network(resnet18().model_copy(update={"weights": "imagenet"}))
    options = {"check_hash": True, "progress": False, "weights_only": True}
    assert asked == [("IMAGENET1K_V1", options, 20)]
    assert socket.getdefaulttimeout() == before
    assert len(model.loaded_weights.loaded) == len(model.backbone.state_dict())
