"""The network: a ResNet over frames, attention over time, and the neck that feeds classifier and ranking.

B clips, T frames, C channels (= embedding), h x w feature map, N persons (classes).
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, NamedTuple

import torch
import torchvision
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.frozen import FrozenConfig

Gate = Literal["softmax", "sigmoid"]

RESNET_CHANNELS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}
RESNET_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
TINY_CHANNELS = (16, 32, 64, 64)
CLASSIFIER_STD = 1e-3  # Luo et al. 2019: the classifier starts near zero, so the neck's scale settles first
GATE_EPSILON = 1e-12  # the paper's code; its sigmoids of scores >= 0 never come near it
# What torch.load raises on files that are cut short or hold other bytes, found by feeding it such files.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, UnpicklingError, struct.error),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
CONNECT_SECONDS = 20.0  # of silence on a socket before a download counts as failed


class ModelConfig(FrozenConfig):
    """Architecture of the network and where its weights come from."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "tiny"] = "resnet50"
    """torchvision's ResNets, or `tiny`: four convolutions, for tests and for laptops."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's IMAGENET1K_V1), `none` (random), or the path of a file or checkpoint."""
    height: int = Field(256, ge=16, le=1024)
    """Height of the input frames, in pixels."""
    width: int = Field(128, ge=8, le=1024)
    """Width of the input frames, in pixels."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last stage; 1 doubles the feature map (Luo et al. 2019)."""
    attention_hidden: int = Field(256, ge=1)
    """Channels between the spatial and the temporal convolution of the attention head."""
    attention_gate: Gate = "softmax"
    """How scores become weights over frames: softmax, or sigmoid followed by L1 normalisation."""


class AttentionOutput(NamedTuple):
    """What attention over time makes of the feature maps of a clip."""

    pooled: Float[Tensor, "B C"]
    """The frames' average-pooled features, weighted and summed over time."""
    scores: Float[Tensor, "B T"]
    """Scores of the frames before the gate, >= 0: they come out of a ReLU."""
    weights: Float[Tensor, "B T"]
    """Weights of the frames; >= 0, they sum to 1 over T."""


class ModelOutput(NamedTuple):
    """What the network says about a batch of clips, in training and in evaluation alike."""

    logits: Float[Tensor, "B N"]
    """Scores of the training persons."""
    embedding: Float[Tensor, "B C"]
    """The feature after the neck's batch norm: metric losses and ranking use it, as the paper does."""
    scores: Float[Tensor, "B T"]
    """Attention scores before the gate, >= 0."""
    weights: Float[Tensor, "B T"]
    """Attention weights; they sum to 1 over T."""


class LoadedWeights(NamedTuple):
    """Which tensors a weights file filled, and which of its tensors found no place."""

    loaded: tuple[str, ...]
    """Names in the network."""
    skipped: tuple[str, ...]
    """Names in the file: classifiers, tensors of another shape, tensors the network does not have."""


