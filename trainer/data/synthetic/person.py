"""A walking identity, drawn: what the figures of the synthetic data set look like.

Lengths are shares of the body's height, measured from its centre line and its top; angles are radians.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]

TOWARDS, AWAY, LEFT, RIGHT = range(4)
PLAIN, STRIPES_ACROSS, STRIPES_DOWN, CHEST_BLOCK, OPEN_JACKET = range(5)
NO_BAG, BACKPACK, SHOULDER_BAG, HAND_BAG = range(4)


class Look(NamedTuple):
    """What an identity wears and how they are built."""

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
    """Width over the average identity's."""
    stature: float
    """Height over the average identity's."""


class Pose(NamedTuple):
    """A body at one moment."""

    x: float
    """Centre of the body."""
    top: float
    height: float
    facing: int
    """`TOWARDS` the camera, `AWAY` from it, `LEFT` or `RIGHT`."""
    phase: float
    """Of the gait, radians."""

    @property
    def sideways(self) -> bool:
        return self.facing >= 2

    def at(self, across: float, down: float) -> tuple[float, float]:
        """Pixels of a point, given in body heights from the centre line and from the top."""
        return self.x + across * self.height, self.top + down * self.height


def random_look(generator: np.random.Generator) -> Look:
    """Clothes and build of somebody."""
    return Look(
        shirt=_colour(generator, saturation=(0.1, 0.9), value=(0.2, 0.95)),
        second=_colour(generator, saturation=(0.0, 0.8), value=(0.15, 1.0)),
        pattern=int(generator.choice(5, p=[0.45, 0.15, 0.1, 0.15, 0.15])),
        long_sleeves=bool(generator.random() < 0.6),
        trousers=_colour(generator, saturation=(0.05, 0.6), value=(0.12, 0.75)),
        shorts=bool(generator.random() < 0.2),
        shoes=_colour(generator, saturation=(0.0, 0.5), value=(0.05, 0.95)),
        hair=_colour(generator, hue=(0.02, 0.13), saturation=(0.2, 0.7), value=(0.06, 0.65)),
        long_hair=bool(generator.random() < 0.4),
        skin=_colour(generator, hue=(0.04, 0.08), saturation=(0.25, 0.6), value=(0.4, 0.95)),
        bag=int(generator.choice(4, p=[0.5, 0.25, 0.15, 0.1])),
        bag_colour=_colour(generator, saturation=(0.1, 0.9), value=(0.1, 0.8)),
        girth=float(generator.uniform(0.85, 1.25)),
        stature=float(generator.uniform(0.88, 1.0)),
    )


def greyish(generator: np.random.Generator, levels: tuple[int, int], *, tint: int) -> Colour:
    """A grey between two levels, each channel off by at most `tint`."""
    level = int(generator.integers(*levels))
    red, green, blue = (level + int(part) for part in generator.integers(-tint, tint, 3, endpoint=True))
    return red, green, blue


def _colour(
    generator: np.random.Generator,
    hue: tuple[float, float] = (0.0, 1.0),
    *,
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Colour:
    """A colour drawn evenly from ranges of hue, saturation and value, each in [0, 1]."""
    h, s, v = (float(generator.uniform(*limits)) for limits in (hue, saturation, value))
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(h, s, v))
    return red, green, blue


