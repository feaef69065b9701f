"""The losses weighed and added, and the centers of the center loss, which learn by a step of their own.

B clips, D embedding, C identities (classes), T frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import ConfigError
from trainer.losses.functional import (
    Metric,
    Reduction,
    batch_hard,
    center_loss,
    erased_frame_attention,
    euclidean_distances,
    fast_cosines,
    geometry,
    osm_caa_of,
    wen_step,
)
from trainer.model.network import Feature, ModelOutput
from trainer.plugins import PREFIX, blamed, is_plugin, load_plugin
from trainer.settings import FrozenConfig


class LossConfig(FrozenConfig):
    """Constants of L = L_id + (1 - s) L_tri + w_c L_cen + s L_osm + w_a L_att + w_x L_x, s = `osm_share`."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Mass that the identity loss spreads over all identities (Szegedy et al. 2016)."""
    feature: Feature = "after_neck"
    """What triplet, center and OSM loss see: the feature after the neck (the paper) or before (Luo et al. 2019)."""
    triplet_metric: Metric = "cosine"
    """Distance of the batch-hard triplet loss; the paper's code uses the cosine."""
    triplet_margin: float | None = Field(0.3, ge=0)
    """Margin of the triplet loss: a cosine in [0, 2], or a distance; null is the soft margin (Hermans et al. 2017)."""
    osm_share: float = Field(0.0, ge=0, le=1)
    """Share s that the OSM loss takes from the triplet loss; 0 is triplet alone, 1 is OSM alone."""
    osm_alpha: float = Field(1.2, gt=0)
    """Margin of OSM's negative pairs, a distance between unit vectors in [0, 2]."""
    osm_sigma: float = Field(0.8, gt=0)
    """Width of the Gaussian that softly mines OSM's positive pairs."""
    osm_balance: float = Field(0.5, ge=0, le=1)
    """Weight of OSM's negative pairs; the positive pairs have one minus it."""
    osm_class_vectors: Literal["classifier", "centers"] = "centers"
    """What class-aware attention compares a clip with: classifier rows, or centers (the paper's CL)."""
    osm_detach: bool = False
    """Whether OSM's weights are constants to the gradient, as in Wang's code, not in the paper's."""
    osm_temperature: float = Field(1.0, gt=0)
    """What class-aware attention divides cosines by; 1 in the paper's code, where attention hardly varies."""
    center_weight: float = Field(0.0, ge=0)
    """Weight of the center loss; 5e-4 in the paper's code."""
    center_learning_rate: float = Field(0.5, gt=0)
    """Step of the centers' own plain SGD, whose gradient is divided by `center_weight` first; or Wen's alpha."""
    center_update: Literal["gradient", "wen"] = "gradient"
    """How centers learn: by their gradient, as in the paper's code, or by the rule of Wen et al. 2016."""
    center_count: int | None = Field(None, ge=1)
    """Number of centers; null is one per training identity. The paper's code always has 751; the rest dilute OSM."""
    attention_weight: float = Field(0.0, ge=0)
    """Weight of the loss on attention given to erased frames; 1 in the paper's code."""
    attention_on: Literal["scores", "weights"] = "weights"
    """What that loss sees: weights over frames, or, as in the paper's code, scores before the gate, which can die."""
    attention_reduction: Reduction = "sum"
    """Whether it sums over the frames of a clip, as the paper's code does, or averages, as the paper's Eq. 1."""
    extra: str | None = None
    """`plugin:NAME`: a loss of an installed package; null for none."""
    extra_weight: float = Field(0.0, ge=0)
    """Weight of the extra loss."""

    @field_validator("extra")
    @classmethod
    def _is_installed(cls, extra: str | None) -> str | None:
        if extra is not None:
            if not is_plugin(extra):
                raise ValueError(f"names a loss of an installed package as {PREFIX}NAME")
            load_plugin("losses", extra)
        return extra

    @model_validator(mode="after")
    def _extra_weight_is_of_a_loss(self) -> LossConfig:
        if self.extra is None and self.extra_weight > 0:
            raise ValueError(f"extra_weight has no effect without extra; name a loss there as {PREFIX}NAME")
        return self

    @model_validator(mode="after")
    def _centers_are_trained(self) -> LossConfig:
        if self.osm_share > 0 and self.osm_class_vectors == "centers" and self.center_weight == 0:
            raise ValueError(
                "osm_class_vectors: centers, but center_weight is 0, so the centers would never be trained; "
                "set center_weight above 0 (5e-4 in the paper's code) or osm_class_vectors to classifier"
            )
        return self

    @model_validator(mode="after")
    def _every_switch_has_an_effect(self) -> LossConfig:
        """Numbers may be sampled beside a weight that is 0, and `attention_on` is set by a recipe; these are not."""
        switches = (
            ("center_update: wen", self.center_update == "wen", "center_weight"),
            ("center_count", self.center_count is not None, "center_weight"),
            ("osm_detach: true", self.osm_detach, "osm_share"),
            ("attention_reduction: mean", self.attention_reduction == "mean", "attention_weight"),
        )
        for setting, given, needed in switches:
            if given and getattr(self, needed) == 0:
                raise ValueError(f"{setting} has no effect while {needed} is 0; set {needed} above 0 or leave it out")
        return self


