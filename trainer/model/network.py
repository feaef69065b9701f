"""The network: a backbone over frames, attention over time, and the neck that feeds classifier and ranking.

B clips, T frames, C channels (= embedding), h x w feature map, N identities (classes).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticKnownError
from torch import Tensor, nn

from trainer.model.attention import POOLINGS, AttentionOutput, Gate, TemporalAttention
from trainer.model.backbones import BACKBONES, TIMM, FrameSize, Geometry, backbone_geometry, find_backbone
from trainer.model.weights import NAMED_WEIGHTS, PACKAGE, load_weights
from trainer.plugins import PREFIX
from trainer.settings import FrozenConfig

Feature = Literal["after_neck", "before_neck"]

CLASSIFIER_STD = 1e-3  # Luo et al. 2019: the classifier starts near zero, so the neck's scale settles first


def _known(name: str) -> str:
    """The name of a backbone.

    Raises:
        PydanticKnownError: there is none of this name.
        ConfigError: timm has none of this name, or is not installed.
    """
    if not name.startswith((TIMM, PREFIX)) and name not in BACKBONES:
        names = ", ".join(map(repr, BACKBONES))
        raise PydanticKnownError("literal_error", {"expected": f"{names} or 'timm:NAME'"})
    find_backbone(name)
    return name


BackboneName = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": [*BACKBONES]}, {"type": "string", "pattern": f"^({TIMM}|{PREFIX})."}]}),
]


class ModelConfig(FrozenConfig):
    """Architecture of the network and where its weights come from."""

    backbone: BackboneName = "resnet50"
    """torchvision's ResNets and MobileNetV2, `timm:NAME` for a network of timm (`reidsearch[timm]`),
    `plugin:NAME` for one of an installed package, or `tiny`: four convolutions, for tests and for laptops."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's IMAGENET1K_V1, timm's own weights), `none` (random), the path of a file or checkpoint,
    or `package:NAME`: the weights file of an installed package."""
    height: int = Field(256, ge=16, le=1024)
    """Height of the input frames, in pixels."""
    width: int = Field(128, ge=8, le=1024)
    """Width of the input frames, in pixels."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last stage; 1 doubles the feature map (Luo et al. 2019). timm's networks keep their own."""
    pooling: Literal["attention", "mean", "max"] = "attention"
    """How a clip's frames become one feature; without attention none of its parameters exist."""
    attention_hidden: int = Field(256, ge=1)
    """Channels between the spatial and the temporal convolution of the attention head."""
    attention_gate: Gate = "softmax"
    """How scores become weights over frames: softmax, or sigmoid followed by L1 normalisation."""
    attention_factorised: bool = False
    """Average the maps over space before the attention's spatial convolution, which then is 1 x 1."""
    attention_score_relu: bool = True
    """The second ReLU of the paper's attention; without it scores may be negative, and none is dead."""
    neck: Literal["bnneck", "none"] = "bnneck"
    """`none`: no batch norm, and a classifier with bias and torch's initial values (the paper's resnet50ta)."""

    @model_validator(mode="after")
    def _frames_hold_a_cell(self) -> ModelConfig:
        geometry(self)
        return self

    @property
    def weights_file(self) -> Path | None:
        """The file that `weights` names; None where it names something else."""
        named = self.weights in NAMED_WEIGHTS or self.weights.startswith(PACKAGE)
        return None if named else Path(self.weights)


class ModelOutput(NamedTuple):
    """What the network computes for a batch of clips, in training and in evaluation alike; at least float32."""

    logits: Float[Tensor, "B N"]
    """Scores of the training identities."""
    embedding: Float[Tensor, "B C"]
    """The feature after the neck: ranking uses it and, as in the paper, the metric losses; `pooled` without a neck."""
    scores: Float[Tensor, "B T"]
    """Attention scores before the gate; 0 where there is no attention."""
    weights: Float[Tensor, "B T"]
    """Weights of the frames; they sum to 1 over T."""
    pooled: Float[Tensor, "B C"]
    """The feature before the neck."""

    def feature(self, which: Feature) -> Float[Tensor, "B C"]:
        """The feature on one side of the neck."""
        return self.embedding if which == "after_neck" else self.pooled


