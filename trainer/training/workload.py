"""How much one training batch of a configuration computes, to tell large configurations from small ones."""

from __future__ import annotations

from trainer.config import TrialConfig
from trainer.model.network import RESNET_CHANNELS, TINY_CHANNELS, ModelConfig, feature_map_size

# Multiplications of the backbone's convolutions per pixel of a frame of 256 x 128, by the stride of the last stage; a
# test counts them.
BACKBONE_WORK: dict[str, dict[int, int]] = {
    "tiny": {1: 1260, 2: 828},
    "resnet18": {1: 60_720, 2: 36_144},
    "resnet34": {1: 111_408, 2: 73_008},
    "resnet50": {1: 123_696, 2: 81_456},
    "resnet101": {1: 197_680, 2: 155_440},
}


def multiplications_per_batch(config: TrialConfig) -> int:
    """Multiplications of one forward pass over one training batch.

    Clips per batch x frames per clip x (height x width x what the backbone does with a pixel + the attention's spatial
    convolution, which multiplies each of its weights once per frame). It orders configurations by time and memory; how
    long a batch takes can only be measured.
    """
    clips, model = config.clips, config.model
    backbone = model.height * model.width * BACKBONE_WORK[model.backbone][model.last_stride]
    return clips.identities * clips.tracklets * clips.frames * (backbone + _attention_work(model))


def _attention_work(model: ModelConfig) -> int:
    """Weights of the attention's spatial convolution, C x hidden x h x w."""
    if model.pooling != "attention":
        return 0
    height, width = (1, 1) if model.attention_factorised else feature_map_size(model)
    channels = RESNET_CHANNELS.get(model.backbone, TINY_CHANNELS[-1])
    return channels * model.attention_hidden * height * width
