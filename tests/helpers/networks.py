"""Small networks for the tests."""

from __future__ import annotations

from typing import Any

import torch

from trainer.model.network import ModelConfig, TemporalAttentionResNet

TINY = ModelConfig(backbone="tiny", weights="none", height=64, width=32)


def network(config: ModelConfig = TINY, *, identities: int = 5) -> TemporalAttentionResNet:
    """A network with the same weights every time."""
    torch.manual_seed(0)
    return TemporalAttentionResNet(config, identities)


def tiny(**changes: Any) -> ModelConfig:
    """The tiny network with other settings."""
    return ModelConfig.model_validate(TINY.model_dump() | changes)
