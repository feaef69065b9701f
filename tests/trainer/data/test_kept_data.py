"""A data set that is kept for trainings: the same as read, and never one that has changed on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write_miniature
from scipy.io import savemat

from trainer.config import TrialConfig
from trainer.data import DataConfig, Tracklet, ValidationConfig, kept, training_data
from trainer.data.kept import data_with_test_part, keep_training_data
from trainer.data.packing import pack_data_set
from trainer.errors import DataError
from trainer.training.fit import fit


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Other tests read for themselves."""
    yield
    kept._kept = None


@pytest.fixture
def mars(tmp_path: Path) -> DataConfig:
    """A miniature, in a folder of its own."""
    write_miniature("mars", tmp_path / "mars")
    return DataConfig(root=tmp_path / "mars", validation=ValidationConfig(share=0))


@pytest.fixture
def split(mars: DataConfig, tmp_path: Path) -> Path:
    """The validation split of the miniature."""
    training_data(mars, tmp_path / "split.json", make=True)
    return tmp_path / "split.json"


def reading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: DataConfig) -> None:
        raise AssertionError("the lists are read again")

    monkeypatch.setattr(kept, "read_splits", refuse)


@pytest.mark.parametrize("packed", [False, True])
def test_kept_data_are_those_that_are_read(
    mars: DataConfig, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    if packed:
        pack_data_set("mars", mars.root, tmp_path / "pack")
        mars = mars.model_copy(update={"root": tmp_path / "pack"})
    read, whole = training_data(mars, split, make=False), data_with_test_part(mars)
    assert keep_training_data(mars)
    assert data_with_test_part(mars) == whole  # read, as its test part was not kept
    assert keep_training_data(mars, tests=True)
    reading_is_refused(monkeypatch)
    assert keep_training_data(mars)
    found, record = training_data(mars, split, make=False)
    assert (found, record) == read and data_with_test_part(mars) == whole
    assert hash(found.train[0]) == hash(read[0].train[0])
    assert found.train[0].frames[-1] == read[0].train[0].frames[-1]


@pytest.mark.parametrize("change", ["table", "query", "list", "frames", "synthetic", "pack", "index"])
def test_a_change_on_the_disk_is_noticed(mars: DataConfig, split: Path, tmp_path: Path, change: str) -> None:
    if change in ("pack", "index"):
        pack_data_set("mars", mars.root, tmp_path / "pack")
        mars = mars.model_copy(update={"root": tmp_path / "pack"})
    before = training_data(mars, split, make=False)
    assert keep_training_data(mars)
    root = mars.root
    match change:
        case "table":  # of the same size, at the same time
            path = root / "info/tracks_train_info.mat"
            times = path.stat()
            path.write_bytes(path.read_bytes().replace(b"\5", b"\6"))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        case "query":
            savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([[4, 7]])})
        case "list":
            (root / "info/train_name.txt").unlink()
        case "frames":
            (root / "bbox_train").rename(root / "unpacked")
            (root / "bbox_train").mkdir()
            (root / "unpacked").rename(root / "bbox_train" / "bbox_train")
        case "synthetic":
            (root / "info/synth_truth.json").write_text("{}")
        case "pack":
            (root / "frames-000.pack").write_bytes(b"")
        case "index":
            (root / "index.json").write_bytes((root / "index.json").read_bytes().replace(b'"train":[0', b'"train":[1'))
    if change in ("table", "list", "pack", "index"):
        with pytest.raises(DataError):
            training_data(mars, split, make=False)
        with contextlib.suppress(DataError):
            assert not keep_training_data(mars)
    else:
        after = training_data(mars, split, make=False)
        assert (after[0], after[1]) != before
        assert after == kept_anew(mars, split)


def kept_anew(config: DataConfig, split: Path) -> object:
    assert keep_training_data(config)
    return training_data(config, split, make=False)


def test_one_data_set_is_kept_at_a_time_and_none_whose_folders_have_to_be_listed(
    mars: DataConfig, split: Path, tmp_path: Path
) -> None:
    assert keep_training_data(mars)
    shutil.copytree(mars.root, tmp_path / "copy")
    other = mars.model_copy(update={"root": tmp_path / "copy"})
    assert keep_training_data(other)
    found, _ = training_data(mars, split, make=False)
    assert found.train[0].frames[0].startswith(str(mars.root))
    write_miniature("tracklets", tmp_path / "own")
    assert not keep_training_data(DataConfig(name="tracklets", root=tmp_path / "own"))
    assert kept._kept is None


def test_a_training_on_kept_data_gives_the_same_network_and_metrics(tiny_config: TrialConfig, tmp_path: Path) -> None:
    config = tiny_config.model_copy(update={"optim": tiny_config.optim.model_copy(update={"epochs": 1})})
    split = tmp_path / "read" / "split.json"
    read = fit(config, out=tmp_path / "read", device="cpu").best
    assert keep_training_data(config.data)
    found = fit(config, out=tmp_path / "kept", split=split, device="cpu").best
    assert (found.losses, found.validation) == (read.losses, read.validation)
    best = [(tmp_path / run / "checkpoint/best.pt").read_bytes() for run in ("read", "kept")]
    assert best[0] == best[1]


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), place=st.integers(-6, 6), stop=st.integers(-6, 6))
def test_paths_in_one_text_are_the_same_paths(lengths: list[int], place: int, stop: int) -> None:
    tracklets = [
        Tracklet(tuple(f"dir \udcff é/{number}/{frame}.jpg" for frame in range(length)), number, 1)
        for number, length in enumerate(lengths)
    ]
    for ours, theirs in zip(kept._compact(tracklets), tracklets, strict=True):
        assert ours == theirs
        assert theirs.frames == ours.frames
        assert list(ours.frames) == list(theirs.frames)
        assert ours.frames[place:stop] == theirs.frames[place:stop]
        if -len(theirs.frames) <= place < len(theirs.frames):
            assert ours.frames[place] == theirs.frames[place]
        else:
            with pytest.raises(IndexError):
                ours.frames[place]
