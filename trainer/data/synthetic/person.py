"""A walking person of the synthetic data set, drawn.

Lengths are shares of the body's height, measured from its centre line and its top; angles are radians.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

TOWARDS, AWAY, LEFT, RIGHT = range(4)
PLAIN, STRIPES_ACROSS, STRIPES_DOWN, CHEST_BLOCK, OPEN_JACKET = range(5)
NO_BAG, BACKPACK, SHOULDER_BAG, HAND_BAG = range(4)
SHOULDERS, HIPS = 0.165, 0.53  # ends of the torso


class Look(NamedTuple):
    """Clothes and build of a person."""

    shirt: Colour
    second: Colour
    """The shirt's second colour, seen where it has a pattern."""
    pattern: int
    """`PLAIN` to `OPEN_JACKET`."""
    long_sleeves: bool
    trousers: Colour
    shorts: bool
    shoes: Colour
    hair: Colour
    long_hair: bool
    skin: Colour
    bag: int
    """`NO_BAG` to `HAND_BAG`."""
    bag_colour: Colour
    girth: float
    """Width over the average person's."""
    stature: float
    """Height over the average person's."""


class Pose(NamedTuple):
    """A body at one moment, in pixels."""

    x: float
    """Centre of the body."""
    top: float
    height: float
    facing: int
    """`TOWARDS` the camera, `AWAY` from it, `LEFT` or `RIGHT`."""
    phase: float
    """Of the gait, radians."""


def random_look(generator: np.random.Generator) -> Look:
    """Draws clothes and build."""

    def colour(saturation: Point, value: Point, hue: Point = (0.0, 1.0)) -> Colour:
        h, s, v = (float(generator.uniform(*limits)) for limits in (hue, saturation, value))
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(h, s, v))
        return red, green, blue

    return Look(
        shirt=colour((0.1, 0.9), (0.2, 0.95)),
        second=colour((0.0, 0.8), (0.15, 1.0)),
        pattern=int(generator.choice(5, p=[0.45, 0.15, 0.1, 0.15, 0.15])),
        long_sleeves=bool(generator.random() < 0.6),
        trousers=colour((0.05, 0.6), (0.12, 0.75)),
        shorts=bool(generator.random() < 0.2),
        shoes=colour((0.0, 0.5), (0.05, 0.95)),
        hair=colour((0.2, 0.7), (0.06, 0.65), hue=(0.02, 0.13)),
        long_hair=bool(generator.random() < 0.4),
        skin=colour((0.25, 0.6), (0.4, 0.95), hue=(0.04, 0.08)),
        bag=int(generator.choice(4, p=[0.5, 0.25, 0.15, 0.1])),
        bag_colour=colour((0.1, 0.9), (0.1, 0.8)),
        girth=float(generator.uniform(0.85, 1.25)),
        stature=float(generator.uniform(0.88, 1.0)),
    )


