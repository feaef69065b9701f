"""Draws tracklets: a person walking before clutter, hidden at times, seen by a camera with its own colours.

Every pixel derives from the walk alone. Frames are 256 x 128 pixels. Drawing processes must start fast: torch is never
imported from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from trainer.data.synthetic.person import Colour, Look, Pose, draw_person, greyish, random_look, shaded

HEIGHT, WIDTH = 256, 128
MARGIN = 16  # the background is larger than the frame on each side, so that the crop can follow the walk
QUALITY = 88
NOISE = 9  # grey levels, the largest error of the sensor; evenly distributed
PILLAR, LOW, IDENTITY = range(3)


class Camera(NamedTuple):
    """How a camera changes colours, and where it stands."""

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    blur: float
    """Radius in pixels."""
    ground: Colour
    wall: Colour


class Walk(NamedTuple):
    """One tracklet to draw."""

    stem: str
    """Path of the frames up to the number, e.g. bbox_train/0001/0001C1T0001F."""
    look: Look | None
    """None draws the background only, as a false detection."""
    camera: Camera
    hidden: tuple[bool, ...]
    """For each frame, whether a large part of the body is covered."""
    fragment: bool
    """Off centre and cut by the frame, as a failed detection."""
    seed: tuple[int, ...]


def write_walk(root: Path, walk: Walk) -> int:
    """Draws and writes all frames of the walk; returns their size in bytes."""
    total = 0
    for number, frame in enumerate(draw_walk(walk), start=1):
        data = simplejpeg.encode_jpeg(np.asarray(frame), QUALITY, "RGB", "420")
        (root / f"{walk.stem}{number:03d}.jpg").write_bytes(data)
        total += len(data)
    return total


def draw_walk(walk: Walk) -> Iterator[Image.Image]:
    """The frames of a walk in temporal order, RGB."""
    generator = np.random.default_rng(walk.seed)
    background = _background(walk.camera, generator)
    noise = _noise(generator)
    levels = _levels(walk.camera, light=float(generator.uniform(0.93, 1.07)))
    start, pace = _first_pose(walk.fragment, generator)
    cover = _occluder(generator)
    for time, hidden in enumerate(walk.hidden):
        x, y = (int(value) for value in generator.integers(0, 2 * MARGIN, 2))
        frame = background.crop((x, y, x + WIDTH, y + HEIGHT))
        pose = _moved(start, pace * time, generator)
        canvas = ImageDraw.Draw(frame)
        if walk.look is not None:
            draw_person(canvas, walk.look, pose)
        if hidden:
            cover(canvas, pose, time)
        frame = frame.filter(ImageFilter.BoxBlur(walk.camera.blur)).point(levels)
        x, y = (int(value) for value in generator.integers(0, 2 * MARGIN, 2))
        yield ImageChops.add(frame, noise.crop((x, y, x + WIDTH, y + HEIGHT)), 1, -128)


def _background(camera: Camera, generator: np.random.Generator) -> Image.Image:
    """Wall, ground and clutter, new for each tracklet, so that they tell nothing about the identity."""
    width, height = WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN
    image = Image.new("RGB", (width, height), camera.wall)
    canvas = ImageDraw.Draw(image)
    horizon = int(generator.integers(height * 45 // 100, height * 7 // 10))
    canvas.rectangle((0, horizon, width, height), fill=camera.ground)
    for _ in range(int(generator.integers(4, 10))):
        x, y = int(generator.integers(-20, width)), int(generator.integers(0, height))
        w, h = int(generator.integers(8, 60)), int(generator.integers(8, 110))
        colour = greyish(generator, (50, 200), tint=22)
        shape = canvas.ellipse if generator.random() < 0.3 else canvas.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    return image


def _noise(generator: np.random.Generator) -> Image.Image:
    """Noise around grey level 128, larger than a frame, so that each frame cuts out another part."""
    size = (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN, 3)
    return Image.fromarray(generator.integers(128 - NOISE, 128 + NOISE, size, dtype=np.uint8, endpoint=True))


def _levels(camera: Camera, light: float) -> list[int]:
    """What each level of the three channels becomes, as `Image.point` takes it."""
    return [
        round(min(max(level * gain * light + offset, 0), 255))
        for gain, offset in zip(camera.gain, camera.offset, strict=True)
        for level in range(256)
    ]


def _first_pose(fragment: bool, generator: np.random.Generator) -> tuple[Pose, float]:
    """Where a person starts, and the radians of gait per frame."""
    height = float(generator.uniform(205, 228))
    x, top = WIDTH / 2, HEIGHT - 8 - height
    if fragment:
        height *= float(generator.uniform(1.2, 1.8))
        x += float(generator.choice([-1, 1]) * generator.uniform(38, 60))
        top += float(generator.uniform(-110, 130))
    facing = int(generator.integers(4))
    phase = float(generator.uniform(0, 2 * math.pi))
    return Pose(x, top, height, facing, phase), float(generator.uniform(0.4, 0.8))


def _moved(start: Pose, gait: float, generator: np.random.Generator) -> Pose:
    """The person further on, as a detector that jitters sees them."""
    across, down, scale = generator.uniform(-1, 1, 3).tolist()
    return start._replace(
        x=start.x + 5 * across,
        top=start.top + 5 * down,
        height=start.height * (1 + 0.03 * scale),
        phase=start.phase + gait,
    )


def _occluder(generator: np.random.Generator) -> Callable[[ImageDraw.ImageDraw, Pose, int], None]:
    """What passes between camera and person: a pillar, something low and wide, or another person.

    Even the smallest hides a large part of the body.
    """
    kind = int(generator.integers(3))
    first, second = greyish(generator, (50, 200), tint=45), greyish(generator, (50, 200), tint=45)
    look = random_look(generator)
    size = float(generator.random())
    drift = float(generator.uniform(-1.5, 1.5))  # pixels per frame
    side = int(generator.choice([-1, 1]))

    def cover(canvas: ImageDraw.ImageDraw, pose: Pose, time: int) -> None:
        x = pose.x + drift * (time % 8 - 4)
        if kind == PILLAR:
            half, centre = 20 + 14 * size, x + side * 8
            canvas.rectangle((centre - half, 0, centre + half, HEIGHT), fill=first)
            canvas.rectangle((centre + 0.6 * half, 0, centre + half, HEIGHT), fill=shaded(first, 0.7))
        elif kind == LOW:
            top = min(pose.top + pose.height * (0.48 - 0.2 * size), HEIGHT)
            canvas.rectangle((0, top, WIDTH, HEIGHT), fill=first)
            canvas.rectangle((0, (top + HEIGHT) / 2, WIDTH, HEIGHT), fill=second)
        else:
            draw_person(canvas, look, pose._replace(x=x + side * 14, top=pose.top + 6, phase=pose.phase + 1))

    return cover
