"""Frames: image files, or parts of a packed data set, decoded to RGB arrays."""

from __future__ import annotations

import io
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from trainer.errors import DataError

Frame = UInt8[np.ndarray, "height width 3"]

MAX_PIXELS = 4 * 2**20  # a person crop has 32,768; more is a mistake or a decompression bomb
MAX_BYTES = 64 * 2**20
FORMATS = ("PNG", "BMP", "WEBP")  # JPEG is not among them: simplejpeg is faster and sees truncation
JPEG_START, PNG_START, PNG_END = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
OTHER_FORMATS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF"}
GREY_16_BIT = ("I;16", "I")  # what Pillow calls a PNG of 16-bit grey; I before its version 11
EXIF = b"Exif\0\0"
# Segments that may stand before the one with EXIF: those of applications (APP0 to APP15) and comments.
HEAD_SEGMENTS = {bytes((0xFF, marker)) for marker in (*range(0xE0, 0xF0), 0xFE)}
ORIENTATION = 0x0112
# From pixels as stored to upright ones, by EXIF's orientation (CIPA DC-008, 4.6.4); 1 is upright already.
UPRIGHT: Mapping[int, Callable[[Frame], Frame]] = {
    2: lambda frame: frame[:, ::-1],
    3: lambda frame: frame[::-1, ::-1],
    4: lambda frame: frame[::-1],
    5: lambda frame: frame.transpose(1, 0, 2),
    6: lambda frame: frame.transpose(1, 0, 2)[:, ::-1],
    7: lambda frame: frame.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda frame: frame.transpose(1, 0, 2)[::-1],
}
PACK = ".pack"
COPY_AGAIN = "copy the data set again"
ALLOWED_SHARE = 0.001  # of a run's frames that may be damaged
NAMED = 5  # damaged frames in the message of a run that stops

log = logging.getLogger(__name__)


class DamagedFrameError(DataError):
    """A frame that is there, but cannot be decoded: truncated, garbage, or empty."""


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
        return np.concatenate([_resized(frame.reshape(1, *frame.shape), height, width) for frame in frames])
    for slot, frame in zip(slots, frames, strict=True):
        if frame is not slot:
            slot[...] = frame
    return _resized(clip, height, width)


def read_frame(path: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """The image in RGB, 0 to 255, upright, resized (bicubic, antialiased) if it has another size.

    Of 16-bit values, grey or colour, the high byte is taken: the same scale for every frame, and a picture of 8 bits
    that was widened by 256 or by 257 comes back exactly. Transparency is dropped. EXIF's orientation is applied.

    `path` is a file, or an address in a packed data set (`bytes_address`, `pixels_address`).

    Raises:
        DamagedFrameError: the frame is empty, truncated or no image.
        DataError: the frame is missing or over 4 megapixels, or its pixels are packed at another size.
    """
    return read_clip([path], height, width)[0]  # type: ignore[no-any-return]


def frame_bytes(path: str) -> bytes:
    """What the image file holds, nothing where it is empty; `path` as in `read_frame`.

    Raises:
        DataError: the file is missing or over 64 MiB, or pixels are packed there instead of a file.
    """
    place = _packed_place(path)
    if place is None:
        return _file_bytes(path)
    if place.size is not None:
        raise DataError(f"{path}: packed as pixels; the image files are needed, or a pack of their bytes")
    return _mapped(place.file)[_checked_start(path, place) : place.offset + place.length]


def stored_bytes(path: str) -> int:
    """Bytes that a frame takes on the disk; `path` as in `read_frame`.

    Raises:
        DataError: the file is missing.
    """
    place = _packed_place(path)
    if place is not None:
        return place.length
    try:
        return os.stat(path).st_size  # noqa: PTH116 - 2x Path, and data sets have a million
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def frame_file(path: str) -> str:
    """Path of the file that a frame lies in: its own, or the pack's."""
    place = _packed_place(path)
    return path if place is None else place.file


def bytes_address(pack: str, offset: int, length: int, name: str) -> str:
    """Stands for the image file `name` in a pack, wherever the path of a frame does."""
    return f"{pack}@{offset}+{length}/{name}"


def pixels_address(pack: str, offset: int, size: tuple[int, int], name: str) -> str:
    """Stands for the decoded frame of `size` (height, width) in a pack; (0, 0) for one that was damaged."""
    return f"{pack}@{offset}+{size[0]}x{size[1]}/{name}"


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


@cache
def _mapped(file: str) -> mmap.mmap:
    """The file's bytes, mapped once for each process and kept: packed files never change.

    Who truncates a file that is mapped kills the process (SIGBUS); that its size is right is checked before.
    """
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
    data = _file_bytes(path) if place is None else frame_bytes(path)
    if not data:
        raise DamagedFrameError(f"{path}: empty file; {COPY_AGAIN}")
    if not data.startswith(JPEG_START):
        return _decode_other(path, data)
    exif = _exif_of_jpeg(data)
    return _upright(_decode_jpeg(path, data, slot if exif is None else None), exif)


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


def _decode_jpeg(path: str, data: bytes, slot: Frame | None) -> Frame:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(path, int(height), int(width))
        if slot is None or slot.shape != (height, width, 3):
            return simplejpeg.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]
        simplejpeg.decode_jpeg(data, "RGB", buffer=slot)
    except DataError:
        raise
    except ValueError as error:
        raise DamagedFrameError(f"{path}: damaged JPEG ({error}); {COPY_AGAIN}") from error
    return slot


