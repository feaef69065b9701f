"""Frames: what is decoded, and what is refused instead of being decoded to something else."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from trainer.data.frames import (
    bytes_address,
    frame_bytes,
    in_threads,
    pixels_address,
    read_clip,
    read_frame,
    read_window,
    stored_bytes,
)
from trainer.data.images import DamagedFrameError
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


# Modes: what each kind of pixel means, computed here from the values that were put in

Values = UInt8[np.ndarray, "height width channels"]
SMOOTH = np.stack([picture()[..., channel] for channel in (0, 1, 2, 0)], axis=2)  # four channels, alpha or black last


class Mode(NamedTuple):
    """How a picture of a Pillow mode is made, and what a frame of it must look like."""

    image: Callable[[], Image.Image]
    expected: Callable[[], np.ndarray]
    forms: tuple[str, ...]
    """Formats of frames that keep the mode."""
    tolerance: float = 0
    """Mean difference that a lossy format may make."""


def of_values(mode: str, values: np.ndarray) -> Callable[[], Image.Image]:
    """A picture of the mode that holds these very bytes."""
    return lambda: Image.frombytes(mode, (values.shape[1], values.shape[0]), np.ascontiguousarray(values).tobytes())


def grey_of(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=2).astype(np.uint8)


def of_palette() -> Image.Image:
    image = Image.frombytes("P", (WIDTH, HEIGHT), (SMOOTH[..., 0] % 16).tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


def from_ycbcr() -> np.ndarray:
    """ITU-R BT.601 over the full range, as JFIF has it."""
    luma, blue, red = (SMOOTH[..., channel].astype(float) for channel in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    return rgb.round().clip(0, 255)


DEEP = np.linspace(0, 65_535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
PALETTE = np.random.default_rng(5).integers(0, 256, (16, 3), dtype=np.uint8)
MODES = {
    "1": Mode(
        lambda: Image.fromarray(SMOOTH[..., 0] > 99), lambda: grey_of((SMOOTH[..., 0] > 99) * 255), ("PNG", "BMP")
    ),
    "L": Mode(of_values("L", SMOOTH[..., 0]), lambda: grey_of(SMOOTH[..., 0]), ("PNG", "BMP")),
    "LA": Mode(of_values("LA", SMOOTH[..., :2]), lambda: grey_of(SMOOTH[..., 0]), ("PNG",)),
    "P": Mode(of_palette, lambda: PALETTE[SMOOTH[..., 0] % 16], ("PNG", "BMP")),
    "RGB": Mode(of_values("RGB", SMOOTH[..., :3]), lambda: SMOOTH[..., :3], ("PNG", "BMP", "WEBP")),
    "RGBA": Mode(of_values("RGBA", SMOOTH), lambda: SMOOTH[..., :3], ("PNG", "BMP", "WEBP")),
    "I;16": Mode(of_values("I;16", DEEP), lambda: grey_of(DEEP // 256), ("PNG",)),
    "I;16B": Mode(of_values("I;16B", DEEP.astype(">u2")), lambda: grey_of(DEEP // 256), ("PNG",)),
    "L, JPEG": Mode(of_values("L", SMOOTH[..., 0]), lambda: grey_of(SMOOTH[..., 0]), ("JPEG",), 2),
    "RGB, JPEG": Mode(of_values("RGB", SMOOTH[..., :3]), lambda: SMOOTH[..., :3], ("JPEG",), 2),
    "RGBX, JPEG": Mode(of_values("RGBX", SMOOTH), lambda: SMOOTH[..., :3], ("JPEG",), 2),
    "YCbCr, JPEG": Mode(of_values("YCbCr", SMOOTH[..., :3]), from_ycbcr, ("JPEG",), 3),
    "CMYK, JPEG": Mode(
        of_values("CMYK", SMOOTH),
        lambda: (255 - SMOOTH[..., :3].astype(int)) * (255 - SMOOTH[..., 3:]) / 255,
        ("JPEG",),
        2,
    ),
}


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, mode in MODES.items() for form in mode.forms])
@pytest.mark.parametrize("file", ["frame.png", "frame.jpg"])
def test_every_mode_of_pillow_gives_the_pixels_that_were_put_in(
    tmp_path: Path, name: str, form: str, file: str
) -> None:
    mode = MODES[name]
    options: dict[str, object] = {
        "WEBP": {"lossless": True, "exact": True},
        "JPEG": {"quality": 98, "subsampling": 0},
    }.get(form, {})
    mode.image().save(tmp_path / file, form, **options)
    frame = read_frame(str(tmp_path / file), HEIGHT, WIDTH)
    assert np.abs(frame.astype(float) - mode.expected()).mean() <= mode.tolerance


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "I;16B", "LAB", "RGB"])
@pytest.mark.parametrize("file", ["frame.tif", "frame.jpg"])
def test_a_tiff_frame_is_refused_by_name_whatever_it_holds(tmp_path: Path, mode: str, file: str) -> None:
    Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / file, "TIFF")
    with pytest.raises(DamagedFrameError, match=rf"{file}: a TIFF image; frames are JPEG, PNG, BMP or WebP"):
        read_frame(str(tmp_path / file), HEIGHT, WIDTH)


def png_of(
    kind: int, depth: int, rows: np.ndarray, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> bytes:
    """A PNG of the colour type and bits a sample, written here; `rows` are the packed bytes of each row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    before = b"".join(chunk(*each) for each in chunks if each[0] != b"eXIf")
    after = b"".join(chunk(*each) for each in chunks if each[0] == b"eXIf")
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", body) + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", [0, 3], ids=["grey", "palette"])
def test_pngs_of_few_bits_are_scaled_or_looked_up(tmp_path: Path, depth: int, kind: int) -> None:
    values = SMOOTH[..., 0] % (1 << depth)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(HEIGHT, -1)
    data = png_of(kind, depth, np.packbits(bits, axis=1), (b"PLTE", PALETTE[: 1 << depth].tobytes()))
    expected = PALETTE[values] if kind == 3 else grey_of(values * (255 // ((1 << depth) - 1)))
    np.testing.assert_array_equal(read_frame(saved(tmp_path, data), HEIGHT, WIDTH), expected)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_of_16_bit_pngs_the_high_byte_is_taken_grey_and_colour_alike(tmp_path: Path, kind: int, channels: int) -> None:
    values = np.stack([np.roll(DEEP, 11 * channel) for channel in range(channels)], axis=2)
    data = png_of(kind, 16, values.astype(">u2"))
    expected = values[..., :3] // 256 if channels > 2 else grey_of(values[..., 0] // 256)
    np.testing.assert_array_equal(read_frame(saved(tmp_path, data), HEIGHT, WIDTH), expected)


# Orientation

# Where row 0 and column 0 of what is stored lie in the upright picture (EXIF 3.0, table 8).
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture, pixel by pixel."""
    rows, columns = stored.shape[:2]
    turned = orientation > 4
    picture = np.zeros((columns, rows, 3) if turned else stored.shape, np.uint8)
    row_side, column_side = SIDES[orientation]
    for row in range(rows):
        for column in range(columns):
            place = {row_side: row, column_side: column}
            down = place["top"] if "top" in place else picture.shape[0] - 1 - place["bottom"]
            right = place["left"] if "left" in place else picture.shape[1] - 1 - place["right"]
            picture[down, right] = stored[row, column]
    return picture


def oriented(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # so that the orientation is not the first entry
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    return encoded(form, exif=exif, **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
def test_frames_are_turned_upright_as_exif_says(tmp_path: Path, form: str, orientation: int) -> None:
    data = oriented(form, orientation)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = upright(stored, orientation)
    frame = read_frame(saved(tmp_path, data), *expected.shape[:2])
    np.testing.assert_array_equal(frame, expected)
    assert frame.flags.c_contiguous
    pack = saved(tmp_path, b"more" + data, "frames-000.pack")
    np.testing.assert_array_equal(read_frame(bytes_address(pack, 4, len(data), "a.jpg"), *frame.shape[:2]), expected)


def test_frames_that_lie_differently_make_a_clip(tmp_path: Path) -> None:
    paths = [saved(tmp_path, oriented("JPEG", number), f"{number}.jpg") for number in (1, 6, 3, 8, 1)]
    for size in ((HEIGHT, WIDTH), (WIDTH, HEIGHT)):
        np.testing.assert_array_equal(read_clip(paths, *size), [read_frame(path, *size) for path in paths])


def test_exif_behind_other_segments_of_a_jpeg_and_behind_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif_of(6))) + exif_of(6)
    others = b"\xff\xfe\0\x06abcd\xff\xed\0\x04\xff\xda\xff\xe1\0\x08http:/"
    plain = encoded("JPEG")
    turned = plain[:20] + others + segment + plain[20:]  # 20: behind the JFIF segment
    png = png_of(2, 8, picture(), (b"eXIf", exif_of(6).removeprefix(b"Exif\0\0")))
    for data in (turned, png):
        stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(read_frame(saved(tmp_path, data), WIDTH, HEIGHT), upright(stored, 6))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@settings(max_examples=200, deadline=None)
@given(
    exif=st.one_of(
        st.binary(max_size=80),
        st.tuples(st.integers(6, 25), st.integers(0, 255)).map(
            lambda change: exif_of(3)[: change[0]] + bytes([change[1]]) + exif_of(3)[change[0] + 1 :]
        ),
        st.integers(0, 30).map(lambda kept: exif_of(6)[:kept]),
    )
)
def test_damaged_exif_leaves_a_frame_whole(tmp_path_factory: pytest.TempPathFactory, exif: bytes) -> None:
    plain = encoded("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
    path = saved(tmp_path_factory.getbasetemp(), plain[:2] + segment + plain[2:], "exif.jpg")
    frame = read_frame(path, HEIGHT, WIDTH)
    assert frame.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("size", [(256, 128), (32, 16), (50, 70), (1, 1)])
def test_other_sizes_are_resized_as_pillow_does(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    frame = read_frame(saved(tmp_path, encoded("PNG")), height, width)
    reference = Image.fromarray(picture()).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(frame.astype(int) - np.asarray(reference)).max() <= 1
    assert frame.flags.c_contiguous


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(2049, 2048), (10_000, 10_000), (60_000, 60_000)])
def test_huge_sizes_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"frame\.jpg") as caught:
        read_frame(saved(tmp_path, png_of(2, 8, np.empty(0), size=size)), HEIGHT, WIDTH)
    assert not isinstance(caught.value, DamagedFrameError)


def test_huge_jpegs_are_refused_from_the_header(tmp_path: Path) -> None:
    data = simplejpeg.encode_jpeg(np.zeros((2100, 2000, 3), np.uint8), 50)
    with pytest.raises(DataError, match="2000x2100 pixels"):
        read_frame(saved(tmp_path, data), HEIGHT, WIDTH)


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


# Threads


def test_threads_give_results_in_order_and_work_only_a_little_ahead() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return -number

    results = in_threads(work, range(1000), threads=2)
    assert [next(results) for _ in range(3)] == [0, -1, -2]
    results.close()
    assert len(begun) < 50
    assert list(in_threads(work, range(100), threads=3)) == [-number for number in range(100)]


def test_an_error_in_a_thread_is_raised_in_the_place_of_its_result() -> None:
    results = in_threads(lambda number: 1 // number, [1, 0], threads=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
