"""The losses of the paper as pure functions of tensors, and `ReidLoss`, which weighs and adds them.

B clips, D embedding, C persons (classes), T frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from trainer.frozen import FrozenConfig
from trainer.model import ModelOutput

Metric = Literal["cosine", "euclidean"]

SMALLEST = 1e-12  # the paper's code: a shorter vector has no direction, a smaller OSM score no weight


class LossConfig(FrozenConfig):
    """Constants of L = L_id + (1 - s) L_tri + w_c L_cen + s L_osm + w_a L_att, s = `osm_share`."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Mass that the identity loss spreads over all persons (Szegedy et al. 2016)."""
    triplet_metric: Metric = "cosine"
    """Distance of the batch-hard triplet loss; the paper's code uses the cosine."""
    triplet_margin: float = Field(0.3, ge=0)
    """Margin of the triplet loss: a cosine in [0, 2], or a distance."""
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
    center_weight: float = Field(0.0, ge=0)
    """Weight of the center loss; 5e-4 in the paper's code."""
    center_learning_rate: float = Field(0.5, gt=0)
    """Step of the centers' own plain SGD, whose gradient is divided by `center_weight` first."""
    attention_weight: float = Field(0.0, ge=0)
    """Weight of the loss on attention given to erased frames; 1 in the paper's code."""

    @model_validator(mode="after")
    def _centers_are_trained(self) -> LossConfig:
        if self.osm_share > 0 and self.osm_class_vectors == "centers" and self.center_weight == 0:
            raise ValueError(
                "osm_class_vectors: centers, but center_weight is 0, so the centers would never be trained; "
                "set center_weight above 0 (5e-4 in the paper's code) or osm_class_vectors to classifier"
            )
        return self


