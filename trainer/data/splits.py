"""The validation split: identities held out of the training tracklets, cut once and saved with its digest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, ValidationError, model_validator

from trainer.data.dataset import ALL_CAMERAS, DISTRACTOR, MEMBER, NO_CAMERA, Tracklet, fingerprint, seen_by_one_camera
from trainer.errors import DataError
from trainer.files import read_regular, write_atomically
from trainer.settings import FrozenConfig

FEW_QUERIES = 50  # below, one query moves rank-1 by more than two points, about what tuning is after

log = logging.getLogger(__name__)


class ValidationConfig(FrozenConfig):
    """How the validation split is cut from the training identities."""

    share: float = Field(0.1, ge=0, lt=1)
    """Share of the training identities that are held out; only identities seen by two cameras or more. 0 holds out
    none: a training without metrics of its own, for a network that is to be evaluated on the test set. Ignored where
    `folds` is set."""
    distractors: float = Field(0.25, ge=0, le=1)
    """Share of the remaining training tracklets added to the validation gallery as distractors."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""
    folds: int | None = Field(None, ge=2)
    """Deal all identities seen by two cameras or more into so many disjoint groups and hold out one of them. A search
    for each group, or a mean over all, uses every identity for validation: of use where the identities are few, as the
    89 of PRID2011."""
    fold: int = Field(0, ge=0)
    """Number, from 0, of the group that is held out; only with `folds`."""

    @property
    def holds_out(self) -> bool:
        """Whether there is a validation split."""
        return self.folds is not None or self.share > 0

    @model_validator(mode="after")
    def _fold_exists(self) -> ValidationConfig:
        if self.folds is None and self.fold:
            raise ValueError(f"fold: {self.fold}, but folds is not set; set it, or leave fold at 0")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold}, but of {self.folds} folds the last one is {self.folds - 1}")
        return self


class ValidationSplit(NamedTuple):
    """Validation identities cut out of the training tracklets; indices into those, ascending."""

    identities: tuple[int, ...]
    """The held-out identities, ascending."""
    train: tuple[int, ...]
    """Every tracklet of all other identities, distractors included."""
    query: tuple[int, ...]
    """At most one tracklet per held-out identity and camera."""
    gallery: tuple[int, ...]
    """The other tracklets of the held-out identities, and the distractors."""
    distractors: tuple[int, ...]
    """Those of the gallery that belong to no held-out identity; they are trained on, too."""


def cut_validation(train: Sequence[Tracklet], config: ValidationConfig) -> ValidationSplit:
    """Holds out max(2, round(share * identities)) identities or one fold: a function of tracklets and configuration.

    Every query has a match in the gallery under another camera. For that, an identity with one tracklet
    per camera gives one query only, and an identity under one camera is never held out. A warning is logged if there
    are fewer queries than `FEW_QUERIES`. If no identity is to be held out, everything is trained on.

    Raises:
        DataError: too few identities are seen by two cameras, or fewer than two would be left to train on.
    """
    if not config.holds_out:
        return ValidationSplit(identities=(), train=tuple(range(len(train))), query=(), gallery=(), distractors=())
    generator = np.random.default_rng(config.seed)
    by_identity = by_identity_and_camera(train)
    if by_identity and (why := seen_by_one_camera(train)) is not None:
        raise DataError(f"training tracklets: {why}, and validation needs identities seen by two; {ALL_CAMERAS}")
    identities = _held_out(by_identity, config, generator)
    held = {index for identity in identities for group in by_identity[identity].values() for index in group}
    query = {index for identity in identities for index in draw_queries(by_identity[identity], generator)}
    rest = [index for index in range(len(train)) if index not in held]
    drawn = generator.choice(rest, round(config.distractors * len(rest)), replace=False)
    distractors = sorted(int(index) for index in drawn)
    _warn_if_coarse(len(query), config)
    return ValidationSplit(
        identities=tuple(identities),
        train=tuple(rest),
        query=tuple(sorted(query)),
        gallery=tuple(sorted((held - query) | set(distractors))),
        distractors=tuple(distractors),
    )


