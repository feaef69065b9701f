"""Sheets of frames: tracklets, what queries found, and where attention looked.

T frames of a clip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from trainer.data.dataset import DISTRACTOR, JUNK, NamedNumber, Tracklet
from trainer.data.frames import WindowPixels, read_window
from trainer.model.attention import attention_entropy
from trainer.plots.canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    LARGE,
    LINE,
    MARGIN,
    PALE,
    RED,
    WHITE,
    Canvas,
    Colour,
    Place,
    Size,
    text_width,
)

LABEL = 104  # pixels wide, beside a row
GAP = 10
FOUND_NAME = 48  # pixels wide, of a camera's name below a strip; its distance stands beside it
FRAME, SMALL_FRAME = Size(64, 128), Size(48, 96)
TALL = 6  # tracklets; more of them stand in two columns
QUERY_FRAMES, FOUND_FRAMES = 4, 2
SHOWN_MISSED = 3  # of the missed matches of a query; the others are counted
MORE = 50  # pixels wide, the number of the others
LEGEND = 930  # pixels wide, beside the title
NARROW = 640  # pixels; the banner needs them
BORDER, TAB = 3, 18  # pixels of a strip's colour around it and above it
BARS = 56  # pixels that the highest bar of attention may have
ALIKE = "all alike"
ROUNDING = 0.02  # that half precision may leave between a sum of weights and 1
PACKED_PIXELS = re.compile(r"\.pack@[0-9]+\+([1-9][0-9]*)x([1-9][0-9]*)/")  # `frames.pixels_address`
COLOURS: dict[str, Colour] = {
    "query": BLUE,
    "match": GREEN,
    "wrong": RED,
    "distractor": RED,
    "missed match": GREY,
    "found": GREY,
    "same": GREEN,
    "other": RED,
}

Verdict = Literal["match", "wrong", "distractor", "found", "same", "other"]


class RankedItem(NamedTuple):
    """A gallery tracklet in the ranking of a query."""

    tracklet: Tracklet
    rank: int
    """From 1, in what remains of the gallery for the query."""
    distance: float
    verdict: Verdict
    """`match`: the query's identity by another camera; `distractor`: no identity; `wrong`: another identity. Where
    the truth is not known: `same` or `other` by a threshold of the distance, `found` without one."""


class RankedQuery(NamedTuple):
    """A query, what stands first in its ranking, and the matches that do not."""

    query: Tracklet
    average_precision: float | None
    """NaN for a query without a match; None where the truth is not known."""
    ranked: tuple[RankedItem, ...]
    """The nearest of what remains of the gallery, nearest first."""
    missed: tuple[RankedItem, ...]
    """All matches that are not among `ranked`, nearest first."""


class AttendedClip(NamedTuple):
    """A clip, and how much each of its frames weighed."""

    tracklet: Tracklet
    frames: Sequence[int]
    """Indices of the T frames in the tracklet."""
    weights: Float[Tensor, " T"]
    """Of each frame, on the CPU; not negative, adding up to 1."""


def contact_sheet(
    tracklets: Sequence[Tracklet], out: Path, *, frames: int = 8, title: str = "", synthetic: bool
) -> None:
    """Draws a row of evenly spaced frames for each tracklet, first and last among them; below each its number.

    Raises:
        DataError: a frame is missing, all of a tracklet are damaged, or the picture cannot be written.
        ValueError: no tracklets, or too many for a picture.
    """
    _check_rows(tracklets)
    columns = 1 if len(tracklets) <= TALL else 2
    rows = math.ceil(len(tracklets) / columns)
    cell = Size(LABEL + frames * (FRAME.width + 2) + 3 * GAP, FRAME.height + LINE + GAP)
    top = MARGIN + (LARGE + 2 * GAP if title else 0)
    width = max(2 * MARGIN + columns * cell.width - 3 * GAP, NARROW, 2 * MARGIN + text_width(title, LARGE))
    canvas = Canvas(Size(width, top + rows * cell.height), synthetic=synthetic)
    canvas.text(Place(MARGIN, MARGIN), title, size=LARGE)
    for number, tracklet in enumerate(tracklets):
        column, row = divmod(number, rows)
        place = Place(MARGIN + column * cell.width, top + row * cell.height)
        canvas.lines(place, _label(tracklet))
        _draw_frames(canvas, place.moved(LABEL), tracklet, _evenly_spaced(len(tracklet.frames), frames))
    canvas.save(out)


def ranking_sheet(rows: Sequence[RankedQuery], out: Path, *, title: str = "", synthetic: bool) -> None:
    """Draws a row for each query: the query in blue, what is nearest in green or red, missed matches in grey.

    Raises:
        DataError: a frame is missing, all of a tracklet are damaged, or the picture cannot be written.
        ValueError: no rows, or too many for a picture.
    """
    _check_rows(rows)
    query, found = _strip_size(QUERY_FRAMES), _strip_size(FOUND_FRAMES)
    places = max(len(row.ranked) for row in rows)
    missed = max(len(row.missed[:SHOWN_MISSED]) for row in rows)
    left = MARGIN + LABEL + query.width + 2 * GAP
    more = any(len(row.missed) > SHOWN_MISSED for row in rows)
    width = left + (places + missed) * (found.width + GAP) + (2 * GAP if missed else 0) + (MORE if more else MARGIN)
    top, row_height = MARGIN + LARGE + 2 * GAP, found.height + 2 * LINE + 2 * GAP
    width = max(width, MARGIN + text_width(title, LARGE) + LEGEND)
    canvas = Canvas(Size(width, top + len(rows) * row_height), synthetic=synthetic)
    _draw_legend(canvas, title, rows)
    for number, row in enumerate(rows):
        place = Place(MARGIN, top + number * row_height)
        canvas.line([place.moved(y=-GAP), Place(width - MARGIN, place.y - GAP)], PALE)
        _draw_query(canvas, place, row)
        for position, item in enumerate(row.ranked):
            _draw_found(canvas, Place(left + position * (found.width + GAP), place.y), item, item.verdict)
        _draw_missed(canvas, Place(left + places * (found.width + GAP) + 2 * GAP, place.y), row.missed, found.width)
    canvas.save(out)


def attention_strip(clips: Sequence[AttendedClip], out: Path, *, title: str = "", synthetic: bool) -> None:
    """Draws the frames of each clip above bars of their weights; a line shows what each frame has if all weigh alike.

    All bars of a picture have one scale, up to three times that, or more where a weight is greater.

    Raises:
        DataError: a frame is missing, all of a tracklet are damaged, or the picture cannot be written.
        ValueError: no clips, too many for a picture, or weights that are not one per frame with a sum of 1.
    """
    _check_rows(clips)
    for clip in clips:
        _check_weights(clip)
    full = min(1.0, max(max(3 / len(clip.frames), float(clip.weights.max())) for clip in clips))
    height = FRAME.height + BARS + 2 * LINE + 3 * GAP
    most = max(len(clip.frames) for clip in clips)
    top = MARGIN + (LARGE + 2 * GAP if title else 0)
    left = MARGIN + LABEL
    width = left + most * (FRAME.width + 2) + text_width(ALIKE) + MARGIN + GAP
    width = max(width, NARROW, 2 * MARGIN + text_width(title, LARGE))
    canvas = Canvas(Size(width, top + len(clips) * height), synthetic=synthetic)
    canvas.text(Place(MARGIN, MARGIN), title, size=LARGE)
    for number, clip in enumerate(clips):
        _draw_attention(canvas, Place(MARGIN, top + number * height), clip, full)
    canvas.save(out)


def _check_rows(rows: Sequence[object]) -> None:
    if not rows:
        raise ValueError("there is nothing to draw: no rows")


def _check_weights(clip: AttendedClip) -> None:
    if not clip.frames or clip.weights.shape != (len(clip.frames),):
        shape = tuple(clip.weights.shape)
        raise ValueError(f"a clip of {len(clip.frames)} frames needs a weight for each (weights are {shape})")
    total = float(clip.weights.sum())
    if not bool((clip.weights >= 0).all()) or abs(total - 1) > ROUNDING:
        raise ValueError(f"weights of a clip must not be negative and add up to 1 (they add up to {total:.3g})")


def _draw_frames(canvas: Canvas, place: Place, tracklet: Tracklet, indices: Sequence[int]) -> None:
    """Frames side by side with their numbers below; a damaged one says so, and what is nearest stands in its place."""
    pixels, damaged = _read(tracklet, indices, FRAME)
    for column, (index, image) in enumerate(zip(indices, pixels, strict=True)):
        corner = place.moved(column * (FRAME.width + 2))
        canvas.picture(corner, image, FRAME)
        gone = tracklet.frames[index] in damaged
        below = corner.moved(FRAME.width // 2, FRAME.height + 2)
        canvas.text(below, "damaged" if gone else str(index + 1), colour=RED if gone else FAINT, anchor="ma")


def _draw_legend(canvas: Canvas, title: str, rows: Sequence[RankedQuery]) -> None:
    place = Place(MARGIN, MARGIN)
    if title:
        canvas.text(place, title, size=LARGE)
        place = place.moved(text_width(title, LARGE) + 4 * GAP)
    judged = any(row.average_precision is not None for row in rows)
    found = {item.verdict for row in rows for item in row.ranked}
    unjudged = ("query", *(name for name in ("same", "other", "found") if name in found))
    for name in ("query", "match", "wrong", "missed match") if judged else unjudged:
        canvas.box(place.moved(y=2), Size(LARGE, LARGE - 2), COLOURS[name])
        _draw_mark(canvas, place.moved(LARGE // 2, LARGE // 2 + 1), name)
        canvas.text(place.moved(LARGE + GAP // 2, 2), name)
        place = place.moved(LARGE + text_width(name) + 3 * GAP)
    left_out = ", same identity by the same camera left out" if judged else ""
    note = f"nearest first{left_out}; numbers below: camera, distance"
    canvas.text(place.moved(y=2), note, colour=FAINT)


def _draw_query(canvas: Canvas, place: Place, row: RankedQuery) -> None:
    if row.average_precision is not None:
        precision = "no match" if math.isnan(row.average_precision) else f"AP {100 * row.average_precision:.1f}"
        canvas.text(place, precision, size=LARGE)
    canvas.lines(place.moved(y=LARGE + GAP), _label(row.query))
    _draw_strip(canvas, place.moved(LABEL), row.query, QUERY_FRAMES, "query", "query")


def _draw_found(canvas: Canvas, place: Place, item: RankedItem, kind: str) -> None:
    _draw_strip(canvas, place, item.tracklet, FOUND_FRAMES, f"{item.rank}", kind)
    below = place.moved(y=_strip_size(FOUND_FRAMES).height + 3)
    camera = item.tracklet.camera
    short = _fitted(str(camera), FOUND_NAME) if isinstance(camera, NamedNumber) else f"c{camera}"
    about = f"{short}  {item.distance:.3f}"
    canvas.lines(below, [_named(item.tracklet), about], colour=INK if kind == "match" else FAINT)


def _draw_missed(canvas: Canvas, place: Place, missed: Sequence[RankedItem], width: int) -> None:
    """The first missed matches, and how many more there are."""
    for position, item in enumerate(missed[:SHOWN_MISSED]):
        _draw_found(canvas, place.moved(position * (width + GAP)), item, "missed match")
    more = len(missed) - SHOWN_MISSED
    if more > 0:
        beside = place.moved(SHOWN_MISSED * (width + GAP), TAB + SMALL_FRAME.height // 2)
        canvas.lines(beside, [f"+ {more}", "more"], colour=FAINT)


def _draw_strip(canvas: Canvas, place: Place, tracklet: Tracklet, count: int, caption: str, kind: str) -> None:
    """Evenly spaced frames of a tracklet in a frame of the colour of their kind, with a tab above."""
    size = _strip_size(count)
    canvas.box(place, size, COLOURS[kind])
    canvas.text(place.moved(BORDER + 2, TAB // 2 + 1), caption, colour=WHITE, anchor="lm")
    _draw_mark(canvas, place.moved(size.width - BORDER - 8, TAB // 2), kind)
    inside = place.moved(BORDER, TAB)
    canvas.box(inside, Size(size.width - 2 * BORDER, SMALL_FRAME.height), WHITE)
    indices = _evenly_spaced(len(tracklet.frames), count)
    for column, image in enumerate(_read(tracklet, indices, SMALL_FRAME).pixels):
        canvas.picture(inside.moved(column * (SMALL_FRAME.width + 1)), image, SMALL_FRAME)


def _draw_mark(canvas: Canvas, center: Place, kind: str) -> None:
    """A tick for what matches, a cross for what does not: not every reader can tell the colours apart."""
    if kind in ("match", "missed match", "same"):
        canvas.line([center.moved(-5), center.moved(-1, 4), center.moved(6, -4)], WHITE, width=2)
    elif kind in ("wrong", "distractor", "other"):
        for slope in (-1, 1):
            canvas.line([center.moved(-4, -4 * slope), center.moved(4, 4 * slope)], WHITE, width=2)


def _draw_attention(canvas: Canvas, place: Place, clip: AttendedClip, full: float) -> None:
    canvas.lines(place, [*_label(clip.tracklet), f"entropy {float(attention_entropy(clip.weights[None])):.2f}"])
    left = place.moved(LABEL)
    _draw_frames(canvas, left, clip.tracklet, clip.frames)
    base = left.moved(y=FRAME.height + LINE + GAP // 2 + BARS)
    for column, weight in enumerate(clip.weights.tolist()):
        height = round(BARS * weight / full)
        bar = base.moved(column * (FRAME.width + 2) + FRAME.width // 4)
        canvas.box(bar.moved(y=-height), Size(FRAME.width // 2, height), BLUE)
        canvas.text(bar.moved(FRAME.width // 4, 3), f"{100 * weight:.0f} %", anchor="ma")
    width, alike = len(clip.frames) * (FRAME.width + 2) - 2, base.moved(y=-round(BARS / len(clip.frames) / full))
    canvas.line([base, base.moved(width)], GREY)
    canvas.line([alike, alike.moved(width)], RED)
    canvas.text(alike.moved(width + 4), ALIKE, colour=RED, anchor="lm")


def _read(tracklet: Tracklet, indices: Sequence[int], size: Size) -> WindowPixels:
    """The frames at `size`, or at the only size that they are packed at."""
    packed = PACKED_PIXELS.search(tracklet.frames[0])
    height, width = (int(packed[1]), int(packed[2])) if packed else (size.height, size.width)
    return read_window(tracklet.frames, indices, height, width)


def _strip_size(count: int) -> Size:
    """Of so many frames, with what surrounds them."""
    return Size(count * (SMALL_FRAME.width + 1) - 1 + 2 * BORDER, TAB + SMALL_FRAME.height + BORDER)


def _evenly_spaced(length: int, count: int) -> list[int]:
    """Indices of at most `count` different frames, the first and the last among them; of one, the middle."""
    if count == 1:
        return [length // 2]
    return sorted({round(step * (length - 1) / (count - 1)) for step in range(count)})


def _label(tracklet: Tracklet) -> list[str]:
    count = len(tracklet.frames)
    return [
        _named(tracklet),
        _fitted(f"camera {tracklet.camera}", LABEL - GAP),
        f"{count} frame{'s' if count > 1 else ''}",
    ]


def _named(tracklet: Tracklet) -> str:
    if isinstance(tracklet.identity, NamedNumber):
        return _fitted(str(tracklet.identity), LABEL - GAP)
    return {DISTRACTOR: "distractor", JUNK: "junk"}.get(tracklet.identity, f"identity {tracklet.identity}")


def _fitted(text: str, width: int) -> str:
    """The text, cut off where it would be wider than so many pixels."""
    if text_width(text) <= width:
        return text
    return next((cut for end in range(len(text), 0, -1) if text_width(cut := f"{text[:end]}…") <= width), "…")
