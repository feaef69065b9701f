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

from trainer.data.frames import (
    DamagedFrameError,
    bytes_address,
    frame_bytes,
    pixels_address,
    read_clip,
    read_frame,
    read_window,
    stored_bytes,
)
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


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_frames_of_different_sizes_make_a_clip_of_one_size(tmp_path: Path, form: str) -> None:
    paths = []
    for number, size in enumerate([(64, 32), (40, 30), (64, 32), (70, 50)]):
        Image.fromarray(picture(*size)).save(tmp_path / f"{number}", form)
        paths.append(str(tmp_path / f"{number}"))
    expected = np.stack([read_frame(path, HEIGHT, WIDTH) for path in paths])
    np.testing.assert_array_equal(read_clip(paths, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_frames_raise(tmp_path: Path, form: str, kept: float) -> None:
    data = encoded(form)
    with pytest.raises(DamagedFrameError, match=r"frame\.jpg"):
        read_frame(saved(tmp_path, data[: int(kept * len(data))]), HEIGHT, WIDTH)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpeg_that_lacks_a_single_byte_raises(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg: damaged JPEG"):
        read_frame(saved(tmp_path, encoded("JPEG", **options)[:-1]), HEIGHT, WIDTH)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"<html></html>", b"\0" * 1000])
def test_what_is_no_image_raises(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DamagedFrameError, match=r"frame\.jpg"):
        read_frame(saved(tmp_path, data), HEIGHT, WIDTH)


def test_missing_frames_and_folders_raise(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(DataError, match=f"{path.name}: cannot be read") as caught:
            read_frame(str(path), HEIGHT, WIDTH)
        assert not isinstance(caught.value, DamagedFrameError)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(2049, 2048), (10_000, 10_000), (60_000, 60_000)])
def test_huge_sizes_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg") as caught:
        read_frame(saved(tmp_path, png_header(*size)), HEIGHT, WIDTH)
    assert not isinstance(caught.value, DamagedFrameError)


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


