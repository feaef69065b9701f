"""Images of files, decoded to upright RGB arrays of 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from trainer.errors import DataError

Frame = UInt8[np.ndarray, "height width 3"]

MAX_PIXELS = 4 * 2**20  # a person crop has 32,768; more is a mistake or a decompression bomb
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
COPY_AGAIN = "copy the data set again"


class DamagedFrameError(DataError):
    """A frame that is there, but cannot be decoded: truncated, garbage, or empty."""


def decode_image(path: str, data: bytes, slot: Frame | None = None, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """The image in RGB, 0 to 255, upright, at its own size; it is `slot` itself if that could be decoded to.

    Of 16-bit values, grey or colour, the high byte is taken: the same scale for every image, and a picture of 8 bits
    that was widened by 256 or by 257 comes back exactly. Transparency is dropped. EXIF's orientation is applied.

    Args:
        path: names the image in messages.
        data: content of the file.
        slot: memory to decode to, if it has the image's size.
        max_pixels: the most that the image may have; 4 megapixels for a frame.

    Raises:
        DamagedFrameError: the data are empty, truncated or no image.
        DataError: the image has more pixels.
    """
    if not data:
        raise DamagedFrameError(f"{path}: empty file; {COPY_AGAIN}")
    if not data.startswith(JPEG_START):
        return _decode_other(path, data, max_pixels)
    exif = _exif_of_jpeg(data)
    return _upright(_decode_jpeg(path, data, slot if exif is None else None, max_pixels), exif)


def resized(frames: UInt8[np.ndarray, "T h w 3"], height: int, width: int) -> UInt8[np.ndarray, "T height width 3"]:
    """Same values as Pillow's resize up to rounding, many times faster."""
    if frames.shape[1:3] == (height, width):
        return frames
    import torch  # takes a second, and who reads an index of frames needs none of it
    from torch.nn import functional

    # Permuted in this order torch sees channels-last memory, also of a single frame, and takes its vectorised path.
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def _decode_jpeg(path: str, data: bytes, slot: Frame | None, max_pixels: int) -> Frame:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(path, int(height), int(width), max_pixels)
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


def _decode_other(path: str, data: bytes, max_pixels: int) -> Frame:
    if (other := OTHER_FORMATS.get(data[:4])) is not None:
        raise DamagedFrameError(f"{path}: a {other} image; frames are JPEG, PNG, BMP or WebP: convert the data set")
    if data.startswith(PNG_START) and PNG_END not in data:  # Pillow may not miss the last bytes
        raise DamagedFrameError(f"{path}: truncated PNG; {COPY_AGAIN}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # noqa: TID251 - with formats=
            _check_size(path, image.height, image.width, max_pixels)
            pixels = _rgb(image)
            return _upright(pixels, image.info.get("exif"))  # asked last: in a PNG it may follow the pixels
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: far too many pixels; a frame has at most {max_pixels}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        reason = "no JPEG, PNG, BMP or WebP image, or a damaged one"
        raise DamagedFrameError(f"{path}: {reason} ({type(error).__name__}); {COPY_AGAIN}") from error


def _rgb(image: Image.Image) -> Frame:
    if image.mode not in GREY_16_BIT:
        return np.array(image.convert("RGB"))
    grey = (np.asarray(image) >> 8).astype(np.uint8)  # convert("RGB") would clip: white from 255 of 65,535 on
    return np.repeat(grey[..., None], 3, axis=2)


def _check_size(path: str, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(f"{path}: {width}x{height} pixels; a frame has at most {max_pixels}")
