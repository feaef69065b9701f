"""Meters of an epoch of training: losses, attention, images and time.

The values of the steps stay on the device until the epoch ends, so that no step waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.errors import DivergedError
from trainer.input.loader import Batch
from trainer.model.attention import attention_entropy, dead_score_share, erased_weight
from trainer.model.network import ModelOutput


class EpochMeters:
    """The sums of one epoch; `state` and `restored` carry them over an interruption."""

    def __init__(self) -> None:
        self.batches = 0
        """Batches learned from."""
        self.images = 0
        self.seconds = 0.0
        """Time spent learning, waiting included."""
        self.waited = 0.0
        """Time that the device spent waiting for frames."""
        self._names: list[str] = []
        self._terms: list[Tensor] = []  # [terms] per batch, so that the first bad one can be named
        self._attention: Tensor | None = None  # sums: entropy, dead share, erased weight, erased frames

    def add(self, batch: Batch, output: ModelOutput, terms: Mapping[str, Tensor], *, attention: bool) -> None:
        """Counts a batch on the device, its losses and, where the network has it, its attention; waits for nothing."""
        self.batches += 1
        self.images += batch.frames.shape[0] * batch.frames.shape[1]
        self._names = list(terms)
        self._terms.append(torch.stack([term.detach() for term in terms.values()]))
        if attention:
            with torch.no_grad():
                seen = _attention_sums(output, batch.erased)
            self._attention = seen if self._attention is None else self._attention + seen

    def losses(self, epoch: int) -> dict[str, float]:
        """Means over the batches, by term.

        Raises:
            DivergedError: a term was NaN or infinite; names the one that was so first.
        """
        table = torch.stack(self._terms).cpu()
        bad = ~table.isfinite()
        if bool(bad.any()):
            row = int(bad.any(dim=1).int().argmax())
            culprits = [column for column in range(len(self._names)) if bad[row, column]]
            name = min(culprits, key=lambda column: self._names[column] == "total")  # the total only follows
            value = float(table[row, name])
            raise DivergedError(f"loss/{self._names[name]} is {value} in epoch {epoch + 1}, batch {row + 1}")
        return dict(zip(self._names, table.mean(dim=0).tolist(), strict=True))

    def attention(self) -> dict[str, float]:
        """Means over clips, scores and erased frames, as `EpochResult.attention` has them."""
        if self._attention is None:
            return {}
        entropy, dead, weight, frames = self._attention.tolist()
        means = {"entropy": entropy / self.batches, "dead_scores": dead / self.batches}
        return means | ({"erased_weight": weight / frames} if frames else {})

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        return {name.removeprefix("_"): value for name, value in vars(self).items()}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> EpochMeters:
        """The meters that `state` was taken of, on a device."""
        meters = cls()
        meters.batches, meters.images = state["batches"], state["images"]
        meters.seconds, meters.waited = state["seconds"], state["waited"]
        meters._names = list(state["names"])
        meters._terms = [terms.to(device) for terms in state["terms"]]
        meters._attention = None if state["attention"] is None else state["attention"].to(device)
        return meters


def _attention_sums(output: ModelOutput, erased: Tensor) -> Tensor:
    weights = output.weights.float()
    weight, frames = erased_weight(weights, erased)
    entropy, dead = attention_entropy(weights).mean(), dead_score_share(output.scores)
    return torch.stack([entropy, dead, weight, frames.to(weight)])
