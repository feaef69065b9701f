"""Frames: what is decoded, and what is refused instead of being decoded to something else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from trainer.data.frames import read_clip, read_frame
from trainer.errors import DataError

HEIGHT, WIDTH = 64, 32


def picture(height: int = HEIGHT, width: int = WIDTH) -> UInt8[np.ndarray, "height width 3"]:
    """Red grows downwards, green to the right, blue is constant."""
    down, right = np.mgrid[0:height, 0:width]
    channels = [255 * down // height, 255 * right // width, np.full_like(down, 90)]
    return np.stack(channels, axis=2).astype(np.uint8)


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def saved(folder: Path, data: bytes, name: str = "frame.jpg") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_lossless_frames_keep_every_value(tmp_path: Path, form: str) -> None:
    np.testing.assert_array_equal(read_frame(saved(tmp_path, encoded(form)), HEIGHT, WIDTH), picture())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_frames_are_close(tmp_path: Path, form: str) -> None:
    frame = read_frame(saved(tmp_path, encoded(form, quality=95)), HEIGHT, WIDTH)
    assert np.abs(frame.astype(int) - picture()).mean() < 4


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA")])
def test_other_modes_become_rgb(tmp_path: Path, form: str, mode: str) -> None:
    frame = read_frame(saved(tmp_path, encoded(form, mode)), HEIGHT, WIDTH)
    assert (frame.shape, frame.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_frame(saved(tmp_path, encoded("PNG"), "frame.jpg"), HEIGHT, WIDTH), picture())


@pytest.mark.parametrize("size", [(256, 128), (32, 16), (50, 70), (1, 1)])
def test_other_sizes_are_resized_as_pillow_does(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    frame = read_frame(saved(tmp_path, encoded("PNG")), height, width)
    reference = Image.fromarray(picture()).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(frame.astype(int) - np.asarray(reference)).max() <= 1
    assert frame.flags.c_contiguous


def test_clip_stacks_frames_in_order(tmp_path: Path) -> None:
    dark, light = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    paths = []
    for name, image in (("b", dark), ("a", light)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    clip = read_clip(paths, HEIGHT, WIDTH)
    assert clip.shape == (2, HEIGHT, WIDTH, 3)
    assert clip.mean(axis=(1, 2, 3)).tolist() == [0, 255]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_frames_raise(tmp_path: Path, form: str, kept: float) -> None:
    data = encoded(form)
    with pytest.raises(DataError, match=r"frame\.jpg"):
        read_frame(saved(tmp_path, data[: int(kept * len(data))]), HEIGHT, WIDTH)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpeg_that_lacks_a_single_byte_raises(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg: damaged JPEG"):
        read_frame(saved(tmp_path, encoded("JPEG", **options)[:-1]), HEIGHT, WIDTH)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"<html></html>", b"\0" * 1000])
def test_what_is_no_image_raises(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg"):
        read_frame(saved(tmp_path, data), HEIGHT, WIDTH)


def test_missing_frames_and_folders_raise(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(DataError, match=f"{path.name}: cannot be read"):
            read_frame(str(path), HEIGHT, WIDTH)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(2049, 2048), (10_000, 10_000), (60_000, 60_000)])
def test_huge_sizes_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg"):
        read_frame(saved(tmp_path, png_header(*size)), HEIGHT, WIDTH)


def test_huge_jpegs_are_refused_from_the_header(tmp_path: Path) -> None:
    data = simplejpeg.encode_jpeg(np.zeros((2100, 2000, 3), np.uint8), 50)
    with pytest.raises(DataError, match="2000x2100 pixels"):
        read_frame(saved(tmp_path, data), HEIGHT, WIDTH)


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_is_decoded_or_named_but_never_leaks(
    tmp_path_factory: pytest.TempPathFactory, form: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(encoded(form))
    for place, value in changes:
        data[place % len(data)] = value
    path = saved(tmp_path_factory.getbasetemp(), bytes(data), "damaged.jpg")
    try:
        assert read_frame(path, HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)
    except DataError as error:
        assert "damaged.jpg" in str(error)
