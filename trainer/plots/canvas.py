"""What all sheets are drawn on: a white canvas with text, boxes, lines and frames of tracklets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from trainer.plots.files import PNG_LEVEL, SYNTHETIC, picture_file

Colour = tuple[int, int, int]

WHITE, INK, FAINT, PALE = (255, 255, 255), (40, 40, 40), (120, 120, 120), (224, 224, 224)
# Green is much darker than red, for those who cannot tell them apart otherwise; marks stand beside them as well.
BLUE, GREEN, RED, GREY = (31, 94, 178), (0, 110, 66), (228, 84, 58), (150, 150, 150)
WARNING = (168, 66, 0)
TEXT, LARGE = 13, 18  # pixels
LINE = 17  # pixels from one line of text to the next
MARGIN = 14
BANNER = 28
MAX_PIXELS = 2**27  # of a sheet, 384 MiB while it is drawn; viewers refuse larger ones


class Size(NamedTuple):
    """Extent in pixels."""

    width: int
    height: int


class Place(NamedTuple):
    """A point in pixels, to the right and downwards of the left upper corner."""

    x: int
    y: int

    def moved(self, x: int = 0, y: int = 0) -> Place:
        """The point so much further to the right and down."""
        return Place(self.x + x, self.y + y)


class Canvas:
    """A white sheet that is drawn on and then written to a file."""

    def __init__(self, size: Size, *, synthetic: bool) -> None:
        """A sheet to draw on, with a banner above it where the data is synthetic."""
        self._top = BANNER if synthetic else 0
        height = size.height + self._top
        if size.width * height > MAX_PIXELS:
            raise ValueError(f"a sheet of {size.width} x {height} pixels is too large to be looked at; draw fewer rows")
        self._image = Image.new("RGB", (size.width, height), WHITE)
        self._draw = ImageDraw.Draw(self._image)
        if synthetic:
            self.box(Place(0, -BANNER), Size(size.width, BANNER), WARNING)
            self.text(Place(MARGIN, -BANNER // 2), SYNTHETIC, colour=WHITE, anchor="lm")

    def text(self, place: Place, text: str, *, size: int = TEXT, colour: Colour = INK, anchor: str = "la") -> None:
        """Writes one line; `anchor` says what of it stands at `place`, in Pillow's letters."""
        self._draw.text((place.x, place.y + self._top), text, colour, _font(size), anchor)

    def lines(self, place: Place, lines: Sequence[str], *, colour: Colour = INK) -> None:
        """Writes lines one below the other."""
        for number, line in enumerate(lines):
            self.text(place.moved(y=number * LINE), line, colour=colour)

    def box(self, place: Place, size: Size, colour: Colour) -> None:
        """Fills a box with its left upper corner at `place`; nothing if it has no extent."""
        if min(size) > 0:
            upper = place.y + self._top
            self._draw.rectangle((place.x, upper, place.x + size.width - 1, upper + size.height - 1), colour)

    def line(self, points: Sequence[Place], colour: Colour, *, width: int = 1) -> None:
        """A line from point to point."""
        self._draw.line([(x, y + self._top) for x, y in points], colour, width, "curve")

    def picture(self, place: Place, pixels: UInt8[np.ndarray, "h w 3"], size: Size) -> None:
        """Draws pixels, resized if they are of another size, with their left upper corner at `place`."""
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        self._image.paste(image, (place.x, place.y + self._top))

    def save(self, out: Path) -> None:
        """Writes the sheet as PNG, whole or not at all.

        Raises:
            DataError: the file cannot be written.
        """
        with picture_file(out) as file:
            self._image.save(file, "PNG", compress_level=PNG_LEVEL)


def text_width(text: str, size: int = TEXT) -> int:
    """Pixels that a line of text is wide."""
    return round(_font(size).getlength(text))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that ships with Pillow: the same letters on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
