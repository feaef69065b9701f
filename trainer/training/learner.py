"""The network, the losses and the optimizer of a training, and one step of it.

B clips, T frames, H height, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trainer.compute import autocast, compiled, laid_out, placed, weight_dtype
from trainer.config import TrialConfig
from trainer.input.augment import normalised
from trainer.input.loader import Batch, blank_batch, to_device
from trainer.losses.reid_loss import ReidLoss
from trainer.model.averaging import WeightAverage
from trainer.model.network import ModelOutput, TemporalAttentionResNet
from trainer.seeds import derived_seed
from trainer.training.optimizer import make_optimizer, set_rate
from trainer.training.schedule import learning_rate

log = logging.getLogger(__name__)

Observe = Callable[[Batch, ModelOutput, Mapping[str, Tensor]], None]
"""Called with each batch, on the device, the network's output and the losses."""


class Learner:
    """The components of a training: network, losses with their centers, optimizer, and the average of the weights.

    All of them are saved by `state` and restored by `restore`; nothing else of a learner changes.
    """

    def __init__(self, config: TrialConfig, num_classes: int, device: torch.device, *, own_weights: bool) -> None:
        """Builds everything from the trial's seed; with `own_weights` the network loads its configured weights,
        without it a checkpoint is going to fill it.

        Raises:
            ConfigError: weights that cannot be had.
        """
        torch.manual_seed(derived_seed(config.seed, "weights"))
        self.config, self.device = config, device
        architecture = config.model if own_weights else config.model.model_copy(update={"weights": "none"})
        self.model = TemporalAttentionResNet(architecture, num_classes)
        """The network that learns; `evaluated` is the one to evaluate."""
        placed(self.model, config.compute, device)
        if own_weights and config.model.weights != "none":
            log.info("model.weights: %s", self.model.loaded_weights.summary())
        self.loss = ReidLoss(config.loss, num_classes, self.model.embedding_dim).to(device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=weight_dtype(config.compute) == torch.float16)
        """Scales the loss, in fp16 only."""
        self._of_backbone = [each for each in self.model.backbone.parameters() if each.requires_grad]
        decay = config.optim.ema_decay
        self.average = None if decay is None else WeightAverage(self.model, decay)
        """Exponential moving average of the weights, where `optim.ema_decay` asks for it."""

    @property
    def evaluated(self) -> TemporalAttentionResNet:
        """The network to evaluate: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    def compile(self) -> bool:
        """Compiles the network if the configuration says so, with a batch as all are; restore comes first.

        Tells whether it is compiled now.

        To be called where it trains, under the same `float32_products`: what is compiled for other settings of the
        process, or for another layout of the frames, is compiled again in the first step.
        """
        blank = blank_batch(self.config.clips, (self.config.model.height, self.config.model.width))
        frames = to_device(blank, self.device, self.config.clips).frames
        return compiled(self.model, self._seen(frames), self.config.compute)

    def begin_epoch(self, epoch: int) -> None:
        """Sets the learning rate of the epoch, counted from 0, and the network to training, its backbone too unless the
        epoch is one of those in which it is frozen."""
        self.begin_step(epoch, 0.0)
        frozen = epoch < self.config.optim.freeze_epochs
        self.model.train()
        self.model.backbone.train(not frozen)
        for parameter in self._of_backbone:
            # Without a gradient the optimizer leaves a parameter alone, its decay and moments too.
            parameter.requires_grad_(not frozen)

    def begin_step(self, epoch: int, passed: float) -> None:
        """Sets the learning rate of a step, where a share of the epoch has passed."""
        set_rate(self.optimizer, learning_rate(self.config.optim, epoch, passed))

    def step(self, batches: Sequence[Batch], observe: Observe) -> None:
        """One step of the optimizer and of the centers on the mean loss of the batches.

        The host never waits for a GPU, in any precision and with an average of the weights too: whether a step under
        fp16 is left out is decided on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.zero_grad(set_to_none=True)
        for each in batches:
            batch = to_device(each, self.device, self.config.clips)
            output, terms = self.forward(batch)
            self.scaler.scale(terms["total"] / len(batches)).backward()  # type: ignore[no-untyped-call]
            observe(batch, output, terms)
        self._update()

    def forward(self, batch: Batch) -> tuple[ModelOutput, dict[str, Tensor]]:
        """The network's output for a batch on the device, and the losses."""
        with autocast(self.config.compute, self.device):
            output: ModelOutput = self.model(self._seen(batch.frames))
            return output, self.loss(output, batch.labels, batch.erased, self.model.classifier.weight)

    def _seen(self, frames: UInt8[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3 H W"]:
        """The frames as the network takes them."""
        return laid_out(normalised(frames), self.config.compute)

    def _update(self) -> None:
        """The optimizer's step, the centers' own, and the average's.

        Under fp16 the loss was scaled: gradients are scaled back first, and a step whose gradients overflowed
        is left out altogether.
        """
        self.scaler.unscale_(self.optimizer)
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        if not self.scaler.is_enabled():
            self._follow(1.0, None)
            return
        # `get_scale` would read the scale back; scaling a one gives it on the device.
        one = torch.ones((), device=self.device)
        scale = self.scaler.scale(one)
        self.scaler.update()
        self._follow(scale, self.scaler.scale(one) >= scale)

    def _follow(self, gradient_scale: float | Tensor, taken: Tensor | None) -> None:
        """The steps of centers and average after the optimizer's, where it was `taken`; None is always."""
        self.loss.step_centers(gradient_scale=gradient_scale, taken=taken)
        if self.average is not None:
            self.average.update(self.model, taken)

    def weights(self) -> dict[str, Any]:
        """State of the network to evaluate: all that an evaluation needs."""
        return self.evaluated.state_dict()

    def state(self) -> dict[str, Any]:
        """State of everything, for a checkpoint that a resume continues from."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "learning": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **average,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.model.load_state_dict(state["learning"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def in_groups(batches: Iterable[Batch], size: int) -> Iterable[list[Batch]]:
    """The batches in lists of `size`; the last list may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
