"""A copy of a network that only embeds: batch norms folded into convolutions, weights in the precision asked for.

Embedding takes most of a search's time (0.6 million frames for one evaluation on MARS), and there nothing is learned.
"""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainer.compute import ComputeConfig, memory_format, require_precision, weight_dtype
from trainer.model.attention import TemporalAttention
from trainer.model.network import TemporalAttentionResNet


def inference_copy(model: TemporalAttentionResNet, compute: ComputeConfig) -> TemporalAttentionResNet:
    """A copy of `model` for evaluation on the same device, without gradients; the original stays as it is.

    Its batch norms are part of the convolutions before them, computed in float32, where the order of computation is
    known (`Backbone.foldable`). Then the convolutions over frames
    and maps, in which all the time goes, take the precision of `compute`; everything after the attention's spatial
    convolution stays in float32, and so are the outputs. It is neither autocast nor compiled.

    Raises:
        ConfigError: the device cannot compute in this precision.
    """
    require_precision(compute, next(model.parameters()).device)
    duplicate = copy.deepcopy(model).eval().requires_grad_(False)
    if duplicate.foldable:
        fold_batch_norms(duplicate.backbone)
    duplicate.backbone.to(weight_dtype(compute))
    if isinstance(duplicate.attention, TemporalAttention):
        duplicate.attention.spatial.to(weight_dtype(compute))
    return duplicate.to(memory_format=memory_format(compute))


def fold_batch_norms(module: nn.Module) -> None:
    """Replaces each convolution and the batch norm registered right after it, at any depth, by one convolution.

    For networks in which registration order is the order of computation, as `Backbone.foldable` says.
    """
    children = list(module.named_children())
    for (name, child), (next_name, follower) in pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, follower))
            setattr(module, next_name, nn.Identity())
    for _, child in children:
        fold_batch_norms(child)
