"""The plan of a synthetic data set: identities, cameras, tracklets and occlusions; a pure function of size and seed."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from trainer.data.synthetic.person import Look, greyish, random_look
from trainer.data.synthetic.render import Camera, Walk

SizeName = Literal["tiny", "demo", "full"]

CAMERAS = 6  # as in MARS
CAMERA_SHIFT = 0.3  # 0: all cameras see alike; 1: a training-free descriptor is at chance
HIDDEN_SHARE = 0.4
HIDDEN_RUN = 3.0  # frames, the mean length of an occlusion
LOOK_ALIKES = 0.3  # share of the identities whose shirt has the colour of another's
CLUTTER_SHARE = 0.3  # of the distractors: detections of the background

# Purposes of random draws: one stream for each, so that none depends on another.
LOOK, ALIKE, CAMERA, PRESENCE, WALK, PIXELS = range(6)


class Size(NamedTuple):
    """How much is drawn. Ranges include both ends."""

    train_identities: int
    test_identities: int
    cameras: tuple[int, int]
    """Cameras that see an identity."""
    frames: tuple[int, int]
    """Length of a tracklet; log-uniform, as most of MARS is short."""
    distractors: int
    junk: int


SIZES: dict[SizeName, Size] = {
    "tiny": Size(8, 6, cameras=(2, 3), frames=(4, 8), distractors=3, junk=2),
    "demo": Size(48, 32, cameras=(3, 5), frames=(4, 12), distractors=40, junk=10),
    "full": Size(200, 200, cameras=(3, 5), frames=(8, 60), distractors=250, junk=60),
}


class Planned(NamedTuple):
    """A tracklet of the data set to be."""

    identity: int
    camera: int
    query: bool
    walk: Walk

    @property
    def frames(self) -> list[str]:
        """Paths of the frames, below the folder of the data set."""
        return [f"{self.walk.stem}{number:03d}.jpg" for number in range(1, len(self.walk.hidden) + 1)]


class Plan(NamedTuple):
    """Tracklets in the order of the name lists: by identity, camera and number."""

    train: tuple[Planned, ...]
    test: tuple[Planned, ...]

    @property
    def tracklets(self) -> tuple[Planned, ...]:
        """All of them."""
        return self.train + self.test


def plan(size: SizeName, seed: int) -> Plan:
    """All tracklets of a data set.

    Training identities have odd numbers and test identities even ones, as in MARS. Each test identity is a query
    once per camera and has a match for it under another camera, except the last two: the last has one
    tracklet in all, so it is absent from the gallery; the one before has two, both of one camera.
    """
    amounts = SIZES[size]
    identities = amounts.train_identities + amounts.test_identities
    cameras = [_camera(seed, number) for number in range(1, CAMERAS + 1)]
    looks = [random_look(_generator(seed, LOOK, index)) for index in range(identities)]
    _dress_alike(looks, range(amounts.train_identities), _generator(seed, ALIKE, 0))
    _dress_alike(looks, range(amounts.train_identities, identities), _generator(seed, ALIKE, 1))
    train: list[Planned] = []
    test = _junk_and_distractors(amounts, seed, cameras)
    for index, look in enumerate(looks):
        rank = index - amounts.train_identities
        number = 2 * index + 1 if rank < 0 else 2 * rank + 2
        counts = _tracklets_per_camera(amounts, rank, _generator(seed, PRESENCE, index))
        for camera, count in counts.items():
            for tracklet in range(1, count + 1):
                walk = _walk(amounts, seed, cameras, (number, camera, tracklet), look)
                (train if rank < 0 else test).append(Planned(number, camera, rank >= 0 and tracklet == 1, walk))
    return Plan(tuple(train), tuple(test))


def _generator(seed: int, purpose: int, *index: int) -> np.random.Generator:
    return np.random.default_rng((seed, purpose, *index))


def _camera(seed: int, number: int) -> Camera:
    """Gain, offset and blur differ by camera; wall and ground are nearly grey.

    With coloured backgrounds strangers under one camera look more alike than an identity under two.
    """
    generator = _generator(seed, CAMERA, number)
    brightness = generator.uniform(-0.4, 0.4)
    gain = 1 + CAMERA_SHIFT * (brightness + generator.uniform(-0.1, 0.1, 3))
    offset = CAMERA_SHIFT * (generator.uniform(-20, 20) + generator.uniform(-10, 10, 3))
    return Camera(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        offset=(float(offset[0]), float(offset[1]), float(offset[2])),
        blur=float(CAMERA_SHIFT * generator.uniform(0.5, 4)),
        ground=greyish(generator, (115, 145), tint=8),
        wall=greyish(generator, (115, 145), tint=8),
    )


def _dress_alike(looks: list[Look], part: range, generator: np.random.Generator) -> None:
    """Gives the second of each pair of identities the shirt colour of the first."""
    pairs = max(1, round(LOOK_ALIKES * len(part) / 2))
    for first, second in generator.permutation(part)[: 2 * pairs].reshape(pairs, 2).tolist():
        looks[second] = looks[second]._replace(shirt=looks[first].shirt)


def _tracklets_per_camera(amounts: Size, rank: int, generator: np.random.Generator) -> dict[int, int]:
    """Camera -> tracklets, cameras ascending; `rank` counts the test identities from 0."""
    fewest, most = amounts.cameras
    seen_by = generator.permutation(CAMERAS)[: int(generator.integers(fewest, most + 1))] + 1
    counts = {int(camera): int(generator.integers(1, 3)) for camera in seen_by}
    if rank == amounts.test_identities - 1:
        return {int(seen_by[0]): 1}
    if rank == amounts.test_identities - 2:
        return {int(seen_by[0]): 2}
    if rank >= 0:  # one is the query; two cameras that keep another give every query a match
        counts |= {int(camera): 2 for camera in seen_by[:2]}
    return dict(sorted(counts.items()))


def _junk_and_distractors(amounts: Size, seed: int, cameras: list[Camera]) -> list[Planned]:
    """Junk (-1: fragments of people) and distractors (0: other people, and detections of the background)."""
    planned = []
    for identity, amount in ((-1, amounts.junk), (0, amounts.distractors)):
        for camera in range(1, CAMERAS + 1):
            for tracklet in range(1, len(range(camera, amount + 1, CAMERAS)) + 1):
                number = (identity, camera, tracklet)
                generator = _generator(seed, LOOK, 1, *_natural(number))
                clutter = identity == 0 and generator.random() < CLUTTER_SHARE
                look = None if clutter else random_look(generator)
                planned.append(Planned(identity, camera, False, _walk(amounts, seed, cameras, number, look)))
    return planned


def _walk(amounts: Size, seed: int, cameras: list[Camera], number: tuple[int, int, int], look: Look | None) -> Walk:
    """The tracklet with that identity, camera and number."""
    identity, camera, tracklet = number
    generator = _generator(seed, WALK, *_natural(number))
    shortest, longest = amounts.frames
    frames = int(math.exp(generator.uniform(math.log(shortest), math.log(longest + 1))))
    folder = "00-1" if identity < 0 else f"{identity:04d}"
    part = "bbox_train" if identity > 0 and identity % 2 else "bbox_test"
    return Walk(
        stem=f"{part}/{folder}/{folder}C{camera}T{tracklet:04d}F",
        look=look,
        camera=cameras[camera - 1],
        hidden=_hidden(frames, generator),
        fragment=identity < 0,
        seed=(seed, PIXELS, *_natural(number)),
    )


def _natural(number: tuple[int, int, int]) -> tuple[int, int, int]:
    """Seeds are not negative, junk is."""
    identity, camera, tracklet = number
    return identity + 1, camera, tracklet


def _hidden(frames: int, generator: np.random.Generator) -> tuple[bool, ...]:
    """Occlusions come and go as a two-state Markov chain; at least one frame is free."""
    ends = 1 / HIDDEN_RUN
    begins = HIDDEN_SHARE * ends / (1 - HIDDEN_SHARE)
    hidden = [bool(generator.random() < HIDDEN_SHARE)]
    for chance in generator.random(frames - 1).tolist():
        hidden.append(chance >= ends if hidden[-1] else chance < begins)
    if all(hidden):
        hidden[int(generator.integers(frames))] = False
    return tuple(hidden)
