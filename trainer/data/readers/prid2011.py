"""PRID2011, multi-shot (Hirzer et al. 2011, SCIA): two cameras, identities by folder, ten published partitions.

Layout: ROOT/multi_shot/cam_{a,b}/person_NNNN/*.png, also one level down in ROOT/prid_2011, and
ROOT/splits_prid2011.json, or beside ROOT (Wang et al. 2014, ECCV): ten objects {"train": [...], "test": [...]} of 89
names person_NNNN each.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from trainer.data.dataset import read_bounded
from trainer.data.readers.two_cameras import FOLDS, Partition, TwoCameras, two_camera_data_set
from trainer.errors import DataError
from trainer.formatting import located, shown
from trainer.settings import FrozenConfig

LAYOUT = TwoCameras(
    title="PRID2011",
    folders=("multi_shot", "prid_2011/multi_shot"),
    cameras=("cam_a", "cam_b"),
    identity=re.compile(r"person_([0-9]{4})"),
    frame=re.compile(r"[0-9]+\.png"),
    example="0001.png",
    splits_file="splits_prid2011.json",
    published_identities=178,
    # Papers quote ">= 21 frames" and "> 27 frames" under both cameras for the same 178 identities of the published
    # file. The smaller threshold drops none that either of the two keeps.
    least_frames=21,
)
MAX_SPLITS_BYTES = 2**20  # the published file holds 49 kB


def _identity_name(name: str) -> str:
    if not LAYOUT.identity.fullmatch(name):
        raise ValueError(f"must be a name like person_0001 (is {shown(name)})")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is listed twice")
    return names


Identities = Annotated[tuple[Annotated[str, AfterValidator(_identity_name)], ...], AfterValidator(_distinct)]


class _Listed(FrozenConfig):
    """A published partition."""

    train: Identities = Field(min_length=1)
    test: Identities = Field(min_length=1)

    @model_validator(mode="after")
    def _disjoint(self) -> _Listed:
        if both := sorted(set(self.train) & set(self.test)):
            raise ValueError(f"{both[0]} is listed under train and under test")
        return self


_PARTITIONS = TypeAdapter(tuple[_Listed, ...])


def _read_partition(file: Path, images: Path, fold: int) -> Partition:
    """One of the ten partitions in the file, every name in them checked."""
    try:
        content = read_bounded(file, MAX_SPLITS_BYTES, "the list of PRID2011's splits")
        partitions = _PARTITIONS.validate_json(content, strict=True)
    except ValidationError as error:
        raise DataError(
            f"{file}: {located(error.errors()[0])}; {FOLDS} objects with lists train and test of names like "
            "person_0001 are expected, copy the published file again"
        ) from error
    if len(partitions) != FOLDS:
        raise DataError(f"{file}: {len(partitions)} splits, {FOLDS} are expected; copy the published file again")
    return Partition(partitions[fold].train, partitions[fold].test)


PRID2011 = two_camera_data_set(LAYOUT, _read_partition)
