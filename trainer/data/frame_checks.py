"""Which frames of a data set are there, and which of them can be decoded."""

from __future__ import annotations

import contextlib
import os
import random
import re
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from trainer.data.dataset import contents
from trainer.data.frames import Box, clipped, crop_of, frame_file, in_threads, read_frame
from trainer.data.images import FORMATS, ORIENTATION, DamagedFrameError
from trainer.errors import DataError
from trainer.formatting import one_line
from trainer.result import Progress

SAMPLE = 500  # frames decoded unless all are
SAMPLE_SEED = 0
KEPT = 1_000  # problems whose text is kept; all are counted
FOLDER_THREADS = 16  # looking into a folder of a network file system is waiting, not work
FRAMES_AT_ONCE = 64
IMAGE_FORMATS = ("JPEG", *FORMATS)
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
MARS_SIZE = (256, 128)  # frames are asked for as MARS has them, so that no time goes into resizing
PIXELS = re.compile(r"\.pack@[0-9]+\+([0-9]+)x([0-9]+)/")  # in the address of a packed frame that is decoded already


class Findings:
    """Problems and notes: all problems are counted, the first are kept."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.count = 0

    def problem(self, text: str) -> None:
        """Adds a line that names a file."""
        self.count += 1
        if len(self.problems) < KEPT:
            self.problems.append(text)


class FrameFiles(NamedTuple):
    """Files in the folders of the frames."""

    sizes: Mapping[str, int]
    """Bytes of each frame that is there, by path; of a crop, those of its image."""
    bytes: int
    """Of all files together."""
    unlisted: int
    """Files that are no frames."""


class Decoded(NamedTuple):
    """Results of decoding."""

    frames: int
    damaged: int
    single_colour: int


class _Listing(NamedTuple):
    """Sizes of the files in a folder, or why it cannot be read."""

    sizes: dict[str, int]
    trouble: str | None = None


def look_for_frames(frames: Iterable[str], findings: Findings, progress: Progress) -> FrameFiles:
    """The frames that are there, each folder listed once; the others are problems."""
    by_folder: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for frame in frames:
        folder, _, name = frame_file(frame).rpartition(os.sep)
        by_folder[folder][frame] = name
    sizes: dict[str, int] = {}
    missing: dict[str, str] = {}
    other: dict[str, str] = {}
    total = unlisted = 0
    with closing(in_threads(_sizes_in, by_folder, FOLDER_THREADS)) as looks:
        for done, ((folder, named), look) in enumerate(zip(by_folder.items(), looks, strict=True), start=1):
            if look.trouble is None:
                found = {frame: look.sizes.get(name) for frame, name in named.items()}
                sizes |= {frame: size for frame, size in found.items() if size is not None}
                listed = look.sizes.keys() & {*named.values()}
                total += sum(look.sizes[name] for name in listed)
                unlisted += len(look.sizes) - len(listed)
                if look.sizes and not listed:
                    other[folder] = contents(Path(folder), next(iter(named.values())))
                else:
                    _report(found, findings)
            else:
                missing[folder] = look.trouble
            progress("looking for frames", done, len(by_folder))
    _report_folders(missing, by_folder, findings)
    _report_other_names(other, by_folder, findings)
    return FrameFiles(sizes, total, unlisted)


def _report_folders(missing: Mapping[str, str], by_folder: Mapping[str, Collection[str]], findings: Findings) -> None:
    """A line for each folder that cannot be read, or a single one where all folders beside it cannot be either."""
    beside: defaultdict[str, list[str]] = defaultdict(list)
    for folder in by_folder:
        beside[os.path.dirname(folder)].append(folder)  # noqa: PTH120 - as everywhere here
    for above, folders in beside.items():
        if len(folders) > 1 and all(folder in missing for folder in folders):
            frames = sum(len(by_folder[folder]) for folder in folders)
            findings.problem(
                f"{above}: {_instead(Path(above))}; the lists name {frames:,} frames in {len(folders):,} folders "
                f"there, the first of them {os.path.basename(folders[0])}"  # noqa: PTH119
            )
            continue
        for folder in folders:
            if folder in missing:
                listed = len(by_folder[folder])
                findings.problem(f"{folder}: {missing[folder]}, but the lists name {listed:,} frames in it")


def _report_other_names(other: Mapping[str, str], by_folder: Mapping[str, Collection[str]], findings: Findings) -> None:
    """A line for each data set's part in whose folders files lie, but none under the names of the lists."""
    beside: defaultdict[str, list[str]] = defaultdict(list)
    for folder in other:
        beside[os.path.dirname(folder)].append(folder)  # noqa: PTH120 - as everywhere here
    for folders in beside.values():
        more = f"; {len(folders) - 1:,} folders beside it are alike" if len(folders) > 1 else ""
        frames = sum(len(by_folder[folder]) for folder in folders)
        findings.problem(
            f"{folders[0]}: {other[folders[0]]}{more}; the lists name {frames:,} frames there: rename the files, or "
            "copy the data set again"
        )