def greyish(generator: np.random.Generator, levels: tuple[int, int], *, tint: int) -> Colour:
    """A grey between two levels, each channel off by at most `tint`."""
    level = int(generator.integers(*levels))
    red, green, blue = (level + int(part) for part in generator.integers(-tint, tint, 3, endpoint=True))
    return red, green, blue


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour, darker where the factor is below 1."""
    red, green, blue = colour
    return int(red * factor), int(green * factor), int(blue * factor)


def draw_person(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    """Draws from back to front: far limbs, body, head, near limbs."""
    pose = pose._replace(height=pose.height * look.stature, top=pose.top + pose.height * (1 - look.stature))
    figure, swing = _Figure(canvas, look, pose), math.sin(pose.phase)
    if look.bag == BACKPACK and pose.facing != AWAY:
        figure.backpack()
    figure.leg(-swing, far=True)
    figure.arm(swing, far=True)
    figure.leg(swing, far=False)
    figure.torso()
    figure.head()
    figure.arm(-swing, far=False)
    if look.bag == BACKPACK and pose.facing == AWAY:
        figure.backpack()
    if look.bag == SHOULDER_BAG:
        figure.shoulder_bag()


class _Figure:
    """The parts of a body."""

    def __init__(self, canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
        self._canvas, self._look, self._pose = canvas, look, pose
        self._sideways = pose.facing >= LEFT
        self._ahead = 1 if pose.facing == RIGHT else -1

    def leg(self, swing: float, *, far: bool) -> None:
        look, ahead, side = self._look, self._ahead, -1 if far else 1
        back = max(0.0, -swing)
        if self._sideways:
            hip, knee = (0.0, 0.50), (ahead * (0.11 * swing + 0.02), 0.735)
            ankle = (ahead * (0.20 * swing - 0.05 * back), 0.95 - 0.04 * back)
            toe = (ankle[0] + ahead * 0.06, ankle[1] + 0.025)
        else:
            lift = 0.035 * max(0.0, swing)
            hip, knee = (side * 0.045 * look.girth, 0.50), (side * 0.055, 0.735 - lift)
            ankle = (side * 0.055, 0.95 - lift)
            toe = (side * 0.07, ankle[1] + 0.025)
        width, shade = 0.085 * look.girth, 0.8 if far else 1.0
        self._limb(hip, knee, width, shaded(look.trousers, shade))
        self._limb(knee, ankle, 0.75 * width, shaded(look.skin if look.shorts else look.trousers, shade))
        self._limb(ankle, toe, 0.055, shaded(look.shoes, shade))

    def arm(self, swing: float, *, far: bool) -> None:
        look, ahead, side = self._look, self._ahead, -1 if far else 1
        if self._sideways:
            shoulder, elbow = (0.0, 0.20), (ahead * (0.09 * swing - 0.01), 0.345)
            hand = (ahead * (0.15 * swing + 0.03), 0.48)
        else:
            shoulder, elbow = (side * 0.115 * look.girth, 0.195), (side * (0.145 * look.girth + 0.01 * swing), 0.345)
            hand = (side * (0.14 * look.girth + 0.02 * swing), 0.49 - 0.02 * swing)
        width, shade = 0.06 * look.girth, 0.75 if far and self._sideways else 0.9
        self._limb(shoulder, elbow, width, shaded(look.shirt, shade))
        self._limb(elbow, hand, 0.8 * width, shaded(look.shirt if look.long_sleeves else look.skin, shade))
        self._disc(hand, 0.025, look.skin)
        if look.bag == HAND_BAG and not far:
            x, y = hand
            self._box((x - 0.055, y + 0.03), (x + 0.055, y + 0.15), look.bag_colour)

    def torso(self) -> None:
        look = self._look
        self._limb((0, 0.13), (0, 0.18), 0.055, shaded(look.skin, 0.85))
        self._band(-1, 1, SHOULDERS, HIPS, look.shirt)
        if look.pattern == STRIPES_ACROSS:
            for start in np.arange(SHOULDERS + 0.03, HIPS - 0.03, 0.07).tolist():
                self._band(-1, 1, start, start + 0.032, look.second)
        elif look.pattern == STRIPES_DOWN:
            for left in (-0.75, -0.15, 0.45):
                self._band(left, left + 0.3, SHOULDERS, HIPS, look.second)
        elif look.pattern == CHEST_BLOCK:
            self._band(-1, 1, SHOULDERS + 0.03, SHOULDERS + 0.16, look.second)
        elif look.pattern == OPEN_JACKET and self._pose.facing == TOWARDS:
            self._band(-0.35, 0.35, SHOULDERS, HIPS, look.second)
        self._band(0.72, 1, SHOULDERS, HIPS, shaded(look.shirt, 0.85))

    def _band(self, left: float, right: float, start: float, end: float, colour: Colour) -> None:
        """A part of the torso; left and right are shares of its half width."""
        girth, sideways = self._look.girth, self._sideways
        upper, lower = 0.125 * girth * (0.72 if sideways else 1.0), 0.095 * girth * (0.9 if sideways else 1.0)

        def corner(across: float, down: float) -> Point:
            return self._at(across * (upper + (lower - upper) * (down - SHOULDERS) / (HIPS - SHOULDERS)), down)

        corners = [corner(left, start), corner(right, start), corner(right, end), corner(left, end)]
        self._canvas.polygon(corners, fill=colour)

    def head(self) -> None:
        look = self._look
        if look.long_hair:
            self._box((-0.062, 0.06), (0.062, 0.19), look.hair)
        self._disc((0.0, 0.075), 0.068, look.hair)
        if self._pose.facing == TOWARDS:
            self._disc((0.0, 0.09), 0.052, look.skin)
        elif self._sideways:
            self._disc((self._ahead * 0.028, 0.09), 0.045, look.skin)

    def backpack(self) -> None:
        girth, colour = self._look.girth, self._look.bag_colour
        if self._pose.facing == TOWARDS:  # only what stands out behind the shoulders
            self._box((-0.15 * girth, 0.19), (0.15 * girth, 0.30), colour)
        elif self._pose.facing == AWAY:
            self._box((-0.095, 0.19), (0.095, 0.42), colour)
        else:
            left, right = sorted((-self._ahead * 0.05, -self._ahead * 0.19))
            self._box((left, 0.19), (right, 0.42), colour)

    def shoulder_bag(self) -> None:
        side = 1 if self._pose.facing in (TOWARDS, RIGHT) else -1
        self._limb((-side * 0.08, 0.17), (side * 0.10, 0.45), 0.02, self._look.bag_colour)
        self._box((side * 0.12 - 0.06, 0.43), (side * 0.12 + 0.06, 0.57), self._look.bag_colour)

    def _limb(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """A line with round ends."""
        self._canvas.line((self._at(*start), self._at(*end)), fill=colour, width=round(width * self._pose.height))
        self._disc(start, width / 2, colour)
        self._disc(end, width / 2, colour)

    def _disc(self, centre: Point, radius: float, colour: Colour) -> None:
        (x, y), r = self._at(*centre), radius * self._pose.height
        self._canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def _box(self, corner: Point, opposite: Point, colour: Colour) -> None:
        self._canvas.rectangle((*self._at(*corner), *self._at(*opposite)), fill=colour)

    def _at(self, across: float, down: float) -> Point:
        """Pixels of a point."""
        return self._pose.x + across * self._pose.height, self._pose.top + down * self._pose.height