def by_identity_and_camera(train: Sequence[Tracklet]) -> dict[int, dict[int, list[int]]]:
    """Identity -> camera -> indices of the tracklets; identities and cameras ascending."""
    groups: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, tracklet in enumerate(train):
        if tracklet.identity > DISTRACTOR:
            groups[tracklet.identity][tracklet.camera].append(index)
    return {identity: dict(sorted(groups[identity].items())) for identity in sorted(groups)}


def can_be_found_again(cameras: Mapping[int, Sequence[int]]) -> bool:
    """Whether an identity's tracklets, by camera, give a query and a match: two cameras, or two tracklets of none."""
    return len(cameras) >= 2 or len(cameras.get(NO_CAMERA, ())) >= 2


def _held_out(
    by_identity: Mapping[int, Mapping[int, Sequence[int]]], config: ValidationConfig, generator: np.random.Generator
) -> list[int]:
    """The identities of the validation split, ascending."""
    eligible = [identity for identity, cameras in by_identity.items() if can_be_found_again(cameras)]
    if config.folds is None:
        count = max(2, round(config.share * len(by_identity)))
        _check_enough(count, len(eligible), len(by_identity), _twice(by_identity))
        return sorted(_drawn(eligible, count, generator))
    if len(eligible) < 2 * config.folds:
        raise DataError(
            f"training tracklets: {config.folds} folds of at least two identities are to be held out in turn, but only "
            f"{len(eligible)} {_twice(by_identity)} or more; lower data.validation.folds or add data"
        )
    return sorted(_shuffled(eligible, generator)[config.fold :: config.folds])