def _instead(folder: Path) -> str:
    """What a folder holds instead of the listed names; a folder that differs by case if there is none."""
    if folder.is_dir():
        return contents(folder)
    with contextlib.suppress(OSError):
        for other in sorted(folder.parent.iterdir()):
            if other.is_dir() and other.name.casefold() == folder.name.casefold():
                return f"no such folder, but {one_line(other.name)}: rename it"
    return "no such folder"


def _sizes_in(folder: str) -> _Listing:
    try:
        with os.scandir(folder) as entries:
            return _Listing({entry.name: entry.stat().st_size for entry in entries if entry.is_file()})
    except OSError as error:
        return _Listing({}, error.strerror or type(error).__name__)


def _report(found: Mapping[str, int | None], findings: Findings) -> None:
    for frame, size in found.items():
        if size is None:
            findings.problem(f"{frame}: no such file, but a list names it; copy the data set again")
        elif size == 0:
            findings.problem(f"{frame}: empty file; copy the data set again")


def decode_frames(frames: Sequence[str], everything: bool, findings: Findings, progress: Progress) -> Decoded:
    """Decodes `SAMPLE` of the frames, the same ones every time, or all; those that cannot be are problems.

    Frames of one single colour get a note: they may be intended, but show no person.
    """
    frames = frames if everything else _sample(frames)
    batches = [frames[at : at + FRAMES_AT_ONCE] for at in range(0, len(frames), FRAMES_AT_ONCE)]
    damaged = done = 0
    single_colour: list[str] = []
    with closing(in_threads(_tried, batches)) as results:
        for batch, (failures, plain) in zip(batches, results, strict=True):
            for failure in failures:
                findings.problem(str(failure))
                damaged += isinstance(failure, DamagedFrameError)
            single_colour += plain
            done += len(batch)
            progress("decoding frames", done, len(frames))
    if single_colour:
        findings.notes.append(
            f"{len(single_colour):,} of {len(frames):,} decoded frames show one single colour and no person; the first "
            f"is {single_colour[0]}"
        )
    return Decoded(len(frames), damaged, len(single_colour))


def without_boxes_outside(frames: Sequence[str], findings: Findings, progress: Progress) -> list[str]:
    """The frames whose boxes are not outside of their images; those that are, are problems, those partly so a note.

    Only the heads of images are read, and only of those that crops are cut from.
    """
    boxes: defaultdict[str, list[tuple[str, Box]]] = defaultdict(list)
    for frame in frames:
        if (crop := crop_of(frame)) is not None:
            boxes[crop.image].append((frame, crop.box))
    partly: list[str] = []
    outside: set[str] = set()
    with closing(in_threads(_image_size, boxes)) as sizes:
        for done, (found, size) in enumerate(zip(boxes.values(), sizes, strict=True), start=1):
            for frame, box in found:
                if size is None:
                    break
                inside = clipped(box, *size)
                if inside is None:
                    what = f"the box lies outside of the image of {size[0]}x{size[1]} pixels"
                    findings.problem(f"{frame}: {what}; correct or remove it")
                    outside.add(frame)
                elif inside != box:
                    partly.append(frame)
            progress("looking at boxes", done, len(boxes))
    if partly:
        findings.notes.append(
            f"{len(partly):,} boxes reach beyond their images and are clipped; the first is {partly[0]}"
        )
    return [frame for frame in frames if frame not in outside]


def _image_size(image: str) -> tuple[int, int] | None:
    """Width and height of an image, upright; None where it is missing or damaged, which is a problem of its own."""
    try:
        with Image.open(image, formats=IMAGE_FORMATS) as opened:  # noqa: TID251 - with formats=
            turned = opened.getexif().get(ORIENTATION, 1) in SIDEWAYS
            return (opened.height, opened.width) if turned else opened.size
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return None


def _sample(frames: Sequence[str]) -> Sequence[str]:
    if len(frames) <= SAMPLE:
        return frames
    indices = random.Random(SAMPLE_SEED).sample(range(len(frames)), SAMPLE)
    return [frames[index] for index in sorted(indices)]


def _tried(frames: Sequence[str]) -> tuple[list[DataError], list[str]]:
    """Why some cannot be decoded, and those that show one single colour."""
    failures, single_colour = list[DataError](), list[str]()
    for frame in frames:
        try:
            pixels = read_frame(frame, *_packed_size(frame))
        except DataError as error:
            failures.append(error)
        else:
            if (pixels == pixels[0, 0]).all():
                single_colour.append(frame)
    return failures, single_colour


def _packed_size(frame: str) -> tuple[int, int]:
    """Height and width that a frame is packed at, the only ones that it is given at; for others MARS's."""
    pixels = PIXELS.search(frame)
    return (int(pixels[1]), int(pixels[2])) if pixels else MARS_SIZE
