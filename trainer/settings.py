"""Which settings of two trials differ."""

from __future__ import annotations

from typing import Any

# Settings that change where and how fast a trial runs, but none of its figures. Checkpoints of earlier versions lack
# the whole group `checkpoint`, and what pictures are left.
NEUTRAL_SETTINGS = {
    *("data.root", "clips.workers", "clips.augment_on", "checkpoint", "checkpoint.every"),
    *("evaluation.folder", "evaluation.images"),
}


def differing_settings(now: dict[str, Any], then: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths, in alphabetical order, of the settings that differ and can change figures."""
    differing = []
    for key in sorted(now.keys() | then.keys()):
        path = prefix + key
        mine, other = now.get(key), then.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            differing += differing_settings(mine, other, path + ".")
        elif mine != other and path not in NEUTRAL_SETTINGS:
            differing.append(path)
    return differing