class TemporalAttention(nn.Module):
    """Weighs the frames of a clip by a score of each frame and its two neighbours.

    ReLU(Conv2d over the whole map) gives a vector per frame, ReLU(Conv1d over time) a score per frame, the
    gate a weight per frame (Gao and Nevatia 2018, arXiv:1805.02104; the paper's Fig. 2). Scores are >= 0; a
    clip whose scores are all 0 is weighed uniformly.
    """

    def __init__(self, channels: int, map_size: tuple[int, int], hidden: int = 256, gate: Gate = "softmax") -> None:
        super().__init__()
        self.gate = gate
        self.spatial = nn.Conv2d(channels, hidden, map_size)
        self.temporal = nn.Conv1d(hidden, 1, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, maps: Float[Tensor, "B T C h w"]) -> AttentionOutput:
        """Pool feature maps over space and time; maps of another size than `map_size` raise ValueError."""
        if maps.shape[-2:] != self.spatial.kernel_size:
            sizes = f"{self.spatial.kernel_size}, got {tuple(maps.shape[-2:])}"
            raise ValueError(f"the attention was built for maps of {sizes}")
        frames = functional.relu(self.spatial(maps.flatten(0, 1))).view(*maps.shape[:2], -1)
        scores = functional.relu(self.temporal(frames.transpose(1, 2))).squeeze(1)
        weights = self._weights(scores)
        pooled = torch.einsum("btc,bt->bc", maps.mean((-2, -1)), weights)
        return AttentionOutput(pooled, scores, weights)

    def _weights(self, scores: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        if self.gate == "softmax":
            return scores.softmax(dim=1)
        return functional.normalize(scores.sigmoid(), p=1, dim=1, eps=GATE_EPSILON)


class TemporalAttentionResNet(nn.Module):
    """A ResNet over frames, attention over time, a batch-norm neck and a classifier (the paper's Fig. 2).

    The neck is Luo et al. 2019's (arXiv:1903.07071) with the bias frozen at 0, but, as in the paper, the
    feature after it serves every loss and the ranking; Luo takes triplet and center loss before it.

    `loaded_weights` tells what `config.weights` filled. A network about to be restored from a checkpoint
    needs no weights of its own: build it from `config.model_copy(update={"weights": "none"})`.

    Raises ConfigError when the frames are too small for the backbone or the weights cannot be had. The caller
    seeds torch's generator.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        map_size = feature_map_size(config)
        self.input_size = (config.height, config.width)
        self.backbone = _backbone(config)
        self.embedding_dim = RESNET_CHANNELS.get(config.backbone, TINY_CHANNELS[-1])
        self.attention = TemporalAttention(self.embedding_dim, map_size, config.attention_hidden, config.attention_gate)
        self.neck = nn.BatchNorm1d(self.embedding_dim)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.embedding_dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=CLASSIFIER_STD)
        self.loaded_weights = load_weights(self, config)

    def forward(self, clips: Float[Tensor, "B T 3 H W"]) -> ModelOutput:
        """Logits, embedding and attention of normalised clips; frames of another size raise ValueError."""
        if clips.shape[-2:] != self.input_size:
            sizes = f"{self.input_size}, got {tuple(clips.shape[-2:])}"
            raise ValueError(f"the network was built for frames of {sizes}")
        maps = self.backbone(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        attention: AttentionOutput = self.attention(maps)
        embedding = self.neck(attention.pooled)
        return ModelOutput(self.classifier(embedding), embedding, attention.scores, attention.weights)


def feature_map_size(config: ModelConfig) -> tuple[int, int]:
    """Height and width of the backbone's last feature map, each at least 1.

    Every stride-2 layer is padded so that it halves and rounds up. Frames smaller than the total stride raise
    ConfigError: their map would hold less than one whole cell.
    """
    stride = (8 if config.backbone == "tiny" else 16) * config.last_stride
    if config.height < stride or config.width < stride:
        raise ConfigError(
            f"model.height, model.width: {config.height} x {config.width} is too small for {config.backbone} "
            f"with model.last_stride {config.last_stride}; give at least {stride} x {stride}"
        )
    return -(-config.height // stride), -(-config.width // stride)


def load_weights(model: TemporalAttentionResNet, config: ModelConfig) -> LoadedWeights:
    """Fill `model` from where `config.weights` points, in place, and tell what was filled.

    A file holds a state dict of torchvision's ResNet, or a checkpoint with our state dict under "model".
    Classifiers and tensors of another shape are left out (another data set has other persons, another frame
    size another attention kernel), but the backbone has to be there whole. Unlike the paper's code, which
    loses it by the name of its module, the neck comes along.

    Raises ConfigError when a download fails, a file is missing or damaged, or its backbone is another one.
    """
    if config.weights == "none":
        return LoadedWeights((), ())
    source = _imagenet(config.backbone) if config.weights == "imagenet" else _read(Path(config.weights))
    own = model.state_dict()
    named = {name: _own_name(name, own) for name in source}
    fitting = {
        mine: source[name]
        for name, mine in named.items()
        if mine in own and not mine.startswith("classifier.") and source[name].shape == own[mine].shape
    }
    absent = [
        name
        for name in own
        if name.startswith("backbone.") and name not in fitting and not name.endswith("num_batches_tracked")
    ]
    if absent:
        raise ConfigError(
            f"model.weights: {config.weights}: does not fit model.backbone {config.backbone}: "
            f"{len(absent)} of its tensors are missing or have another shape, the first is {absent[0]}"
        )
    model.load_state_dict(fitting, strict=False)
    return LoadedWeights(tuple(fitting), tuple(name for name, mine in named.items() if mine not in fitting))


def require_weights(config: ModelConfig) -> None:
    """Makes sure, before anything starts, that `load_weights` will find its source; downloads it if need be.

    Raises ConfigError as `load_weights` does.
    """
    if config.weights == "imagenet":
        _imagenet(config.backbone)
    elif config.weights != "none":
        _read(Path(config.weights))


def _backbone(config: ModelConfig) -> nn.Sequential:
    if config.backbone == "tiny":
        return _tiny(config.last_stride)
    resnet = torchvision.models.get_model(config.backbone, weights=None)
    if config.last_stride == 1:
        _keep_resolution(resnet.layer4[0])
    return nn.Sequential(OrderedDict((stage, getattr(resnet, stage)) for stage in RESNET_STAGES))


def _keep_resolution(block: nn.Module) -> None:
    """Undo the stride of a stage's first block, which has it in one 3 x 3 convolution and in the shortcut."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _tiny(last_stride: int) -> nn.Sequential:
    """Four convolutions with batch norm and ReLU; 2.6 million multiplications for a frame of 64 x 32."""
    stages = []
    channels = 3
    for width, stride in zip(TINY_CHANNELS, (2, 2, 2, last_stride), strict=True):
        convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
        channels = width
    return nn.Sequential(*stages)


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """Name in our network of a tensor that the file may name as torchvision does."""
    return name if name in own else f"backbone.{name}"


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone == "tiny":
        raise ConfigError("model.weights: imagenet: there are none for model.backbone tiny; set model.weights to none")
    weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        with _connect_timeout(CONNECT_SECONDS):
            state: Mapping[str, Tensor] = weights.get_state_dict(check_hash=True, progress=False, weights_only=True)
    except (HTTPException, *UNREADABLE) as error:
        # Among them OSError is URLError, HTTPError, time-outs and a full disk, RuntimeError a wrong hash.
        raise ConfigError(
            f"model.weights: imagenet: cannot download {weights.url} ({_one_line(error)}); "
            "set model.weights to none or to the path of a weights file"
        ) from error
    return state


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """Bound the waits of urllib, to which torch.hub passes no timeout, by the process's default."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(path: Path) -> Mapping[str, Tensor]:
    """State dict in a weights file or checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {path}: no such file (and neither imagenet nor none)") from error
    except UNREADABLE as error:
        raise ConfigError(f"model.weights: {path}: not a readable weights file ({_one_line(error)})") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f'model.weights: {path}: holds neither a state dict nor a checkpoint with key "model"')
    return state


def _one_line(error: Exception) -> str:
    """First line of a message, or the kind of error where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