def draw_person(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    """Back to front: far limbs, body, head, near limbs."""
    pose = pose._replace(height=pose.height * look.stature, top=pose.top + pose.height * (1 - look.stature))
    swing = math.sin(pose.phase)
    if look.bag == BACKPACK and pose.facing != AWAY:
        _draw_backpack(canvas, look, pose)
    _draw_leg(canvas, look, pose, -swing, far=True)
    _draw_arm(canvas, look, pose, swing, far=True)
    _draw_leg(canvas, look, pose, swing, far=False)
    _draw_torso(canvas, look, pose)
    _draw_head(canvas, look, pose)
    _draw_arm(canvas, look, pose, -swing, far=False)
    if look.bag == BACKPACK and pose.facing == AWAY:
        _draw_backpack(canvas, look, pose)
    if look.bag == SHOULDER_BAG:
        _draw_shoulder_bag(canvas, look, pose)


def _draw_leg(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose, swing: float, *, far: bool) -> None:
    width = 0.085 * look.girth
    if pose.sideways:
        ahead = 1 if pose.facing == RIGHT else -1
        hip = (0.0, 0.50)
        knee = (ahead * (0.11 * swing + 0.02), 0.735)
        ankle = (ahead * (0.20 * swing - 0.05 * max(0.0, -swing)), 0.95 - 0.04 * max(0.0, -swing))
        toe = (ankle[0] + ahead * 0.06, ankle[1] + 0.025)
    else:
        side = -1 if far else 1
        lift = 0.035 * max(0.0, swing)
        hip, knee = (side * 0.045 * look.girth, 0.50), (side * 0.055, 0.735 - lift)
        ankle = (side * 0.055, 0.95 - lift)
        toe = (side * 0.07, ankle[1] + 0.025)
    shade = 0.8 if far else 1.0
    shin = look.skin if look.shorts else look.trousers
    _limb(canvas, pose, hip, knee, width, shaded(look.trousers, shade))
    _limb(canvas, pose, knee, ankle, 0.75 * width, shaded(shin, shade))
    _limb(canvas, pose, ankle, toe, 0.055, shaded(look.shoes, shade))


def _draw_arm(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose, swing: float, *, far: bool) -> None:
    width = 0.06 * look.girth
    if pose.sideways:
        ahead = 1 if pose.facing == RIGHT else -1
        shoulder = (0.0, 0.20)
        elbow = (ahead * (0.09 * swing - 0.01), 0.345)
        hand = (ahead * (0.15 * swing + 0.03), 0.48)
    else:
        side = -1 if far else 1
        shoulder = (side * 0.115 * look.girth, 0.195)
        elbow = (side * (0.145 * look.girth + 0.01 * swing), 0.345)
        hand = (side * (0.14 * look.girth + 0.02 * swing), 0.49 - 0.02 * swing)
    shade = 0.75 if far and pose.sideways else 0.9
    fore = look.shirt if look.long_sleeves else look.skin
    _limb(canvas, pose, shoulder, elbow, width, shaded(look.shirt, shade))
    _limb(canvas, pose, elbow, hand, 0.8 * width, shaded(fore, shade))
    _disc(canvas, pose, hand, 0.025, look.skin)
    if look.bag == HAND_BAG and not far:
        x, y = hand
        _box(canvas, pose, (x - 0.055, y + 0.03), (x + 0.055, y + 0.15), look.bag_colour)


def _draw_torso(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    depth = 0.72 if pose.sideways else 1.0
    upper, lower = 0.125 * look.girth * depth, 0.095 * look.girth * (0.9 if pose.sideways else 1.0)
    top, bottom = 0.165, 0.53

    def half(down: float) -> float:
        return upper + (lower - upper) * (down - top) / (bottom - top)

    def band(left: float, right: float, start: float, end: float, colour: Colour) -> None:
        """A part of the torso; left and right are shares of its half width."""
        corners = [(left, start), (right, start), (right, end), (left, end)]
        canvas.polygon([pose.at(across * half(down), down) for across, down in corners], fill=colour)

    _limb(canvas, pose, (0, 0.13), (0, 0.18), 0.055, shaded(look.skin, 0.85))
    band(-1, 1, top, bottom, look.shirt)
    if look.pattern == STRIPES_ACROSS:
        for start in np.arange(top + 0.03, bottom - 0.03, 0.07).tolist():
            band(-1, 1, start, start + 0.032, look.second)
    elif look.pattern == STRIPES_DOWN:
        for left in (-0.75, -0.15, 0.45):
            band(left, left + 0.3, top, bottom, look.second)
    elif look.pattern == CHEST_BLOCK:
        band(-1, 1, top + 0.03, top + 0.16, look.second)
    elif look.pattern == OPEN_JACKET and pose.facing == TOWARDS:
        band(-0.35, 0.35, top, bottom, look.second)
    band(0.72, 1, top, bottom, shaded(look.shirt, 0.85))


def _draw_head(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    centre = (0.0, 0.075)
    if look.long_hair:
        _box(canvas, pose, (-0.062, 0.06), (0.062, 0.19), look.hair)
    _disc(canvas, pose, centre, 0.068, look.hair)
    if pose.facing == TOWARDS:
        _disc(canvas, pose, (0.0, 0.09), 0.052, look.skin)
    elif pose.sideways:
        ahead = 1 if pose.facing == RIGHT else -1
        _disc(canvas, pose, (ahead * 0.028, 0.09), 0.045, look.skin)


def _draw_backpack(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    if pose.facing == TOWARDS:  # only what stands out behind the shoulders
        _box(canvas, pose, (-0.15 * look.girth, 0.19), (0.15 * look.girth, 0.30), look.bag_colour)
    elif pose.facing == AWAY:
        _box(canvas, pose, (-0.095, 0.19), (0.095, 0.42), look.bag_colour)
    else:
        behind = -1 if pose.facing == RIGHT else 1
        left, right = sorted((behind * 0.05, behind * 0.19))
        _box(canvas, pose, (left, 0.19), (right, 0.42), look.bag_colour)


def _draw_shoulder_bag(canvas: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    side = 1 if pose.facing in (TOWARDS, RIGHT) else -1
    _limb(canvas, pose, (-side * 0.08, 0.17), (side * 0.10, 0.45), 0.02, look.bag_colour)
    _box(canvas, pose, (side * 0.12 - 0.06, 0.43), (side * 0.12 + 0.06, 0.57), look.bag_colour)


def _limb(
    canvas: ImageDraw.ImageDraw,
    pose: Pose,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float,
    colour: Colour,
) -> None:
    """A line with round ends, all lengths in body heights."""
    canvas.line((pose.at(*start), pose.at(*end)), fill=colour, width=round(width * pose.height))
    _disc(canvas, pose, start, width / 2, colour)
    _disc(canvas, pose, end, width / 2, colour)


def _disc(canvas: ImageDraw.ImageDraw, pose: Pose, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    (x, y), r = pose.at(*centre), radius * pose.height
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _box(
    canvas: ImageDraw.ImageDraw,
    pose: Pose,
    corner: tuple[float, float],
    opposite: tuple[float, float],
    colour: Colour,
) -> None:
    canvas.rectangle((*pose.at(*corner), *pose.at(*opposite)), fill=colour)


def shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return int(red * factor), int(green * factor), int(blue * factor)
