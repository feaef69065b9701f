"""Backbones by name: timm's networks, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from networks import network
from pydantic import ValidationError
from torch import Tensor, nn

from trainer import TrialConfig, export_network, multiplications_per_batch
from trainer.checkpoint import save_checkpoint
from trainer.compute import ComputeConfig
from trainer.errors import ConfigError
from trainer.export import TOLERATED_DIFFERENCE
from trainer.model.backbones import BACKBONES, Backbone, FrameSize, backbone_geometry
from trainer.model.inference import inference_copy
from trainer.model.network import ModelConfig, geometry, require_weights
from trainer.model.weights import _hub_asked_once

timm = pytest.importorskip("timm", reason="needs the extra [timm]")


class Hub:
    """Hugging Face's hub, which answers."""

    def head(self, url: str, timeout: float) -> None: ...


def of_timm(name: str, **settings: Any) -> ModelConfig:
    given = {"weights": "none", "height": 64, "width": 32, "attention_hidden": 8}
    return ModelConfig.model_validate({"backbone": f"timm:{name}", **given, **settings})


def frames(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "expected"), [("test_resnet", (96, 2, 1)), ("test_vit", (64, 8, 1))])
def test_maps_and_tokens_of_timm_become_maps_of_the_measured_geometry(name: str, expected: tuple[int, ...]) -> None:
    config = of_timm(name)
    maps = network(config).eval().backbone(frames())
    assert maps.shape[1:] == expected
    assert (geometry(config).channels, *geometry(config).map_size) == expected


def test_channels_last_become_channels_first() -> None:
    config = of_timm("swin_tiny_patch4_window7_224")
    with torch.device("meta"):
        maps = network(config).eval().backbone(torch.empty(2, 3, 64, 32))
    assert maps.shape == (2, 768, 2, 1)


def test_tokens_are_timms_own_without_the_class_token() -> None:
    backbone = network(of_timm("test_vit")).eval().backbone
    tokens = backbone.forward_features(frames())
    assert backbone.num_prefix_tokens == 1
    torch.testing.assert_close(backbone(frames()).squeeze(-1).transpose(1, 2), backbone.norm(tokens)[:, 1:])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_every_parameter_of_a_network_of_timm_gets_a_gradient(name: str) -> None:
    model = network(of_timm(name)).train()
    model(frames(8).unflatten(0, (4, 2))).logits.square().sum().backward()
    assert [n for n, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_evaluation_copy_of_a_network_of_timm_embeds_as_the_network_does(name: str) -> None:
    model = network(of_timm(name)).eval()
    clips = frames(4).unflatten(0, (2, 2))
    copied = inference_copy(model, ComputeConfig(precision="fp32", channels_last=False))(clips).embedding
    torch.testing.assert_close(copied, model(clips).embedding)


def test_a_network_of_timm_is_exported_to_onnx(tmp_path: Path) -> None:
    config = TrialConfig(model=of_timm("test_vit"))
    state = {"config": config.model_dump(mode="json"), "epoch": 1, "model": network(config.model).state_dict()}
    save_checkpoint(tmp_path / "best.pt", state)
    exported = export_network(tmp_path / "best.pt", tmp_path, "onnx")
    assert exported.difference is not None
    assert exported.difference <= TOLERATED_DIFFERENCE


def test_a_file_of_timms_names_fills_the_whole_backbone(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", pretrained=False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = network(of_timm("test_resnet", weights=str(tmp_path / "weights.pth")))
    assert set(model.loaded_weights.skipped) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.backbone.conv1[0].weight, source.conv1[0].weight)


def test_weights_that_timm_cannot_get_are_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("no such cache")
        return create(*_, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", absent)
    cannot = r"timm cannot get the weights of timm:test_vit \({}\); set model\.weights to none"
    monkeypatch.setattr("huggingface_hub.get_session", Hub)
    with pytest.raises(ConfigError, match=cannot.format("no such cache")):
        require_weights(of_timm("test_vit", weights="imagenet"))
    monkeypatch.setattr(Hub, "head", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match=cannot.format("https://.*: division by zero")):
        require_weights(of_timm("test_vit", weights="imagenet"))


def test_a_hub_that_does_not_answer_is_asked_once_and_only_its_cache_is_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Hub, "head", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("huggingface_hub.get_session", Hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with _hub_asked_once():
        assert huggingface_hub.is_offline_mode()
    assert not huggingface_hub.is_offline_mode()


def test_unknown_names_of_timm_are_one_line_with_the_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        of_timm("resnt50")
    (error,) = caught.value.errors()
    assert error["loc"] == ("backbone",)
    assert "timm:resnet50" in error["msg"]
    assert "model.backbone" not in error["msg"]  # the place says so
    assert "\n" not in error["msg"]


def test_sizes_that_a_network_of_timm_cannot_take_are_refused_with_its_reason() -> None:
    with pytest.raises(ValidationError, match=r"timm:test_vit cannot be used with frames of 65 x 32 \(.*65.*\); give"):
        of_timm("test_vit", height=65)


def test_a_network_without_maps_or_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def vectors(size: FrameSize, last_stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setitem(BACKBONES, "vectors", Backbone(vectors))
    with pytest.raises(ConfigError, match=r"vectors cannot be used .*neither a feature map nor tokens"):
        backbone_geometry("vectors", FrameSize(64, 32), 1)


def test_a_missing_timm_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValidationError, match=r"pip install 'reidsearch\[timm\]'"):
        of_timm("test_resnet2")


def test_measuring_a_network_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    backbone_geometry("timm:test_vit", FrameSize(96, 48), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_work_of_a_network_of_timm_grows_with_its_frames() -> None:
    small, large = (TrialConfig(model=of_timm("test_resnet", height=height)) for height in (64, 128))
    assert multiplications_per_batch(large) == pytest.approx(2 * multiplications_per_batch(small), rel=0.05)
