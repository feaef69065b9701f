"""The network: shapes, options, initial values."""

from __future__ import annotations

import pytest
import torch
from networks import network, tiny
from pydantic import ValidationError
from torch import Tensor, nn

from trainer.model.network import ModelConfig, TemporalAttentionResNet, geometry


def clips(count: int = 2, frames: int = 3, height: int = 64, width: int = 32) -> Tensor:
    return torch.randn(count, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
def test_output_has_the_same_structure_in_training_and_evaluation(training: bool) -> None:
    output = network().train(training)(clips())
    shapes = {name: tuple(tensor.shape) for name, tensor in output._asdict().items()}
    assert shapes == {
        "logits": (2, 5),
        "embedding": (2, 64),
        "scores": (2, 3),
        "weights": (2, 3),
        "pooled": (2, 64),
    }


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "tiny"])
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
    assert maps.shape[1:] == (model.embedding_dim, *geometry(config).map_size)


def test_the_papers_input_gives_the_papers_map_and_parameters() -> None:
    config = ModelConfig(weights="none", height=224, width=112)
    with torch.device("meta"):
        model = TemporalAttentionResNet(config, 625)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.attention.spatial)]
    assert geometry(config).map_size == (14, 7)
    assert counts == [23_508_032, 51_380_480]


@pytest.mark.parametrize(
    ("backbone", "stride"), [("resnet18", 32), ("resnet50", 32), ("mobilenet_v2", 32), ("tiny", 16)]
)
def test_too_small_frames_are_refused(backbone: str, stride: int) -> None:
    settings = {"backbone": backbone, "weights": "none", "last_stride": 2, "height": 64}
    assert geometry(ModelConfig.model_validate({**settings, "width": stride})).map_size == (64 // stride, 1)
    small = f"height, width: 64 x {stride - 1} is too small for {backbone} .* give at least {stride} x {stride}"
    with pytest.raises(ValidationError, match=small):
        ModelConfig.model_validate({**settings, "width": stride - 1})


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
    weight = network(identities=300).classifier.weight
    assert weight.std().item() == pytest.approx(1e-3, rel=0.05)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = network()
    nn.init.ones_(model.attention.temporal.bias)
    output = model(clips(count=4))
    (output.logits.square().sum() + output.scores.sum()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_attention_options_reach_the_attention() -> None:
    options = {"attention_hidden": 7, "attention_gate": "sigmoid", "attention_score_relu": False}
    attention = network(tiny(**options, attention_factorised=True)).attention
    assert tuple(attention.spatial.weight.shape) == (7, 64, 1, 1)
    assert (attention.gate, attention.score_relu) == ("sigmoid", False)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_without_attention_has_no_parameters_and_the_same_output(pooling: str) -> None:
    model = network(tiny(pooling=pooling))
    assert not any(name.startswith("attention") for name in model.state_dict())
    output = model(clips())
    assert [tuple(part.shape) for part in output] == [(2, 5), (2, 64), (2, 3), (2, 3), (2, 64)]
    assert (output.scores == 0).all()


def test_without_a_neck_the_embedding_is_the_pooled_feature() -> None:
    model = network(tiny(neck="none"))
    output = model(clips())
    assert torch.equal(output.embedding, output.pooled)
    assert not any(name.startswith("neck") for name in model.state_dict())
    torch.testing.assert_close(output.logits, model.classifier(output.pooled))


def test_without_a_neck_the_classifier_is_torchs_default() -> None:
    model = network(tiny(neck="none"), identities=300)
    bound = 64**-0.5  # nn.Linear: uniform in +-1/sqrt(in)
    for parameter in (model.classifier.weight, model.classifier.bias):
        assert 0.9 * bound < parameter.abs().max() <= bound


@pytest.mark.parametrize("options", [{}, {"pooling": "max"}, {"neck": "none"}, {"attention_gate": "sigmoid"}], ids=str)
def test_mixed_precision_gives_float32_outputs_near_those_of_full_precision(options: dict[str, str]) -> None:
    model = network(tiny(**options)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(clips())
    assert {part.dtype for part in mixed} == {torch.float32}
    similar = nn.functional.cosine_similarity(mixed.embedding, model(clips()).embedding)
    assert (similar > 0.99).all()
