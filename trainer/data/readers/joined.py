"""Several data sets joined for training: the file joined.yaml names them, and each is read by its own reader.

    sets:
      mars: {root: /data/mars}
      prid: {root: /data/prid2011, fold: 0}
      street: {root: ../tracks, name: tracklets}

Only their training tracklets are read: a test part of several would mix protocols. Identities and cameras are numbered
apart (`trainer.data.dataset.MEMBER`) and named by their data set, as `prid/17`.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from trainer.data.banned import refuse_banned
from trainer.data.dataset import (
    DISTRACTOR,
    MEMBER,
    NO_CAMERA,
    TRUTH,
    DataSet,
    NamedNumber,
    Splits,
    Tracklet,
    fingerprint,
)
from trainer.data.pack import packed_data_set, read_packed
from trainer.errors import DataError
from trainer.formatting import did_you_mean, one_line, plain_words, spelled
from trainer.settings import FrozenConfig
from trainer.yaml_file import YamlError, read_yaml

FILE = "joined.yaml"


class Member(FrozenConfig):
    """One of the data sets that are joined."""

    root: str
    """Its folder, from that of joined.yaml on; or packed."""
    name: str | None = None
    """Its layout, as `data.name`; None where the folder tells."""
    fold: int = Field(0, ge=0)
    """Its partition, as `data.fold`."""

    @field_validator("root")
    @classmethod
    def _path(cls, root: str) -> str:
        if "\0" in root:
            raise ValueError("holds a NUL; remove it")
        return root


class Joined(FrozenConfig):
    """What joined.yaml holds."""

    version: Literal[1] = 1
    """Of the layout of the file."""
    sets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")], Member] = Field(min_length=2)
    """The data sets, by names of one's own. Their order numbers the identities."""


def joined_data_set(readers: Mapping[str, DataSet]) -> DataSet:
    """Data sets of these readers, joined."""
    return DataSet(
        title="joined data sets",
        read=lambda root, fold: read_joined(root, readers),
        recognises=lambda root: (root / FILE).is_file(),
        protocol="mars",
        published={},
        tested=False,
    )


def read_joined(root: Path, readers: Mapping[str, DataSet]) -> Splits:
    """The training tracklets of all data sets that the folder's joined.yaml names; query and gallery are empty.

    Raises:
        DataError: the file is missing or damaged, or one of its data sets cannot be read or joined; a line for each
            fault that names file and data set.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data.root must be the folder that holds {FILE}")
    path = root / FILE
    train: list[Tracklet] = []
    known: dict[Path | str, str] = {}
    drawn: set[bool] = set()
    for number, (label, member) in enumerate(_read_file(path).sets.items(), start=1):
        with _named(path, label):
            folder = root / member.root
            tracklets = _train_of(folder, member, readers)
            for key in (folder.resolve(), fingerprint(tracklets)):
                if (other := known.setdefault(key, label)) != label:
                    raise DataError(f"{folder}: is the data set {other} once more; keep one of them")
            drawn.add((folder / "info" / TRUTH).is_file())
            if len(drawn) > 1:
                raise DataError(f"{folder}: drawn and real people are not joined; keep one kind")
            train += _numbered_apart(tracklets, number, label)
    return Splits(tuple(train), (), ())


def _train_of(folder: Path, member: Member, readers: Mapping[str, DataSet]) -> Sequence[Tracklet]:
    """The training tracklets of a data set, read by its own reader or from its pack."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct root")
    refuse_banned(folder)
    packed = packed_data_set(folder)
    recognised = (name for name, data_set in readers.items() if data_set.recognises(folder))
    name = member.name or packed or next(recognised, None)
    if name == "joined" or (name is None and (folder / FILE).is_file()):
        raise DataError(f"{folder}: is joined itself; name its data sets here")
    if name is None:
        raise DataError(f"{folder}: looks like no data set that can be joined; say which it is with name")
    if name not in readers:
        raise DataError(f"name: {name} cannot be joined{did_you_mean(name, readers)} (known: {', '.join(readers)})")
    if member.fold >= readers[name].folds:
        raise DataError(f"fold: {member.fold}, but the last partition of {name} is {readers[name].folds - 1}")
    splits = read_packed(folder, name, member.fold) if packed else readers[name](folder, member.fold)
    if not splits.train:
        raise DataError(f"{folder}: has no training tracklet; leave it out")
    return splits.train


def member_roots(root: Path) -> list[Path]:
    """Folders of the data sets that are joined in a folder; none if it holds no joined.yaml that can be read."""
    if not (root / FILE).is_file():
        return []
    try:
        return [root / member.root for member in _read_file(root / FILE).sets.values()]
    except DataError:
        return []


def member_fingerprints(train: Sequence[Tracklet]) -> tuple[str, ...]:
    """The `fingerprint` that the training tracklets of each joined data set have by themselves, in their order."""
    members: defaultdict[int, list[Tracklet]] = defaultdict(list)
    for frames, identity, camera in train:
        own = (number % MEMBER if number >= MEMBER else number for number in (identity, camera))
        members[max(identity, camera) // MEMBER].append(Tracklet(frames, *own))
    return tuple(map(fingerprint, members.values()))


def _read_file(path: Path) -> Joined:
    try:
        document = read_yaml(path)
    except YamlError as error:
        raise DataError(f"{path}: {_line(error.line)}{error.what}") from error
    try:
        return Joined.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        lines = []
        for each in error.errors():
            place = each["loc"][:-1] if each["loc"][-1:] == ("[key]",) else each["loc"]
            what = "unknown setting" if each["type"] == "extra_forbidden" else plain_words(each)
            where = _line(document.places.get(place, (0, 0))[0]) + (f"{spelled(place)}: " if place else "")
            lines.append(f"{path}: {one_line(where + what)}")
        raise DataError("\n".join(lines)) from error


def _line(number: int) -> str:
    return f"line {number}: " if number else ""


@contextlib.contextmanager
def _named(path: Path, label: str) -> Iterator[None]:
    """Faults of a data set name the file that joins it, too."""
    try:
        yield
    except (DataError, OSError) as error:
        raise DataError("\n".join(f"{path}: {label}: {one_line(line)}" for line in str(error).split("\n"))) from error


def _numbered_apart(tracklets: Sequence[Tracklet], number: int, label: str) -> Iterator[Tracklet]:
    """The tracklets as those of member `number`; distractors stay distractors, unknown cameras unknown."""

    def apart(own: int) -> NamedNumber:
        if own >= MEMBER:
            raise DataError(f"numbers an identity or a camera {own}; only numbers below {MEMBER:,} can be joined")
        return NamedNumber(number * MEMBER + own, f"{label}/{own.name if isinstance(own, NamedNumber) else own}")

    for frames, identity, camera in tracklets:
        yield Tracklet(
            frames,
            identity if identity <= DISTRACTOR else apart(identity),
            camera if camera == NO_CAMERA else apart(camera),
        )