def _exif_of_jpeg(data: bytes) -> bytes | None:
    """The EXIF segment; None if there is none. Half a microsecond, as every frame is asked."""
    at = len(JPEG_START)
    while (marker := data[at : at + 2]) in HEAD_SEGMENTS:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == b"\xff\xe1" and data.startswith(EXIF, at + 4):
            return data[at + 4 : end]
        at = end
    return None


def _upright(frame: Frame, exif: bytes | None) -> Frame:
    turn = None if exif is None else UPRIGHT.get(_orientation(exif))
    return frame if turn is None else np.ascontiguousarray(turn(frame))


def _orientation(exif: bytes) -> int:
    """EXIF's orientation; 1, upright, where it names none or is damaged, which leaves the pixels as they are."""
    tags = exif.removeprefix(EXIF)
    order = ">" if tags.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", tags, 4)
        (count,) = struct.unpack_from(f"{order}H", tags, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tags, start + 2 + 12 * entry)
            if tag == ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def _decode_other(path: str, data: bytes) -> Frame:
    if (other := OTHER_FORMATS.get(data[:4])) is not None:
        raise DamagedFrameError(f"{path}: a {other} image; frames are JPEG, PNG, BMP or WebP: convert the data set")
    if data.startswith(PNG_START) and PNG_END not in data:  # Pillow may not miss the last bytes
        raise DamagedFrameError(f"{path}: truncated PNG; {COPY_AGAIN}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(path, image.height, image.width)
            pixels = _rgb(image)
            return _upright(pixels, image.info.get("exif"))  # asked last: in a PNG it may follow the pixels
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: far too many pixels; a frame has at most {MAX_PIXELS}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        reason = "no JPEG, PNG, BMP or WebP image, or a damaged one"
        raise DamagedFrameError(f"{path}: {reason} ({type(error).__name__}); {COPY_AGAIN}") from error


def _rgb(image: Image.Image) -> Frame:
    if image.mode not in GREY_16_BIT:
        return np.array(image.convert("RGB"))
    grey = (np.asarray(image) >> 8).astype(np.uint8)  # convert("RGB") would clip: white from 255 of 65,535 on
    return np.repeat(grey[..., None], 3, axis=2)


def _resized(frames: UInt8[np.ndarray, "T h w 3"], height: int, width: int) -> UInt8[np.ndarray, "T height width 3"]:
    """Same values as Pillow's resize up to rounding, many times faster."""
    if frames.shape[1:3] == (height, width):
        return frames
    import torch  # takes a second, and who reads an index of frames needs none of it
    from torch.nn import functional

    # Permuted in this order torch sees channels-last memory, also of a single frame, and takes its vectorised path.
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def _check_size(path: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} pixels; a frame has at most {MAX_PIXELS}")


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
