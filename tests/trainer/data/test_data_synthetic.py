"""The synthetic data set: the layout of MARS, reproducible to the byte, never half written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trainer.child import child_command
from trainer.data import Splits, ValidationConfig
from trainer.data.frames import read_frame
from trainer.data.readers.mars import read_mars
from trainer.data.splits import cut_validation
from trainer.data.synthetic.dataset import SyntheticSummary, is_synthetic, write_synthetic
from trainer.data.synthetic.render import draw_walk
from trainer.data.synthetic.scene import LOOK_ALIKES, SIZES, SizeName, plan
from trainer.errors import DataError


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticSummary]:
    root = tmp_path_factory.mktemp("synthetic") / "tiny"
    return root, write_synthetic(root, size="tiny", seed=3, workers=1)


@pytest.fixture(scope="session")
def splits(drawn: tuple[Path, SyntheticSummary]) -> Splits:
    return read_mars(drawn[0])


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_frame_is_an_identity_crop(splits: Splits) -> None:
    for tracklet in (*splits.train, *splits.query, *splits.gallery):
        header = read_frame(tracklet.frames[0], 256, 128)
        assert header.shape == (256, 128, 3)
        assert header.std() > 10


def test_every_listed_frame_exists_and_every_file_is_listed(drawn: tuple[Path, SyntheticSummary]) -> None:
    root, summary = drawn
    listed = [line for part in ("train", "test") for line in _lines(root / "info" / f"{part}_name.txt")]
    files = [path for part in ("bbox_train", "bbox_test") for path in (root / part).glob("*/*.jpg")]
    assert sorted(listed) == sorted(path.name for path in files)
    assert all(path.parent.name == path.name[:4] for path in files)
    assert summary.frames == len(files)
    assert summary.bytes == sum(path.stat().st_size for path in files)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def occluded_frames(root: Path) -> set[str]:
    """Base names of the frames in which a large part of the body is hidden."""
    truth = json.loads((root / "info" / "synth_truth.json").read_text())
    return {name for name, hidden in truth["occluded"].items() if hidden}


def test_summary_counts_what_is_read(drawn: tuple[Path, SyntheticSummary], splits: Splits) -> None:
    _, summary = drawn
    size = SIZES["tiny"]
    assert summary.identities == size.train_identities + size.test_identities
    assert summary.tracklets == sum(len(part) for part in splits) + size.junk
    assert summary.seconds > 0


def test_junk_and_distractors_lie_where_mars_has_them(drawn: tuple[Path, SyntheticSummary]) -> None:
    names = _lines(drawn[0] / "info" / "test_name.txt")
    assert names[0].startswith("00-1C")
    assert any(name.startswith("0000C") for name in names)
    assert not any(name[:4] in ("00-1", "0000") for name in _lines(drawn[0] / "info" / "train_name.txt"))


@pytest.mark.parametrize("size", SIZES)
def test_each_test_identity_is_asked_for_once_per_camera(size: SizeName) -> None:
    test = [planned for planned in plan(size, 0).test if planned.identity > 0]
    queries = Counter((planned.identity, planned.camera) for planned in test if planned.query)
    assert set(queries) == {(planned.identity, planned.camera) for planned in test}
    assert set(queries.values()) == {1}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", SIZES)
def test_only_the_last_two_test_identities_have_no_match(size: SizeName, seed: int) -> None:
    test = [planned for planned in plan(size, seed).test if planned.identity > 0]
    gallery = [planned for planned in test if not planned.query]
    lonely = {
        query.identity
        for query in test
        if query.query and not any(item.identity == query.identity and item.camera != query.camera for item in gallery)
    }
    identities = sorted({planned.identity for planned in test})
    assert lonely == set(identities[-2:])
    assert identities[-1] not in {item.identity for item in gallery}


def test_demo_has_the_size_that_its_users_plan_with() -> None:
    demo = plan("demo", 0)
    walks = [planned.walk for planned in (*demo.train, *demo.test)]
    assert len({planned.identity for planned in demo.train}) == 48
    assert 3500 <= sum(len(walk.hidden) for walk in walks) <= 4500
    assert all(4 <= len(walk.hidden) <= 12 for walk in walks)


def test_look_alikes_share_a_shirt_colour() -> None:
    looks = {planned.identity: planned.walk.look for planned in plan("full", 0).train}
    shirts = Counter(look.shirt for look in looks.values() if look is not None)
    assert sum(count for count in shirts.values() if count > 1) == round(LOOK_ALIKES * len(looks))


def test_two_fifths_of_the_frames_are_occluded_but_no_whole_tracklet() -> None:
    full = plan("full", 0)
    hidden = [planned.walk.hidden for planned in (*full.train, *full.test)]
    assert np.mean(np.concatenate(hidden)) == pytest.approx(0.4, abs=0.02)
    assert not any(all(flags) for flags in hidden)


def test_even_occluded_fragments_of_any_seed_can_be_drawn() -> None:
    walk = plan("tiny", 0).test[0].walk
    for seed in range(200):
        (frame,) = draw_walk(walk._replace(hidden=(True,), fragment=True, seed=(seed,)))
        assert frame.size == (128, 256)


def test_truth_names_the_occluded_frames(drawn: tuple[Path, SyntheticSummary], splits: Splits) -> None:
    names = {Path(frame).name for part in splits for tracklet in part for frame in tracklet.frames}
    occluded = occluded_frames(drawn[0]) & names
    assert 0.25 < len(occluded) / len(names) < 0.55


def test_occluded_frames_differ_from_their_neighbours_more(
    drawn: tuple[Path, SyntheticSummary], splits: Splits
) -> None:
    occluded = occluded_frames(drawn[0])
    differences: dict[bool, list[float]] = {False: [], True: []}
    for tracklet in splits.train:
        frames = [read_frame(frame, 16, 8).astype(float) for frame in tracklet.frames]
        flags = [Path(frame).name in occluded for frame in tracklet.frames]
        for before, after, first, second in zip(frames, frames[1:], flags, flags[1:], strict=False):
            differences[first != second].append(float(np.abs(before - after).mean()))
    assert np.mean(differences[True]) > 1.3 * np.mean(differences[False])


def test_tiny_set_can_be_cut_for_validation(splits: Splits) -> None:
    for seed in range(10):
        assert len(cut_validation(splits.train, ValidationConfig(seed=seed)).identities) == 2


def test_same_seed_gives_same_bytes_whatever_the_workers(
    drawn: tuple[Path, SyntheticSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.synthetic.dataset.FRAMES_PER_WORKER", 1)
    again = write_synthetic(tmp_path / "again", size="tiny", seed=3, workers=3)
    assert again._replace(seconds=0) == drawn[1]._replace(seconds=0)
    assert digests(tmp_path / "again") == digests(drawn[0])


def test_another_seed_gives_other_frames(drawn: tuple[Path, SyntheticSummary], tmp_path: Path) -> None:
    write_synthetic(tmp_path / "other", size="tiny", seed=4)
    ours, others = digests(drawn[0]), digests(tmp_path / "other")
    assert not set(ours.values()) & {digest for name, digest in others.items() if name.endswith(".jpg")}


def test_progress_ends_at_the_number_of_frames(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = write_synthetic(tmp_path / "set", size="tiny", seed=0, progress=lambda *call: calls.append(call))
    assert calls[-1] == (summary.frames, summary.frames)
    assert calls == sorted(calls)


def test_finished_set_is_left_alone(drawn: tuple[Path, SyntheticSummary]) -> None:
    root, summary = drawn
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    again = write_synthetic(root, size="tiny", seed=3)
    assert again._replace(seconds=0) == summary._replace(seconds=0)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_synthetic_set_is_not_overwritten(drawn: tuple[Path, SyntheticSummary]) -> None:
    with pytest.raises(DataError, match="tiny: holds another synthetic data set"):
        write_synthetic(drawn[0], size="tiny", seed=4)


def test_what_is_no_synthetic_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_synthetic(tmp_path, size="tiny", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="data: "):
        write_synthetic(tmp_path / "data", size="tiny", seed=0)


def test_an_empty_folder_is_filled_and_no_other_is_synthetic(tmp_path: Path) -> None:
    assert not is_synthetic(tmp_path)
    write_synthetic(tmp_path, size="tiny", seed=0)
    assert is_synthetic(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr("trainer.data.synthetic.dataset.FRAMES_PER_WORKER", 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", size="tiny", seed=0, progress=interrupt, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_drawing_process_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.synthetic.dataset.FRAMES_PER_WORKER", 1)
    monkeypatch.setattr("trainer.data.synthetic.dataset.DRAWER", child_command("no_such_module"))
    with pytest.raises(DataError, match="a drawing process ended with exit code 1: ModuleNotFoundError"):
        write_synthetic(tmp_path / "set", size="tiny", seed=0, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_data_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.data.synthetic.dataset.write_walk", full)
    with pytest.raises(DataError, match=r"set: cannot be written \(No space"):
        write_synthetic(tmp_path / "set", size="tiny", seed=0, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_damaged_truth_is_named(drawn: tuple[Path, SyntheticSummary], tmp_path: Path) -> None:
    shutil.copytree(drawn[0] / "info", tmp_path / "info")
    (tmp_path / "info" / "synth_truth.json").write_text('{"version": 1')
    with pytest.raises(DataError, match=r"synth_truth\.json: damaged"):
        write_synthetic(tmp_path, size="tiny", seed=3)


def test_drawing_processes_never_load_torch() -> None:
    code = "import sys, trainer.data.synthetic.dataset\nassert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
