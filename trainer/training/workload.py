"""How much one training batch of a configuration computes, to tell large configurations from small ones."""

from __future__ import annotations

from trainer.config import TrialConfig
from trainer.model.network import ModelConfig, geometry


def multiplications_per_batch(config: TrialConfig) -> int:
    """Multiplications of one forward pass over one training batch.

    Clips per batch x frames per clip x (the backbone + the attention's spatial convolution, which multiplies each of
    its weights once per frame). It orders configurations by time and memory; how
    long a batch takes can only be measured.
    """
    clips, model = config.clips, config.model
    frame = geometry(model).multiplications + _attention_work(model)
    return clips.identities * clips.tracklets * clips.frames * frame


def _attention_work(model: ModelConfig) -> int:
    """Weights of the attention's spatial convolution, C x hidden x h x w."""
    if model.pooling != "attention":
        return 0
    channels, map_size, _ = geometry(model)
    height, width = (1, 1) if model.attention_factorised else map_size
    return channels * model.attention_hidden * height * width
