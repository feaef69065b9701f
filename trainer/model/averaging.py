"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.model.network import TemporalAttentionResNet


class WeightAverage(nn.Module):
    """Average of weights and of batch norms' statistics, which starts as those after the first step.

    torch's AveragedModel computes the same, and makes the host wait for a GPU in every step: it copies its count there.
    """

    n_averaged: Tensor

    def __init__(self, model: TemporalAttentionResNet, decay: float) -> None:
        """Starts with a copy of the network; `decay` in (0, 1) is what remains of the average in each step."""
        super().__init__()
        self.module = copy.deepcopy(model)
        self._decay = decay
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        device = next(model.parameters()).device
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.long, device=device))
        self._has_started = False

    @torch.no_grad()
    def update(self, model: nn.Module, taken: Bool[Tensor, ""] | None = None) -> None:
        """Takes the network's weights in where `taken`, which stays on its device, is true or None."""
        ours, theirs = _tensors(self.module), _tensors(model)
        if taken is not None:
            self._update_where(taken, ours, theirs)
            self.n_averaged += taken
            return
        if self._has_started:
            for is_float in (True, False):
                chosen = [place for place, tensor in enumerate(ours) if tensor.is_floating_point() == is_float]
                self._average([ours[place] for place in chosen], [theirs[place] for place in chosen], None)
        else:
            torch._foreach_copy_(ours, theirs)
            self._has_started = True
        self.n_averaged += 1

    def _update_where(self, taken: Bool[Tensor, ""], ours: list[Tensor], theirs: list[Tensor]) -> None:
        share = torch.where(self.n_averaged == 0, 1.0, 1 - self._decay)
        for mine, its in zip(ours, theirs, strict=True):
            # Counts of batches are mixed as well, and cut to whole numbers, as torch does.
            mixed = torch.lerp(mine, its, share) if mine.is_floating_point() else mine * (1 - share) + its * share
            mine.copy_(torch.where(taken, mixed, mine))

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """As of any module; the average goes on where it was."""
        loaded = super().load_state_dict(*args, **kwargs)  # type: ignore[arg-type]
        self._has_started = bool(self.n_averaged > 0)
        return loaded


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
