"""Handwriting as tracklets: a data set of 136 identities and 20 cameras that anyone may have.

    python examples/omniglot/make.py strokes_background_small1.zip data/characters

Omniglot (Lake et al. 2015, Science; MIT licence) holds characters of many alphabets, each drawn online by 20 people.
Its archive `strokes_background_small1.zip` has the drawings of five alphabets as strokes of timed points. Here an
identity is a character, a camera is the drawer's number (within an alphabet: number 1 of two alphabets may be two
people), and a tracklet is a drawing: FRAMES pictures of what was drawn so far, at equal steps of time. Early frames
show little and are much alike, the last shows the whole character, so a mean over frames has something to lose.

Two alphabets are the test set: its characters are new, and so is their style. Drawers with odd numbers are its queries,
the others its gallery. Nothing is drawn at random.
"""

from __future__ import annotations

import csv
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

FRAMES = 8
# Pixels. Drawings are 105 units wide. At 32, strokes of 2 pixels still leave the loops of the smallest characters open,
# and a network of four convolutions reduces 32 x 32 to a map of 4 x 4; 64 would cost four times as much.
SIZE = 32
UNITS = 105
PEN = 2
SUPERSAMPLED = 3  # Pillow draws lines without antialiasing
TESTED = ("Korean", "Latin")
NAME = re.compile(r"[^/]+/([^/.]+)/character(\d+)/\d+_(\d+)\.txt")

Stroke = list[tuple[float, float, float]]
"""Points x, y in pixels of the supersampled picture, and milliseconds."""


def main(archive: str, out: str) -> None:
    """Writes the data set: pictures, and then the table that names them."""
    folder = Path(out)
    folder.mkdir(parents=True)
    rows = [["identity", "camera", "path", "frames", "part"]]
    with zipfile.ZipFile(archive) as drawings:
        for name in sorted(drawings.namelist()):
            found = NAME.fullmatch(name)
            if found is not None:
                alphabet, character, drawer = found.groups()
                path = f"drawings/{alphabet}{character}/{drawer}"
                write_tracklet(folder / path, strokes_of(drawings.read(name).decode()))
                part = "train" if alphabet not in TESTED else ("gallery", "query")[int(drawer) % 2]
                rows.append([f"{alphabet} {character}", drawer, path, str(FRAMES), part])
    with (folder / "tracklets.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    print(f"{folder}: {len(rows) - 1} tracklets of {len({row[0] for row in rows[1:]})} characters")


def strokes_of(text: str) -> list[Stroke]:
    """The strokes of a drawing, from lines x,y,milliseconds; START and BREAK stand between them."""
    scale = SIZE * SUPERSAMPLED / UNITS
    strokes: list[Stroke] = [[]]
    for line in text.split():
        if line in ("START", "BREAK"):
            strokes.append([])
        else:
            x, y, time = map(float, line.split(","))
            strokes[-1].append((x * scale, -y * scale, time))
    return [stroke for stroke in strokes if stroke]


def write_tracklet(folder: Path, strokes: list[Stroke]) -> None:
    """The drawing so far at FRAMES equal steps of time, from the first point to the last."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(strokes), start=1):
        picture.save(folder / f"{number}.png")


def pictures(strokes: list[Stroke]) -> Iterator[Image.Image]:
    """FRAMES pictures, white on black."""
    start, end = strokes[0][0][2], strokes[-1][-1][2]
    for step in range(1, FRAMES + 1):
        until = start + (end - start) * step / FRAMES
        picture = Image.new("L", (SIZE * SUPERSAMPLED, SIZE * SUPERSAMPLED))
        pen = ImageDraw.Draw(picture)
        for stroke in strokes:
            points = [(x, y) for x, y, time in stroke if time <= until]
            if points:
                pen.line(points, fill=255, width=PEN * SUPERSAMPLED, joint="curve")
                dot(pen, points[0])  # Pillow draws no line of one point
        yield picture.reduce(SUPERSAMPLED)


def dot(pen: ImageDraw.ImageDraw, point: tuple[float, float]) -> None:
    """A round mark as wide as the pen."""
    x, y = point
    half = PEN * SUPERSAMPLED / 2
    pen.ellipse((x - half, y - half, x + half, y + half), fill=255)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/omniglot/make.py ZIP OUT")
    main(*sys.argv[1:])