class ReidLoss(nn.Module):
    """L = L_id + (1 - s) L_tri + w_c L_cen + s L_osm + w_a L_att + w_x L_x; owns the centers of the center loss.

    `centers` is "C D", drawn from N(0, 1) as in the paper's code, and None where the center loss has no weight.

    Raises ConfigError when `center_count` leaves identities without a center.
    """

    centers: nn.Parameter | None

    def __init__(self, config: LossConfig, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        centers = None
        if config.center_weight > 0:
            centers = nn.Parameter(torch.randn(_center_count(config, num_classes), embedding_dim))
        self.register_parameter("centers", centers)
        self._seen: list[tuple[Tensor, Tensor]] = []  # features and labels since the last step, for Wen's rule

    def forward(
        self,
        output: ModelOutput,
        labels: Int[Tensor, " B"],
        erased: Bool[Tensor, "B T"],
        classifier: Float[Tensor, "C D"],
    ) -> dict[str, Tensor]:
        """`total` and its terms unweighted: `identity`, `triplet`, `center`, `osm`, `attention`, `extra`.

        A term without weight is not computed and has no key. `classifier` is the weight of the classifier.
        Under autocast too, all is computed in float32 or better: half precision ruins exponents.
        """
        with torch.autocast(labels.device.type, enabled=False):
            exact = ModelOutput(*(_full_precision(tensor) for tensor in output))
            terms = self._terms(exact, labels, erased, _full_precision(classifier))
        weights = self._weights()
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"total": total, **terms}

    @torch.no_grad()
    def step_centers(
        self, *, gradient_scale: float | Float[Tensor, ""] = 1.0, taken: Bool[Tensor, ""] | None = None
    ) -> None:
        """Take the centers' own step after `backward` of the total, and forget what it was made from.

        `gradient`: plain SGD on the gradient divided by `center_weight`, so that the step does not depend on it
        (the paper's code, after Luo et al. 2019): a center moves 2 lr n / B of the way to the mean of its n clips
        in the batch of B. What reaches the centers through OSM is divided along with it, also as there. The
        gradient is divided by `gradient_scale` too, which undoes the scaling of the loss in half precision.
        `wen`: `wen_step` on all clips since the last step, whatever the gradients.

        Without centers, or where nothing has reached them since the last step, there is nothing to step. Nor is there
        where `taken` is False, which may be on a device: it is not waited for.
        """
        config, centers = self.config, self.centers
        if centers is None:
            return
        if self._seen:
            features, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
            stepped = wen_step(features, labels, centers, rate=config.center_learning_rate)
        elif centers.grad is not None:
            rate = config.center_learning_rate / (config.center_weight * gradient_scale)
            stepped = (
                centers - centers.grad * rate
                if isinstance(rate, Tensor)
                else torch.sub(centers, centers.grad, alpha=rate)
            )
        else:
            stepped = centers
        centers.copy_(stepped if taken is None else torch.where(taken, stepped, centers))
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients, and the clips that Wen's rule would have used in their place."""
        super().zero_grad(set_to_none)
        self._seen.clear()

    def _weights(self) -> dict[str, float]:
        config = self.config
        return {
            "identity": 1.0,
            "triplet": 1 - config.osm_share,
            "center": config.center_weight,
            "osm": config.osm_share,
            "attention": config.attention_weight,
            "extra": config.extra_weight,
        }

    def _terms(
        self,
        output: ModelOutput,
        labels: Int[Tensor, " B"],
        erased: Bool[Tensor, "B T"],
        classifier: Float[Tensor, "C D"],
    ) -> dict[str, Tensor]:
        config = self.config
        feature = output.feature(config.feature)
        smoothing = config.label_smoothing
        terms = {"identity": functional.cross_entropy(output.logits, labels, label_smoothing=smoothing)}
        terms |= self._metric_terms(feature, labels, classifier)
        if config.attention_weight > 0:
            attention = output.scores if config.attention_on == "scores" else output.weights
            terms["attention"] = erased_frame_attention(attention, erased, reduction=config.attention_reduction)
        if config.extra is not None and config.extra_weight > 0:
            terms["extra"] = _of_plugin(config.extra, output, labels)
        return terms

    def _metric_terms(
        self, feature: Float[Tensor, "B D"], labels: Int[Tensor, " B"], classifier: Float[Tensor, "C D"]
    ) -> dict[str, Tensor]:
        """`triplet`, `center` and `osm`, which share the products of features and class vectors."""
        config, centers = self.config, self._centers_for(feature, labels)
        terms = {}
        if config.osm_share == 0:
            cosine = config.triplet_metric == "cosine"
            distances = 1 - fast_cosines(feature) if cosine else euclidean_distances(feature)
            terms["triplet"] = batch_hard(distances, labels, margin=config.triplet_margin)
            if centers is not None:
                terms["center"] = center_loss(feature, labels, centers)
            return terms
        vectors = classifier if config.osm_class_vectors == "classifier" else centers
        assert vectors is not None, "LossConfig sees to it that the centers are trained"
        found = geometry(feature, vectors, labels)
        if config.osm_share < 1:
            distances = 1 - found.clips if config.triplet_metric == "cosine" else euclidean_distances(feature)
            terms["triplet"] = batch_hard(distances, labels, margin=config.triplet_margin)
        if centers is not None:
            own = found.to_own / max(len(labels), 1) if vectors is centers else center_loss(feature, labels, centers)
            terms["center"] = own
        terms["osm"] = osm_caa_of(
            found.clips,
            found.classes,
            labels,
            alpha=config.osm_alpha,
            sigma=config.osm_sigma,
            balance=config.osm_balance,
            temperature=config.osm_temperature,
            detach=config.osm_detach,
        )
        return terms

    def _centers_for(self, feature: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Tensor | None:
        """The centers as the losses see them: by Wen's rule without gradient, the clips noted for the step."""
        if self.centers is None or self.config.center_update == "gradient":
            return self.centers
        if self.training and torch.is_grad_enabled():
            self._seen.append((feature.detach(), labels))
        return self.centers.detach()


def _of_plugin(name: str, output: ModelOutput, labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """The loss of an installed package; its interface is docs/howto-extend.md's.

    Raises:
        ConfigError: its code raised, or it gave something else than one number.
    """
    plugin, loss = load_plugin("losses", name)
    with blamed(plugin):
        value = loss(output, labels)
    if not isinstance(value, Tensor) or value.shape != ():
        what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"{plugin}: gave {what} where a loss is a tensor of shape []")
    return value


def _center_count(config: LossConfig, identities: int) -> int:
    count = identities if config.center_count is None else config.center_count
    if count < identities:
        raise ConfigError(
            f"loss.center_count: {count} centers, but there are {identities} training identities; "
            f"give at least {identities}, or null for as many as there are"
        )
    return count


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