class TemporalAttentionResNet(nn.Module):
    """A ResNet over frames, attention over time, a batch-norm neck and a classifier (the paper's Fig. 2).

    The neck is Luo et al. 2019's (arXiv:1903.07071) with the bias frozen at 0, but, as in the paper, the
    feature after it serves every loss and the ranking; Luo takes triplet and center loss before it.

    `loaded_weights` tells what `config.weights` filled. A network about to be restored from a checkpoint
    needs no weights of its own: build it from `config.model_copy(update={"weights": "none"})`.

    Raises ConfigError when the weights cannot be had. The caller seeds torch's generator.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.input_size = (config.height, config.width)
        self.embedding_dim, map_size, _ = geometry(config)
        backbone = find_backbone(config.backbone)
        self.backbone = backbone.build(frame_size(config), config.last_stride)
        self.foldable = backbone.foldable
        self.attention = _pooling(config, self.embedding_dim, map_size)
        self.neck, self.classifier = _neck_and_classifier(config.neck, self.embedding_dim, num_classes)
        self.loaded_weights = load_weights(self, config.weights, config.backbone)

    def forward(self, clips: Float[Tensor, "B T 3 H W"]) -> ModelOutput:
        """Logits, embedding and attention of normalised clips; frames of another size raise ValueError.

        Frames are taken in the precision of the backbone's weights, or in autocast's; neck and classifier compute in
        float32 even then.
        """
        if clips.shape[-2:] != self.input_size:
            sizes = f"{self.input_size}, got {tuple(clips.shape[-2:])}"
            raise ValueError(f"the network was built for frames of {sizes}")
        frames = clips.flatten(0, 1).to(next(self.backbone.parameters()).dtype)
        maps = self.backbone(frames).unflatten(0, clips.shape[:2])
        pooled, scores, weights = self.attention(maps)
        with torch.autocast(clips.device.type, enabled=False):
            embedding = self.neck(pooled)
            return ModelOutput(self.classifier(embedding), embedding, scores, weights, pooled)


def require_weights(config: ModelConfig) -> None:
    """Makes sure, before anything trains, that the network's weights are there and fit; downloads them if need be.

    Raises ConfigError as `TemporalAttentionResNet` does.
    """
    if config.weights == "none":
        return
    with torch.device("meta"):  # shapes without memory
        network = TemporalAttentionResNet(config.model_copy(update={"weights": "none"}), num_classes=1)
    load_weights(network, config.weights, config.backbone)


def geometry(config: ModelConfig) -> Geometry:
    """What the backbone makes of a frame; raises ConfigError as `backbone_geometry` does."""
    return backbone_geometry(config.backbone, frame_size(config), config.last_stride)


def frame_size(config: ModelConfig) -> FrameSize:
    """Height and width of the frames, in pixels."""
    return FrameSize(config.height, config.width)


def _pooling(
    config: ModelConfig, channels: int, map_size: tuple[int, int]
) -> Callable[[Float[Tensor, "B T C h w"]], AttentionOutput]:
    if config.pooling != "attention":
        return POOLINGS[config.pooling]
    return TemporalAttention(
        channels,
        map_size,
        config.attention_hidden,
        config.attention_gate,
        factorised=config.attention_factorised,
        score_relu=config.attention_score_relu,
    )


def _neck_and_classifier(neck: str, channels: int, num_classes: int) -> tuple[nn.Module, nn.Linear]:
    if neck == "none":
        return nn.Identity(), nn.Linear(channels, num_classes)
    norm = nn.BatchNorm1d(channels)
    norm.bias.requires_grad_(False)
    classifier = nn.Linear(channels, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
    return norm, classifier