def _drawn(identities: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """So many of the identities, of each member of a joined data set in proportion."""
    if identities[0] // MEMBER == identities[-1] // MEMBER:
        return [int(identity) for identity in generator.choice(identities, count, replace=False)]
    shuffled = _shuffled(identities, generator)
    return [shuffled[(2 * place + 1) * len(shuffled) // (2 * count)] for place in range(count)]


def _shuffled(identities: Sequence[int], generator: np.random.Generator) -> list[int]:
    """The ascending identities in random order, those of each member of a joined data set together."""
    members = groupby(identities, lambda identity: identity // MEMBER)
    return [int(identity) for _, member in members for identity in generator.permutation(list(member))]


def _twice(by_identity: Mapping[int, Mapping[int, Sequence[int]]]) -> str:
    """What an identity that is held out has to be, in a few words."""
    unknown = any(NO_CAMERA in cameras for cameras in by_identity.values())
    return "have two tracklets" if unknown else "are seen by two cameras"


def _check_enough(count: int, eligible: int, identities: int, twice: str) -> None:
    if identities < 4:
        raise DataError(
            f"training tracklets: validation needs at least 4 identities, two of them to train on, and there "
            f"{'is' if identities == 1 else 'are'} {identities}; add data"
        )
    if eligible < count:
        raise DataError(
            f"training tracklets: {count} of {identities} identities are to be held out for validation, but only "
            f"{eligible} {twice} or more; lower data.validation.share or add data"
        )
    if identities - count < 2:
        raise DataError(
            f"training tracklets: holding out {count} of {identities} identities for validation leaves "
            f"{identities - count} to train on, two are needed; lower data.validation.share or add data"
        )


def _warn_if_coarse(queries: int, config: ValidationConfig) -> None:
    if queries >= FEW_QUERIES:
        return
    advice = "" if config.folds else "; data.validation.folds can use all identities in turn"
    log.warning(
        "validation split: %d queries only, so the objective is coarse: one query is worth %.1f points of rank-1%s",
        *(queries, 100 / queries, advice),
    )


def draw_queries(cameras: Mapping[int, Sequence[int]], generator: np.random.Generator) -> list[int]:
    """One random tracklet per camera, cameras in random order, as far as every query keeps a match.

    Where cameras are not known, one of all.

    Args:
        cameras: the tracklets of an identity, as indices, by camera.
        generator: source of randomness.
    """
    if NO_CAMERA in cameras:
        return [int(generator.choice(cameras[NO_CAMERA]))]
    queries: list[int] = []
    left = {camera: len(group) for camera, group in cameras.items()}
    asked: set[int] = set()
    for camera in generator.permutation(list(cameras)).tolist():
        candidate = int(generator.choice(cameras[camera]))
        after = left | {camera: left[camera] - 1}
        if all(sum(after.values()) > after[other] for other in asked | {camera}):
            queries.append(candidate)
            asked.add(camera)
            left = after
    return queries


class TrainingData(NamedTuple):
    """Tracklets of one trial."""

    train: list[Tracklet]
    labels: list[int]
    """Class of each training tracklet, 0..C-1 in the order of the identity numbers."""
    query: list[Tracklet]
    gallery: list[Tracklet]

    @property
    def num_classes(self) -> int:
        """Training identities, C."""
        return max(self.labels) + 1

    @property
    def frames(self) -> int:
        """Frames of all tracklets; distractors that are trained on too count twice."""
        return sum(len(tracklet.frames) for tracklet in (*self.train, *self.query, *self.gallery))


def applied_split(train: Sequence[Tracklet], split: ValidationSplit) -> TrainingData:
    """The training tracklets that remain, their labels, and the validation query and gallery."""
    remaining = [train[index] for index in split.train]
    if not remaining:
        raise DataError("the validation split leaves no tracklet to train on; lower data.validation.share")
    label_of = {identity: label for label, identity in enumerate(sorted({t.identity for t in remaining}))}
    return TrainingData(
        train=remaining,
        labels=[label_of[tracklet.identity] for tracklet in remaining],
        query=[train[index] for index in split.query],
        gallery=[train[index] for index in split.gallery],
    )


class _SplitFile(FrozenConfig):
    """Content of the file of a validation split."""

    identities: tuple[int, ...]
    train: tuple[int, ...]
    query: tuple[int, ...]
    gallery: tuple[int, ...]
    distractors: tuple[int, ...]
    fingerprint: str
    """`fingerprint` of the training tracklets that the indices point into."""
    sha256: str
    """Digest of everything above."""


def write_validation(path: Path, split: ValidationSplit, train: Sequence[Tracklet]) -> None:
    """Saves the split as JSON, one key per line; the file appears complete or not at all."""
    content: dict[str, object] = {**split._asdict(), "fingerprint": fingerprint(train)}
    content["sha256"] = _digest(content)
    lines = [f"  {json.dumps(key)}: {json.dumps(content[key])}" for key in sorted(content)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, text)


def read_validation(path: Path, train: Sequence[Tracklet], known: str | None = None) -> ValidationSplit:
    """The split saved in the file, for the very training tracklets that it was cut from.

    `known` is their `fingerprint`, where it was computed before.

    Raises:
        DataError: the file is missing or damaged, or was cut from other training tracklets.
    """
    try:
        saved = _SplitFile.model_validate_json(read_regular(path), strict=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise DataError(f"{path}: not a saved validation split ({error.error_count()} errors)") from error
    content = saved.model_dump()
    if content.pop("sha256") != _digest(content):
        raise DataError(f"{path}: changed since it was written; restore it, trials are not comparable otherwise")
    if content.pop("fingerprint") != (known or fingerprint(train)):
        raise DataError(f"{path}: cut from other training tracklets than those of data.root; restore that data set")
    split = ValidationSplit(**content)
    for part in (split.train, split.query, split.gallery, split.distractors):
        if not all(0 <= index < len(train) for index in part):
            raise DataError(f"{path}: names tracklets that there are not; restore it")
    return split


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
