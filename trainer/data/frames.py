"""Frames: image files decoded to RGB arrays."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.nn import functional

from trainer.errors import DataError

MAX_PIXELS = 4 * 2**20  # a person crop has 32,768; more is a mistake or a decompression bomb
MAX_BYTES = 64 * 2**20
FORMATS = ("PNG", "BMP", "WEBP")  # JPEG is not among them: simplejpeg is faster and sees truncation
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

Frame = UInt8[np.ndarray, "height width 3"]


def read_clip(paths: Sequence[str], height: int, width: int) -> UInt8[np.ndarray, "T height width 3"]:
    """The frames one after another; errors as for `read_frame`."""
    frames = [_decoded(path) for path in paths]
    if len({frame.shape for frame in frames}) == 1:  # as in all published data sets: one resize for the clip
        return _resized(np.stack(frames), height, width)
    return np.concatenate([_resized(frame[None], height, width) for frame in frames])


def read_frame(path: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """The image in RGB, 0 to 255, resized (bicubic, antialiased) if it has another size.

    Raises:
        DataError: the file is missing, empty, truncated, no image, or over 4 megapixels.
    """
    return read_clip([path], height, width)[0]  # type: ignore[no-any-return]


def _decoded(path: str) -> Frame:
    data = _read_bytes(path)
    return _decode_jpeg(path, data) if data.startswith(b"\xff\xd8") else _decode_other(path, data)


def _read_bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size <= MAX_BYTES else b""  # a bound for read() would be allocated first
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES} bytes; this is not a frame")
    if not data:
        raise DataError(f"{path}: empty file; copy the data set again")
    return data


def _decode_jpeg(path: str, data: bytes) -> Frame:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(path, int(height), int(width))
        return simplejpeg.decode_jpeg(data, "RGB")  # type: ignore[no-any-return]
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: damaged JPEG ({error}); copy the data set again") from error


def _decode_other(path: str, data: bytes) -> Frame:
    if data.startswith(PNG_START) and PNG_END not in data:  # Pillow may not miss the last bytes
        raise DataError(f"{path}: truncated PNG; copy the data set again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(path, image.height, image.width)
            return np.array(image.convert("RGB"))
    except DataError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        reason = "no JPEG, PNG, BMP or WebP image, or a damaged one"
        raise DataError(f"{path}: {reason} ({type(error).__name__}); copy the data set again") from error


def _resized(frames: UInt8[np.ndarray, "T h w 3"], height: int, width: int) -> UInt8[np.ndarray, "T height width 3"]:
    """Same values as Pillow's resize up to rounding, many times faster."""
    if frames.shape[1:3] == (height, width):
        return frames
    # Permuted in this order torch sees channels-last memory, also of a single frame, and takes its vectorised path.
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def _check_size(path: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} pixels; a frame has at most {MAX_PIXELS}")