class ReidLoss(nn.Module):
    """L = L_id + (1 - s) L_tri + w_c L_cen + s L_osm + w_a L_att; owns the centers of the center loss.

    `centers` is "C D", drawn from N(0, 1) as in the paper's code, and None where the center loss has no
    weight. There are as many as training persons; the paper's code always makes 751, whatever the data set.
    """

    centers: nn.Parameter | None

    def __init__(self, config: LossConfig, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        wanted = config.center_weight > 0
        centers = nn.Parameter(torch.randn(num_classes, embedding_dim)) if wanted else None
        self.register_parameter("centers", centers)

    def forward(
        self,
        output: ModelOutput,
        labels: Int[Tensor, " B"],
        erased: Bool[Tensor, "B T"],
        classifier: Float[Tensor, "C D"],
    ) -> dict[str, Tensor]:
        """`total` and its terms unweighted: `identity`, `triplet`, `center`, `osm`, `attention`.

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
    def step_centers(self) -> None:
        """Take the centers' own step of plain SGD after `backward` of the total, and forget their gradient.

        The gradient is divided by `center_weight` first, so that the step does not depend on it (the paper's
        code, after Luo et al. 2019): a center moves 2 lr n / B of the way to the mean of its n clips in the
        batch of B. What reaches the centers through OSM is divided along with it, also as there. Without
        centers there is nothing to step.
        """
        if self.centers is None:
            return
        assert self.centers.grad is not None, "step_centers comes after backward"
        step = self.config.center_learning_rate / self.config.center_weight
        self.centers.sub_(self.centers.grad, alpha=step)
        self.centers.grad = None

    def _weights(self) -> dict[str, float]:
        config = self.config
        return {
            "identity": 1.0,
            "triplet": 1 - config.osm_share,
            "center": config.center_weight,
            "osm": config.osm_share,
            "attention": config.attention_weight,
        }

    def _terms(
        self,
        output: ModelOutput,
        labels: Int[Tensor, " B"],
        erased: Bool[Tensor, "B T"],
        classifier: Float[Tensor, "C D"],
    ) -> dict[str, Tensor]:
        config, embeddings = self.config, output.embedding
        smoothing = config.label_smoothing
        terms = {"identity": functional.cross_entropy(output.logits, labels, label_smoothing=smoothing)}
        if config.osm_share < 1:
            terms["triplet"] = batch_hard_triplet(
                embeddings, labels, margin=config.triplet_margin, metric=config.triplet_metric
            )
        if self.centers is not None:
            terms["center"] = center_loss(embeddings, labels, self.centers)
        if config.osm_share > 0:
            terms["osm"] = osm_caa(
                embeddings,
                labels,
                self._class_vectors(classifier),
                alpha=config.osm_alpha,
                sigma=config.osm_sigma,
                balance=config.osm_balance,
            )
        if config.attention_weight > 0:
            terms["attention"] = erased_frame_attention(output.scores, erased)
        return terms

    def _class_vectors(self, classifier: Float[Tensor, "C D"]) -> Float[Tensor, "C D"]:
        if self.config.osm_class_vectors == "classifier":
            return classifier
        assert self.centers is not None, "LossConfig sees to it that the centers are trained"
        return self.centers


def batch_hard_triplet(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, margin: float | None, metric: Metric
) -> Float[Tensor, ""]:
    """Mean over clips of how much farther the farthest clip of the person is than the nearest of another.

    max(0, d_ap - d_an + margin), or the soft margin log(1 + exp(d_ap - d_an)) where `margin` is None (Hermans
    et al. 2017, arXiv:1703.07737, Eq. 5 and section 3.3). `euclidean` is the distance, `cosine` one minus the
    cosine, in [0, 2], which the paper's code uses. A clip counts among its own positives. Where the batch
    holds no other person a clip contributes 0 and no gradient; so does an empty batch. A zero vector has
    cosine 0 with everything (the paper's code: NaN).
    """
    if len(labels) == 0:
        return embeddings.sum()
    distances = _distances(embeddings, metric)
    same = labels[:, None] == labels
    farthest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest_negative = distances.masked_fill(same, torch.inf).amin(1)
    gap = farthest_positive - nearest_negative
    costs = functional.softplus(gap) if margin is None else functional.relu(gap + margin)
    return costs.mean()


def center_loss(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], centers: Float[Tensor, "C D"]
) -> Float[Tensor, ""]:
    """Mean over clips of the squared distance to the center of their person; 0 for an empty batch.

    Wen et al. 2016 (ECCV), Eq. 2, without the factor 1/2 and averaged over the batch, as in the paper's code;
    that code measures distances to all centers and masks all but one.
    """
    return (embeddings - centers[labels]).square().sum() / max(len(labels), 1)


def osm_caa(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    class_vectors: Float[Tensor, "C D"],
    *,
    alpha: float,
    sigma: float,
    balance: float,
) -> Float[Tensor, ""]:
    """Online soft mining with class-aware attention: (1 - balance) L_P + balance L_N.

    With d the distance of unit embeddings, in [0, 2], over ordered pairs of different clips:
    L_P = 1/2 of the mean of d^2 over pairs of one person, weighted by exp(-d^2 / sigma^2) a;
    L_N = 1/2 of the mean of s^2 over pairs of two persons, weighted by s a, with s = max(alpha - d, 0).
    a is the smaller attention of the two clips: the softmax over persons of the cosines with `class_vectors`
    (rows of the classifier, or the centers), at the clip's own person. Nothing is detached.

    Wang et al. 2019 (AAAI, arXiv:1811.01459), as the paper's code computes it; Wang's own code differs (sigma
    there is sqrt(1/2) of this one, attention is a Gaussian of the classifier's probability, weights carry no
    gradient). The means are taken in log space: same value, but a small sigma does not underflow to NaN. A
    batch without positive, or without negative, pairs has L_P, or L_N, 0, where the paper's code has NaN. L_N
    is 0 also if all negatives are beyond alpha; the paper's code has 5e-25, and denormal, slow gradients.
    """
    if len(labels) == 0:
        return embeddings.sum()
    unit = _unit(embeddings)
    distances = _distances_of(unit)
    attention = _log_attention(unit, labels, class_vectors)
    pair_attention = torch.minimum(attention[:, None], attention)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    nearness = -(distances / sigma).square()
    overlap = (alpha - distances).clamp_min(0)
    hardness = overlap.clamp_min(SMALLEST).log()
    positive = _weighted_mean(distances.square(), nearness + pair_attention, same & ~itself)
    negative = _weighted_mean(overlap.square(), hardness + pair_attention, ~same)
    return (1 - balance) * positive / 2 + balance * negative / 2


def erased_frame_attention(attention: Float[Tensor, "B T"], erased: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean over clips of the attention that their erased frames get, summed over frames; 0 without clips.

    `attention` are the scores before the gate, >= 0, as in the paper's code and Fig. 2. The paper's Eq. 1
    divides by the number N of frames instead of the number of clips: read per clip, this is N times that.
    """
    return (attention * erased).sum() / max(len(attention), 1)


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _unit(vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Rows scaled to length 1; a row of zeros stays, with a finite gradient."""
    return vectors / _lengths(vectors)[:, None]


def _lengths(vectors: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Lengths of rows, 1 for rows too short to have a direction."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.masked_fill(lengths < SMALLEST, 1)


def _distances(embeddings: Float[Tensor, "B D"], metric: Metric) -> Float[Tensor, "B B"]:
    if metric == "euclidean":
        return _distances_of(embeddings)
    unit = _unit(embeddings)
    return 1 - unit @ unit.T


def _distances_of(points: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Euclidean distances; 0, with gradient 0, between equal points."""
    products = points @ points.T
    lengths = products.diagonal()
    squared = lengths[:, None] + lengths - 2 * products
    equal = squared < SMALLEST
    return squared.masked_fill(equal, 1).sqrt().masked_fill(equal, 0)


def _log_attention(
    unit: Float[Tensor, "B D"], labels: Int[Tensor, " B"], class_vectors: Float[Tensor, "C D"]
) -> Float[Tensor, " B"]:
    """Log of the softmax over persons of the cosines, at the clip's own person.

    Cosines are divided by the lengths, not the vectors: the product is small, the class vectors are not.
    """
    cosines = unit @ class_vectors.T / _lengths(class_vectors)
    return -functional.cross_entropy(cosines, labels, reduction="none")


def _weighted_mean(
    values: Float[Tensor, "B B"], log_weights: Float[Tensor, "B B"], chosen: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """Mean of the chosen values by weights given as logarithms; 0, without gradient, where none is chosen."""
    log_weights = log_weights.masked_fill(~chosen, -torch.inf)
    peak = log_weights.detach().amax()
    weights = (log_weights - peak.masked_fill(peak == -torch.inf, 0)).exp()
    total = weights.sum()
    return (weights * values).sum() / total.masked_fill(total == 0, 1)
