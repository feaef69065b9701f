"""The copy of a network that only embeds, against the network itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from trainer.compute import ComputeConfig
from trainer.errors import ConfigError
from trainer.model.inference import inference_copy
from trainer.model.network import ModelConfig, TemporalAttentionResNet

SIZES = {"tiny": (64, 32), "resnet18": (64, 32), "resnet50": (64, 32), "mobilenet_v2": (64, 32)}
every_backbone = pytest.mark.parametrize("backbone", SIZES)


def trained(backbone: str = "tiny", **options: str) -> TemporalAttentionResNet:
    """A network in training mode whose batch norms have seen something, and scale and shift by other than 1 and 0."""
    torch.manual_seed(0)
    height, width = SIZES[backbone]
    config = {"backbone": backbone, "weights": "none", "height": height, "width": width, **options}
    model = TemporalAttentionResNet(ModelConfig.model_validate(config), 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias.requires_grad:
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.train()


def clips(height: int = 64, width: int = 32) -> Tensor:
    return torch.randn(2, 3, 3, height, width, generator=torch.Generator().manual_seed(1))


@every_backbone
@pytest.mark.parametrize("channels_last", [False, True])
def test_folded_copy_embeds_as_the_network_does(backbone: str, channels_last: bool) -> None:
    model = trained(backbone)
    slim = inference_copy(model, ComputeConfig(precision="fp32", channels_last=channels_last))
    with torch.inference_mode():
        for ours, theirs in zip(slim(clips()), model.eval()(clips()), strict=True):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@every_backbone
def test_copy_in_bf16_embeds_nearly_as_the_network_does_and_in_float32(backbone: str) -> None:
    model = trained(backbone)
    output = inference_copy(model, ComputeConfig(precision="bf16"))(clips())
    assert {part.dtype for part in output} == {torch.float32}
    similar = nn.functional.cosine_similarity(output.embedding, model.eval()(clips()).embedding)
    assert (similar > 0.99).all()


@every_backbone
def test_no_batch_norm_is_left_over_frames(backbone: str) -> None:
    modules = inference_copy(trained(backbone), ComputeConfig(precision="fp32")).backbone.modules()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)


def test_only_what_takes_the_time_is_in_low_precision() -> None:
    slim = inference_copy(trained(), ComputeConfig(precision="bf16"))
    low = {name for name, tensor in slim.state_dict().items() if tensor.dtype == torch.bfloat16}
    assert {name for name in low if not name.startswith("backbone.")} == {
        "attention.spatial.weight",
        "attention.spatial.bias",
    }
    assert {name for name in slim.state_dict() if name.startswith("backbone.")} <= low


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"pooling": "max"}, {"neck": "none"}], ids=str)
def test_networks_without_attention_or_neck_are_copied_too(options: dict[str, str]) -> None:
    model = trained("tiny", **options)
    ours = inference_copy(model, ComputeConfig(precision="fp32"))(clips()).embedding
    torch.testing.assert_close(ours, model.eval()(clips()).embedding, rtol=1e-4, atol=1e-5)


def test_the_original_stays_as_it_is() -> None:
    model = trained()
    model(clips()).logits.sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    inference_copy(model, ComputeConfig(precision="bf16"))(clips())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    assert all(module.training for module in model.modules())
    assert model.classifier.weight.requires_grad


def test_copy_is_in_evaluation_mode_without_gradients() -> None:
    slim = inference_copy(trained(), ComputeConfig(precision="fp32"))
    assert not slim.training
    assert not any(parameter.requires_grad for parameter in slim.parameters())
    assert not slim(clips()).embedding.requires_grad


def test_what_the_device_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute\.precision: fp16 needs a CUDA GPU"):
        inference_copy(trained(), ComputeConfig(precision="fp16"))
