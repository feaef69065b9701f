"""Networks over frames, by name: torchvision's, timm's, and a tiny one for tests and laptops.

N frames, H x W pixels, C channels, h x w feature map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.errors import ConfigError
from trainer.formatting import first_line, listed, shortened, shown
from trainer.plugins import blamed, is_plugin, load_plugin

TIMM = "timm:"
TIMM_NEAREST = 3
TINY_CHANNELS = (16, 32, 64, 64)
RESNET_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
MOBILENET_LAST_STAGE = 14  # the last of its blocks that halves the map


class FrameSize(NamedTuple):
    """Height and width of frames, in pixels."""

    height: int
    width: int


class Geometry(NamedTuple):
    """What a backbone makes of one frame."""

    channels: int
    """Channels of the map, C."""
    map_size: tuple[int, int]
    """Height and width of the map, h and w, each at least 1."""
    multiplications: int
    """Multiplications of one forward pass, of convolutions and matrix products."""


Build = Callable[[FrameSize, int], nn.Module]


class Backbone(NamedTuple):
    """How a network over frames is made, and what is known of it before it is."""

    build: Build
    """Makes the network, with random weights, for frames of one size and a stride of its last stage, 1 or 2. It takes
    normalised frames [N 3 H W] and gives maps [N C h w], without randomness in its forward pass, which a resumed
    training could not repeat. A network that has no such stage may ignore the stride."""
    geometry: Callable[[FrameSize, int], Geometry] | None = None
    """Computes the geometry; None measures it on a network without memory."""
    pretrained: Literal["torchvision", "timm"] | None = None
    """Where `model.weights: imagenet` comes from."""
    foldable: bool = False
    """Whether batch norms compute right after the convolution registered before them, so that evaluations fold them."""


def find_backbone(name: str) -> Backbone:
    """The backbone of a name: one of `BACKBONES`, or `timm:` and the name of a network of timm, or
    `plugin:` and the name of an installed package's.

    Raises:
        ConfigError: there is none of this name, timm is not installed, or the plug-in cannot be used.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(TIMM):
        return _timm_backbone(name.removeprefix(TIMM))
    if is_plugin(name):
        return _backbone_of_plugin(name)
    raise ConfigError(f"{shown(name)} is neither {listed([*BACKBONES])} nor timm:NAME or plugin:NAME")


def _backbone_of_plugin(name: str) -> Backbone:
    plugin, make = load_plugin("backbones", name)

    def build(size: FrameSize, last_stride: int) -> nn.Module:
        with blamed(plugin):
            network = make(size, last_stride)
            if not isinstance(network, nn.Module):
                raise ConfigError(f"made {type(network).__name__} where a backbone is a torch.nn.Module")
            return network

    return Backbone(build)


@lru_cache(maxsize=4096)  # a search checks many configurations of few networks
def backbone_geometry(name: str, size: FrameSize, last_stride: int) -> Geometry:
    """What the backbone `name` makes of a frame.

    Raises:
        ConfigError: there is no such backbone, it cannot take frames of this size, or it gives no map.
    """
    backbone = find_backbone(name)
    if backbone.geometry is not None:
        return backbone.geometry(size, last_stride)
    try:
        return _measured(backbone.build, size, last_stride)
    except Exception as error:  # other people's networks refuse a size by whatever error happens first
        why = shortened(first_line(error))
        who = "" if why.startswith(name) else f"{name} "  # what a plug-in raises begins with it
        raise ConfigError(
            f"model.backbone: {who}cannot be used with frames of {size.height} x {size.width} ({why}); give another "
            "size or network"
        ) from error


