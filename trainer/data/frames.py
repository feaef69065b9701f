"""Frames: image files, or parts of a packed data set, decoded to RGB arrays."""

from __future__ import annotations

import io
import logging
import mmap
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trainer.data.images import COPY_AGAIN, MAX_PIXELS, DamagedFrameError, Frame, decode_image, resized
from trainer.errors import DataError

MAX_BYTES = 64 * 2**20
PACK = ".pack"
# End of the address of a crop: left, top, width, height. No image file is called so, as it ends in a digit.
CROP = re.compile(r"@(-?[0-9]{1,6}),(-?[0-9]{1,6}),([0-9]{1,6})x([0-9]{1,6})\Z")
MAX_CROPPED_PIXELS = 16 * MAX_PIXELS  # of an image that crops are cut from: 8K video has 33 million
ALLOWED_SHARE = 0.001  # of a run's frames that may be damaged
AHEAD = 4  # items for each thread
NAMED = 5  # damaged frames in the message of a run that stops

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class WindowPixels(NamedTuple):
    """Frames of a tracklet, decoded."""

    pixels: UInt8[np.ndarray, "T H W 3"]
    damaged: tuple[str, ...]
    """Frames that were asked for or tried instead, and could not be decoded."""


def read_window(frames: Sequence[str], indices: Sequence[int], height: int, width: int) -> WindowPixels:
    """The frames of a tracklet that `indices` name, resized to H x W.

    In the place of a damaged frame stands the nearest undamaged one of the tracklet, the earlier of two as near.

    Raises:
        DataError: a frame is missing or too large, or all frames of the tracklet are damaged.
    """
    try:
        return WindowPixels(read_clip([frames[index] for index in indices], height, width), ())
    except DamagedFrameError:
        return _mended_window(frames, indices, height, width)


def _mended_window(frames: Sequence[str], indices: Sequence[int], height: int, width: int) -> WindowPixels:
    damaged: dict[str, None] = {}

    def nearest(index: int) -> Frame:
        for place in sorted(range(len(frames)), key=lambda other: (abs(other - index), other)):
            if frames[place] in damaged:
                continue
            try:
                return read_frame(frames[place], height, width)
            except DamagedFrameError:
                damaged[frames[place]] = None
        raise DataError(f"{frames[0]}: damaged, and so are all {len(frames)} frames of its tracklet; {COPY_AGAIN}")

    pixels = np.stack([nearest(index) for index in indices])
    return WindowPixels(pixels, tuple(damaged))


def read_clip(paths: Sequence[str], height: int, width: int) -> UInt8[np.ndarray, "T height width 3"]:
    """The frames one after another; errors as for `read_frame`."""
    size = height, width
    frames = [_decoded(paths[0], size)]
    # All but the first are decoded to where they belong: in all published data sets the frames of a clip have one size.
    clip = np.empty((len(paths), *frames[0].shape), dtype=np.uint8)
    slots = [*clip]
    frames += [_decoded(path, size, slot) for path, slot in zip(paths[1:], slots[1:], strict=True)]
    if any(frame.shape != frames[0].shape for frame in frames):
        # Reshaped, not frame[None], whose stride of 0 hides from torch that channels come last: 2x slower.
        return np.concatenate([resized(frame.reshape(1, *frame.shape), height, width) for frame in frames])
    for slot, frame in zip(slots, frames, strict=True):
        if frame is not slot:
            slot[...] = frame
    return resized(clip, height, width)


