"""What `recipe: paper` means: the values that the paper's code uses where we default to others.

docs/paper.md lists every difference with its reason, and what of the paper's practice no recipe reproduces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Recipe = Literal["fixed", "paper"]

PAPER_CENTERS = (
    751  # identities of Market-1501, whatever the data set: the default that the paper's code never overrides
)

PAPER: dict[str, dict[str, Any]] = {
    "clips": {"sampling": "consecutive_paper", "crop": "translate", "erase_fill": "light_grey"},
    "loss": {"attention_on": "scores"},
    "evaluation": {"sampling": "dense", "max_clips": 41, "distance": "euclidean"},
}
# Parts of the paper's code that only run along with another one.
WITH_ATTENTION_LOSS = {"clips": {"second_erase": 0.5, "erased_labels": "second"}}
WITH_CENTERS = {"loss": {"center_count": PAPER_CENTERS}}


def filled_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial with the recipe's values where none is given; what is given always wins."""
    if settings.get("recipe") != "paper":
        return dict(settings)
    given = settings.get("loss", {})
    layers = [PAPER]
    if isinstance(given, Mapping):
        layers += [WITH_ATTENTION_LOSS] if given.get("attention_weight") else []
        layers += [WITH_CENTERS] if given.get("center_weight") else []
    filled = dict(settings)
    for layer in layers:
        for group, values in layer.items():
            below = filled.get(group, {})
            if isinstance(below, Mapping):  # anything else is complete, or an error that validation names
                filled[group] = {**values, **below}
    return filled
