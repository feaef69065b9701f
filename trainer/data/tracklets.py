"""What every data set is read into, and the validation split cut from its training persons."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from trainer.frozen import FrozenConfig


class Tracklet(NamedTuple):
    """One person walking past one camera."""

    frames: tuple[str, ...]
    """Paths of the frames, in temporal order."""
    person: int
    """Identity as the data set numbers it; 0 is a distractor, -1 is junk."""
    camera: int
    """Camera as the data set numbers it."""


class Splits(NamedTuple):
    """The published parts of a data set. The gallery holds neither queries nor junk."""

    train: tuple[Tracklet, ...]
    query: tuple[Tracklet, ...]
    gallery: tuple[Tracklet, ...]


class ValidationConfig(FrozenConfig):
    """How the validation split is cut from the training persons."""

    share: float = Field(0.1, gt=0, lt=1)
    """Share of the training persons that are held out; only persons seen by two cameras or more."""
    distractors: float = Field(0.25, ge=0, le=1)
    """Share of the remaining training tracklets added to the validation gallery as distractors."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""