def _measured(build: Build, size: FrameSize, last_stride: int) -> Geometry:
    """The geometry that a forward pass without memory shows; draws no random numbers that others would miss."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        network = build(size, last_stride).eval()
        with FlopCounterMode(display=False) as counter:
            maps = network(torch.empty(1, 3, *size))
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.numel() == 0:
        raise ConfigError("it gives neither a feature map nor tokens")
    return Geometry(maps.shape[1], (maps.shape[2], maps.shape[3]), counter.get_total_flops() // 2)


def _halving(name: str, channels: int, stride: int, work: Mapping[int, float]) -> Callable[[FrameSize, int], Geometry]:
    """The geometry of a network whose every stride-2 layer is padded so that it halves and rounds up.

    Args:
        name: the backbone.
        channels: of its map.
        stride: of the network in all, where the last stage's is 1.
        work: multiplications of its convolutions per pixel of a frame of 256 x 128, by the stride of the last stage.
    """

    def geometry(size: FrameSize, last_stride: int) -> Geometry:
        whole = stride * last_stride
        if min(size) < whole:  # the map would hold less than one whole cell
            raise ConfigError(
                f"height, width: {size.height} x {size.width} is too small for {name} with last_stride "
                f"{last_stride}; give at least {whole} x {whole}"
            )
        map_size = (-(-size.height // whole), -(-size.width // whole))
        return Geometry(channels, map_size, round(size.height * size.width * work[last_stride]))

    return geometry


def _torchvision(name: str) -> Any:
    from torchvision.models import get_model  # takes seconds to import, and a tiny network does without

    return get_model(name, weights=None)


def _resnet(name: str, size: FrameSize, last_stride: int) -> nn.Module:
    resnet = _torchvision(name)
    if last_stride == 1:
        _keep_resolution(resnet.layer4[0])
    return nn.Sequential(OrderedDict((stage, getattr(resnet, stage)) for stage in RESNET_STAGES))


def _mobilenet_v2(size: FrameSize, last_stride: int) -> nn.Module:
    features: nn.Sequential = _torchvision("mobilenet_v2").features
    if last_stride == 1:
        _keep_resolution(features[MOBILENET_LAST_STAGE])
    return features


def _keep_resolution(block: nn.Module) -> None:
    """Undo the stride of a stage's first block, which has it in one 3 x 3 convolution and perhaps in the shortcut."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _tiny(size: FrameSize, last_stride: int) -> nn.Module:
    """Four convolutions with batch norm and ReLU; 2.6 million multiplications for a frame of 64 x 32."""
    stages = []
    channels = 3
    for width, stride in zip(TINY_CHANNELS, (2, 2, 2, last_stride), strict=True):
        convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
        channels = width
    return nn.Sequential(*stages)


def _resnet_backbone(name: str, channels: int, work: Mapping[int, float]) -> Backbone:
    return Backbone(partial(_resnet, name), _halving(name, channels, 16, work), "torchvision", foldable=True)


BACKBONES: dict[str, Backbone] = {
    "resnet18": _resnet_backbone("resnet18", 512, {1: 60_720, 2: 36_144}),
    "resnet34": _resnet_backbone("resnet34", 512, {1: 111_408, 2: 73_008}),
    "resnet50": _resnet_backbone("resnet50", 2048, {1: 123_696, 2: 81_456}),
    "resnet101": _resnet_backbone("resnet101", 2048, {1: 197_680, 2: 155_440}),
    "mobilenet_v2": Backbone(
        _mobilenet_v2, _halving("mobilenet_v2", 1280, 16, {1: 10_680, 2: 5968.875}), "torchvision", foldable=True
    ),
    "tiny": Backbone(_tiny, _halving("tiny", TINY_CHANNELS[-1], 8, {1: 1260, 2: 828}), foldable=True),
}
"""Backbones by name, without those of timm. A test counts what they multiply."""


@cache
def _timm_backbone(name: str) -> Backbone:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        nearest = get_close_matches(name, timm.list_models(), TIMM_NEAREST, cutoff=0)
        raise ConfigError(
            f"timm {timm.__version__} has no network {shown(name)}; the nearest names are "
            f"{listed([TIMM + near for near in nearest])}"
        )
    return Backbone(partial(timm_network, name), pretrained="timm")


def timm_network(name: str, size: FrameSize, last_stride: int, *, pretrained: bool = False) -> nn.Module:
    """A network of timm as a backbone, under timm's names; its strides stay as they are.

    Tokens become a map of one column, [N C L 1], without class and register tokens: attention over the whole map
    weighs each of them by its place, as it does cells.

    Args:
        name: of timm, with or without the tag of its weights.
        size: of the frames; networks with position embeddings are made for it.
        last_stride: has no effect.
        pretrained: whether timm's own weights are loaded, from its cache or by download.
    """
    timm = _timm()
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    options = {"img_size": tuple(size)} if fixed else {}
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="", **options)
    network.register_forward_hook(_as_maps)
    return network


def _as_maps(network: nn.Module, frames: object, output: Any) -> Any:
    """Maps [N C h w] of what a network of timm gives: such maps, channels last, or tokens [N L C]."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return output
    if output.ndim == 3:
        first: Any = getattr(network, "num_prefix_tokens", 0)
        return output[:, first:].transpose(1, 2).unsqueeze(-1)
    return output.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else output


def _timm() -> ModuleType:
    try:
        import timm  # takes seconds to import
    except ImportError as error:
        raise ConfigError(f"timm is not installed ({first_line(error)}); pip install 'reidsearch[timm]'") from error
    return timm