def shades(folder: Path, count: int, damaged: set[int]) -> list[str]:
    """A tracklet whose frame i has the value 10 * i everywhere, if it is not damaged."""
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8)).save(path)
        if number in damaged:
            path.write_bytes(path.read_bytes()[:40])
        paths.append(str(path))
    return paths


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(damaged=st.sets(st.integers(0, 7), max_size=7), indices=st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_the_nearest_undamaged_frame_stands_in_and_the_earlier_of_two(
    tmp_path_factory: pytest.TempPathFactory, damaged: set[int], indices: list[int]
) -> None:
    frames = shades(tmp_path_factory.mktemp("shades"), 8, damaged)
    pixels, named = read_window(frames, indices, HEIGHT, WIDTH)
    left = [place for place in range(8) if place not in damaged]
    expected = [min(left, key=lambda place: (abs(place - index), place)) for index in indices]
    assert pixels[:, 0, 0, 0].tolist() == [10 * place for place in expected]
    assert pixels.shape == (len(indices), HEIGHT, WIDTH, 3)
    assert {frames[index] for index in indices if index in damaged} <= set(named)
    assert set(named) <= {frames[place] for place in damaged}
    assert len(set(named)) == len(named)


def test_a_window_without_damage_is_a_clip(tmp_path: Path) -> None:
    frames = shades(tmp_path, 5, set())
    pixels, named = read_window(frames, [3, 3, 0], 32, 16)
    np.testing.assert_array_equal(pixels, read_clip([frames[3], frames[3], frames[0]], 32, 16))
    assert named == ()


def test_a_tracklet_of_damaged_frames_only_raises_naming_the_first(tmp_path: Path) -> None:
    frames = shades(tmp_path, 3, {0, 1, 2})
    with pytest.raises(DataError, match=r"0\.png: damaged, and so are all 3 frames") as caught:
        read_window(frames, [1], HEIGHT, WIDTH)
    assert not isinstance(caught.value, DamagedFrameError)


def test_a_missing_frame_is_not_replaced(tmp_path: Path) -> None:
    frames = shades(tmp_path, 3, {1})
    Path(frames[0]).unlink()
    with pytest.raises(DataError, match=r"0\.png: cannot be read"):
        read_window(frames, [1], HEIGHT, WIDTH)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_file_in_a_pack_is_read_as_the_file_is(tmp_path: Path, form: str) -> None:
    data, before = encoded(form), b"other frames"
    pack = saved(tmp_path, before + data + b"more", "frames-000.pack")
    address = bytes_address(pack, len(before), len(data), "0001C1T0001F001.jpg")
    assert Path(address).name == "0001C1T0001F001.jpg"
    assert frame_bytes(address) == data
    assert stored_bytes(address) == len(data)
    expected = read_frame(saved(tmp_path, data), 40, 20)
    np.testing.assert_array_equal(read_frame(address, 40, 20), expected)


def test_pixels_in_a_pack_are_the_frame(tmp_path: Path) -> None:
    pack = saved(tmp_path, b"12345" + picture().tobytes(), "frames-000.pack")
    address = pixels_address(pack, 5, (HEIGHT, WIDTH), "a.jpg")
    clip = read_clip([address, address], HEIGHT, WIDTH)
    np.testing.assert_array_equal(clip, np.stack([picture(), picture()]))
    assert clip.flags.writeable
    assert stored_bytes(address) == picture().nbytes


def test_packed_pixels_are_refused_at_another_size_with_the_ways_out(tmp_path: Path) -> None:
    pack = saved(tmp_path, picture().tobytes(), "frames-000.pack")
    wanted = r"packed at 64x32, asked for 256x128; pack again with --size 256x128, or pack original bytes"
    with pytest.raises(DataError, match=wanted):
        read_frame(pixels_address(pack, 0, (HEIGHT, WIDTH), "a.jpg"), 256, 128)
    with pytest.raises(DataError, match="packed as pixels"):
        frame_bytes(pixels_address(pack, 0, (HEIGHT, WIDTH), "a.jpg"))


def test_a_frame_that_was_damaged_when_it_was_packed_stays_damaged(tmp_path: Path) -> None:
    pack = saved(tmp_path, picture().tobytes(), "frames-000.pack")
    good = pixels_address(pack, 0, (HEIGHT, WIDTH), "a.jpg")
    for bad in (pixels_address(pack, 0, (0, 0), "b.jpg"), bytes_address(pack, 7, 0, "b.jpg")):
        pixels, named = read_window([good, bad], [1], HEIGHT, WIDTH)
        np.testing.assert_array_equal(pixels, picture()[None])
        assert named == (bad,)


@pytest.mark.parametrize(
    "place", ["1+6144", "6144+1", "-1+10", "0+-5", "0+6145", f"0+{2**70}", f"{2**70}+1", "1+64x32", f"{2**65}+64x32"]
)
def test_an_address_outside_of_its_pack_is_refused(tmp_path: Path, place: str) -> None:
    pack = saved(tmp_path, picture().tobytes(), "frames-000.pack")
    with pytest.raises(DataError, match=r"a\.jpg: lies outside of the pack") as caught:
        read_frame(f"{pack}@{place}/a.jpg", HEIGHT, WIDTH)
    assert not isinstance(caught.value, DamagedFrameError)


def test_missing_and_empty_packs_are_named(tmp_path: Path) -> None:
    for pack in (str(tmp_path / "frames-000.pack"), saved(tmp_path, b"", "frames-001.pack")):
        with pytest.raises(DataError, match=r"frames-00.\.pack: cannot be read"):
            read_frame(f"{pack}@0+1/a.jpg", HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["a.pack@b/c.jpg", "a.pack@1/c.jpg", "a.pack@1+2x/c.jpg", "a.pack@+/c.jpg"])
def test_a_folder_that_looks_nearly_like_a_pack_is_a_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(encoded("PNG"))
    np.testing.assert_array_equal(read_frame(str(path), HEIGHT, WIDTH), picture())