def read_frame(path: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """The frame as `trainer.data.images.decode_image` gives it, resized (bicubic, antialiased) if it has another size.

    `path` is a file, or an address in a packed data set (`bytes_address`, `pixels_address`).

    Raises:
        DamagedFrameError: the frame is empty, truncated or no image.
        DataError: the frame is missing or over 4 megapixels, or its pixels are packed at another size.
    """
    return read_clip([path], height, width)[0]  # type: ignore[no-any-return]


def frame_bytes(path: str) -> bytes:
    """Content of the image file, of a crop as PNG; `path` as in `read_frame`.

    Raises:
        DataError: the file is missing or over 64 MiB, or pixels are packed there instead of a file.
    """
    place = _packed_place(path)
    if place is None:
        return _file_bytes(path) if crop_of(path) is None else _as_png(_decoded(path, (0, 0)))
    if place.size is not None:
        raise DataError(f"{path}: packed as pixels; the image files are needed, or a pack of their bytes")
    return _mapped(place.file)[_checked_start(path, place) : place.offset + place.length]


def stored_bytes(path: str) -> int:
    """Bytes that a frame takes on the disk, a crop at most if it is packed; `path` as in `read_frame`.

    Raises:
        DataError: the file is missing.
    """
    place = _packed_place(path)
    if place is not None:
        return place.length
    if (crop := crop_of(path)) is not None:
        return crop.box.width * crop.box.height * 3
    try:
        return os.stat(path).st_size  # noqa: PTH116 - 2x Path, and data sets have a million
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def frame_file(path: str) -> str:
    """Path of the file that a frame lies in: its own, the image that it is cut from, or the pack's."""
    place = _packed_place(path)
    if place is not None:
        return place.file
    crop = crop_of(path)
    return path if crop is None else crop.image


def bytes_address(pack: str, offset: int, length: int, name: str) -> str:
    """Stands for the image file `name` in a pack, wherever the path of a frame does."""
    return f"{pack}@{offset}+{length}/{name}"


def pixels_address(pack: str, offset: int, size: tuple[int, int], name: str) -> str:
    """Stands for the decoded frame of `size` (height, width) in a pack; (0, 0) for one that was damaged."""
    return f"{pack}@{offset}+{size[0]}x{size[1]}/{name}"


class Box(NamedTuple):
    """A rectangle of an image, in pixels; the image's first pixel is at 0, 0."""

    left: int
    top: int
    width: int
    height: int


class Crop(NamedTuple):
    """A part of an image file."""

    image: str
    """Path of the file."""
    box: Box
    """May reach beyond the image, and is clipped then."""


def crop_address(image: str, box: Box) -> str:
    """Stands for a part of an image file wherever the path of a frame does."""
    return f"{image}@{box.left},{box.top},{box.width}x{box.height}"


def crop_of(path: str) -> Crop | None:
    """The crop that an address stands for; None for the path of a file, and for what is packed."""
    if not path[-1:].isdigit() or (end := CROP.search(path)) is None or PACK + "@" in path:
        return None
    return Crop(path[: end.start()], Box(*map(int, end.groups())))


def clipped(box: Box, width: int, height: int) -> Box | None:
    """The part of the box that lies in an image of this size; None if none does."""
    left, top = max(box.left, 0), max(box.top, 0)
    right, bottom = min(box.left + box.width, width), min(box.top + box.height, height)
    return Box(left, top, right - left, bottom - top) if left < right and top < bottom else None


class _Place(NamedTuple):
    """Where a packed frame lies."""

    file: str
    offset: int
    length: int
    size: tuple[int, int] | None
    """Height and width of a decoded frame; None for the bytes of an image file."""


def _packed_place(path: str) -> _Place | None:
    """The place that an address stands for; None for the path of a file."""
    pack, at, rest = path.rpartition(PACK + "@")
    if not at:
        return None
    offset, _, extent = rest.partition("/")[0].partition("+")
    height, by, width = extent.partition("x")
    try:
        if not by:
            return _Place(pack + PACK, int(offset), int(extent), None)
        size = int(height), int(width)
        return _Place(pack + PACK, int(offset), size[0] * size[1] * 3, size)
    except ValueError:
        return None


def _mapped(file: str) -> mmap.mmap:
    """The file's bytes, mapped once for each process and kept: packed files never change.

    Who truncates a file that is mapped kills the process (SIGBUS); that its size is right is checked before.
    """
    return _mapped_once(os.path.abspath(file))  # noqa: PTH100 - 5x Path; the current folder may change


@cache
def _mapped_once(file: str) -> mmap.mmap:
    try:
        with open(file, "rb") as pack:  # noqa: PTH123 - 3x Path
            return mmap.mmap(pack.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise DataError(f"{file}: cannot be read ({error}); pack the data set again") from error


def _checked_start(path: str, place: _Place) -> int:
    if not 0 <= place.offset <= len(_mapped(place.file)) - place.length or not 0 <= place.length <= MAX_BYTES:
        raise DataError(f"{path}: lies outside of the pack; pack the data set again")
    return place.offset


def _decoded(path: str, size: tuple[int, int], slot: Frame | None = None) -> Frame:
    """The frame as it is, pixels of `size` only; it is `slot` itself if that could be decoded to."""
    place = _packed_place(path)
    if place is not None and place.size is not None:
        return _packed_pixels(path, place, place.size, size)
    if place is None and (crop := crop_of(path)) is not None:
        return _cropped(path, crop)
    data = _file_bytes(path) if place is None else frame_bytes(path)
    return decode_image(path, data, slot)


def _cropped(path: str, crop: Crop) -> Frame:
    image = decode_image(crop.image, _file_bytes(crop.image), max_pixels=MAX_CROPPED_PIXELS)
    height, width, _ = image.shape
    box = clipped(crop.box, width, height)
    if box is None:
        raise DataError(f"{path}: the box lies outside of the image of {width}x{height} pixels; correct or remove it")
    return np.ascontiguousarray(image[box.top : box.top + box.height, box.left : box.left + box.width])


def _as_png(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _packed_pixels(path: str, place: _Place, packed: tuple[int, int], size: tuple[int, int]) -> Frame:
    if packed == (0, 0):
        raise DamagedFrameError(f"{path}: was damaged when it was packed")
    if packed != size:
        there, asked = ("x".join(map(str, each)) for each in (packed, size))
        raise DataError(
            f"{path}: packed at {there}, asked for {asked}; pack again with --size {asked}, or pack original bytes"
        )
    start = _checked_start(path, place)
    return np.frombuffer(_mapped(place.file), np.uint8, place.length, start).reshape(*packed, 3)


def _file_bytes(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # 13 us faster than Path's open, as much as a tenth of a frame
        try:
            size = os.fstat(file).st_size
            data = os.read(file, size) if size <= MAX_BYTES else b""  # a bound for read() would be allocated first
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES} bytes; this is not a frame")
    return data


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Generator[Result, None, None]:
    """Results in the order of the items. Decoding does not hold Python's lock, and waiting for a disk is no work.

    A few items are worked on ahead. Closing it, as Ctrl-C does, drops those that have not begun.

    Args:
        work: what to do with each item.
        items: the items.
        threads: how many work; None for one per core and a few that wait for the disk.
    """
    threads = threads or (os.cpu_count() or 1) + 4
    pool, ahead = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > AHEAD * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class DamagedFrames:
    """The damaged frames of a run, each counted and warned of once; more than a small share of them stop it."""

    def __init__(self, frames: int, allowed: float = ALLOWED_SHARE) -> None:
        """Tolerates at most the share `allowed` of the run's `frames`."""
        self._total = frames
        self._allowed = allowed
        self._seen: dict[str, None] = {}

    @property
    def count(self) -> int:
        """Damaged frames so far."""
        return len(self._seen)

    def state(self) -> list[str]:
        """The damaged frames so far, for a checkpoint; a new tally that adds them goes on from there."""
        return list(self._seen)

    def add(self, paths: Iterable[str]) -> None:
        """Counts damaged frames, and warns of each that is new.

        Raises:
            DataError: there are more of them than the run tolerates.
        """
        for path in paths:
            if path not in self._seen:
                self._seen[path] = None
                log.warning("%s: damaged; the nearest undamaged frame of its tracklet stands in for it", path)
        if self.count > self._allowed * self._total:
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        first = ", ".join(list(self._seen)[:NAMED])
        others = f" and {self.count - NAMED} more" if self.count > NAMED else ""
        return (
            f"{self.count} of {self._total} frames are damaged, more than {100 * self._allowed:g} % "
            f"({first}{others}); copy the data set again"
        )
