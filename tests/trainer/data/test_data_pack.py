"""Packed data sets: the same tracklets and pixels as the files, and nothing read that was not checked."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from miniatures import write_miniature
from PIL import Image

from trainer.child import Child, child_command
from trainer.data import READERS, Splits, Tracklet, packing
from trainer.data.dataset import dataset_fingerprint
from trainer.data.folder import find_data
from trainer.data.frames import DamagedFrames, frame_bytes, read_clip
from trainer.data.pack import HEADER, TABLE, check_pack, packed_data_set, read_packed
from trainer.data.pack_file import WRITER
from trainer.data.packing import PackPlan, pack_data_set
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import ConfigError, DataError

SIZE = (32, 16)
forms = pytest.mark.parametrize("size", [None, SIZE], ids=["bytes", "pixels"])


@pytest.fixture(scope="module")
def mars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of MARS."""
    root = tmp_path_factory.mktemp("mars") / "files"
    write_miniature("mars", root)
    return root


@pytest.fixture(scope="module")
def packs(mars: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[object, Path]:
    """The miniature, packed in both forms."""
    folder = tmp_path_factory.mktemp("packs")
    for size in (None, SIZE):
        pack_data_set("mars", mars, folder / str(size), size=size)
    return {size: folder / str(size) for size in (None, SIZE)}


@pytest.fixture
def copy(packs: dict[object, Path], tmp_path: Path) -> Path:
    """The pack of bytes, to be damaged."""
    shutil.copytree(packs[None], tmp_path / "copy")
    return tmp_path / "copy"


def tracklets_of(splits: Splits) -> list[Tracklet]:
    return [tracklet for part in splits for tracklet in part]


@forms
@pytest.mark.parametrize("name", READERS)
def test_every_data_set_keeps_its_tracklets_names_and_pixels(
    tmp_path: Path, name: str, size: tuple[int, int] | None
) -> None:
    write_miniature(name, tmp_path / "files")
    summary = pack_data_set(name, tmp_path / "files", tmp_path / "pack", size=size)
    check_pack(tmp_path / "pack")
    assert packed_data_set(tmp_path / "pack") == name
    for fold in range(READERS[name].folds):
        files, packed = READERS[name](tmp_path / "files", fold), read_packed(tmp_path / "pack", name, fold)
        assert dataset_fingerprint(packed) == dataset_fingerprint(files)
        assert [(t.identity, t.camera) for t in tracklets_of(packed)] == [
            (t.identity, t.camera) for t in tracklets_of(files)
        ]
        assert [len(part) for part in packed] == [len(part) for part in files]
        for one, other in zip(tracklets_of(files), tracklets_of(packed), strict=True):
            assert [Path(frame).name for frame in one.frames] == [Path(frame).name for frame in other.frames]
            assert np.array_equal(read_clip(one.frames, *SIZE), read_clip(other.frames, *SIZE))
    assert summary.damaged == 0


@forms
def test_16_bit_and_turned_frames_are_packed_as_the_pixels_that_files_give(
    mars: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    root = Path(shutil.copytree(mars, tmp_path / "files"))
    first, second, *_ = sorted(root.glob("bbox_train/0001/*.jpg"))
    ramp = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)
    Image.fromarray((ramp * 127).astype(np.uint16)).save(first, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray((ramp // 4).astype(np.uint8)).save(second, "JPEG", exif=exif, quality=100)
    pack_data_set("mars", root, tmp_path / "pack", size=size)
    frames = READERS["mars"](root).train[0].frames[:2]
    packed = read_packed(tmp_path / "pack", "mars").train[0].frames[:2]
    clip = read_clip(packed, *SIZE)
    assert np.array_equal(clip, read_clip(frames, *SIZE))
    assert np.array_equal(clip[0, ..., 0], ramp * 127 // 256)
    assert np.abs(clip[1, ..., 0] - (ramp[::-1, ::-1] // 4.0)).mean() < 2


@forms
def test_the_summary_says_what_was_packed(mars: Path, tmp_path: Path, size: tuple[int, int] | None) -> None:
    heard: list[tuple[int, int]] = []
    plans: list[PackPlan] = []
    summary = pack_data_set(
        "mars",
        mars,
        tmp_path / "pack",
        size=size,
        planned=plans.append,
        progress=lambda *done: heard.append(done),
    )
    tracklets = tracklets_of(READERS["mars"](mars))
    frames = [frame for tracklet in tracklets for frame in tracklet.frames]
    assert (summary.tracklets, summary.frames, summary.files) == (len(tracklets), len(frames), 1)
    assert summary.bytes == sum(len(frame_bytes(frame)) if size is None else 32 * 16 * 3 for frame in frames)
    assert [(plan.tracklets, plan.frames, plan.bytes) for plan in plans] == [summary[:2] + summary[3:4]]
    assert heard == sorted(heard)
    assert heard[-1] == (len(frames), len(frames))
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == ["frames-000.pack", HEADER, TABLE]


def test_a_pack_fills_several_files_and_reads_the_same(
    mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 2000)
    summary = pack_data_set("mars", mars, tmp_path / "pack", jobs=1)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "pack").glob("*.pack"))]
    assert summary.files == len(sizes) > 3
    assert max(sizes) <= 2000
    files, packed = READERS["mars"](mars), read_packed(tmp_path / "pack", "mars")
    for one, other in zip(tracklets_of(files), tracklets_of(packed), strict=True):
        assert [frame_bytes(frame) for frame in other.frames] == [Path(frame).read_bytes() for frame in one.frames]
    check_pack(tmp_path / "pack")


def test_several_processes_write_the_same_bytes_as_one(
    mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 20_000)
    monkeypatch.setattr(packing, "DamagedFrames", partial(DamagedFrames, allowed=0.5))
    root, _ = emptied(mars, tmp_path, [1, 9, 13])
    one = pack_data_set("mars", root, tmp_path / "one", size=SIZE, jobs=1)
    several = pack_data_set("mars", root, tmp_path / "several", size=SIZE, jobs=2)
    assert one[:4] == several[:4]
    assert one.damaged == several.damaged == 3
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) > 3
    assert names == sorted(path.name for path in (tmp_path / "several").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "several" / name).read_bytes()


def test_a_process_that_meets_a_missing_frame_or_folder_or_dies_says_so_and_leaves_no_pack(
    mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 20_000)
    root, (frame,) = emptied(mars, tmp_path, [3])
    Path(frame).unlink()
    assert Path(frame).name in refused(root, tmp_path / "pack", size=SIZE, jobs=2)
    monkeypatch.setattr(packing, "WRITER", child_command("no.such.module"))
    assert "a packing process ended" in refused(mars, tmp_path / "pack", size=SIZE, jobs=2)
    with Child(WRITER, name="a packing process") as writer:
        writer.send([str(tmp_path / "absent" / "frames-000.pack"), [], None])
        with pytest.raises(FileNotFoundError, match="No such file"):
            packing._received(writer, lambda number, damaged: None)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_pack_may_be_moved_and_packed_again_as_pixels(packs: dict[object, Path], copy: Path, tmp_path: Path) -> None:
    pack_data_set("mars", copy, tmp_path / "pixels", size=SIZE)
    for name in ("frames-000.pack", TABLE, HEADER):
        assert (tmp_path / "pixels" / name).read_bytes() == (packs[SIZE] / name).read_bytes()


def test_generated_data_stays_marked_as_such(mini_mars: Path, tmp_path: Path) -> None:
    pack_data_set("mars", mini_mars, tmp_path / "pack", size=SIZE)
    assert is_synthetic(tmp_path / "pack")


def test_a_folder_of_files_is_no_pack(mars: Path, tmp_path: Path) -> None:
    assert packed_data_set(mars) is None
    assert packed_data_set(tmp_path / "absent") is None
    (tmp_path / HEADER).write_text("{}")
    assert packed_data_set(tmp_path) is None


@forms
def test_a_training_gives_the_same_figures_from_a_pack_as_from_files(
    tiny_config: Any, mini_mars: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    from trainer.training.fit import fit

    pack_data_set("mars", mini_mars, tmp_path / "pack", size=size)
    optim = tiny_config.optim.model_copy(update={"epochs": 2})
    config = tiny_config.model_copy(update={"optim": optim})
    from_files = fit(config, out=tmp_path / "files-run", device="cpu")
    data = config.data.model_copy(update={"root": tmp_path / "pack"})
    from_pack = fit(config.model_copy(update={"data": data}), out=tmp_path / "pack-run", device="cpu")
    for one, other in zip(from_files.history, from_pack.history, strict=True):
        assert (one.losses, one.validation, one.attention) == (other.losses, other.validation, other.attention)


def emptied(mars: Path, tmp_path: Path, places: list[int]) -> tuple[Path, list[str]]:
    """A copy of the data set in which some training frames are empty, and their paths."""
    root = tmp_path / "damaged"
    shutil.copytree(mars, root)
    frames = [frame for tracklet in READERS["mars"](root).train for frame in tracklet.frames]
    for place in places:
        Path(frames[place]).write_bytes(b"")
    return root, [frames[place] for place in places]


def test_bytes_of_damaged_frames_are_packed_as_they_are(mars: Path, tmp_path: Path) -> None:
    root, _ = emptied(mars, tmp_path, [0, 2])
    assert pack_data_set("mars", root, tmp_path / "pack").damaged == 0
    check_pack(tmp_path / "pack")


def test_too_many_damaged_frames_cannot_be_packed_as_pixels(mars: Path, tmp_path: Path) -> None:
    root, frames = emptied(mars, tmp_path, [0, 2])
    with pytest.raises(DataError, match=f"2 of .* frames are damaged.*{frames[0]}, {frames[1]}"):
        pack_data_set("mars", root, tmp_path / "pack", size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_frame_that_is_damaged_stays_so_among_pixels(
    mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data.frames import read_window

    monkeypatch.setattr(packing, "DamagedFrames", partial(DamagedFrames, allowed=0.5))
    root, _ = emptied(mars, tmp_path, [1])
    assert pack_data_set("mars", root, tmp_path / "pack", size=SIZE).damaged == 1
    check_pack(tmp_path / "pack")
    (one, *_), (other, *_) = READERS["mars"](root).train, read_packed(tmp_path / "pack", "mars").train
    from_files, from_pack = (read_window(tracklet.frames, [1, 0], *SIZE) for tracklet in (one, other))
    assert np.array_equal(from_files.pixels, from_pack.pixels)
    assert [Path(frame).name for frame in from_files.damaged] == [Path(frame).name for frame in from_pack.damaged]


def refused(mars: Path, out: Path, **options: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        pack_data_set("mars", mars, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pack_in_its_own_source_is_refused(mars: Path) -> None:
    with pytest.raises(ConfigError, match="which is read; write it somewhere else"):
        pack_data_set("mars", mars, mars / "pack")
    assert not (mars / "pack").exists()


def test_an_occupied_folder_is_left_as_it_is(mars: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "note").write_text("mine")
    assert "not empty" in refused(mars, tmp_path / "pack")
    assert "not empty" in refused(mars, tmp_path / "pack" / "note")
    assert [path.name for path in tmp_path.rglob("*")] == ["pack", "note"]


def test_a_disk_without_space_is_refused_before_anything_is_written(
    mars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "too little space" in refused(mars, tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(0, 16), (32, -1), (10_000, 10_000)])
def test_sizes_that_no_frame_has_are_refused(mars: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    assert "no frame has" in refused(mars, tmp_path / "pack", size=size)


def test_a_missing_frame_leaves_no_pack(mars: Path, tmp_path: Path) -> None:
    root, (frame,) = emptied(mars, tmp_path, [3])
    Path(frame).unlink()
    for size in (None, SIZE):
        assert Path(frame).name in refused(root, tmp_path / "pack", size=size)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def unreadable(root: Path) -> str:
    """The one line with which the pack is refused by every reader."""
    with pytest.raises(DataError) as caught:
        check_pack(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_data_sets_and_partitions_are_refused(copy: Path) -> None:
    with pytest.raises(DataError, match=r"holds the packed data set mars, not prid2011; set data\.name"):
        read_packed(copy, "prid2011")
    with pytest.raises(DataError, match=r"has 1 partitions; there is no data\.fold 1"):
        read_packed(copy, "mars", 1)


def test_a_pack_of_an_unknown_data_set_is_refused(copy: Path) -> None:
    changed_header(copy, lambda header: header.update(data_set="duke"))
    with pytest.raises(DataError, match=r"index\.json: a pack of duke: no data set of this name \(known: mars"):
        find_data(copy)


def test_a_changed_byte_of_a_frame_is_found_by_its_digest(copy: Path) -> None:
    path = copy / "frames-000.pack"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    heard: list[tuple[int, int]] = []
    with pytest.raises(DataError, match=r"frames-000\.pack: changed since it was packed"):
        check_pack(copy, lambda *done: heard.append(done))
    assert heard[-1] == (len(data), len(data))


@pytest.mark.parametrize("name", ["frames-000.pack", HEADER, TABLE])
@pytest.mark.parametrize("damage", ["removed", "truncated", "emptied", "a folder"])
def test_damaged_files_are_named(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "removed":
        path.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    assert str(path) in unreadable(copy)
    with pytest.raises(DataError, match=name):
        read_packed(copy, "mars")


def changed_header(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((root / HEADER).read_bytes())
    change(content)
    (root / HEADER).write_text(json.dumps(content))


HOSTILE_HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda header: header.update(version=2),
    "unknown field": lambda header: header.update(more=1),
    "data set that a terminal obeys": lambda header: header.update(data_set="\x1b[2J"),
    "path as name": lambda header: header["files"][0].update(name="../frames-000.pack"),
    "other file": lambda header: header["files"][0].update(name="/etc/passwd"),
    "longer file": lambda header: header["files"][0].update(bytes=10**15),
    "no file": lambda header: header.update(files=[]),
    "same file twice": lambda header: header["files"].append(header["files"][0]),
    "digest": lambda header: header["files"][0].update(sha256="0"),
    "no partition": lambda header: header.update(folds=[]),
    "tracklet beyond": lambda header: header["folds"][0]["train"].append(10**6),
    "huge tracklet": lambda header: header["folds"][0]["train"].append(10**30),
    "negative tracklet": lambda header: header["folds"][0]["query"].append(-1),
    "fewer tracklets": lambda header: header["folds"][0]["train"].pop(),
    "text for a number": lambda header: header["files"][0].update(bytes="12"),
    "size of no frame": lambda header: header.update(size=[0, 16]),
    "huge size": lambda header: header.update(size=[10**9, 10**9]),
    "pixels that are none": lambda header: header.update(size=[32, 16]),
}


@pytest.mark.parametrize("change", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_a_header_that_lies_is_refused(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    changed_header(copy, change)
    assert str(copy) in unreadable(copy)


def with_table(root: Path, **arrays: Any) -> None:
    """Changes the table and its digest: the work of somebody who means it."""
    with np.load(root / TABLE) as saved:
        content = {**saved, **arrays}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in content.items() if array is not None})
    replace_table(root, buffer.getvalue())


def replace_table(root: Path, data: bytes) -> None:
    (root / TABLE).write_bytes(data)
    changed_header(root, lambda header: header.update(table_sha256=hashlib.sha256(data).hexdigest()))


def first(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[0] = value
        return array

    return change


def renamed(name: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        names = [name, *array.tobytes().decode().split("\n")[1:]]
        return np.frombuffer("\n".join(names).encode(errors="surrogateescape"), dtype=np.uint8)

    return change


HOSTILE_TABLES: dict[str, tuple[str, Callable[[np.ndarray], object]]] = {
    "absent": ("offset", lambda array: None),
    "floats": ("offset", lambda array: array.astype(float)),
    "two rows": ("offset", lambda array: np.stack([array, array])),
    "one number": ("person", lambda array: np.int64(3)),
    "objects": ("names", lambda array: np.array([{}], dtype=object)),
    "fewer offsets": ("offset", lambda array: array[1:]),
    "fewer identities": ("person", lambda array: array[1:]),
    "other identity": ("person", first(77)),
    "no tracklet": ("frames", lambda array: array[:0]),
    "tracklet without frames": ("frames", first(0)),
    "too long a tracklet": ("frames", first(2**62)),
    "negative offset": ("offset", first(-1)),
    "offset beyond": ("offset", first(2**62)),
    "negative length": ("length", first(-5)),
    "length beyond": ("length", first(2**62)),
    "file beyond": ("pack", first(1)),
    "negative file": ("pack", first(-1)),
    "name with a folder": ("names", renamed("../../etc/passwd")),
    "name of a folder": ("names", renamed("..")),
    "empty name": ("names", renamed("")),
    "long name": ("names", renamed("a" * 256)),
    "name with NUL": ("names", renamed("a\0.jpg")),
    "name that a terminal obeys": ("names", renamed("\x1b[2J.jpg")),
    "two names in one": ("names", renamed("a\nb")),
    "other name": ("names", renamed("other.jpg")),
    "no UTF-8": ("names", renamed("\udcff.jpg")),
    "no last line break": ("names", lambda array: array[:-1]),
}


@pytest.mark.parametrize(("name", "change"), HOSTILE_TABLES.values(), ids=HOSTILE_TABLES)
def test_a_table_that_lies_is_refused(copy: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    with np.load(copy / TABLE) as saved:
        array = saved[name]
    with_table(copy, **{name: change(array)})
    assert str(copy) in unreadable(copy)


def test_a_compressed_table_is_refused_unopened(copy: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, person=np.zeros(10**6, np.int64))
    replace_table(copy, buffer.getvalue())
    assert "compressed" in unreadable(copy)
