"""The network: backbones, attention over time, weights."""

from trainer.model.attention import AttentionOutput, TemporalAttention
from trainer.model.network import ModelConfig, ModelOutput, TemporalAttentionResNet

__all__ = ["AttentionOutput", "ModelConfig", "ModelOutput", "TemporalAttention", "TemporalAttentionResNet"]
