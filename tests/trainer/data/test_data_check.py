"""What `check_data` finds in good and in damaged copies, what the manifest remembers, and what statistics count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import miniatures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import MINIATURES, write_miniature
from PIL import Image
from strategies import quick

from trainer.data import READERS, Splits, Tracklet, frame_checks
from trainer.data.checks import DataCheck, check_data
from trainer.data.dataset import dataset_fingerprint
from trainer.data.folder import find_data
from trainer.data.manifest import MANIFEST, manifest_digest
from trainer.data.packing import pack_data_set
from trainer.data.statistics import matches_of_queries, part_counts, statistics
from trainer.errors import DataError


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature MARS with its manifest."""
    root = tmp_path_factory.mktemp("intact") / "mars"
    write_miniature("mars", root)
    assert checked(root).problem_count == 0
    return root


@pytest.fixture
def mars(intact: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "mars"))


@pytest.fixture
def fresh(mars: Path) -> Path:
    """The same without a manifest."""
    (mars / MANIFEST).unlink()
    return mars


def checked(root: Path, **options: object) -> DataCheck:
    return check_data(root, any_counts=True, **options)  # type: ignore[arg-type]


def a_frame(root: Path) -> Path:
    return root / MINIATURES["mars"].frame


# What is recognised


@pytest.mark.parametrize("name", READERS)
def test_an_intact_data_set_of_every_kind_has_no_problem_and_gets_a_manifest(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_miniature(name, root)
    found = checked(root)
    assert found.name == name
    assert found.problems == ()
    assert found.partitions == READERS[name].folds
    assert found.frames.missing == found.frames.damaged == found.frames.empty == 0
    assert found.frames.decoded == found.frames.listed
    assert found.fingerprint == dataset_fingerprint(READERS[name](root))
    assert found.manifest == str(root / MANIFEST)
    assert found.manifest_digest == manifest_digest(root)


@pytest.mark.parametrize("name", [name for name, data_set in READERS.items() if not data_set.own])
def test_counts_that_are_not_the_published_ones_are_a_problem_for_each_part(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_miniature(name, root)
    found = check_data(root)
    assert found.counts_as_published is False
    published = READERS[name].published
    assert found.problem_count == (1 if "all" in published else found.partitions * len(published))
    assert all(problem.startswith(str(root)) and "--any-counts" in problem for problem in found.problems)
    assert found.manifest is None


def test_generated_data_need_not_have_the_published_counts(mini_mars: Path, tmp_path: Path) -> None:
    found = check_data(mini_mars, manifest=tmp_path / "manifest.jsonl")
    assert found.synthetic
    assert found.problems == ()
    assert found.counts_as_published is None


def test_a_folder_without_a_known_data_set_is_refused_in_one_line(tmp_path: Path) -> None:
    for root, message in (tmp_path / "absent", "no such folder"), (tmp_path, "looks like no data set that can be read"):
        with pytest.raises(DataError, match=f"^{root}: {message}.*$"):
            check_data(root)


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'prid2011'"):
        find_data(tmp_path, "prid2001")


def test_lists_that_cannot_be_read_end_the_check_with_the_file(mars: Path) -> None:
    (mars / "info" / "query_IDX.mat").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"query_IDX\.mat"):
        checked(mars)


# Frames


def test_each_missing_frame_is_a_problem_that_names_it(fresh: Path) -> None:
    frame = a_frame(fresh)
    frame.unlink()
    found = checked(fresh)
    assert found.problems == (f"{frame}: no such file, but a list names it; copy the data set again",)
    assert found.frames.missing == 1
    assert found.manifest is None
    assert "no manifest is written" in found.notes[-1]


def test_frames_of_another_ending_are_a_line_for_each_part_that_shows_both_names(fresh: Path) -> None:
    frames = sorted((fresh / "bbox_train").glob("*/*.jpg"))
    for frame in frames:
        frame.rename(frame.with_suffix(".JPG"))
    found = checked(fresh)
    (line,) = found.problems
    assert f"none named like {frames[0].name}; the first is {frames[0].stem}.JPG; " in line
    assert f" folders beside it are alike; the lists name {len(frames)} frames there: rename the files" in line
    assert found.frames.missing == len(frames)


def test_a_folder_in_place_of_a_frame_is_a_missing_frame(fresh: Path) -> None:
    frame = a_frame(fresh)
    frame.unlink()
    frame.mkdir()
    assert checked(fresh).frames.missing == 1


def test_a_missing_folder_is_one_problem_however_many_frames_it_held(fresh: Path) -> None:
    folder = a_frame(fresh).parent
    held = len(list(folder.iterdir()))
    shutil.rmtree(folder)
    found = checked(fresh)
    assert found.problems == (f"{folder}: No such file or directory, but the lists name {held} frames in it",)
    assert found.frames.missing == held


def nested(part: Path) -> None:
    part.rename(part.with_name("moved"))
    part.mkdir()
    part.with_name("moved").rename(part / part.name)


def flat(part: Path) -> None:
    for folder in list(part.iterdir()):
        for frame in folder.iterdir():
            frame.rename(part / frame.name)
        folder.rmdir()


@pytest.mark.parametrize("unpacked", [nested, flat])
def test_frames_unpacked_one_level_deeper_or_without_identities_folders_are_found(
    intact: Path, fresh: Path, unpacked: Callable[[Path], None]
) -> None:
    for part in ("bbox_train", "bbox_test"):
        unpacked(fresh / part)
    found = checked(fresh)
    assert found.problems == ()
    assert found.frames.missing == 0
    assert found.fingerprint == checked(intact).fingerprint


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda part: part.rename(part.with_name("Bbox_Train")), "no such folder, but Bbox_Train: rename it; "),
        (lambda part: shutil.rmtree(part), "no such folder; "),
        (lambda part: [shutil.rmtree(folder) for folder in part.iterdir()], "is empty; "),
        (lambda part: [folder.rename(part / f"p{folder.name}") for folder in part.iterdir()], "holds 3 folders; the f"),
    ],
    ids=["other case", "gone", "empty", "other names"],
)
def test_where_no_folder_of_a_part_is_there_one_line_says_so(
    fresh: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(fresh / "bbox_train")
    (problem,) = checked(fresh).problems
    assert problem.startswith(f"{fresh / 'bbox_train'}: {said}")
    assert "the lists name 21 frames in 3 folders there, the first of them 0001" in problem


def test_an_empty_frame_is_a_problem_and_is_not_decoded(fresh: Path) -> None:
    frame = a_frame(fresh)
    frame.write_bytes(b"")
    found = checked(fresh)
    assert found.problems == (f"{frame}: empty file; copy the data set again",)
    assert (found.frames.empty, found.frames.damaged) == (1, 0)
    assert found.frames.decoded == found.frames.listed - 1


@pytest.mark.parametrize("content", [b"garbage", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_a_frame_that_cannot_be_decoded_is_a_problem_that_names_it(fresh: Path, content: bytes) -> None:
    frame = a_frame(fresh)
    frame.write_bytes(content)
    found = checked(fresh)
    (problem,) = found.problems
    assert problem.startswith(f"{frame}: ")
    assert "\n" not in problem
    assert found.frames.damaged == 1
    assert found.frames.bearable is False, "one of some thirty is more than 0.1 %"


def test_files_that_no_list_names_are_counted_and_are_no_problem(fresh: Path) -> None:
    (a_frame(fresh).parent / "Thumbs.db").touch()
    (a_frame(fresh).parent / "0001C1T0001F900.jpg").touch()
    found = checked(fresh)
    assert found.problem_count == 0
    assert found.frames.unlisted == 2


def test_a_sample_is_decoded_the_same_one_every_time_unless_all_are_asked_for(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_checks, "SAMPLE", 5)
    seen: list[str] = []
    read_frame = frame_checks.read_frame
    monkeypatch.setattr(frame_checks, "read_frame", lambda path, *size: seen.append(path) or read_frame(path, *size))
    assert checked(fresh).frames.decoded == 5
    first = set(seen)
    seen.clear()
    checked(fresh)
    assert set(seen) == first
    found = checked(fresh, all_frames=True)
    assert found.frames.decoded == found.frames.listed > 5


def test_a_damaged_frame_in_a_sample_does_not_tell_whether_a_run_goes_on(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.data.checks as checking

    monkeypatch.setattr(frame_checks, "SAMPLE", 5)
    monkeypatch.setattr(checking, "ALLOWED_SHARE", 0.9)
    for frame in fresh.glob("bbox_train/*/*.jpg"):
        frame.write_bytes(b"garbage")
    assert checked(fresh).frames.bearable is None
    assert checked(fresh, all_frames=True).frames.bearable is True


def test_all_problems_are_counted_but_only_the_first_are_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_checks, "KEPT", 3)
    frames = list(fresh.glob("bbox_train/*/*.jpg"))
    for frame in frames:
        frame.unlink()
    found = checked(fresh)
    assert found.problem_count == len(frames)
    assert len(found.problems) == 3


def test_progress_ends_at_all_folders_and_all_frames(fresh: Path) -> None:
    heard: dict[str, tuple[int, int]] = {}

    def listen(what: str, done: int, total: int, note: str = "") -> None:
        heard[what] = (done, total)

    found = checked(fresh, progress=listen)
    assert heard["decoding frames"] == (found.frames.listed, found.frames.listed)
    assert len(set(heard["looking for frames"])) == 1


@pytest.mark.parametrize("content", ["black", "one colour"])
def test_frames_of_one_single_colour_are_a_note_that_counts_them_and_names_the_first(fresh: Path, content: str) -> None:
    blank = sorted(fresh.glob("bbox_train/000[13]/*.jpg"))
    for frame in blank:
        Image.new("RGB", (8, 16), (0, 0, 0) if content == "black" else (200, 0, 90)).save(frame, "PNG")
    found = checked(fresh)
    assert found.problem_count == 0
    assert found.frames.single_colour == len(blank)
    (note,) = found.notes
    assert note.startswith(
        f"{len(blank)} of {found.frames.decoded} decoded frames show one single colour and no person"
    )
    assert note.endswith(str(blank[0]))


def test_16_bit_grey_frames_are_no_single_colour(fresh: Path) -> None:
    grey = np.arange(128, dtype=np.uint16).reshape(16, 8) * 512
    for frame in fresh.glob("bbox_*/*/*.jpg"):
        Image.fromarray(grey).save(frame, "PNG")
    assert (checked(fresh).frames.single_colour, checked(fresh).problem_count) == (0, 0)


# Cameras


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        (
            "train",
            "in the training tracklets every identity is seen by camera 2 only: none can be held out for validati",
        ),
        (
            "test",
            "in the test tracklets every identity is seen by camera 3 only: no query has a match by another camera",
        ),
    ],
)
def test_a_part_by_one_camera_only_is_a_problem_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, lost: str
) -> None:
    if part == "train":
        monkeypatch.setattr(miniatures, "MARS_TRAIN", [(identity, 2) for identity in (1, 1, 3, 3, 5, 5)])
    else:
        monkeypatch.setattr(miniatures, "MARS_TEST", [(identity, 3) for identity in (-1, 0, 0, 2, 2, 2, 4, 4, 6)])
    write_miniature("mars", tmp_path / "mars")
    found = checked(tmp_path / "mars")
    assert found.problem_count == 1
    assert found.problems[0].startswith(f"{tmp_path / 'mars'}: {lost}")


def test_people_each_seen_by_another_single_camera_are_a_problem_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniatures, "MARS_TRAIN", [(identity, 1 + identity) for identity in (1, 1, 3, 3, 5, 5)])
    write_miniature("mars", tmp_path / "mars")
    (problem,) = checked(tmp_path / "mars").problems
    assert "every identity is seen by one camera only" in problem


# Manifest


def test_a_second_check_of_the_same_files_leaves_the_manifest_alone(mars: Path) -> None:
    before = (mars / MANIFEST).read_bytes(), (mars / MANIFEST).stat().st_mtime_ns
    assert checked(mars).problem_count == 0
    assert ((mars / MANIFEST).read_bytes(), (mars / MANIFEST).stat().st_mtime_ns) == before


def test_copies_have_the_same_manifest_wherever_they_lie(
    intact: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh.parent)
    assert checked(Path(fresh.name)).manifest_digest == manifest_digest(intact)
    assert (fresh / MANIFEST).read_bytes() == (intact / MANIFEST).read_bytes()


def test_the_manifest_holds_every_tracklet_and_the_bytes_of_every_frame(intact: Path) -> None:
    header, *lines = [json.loads(line) for line in (intact / MANIFEST).read_text().splitlines()]
    splits = READERS["mars"](intact)
    tracklets = [tracklet for part in splits for tracklet in part]
    assert header["data_set"] == "mars"
    assert header["fingerprints"] == [dataset_fingerprint(splits)]
    assert header["counts"]["train"] == list(part_counts(splits.train))
    assert header["tracklets"] == len(lines) == len(tracklets)
    assert header["frames"] == sum(len(tracklet.frames) for tracklet in tracklets)
    assert header["bytes"] == sum(Path(frame).stat().st_size for each in tracklets for frame in each.frames)
    assert [(line["identity"], line["camera"], len(line["sizes"])) for line in lines] == [
        (each.identity, each.camera, len(each.frames)) for each in tracklets
    ]
    assert [intact / line["first"] for line in lines] == [Path(each.frames[0]) for each in tracklets]


def test_a_frame_of_another_size_than_before_is_a_problem_that_names_it(mars: Path) -> None:
    frame = a_frame(mars)
    size = frame.stat().st_size
    frame.write_bytes(frame.read_bytes() + b"\0")
    found = checked(mars)
    assert found.problems == (f"{frame}: {size + 1} bytes, but {size} by {mars / MANIFEST}",)
    assert f"remove {mars / MANIFEST}" in found.notes[-1]


def rewritten(path: Path, change: object) -> None:
    """The manifest with its lines changed and its digest made right again."""
    import hashlib

    header, *lines = path.read_text().splitlines()
    lines = change(lines)  # type: ignore[operator]
    body = "".join(line + "\n" for line in lines)
    changed = json.loads(header) | {"tracklets": len(lines), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    path.write_text(json.dumps(changed) + "\n" + body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "a tracklet starts here by the data set's lists, but not by"),
        (lambda lines: [*lines, lines[0].replace("0001C1", "0009C1")], "but no longer by the data set's lists"),
        (lambda lines: [lines[0].replace('"camera":1', '"camera":4'), *lines[1:]], "camera 4"),
        (lambda lines: [lines[0].replace('"train"', '"gallery"'), *lines[1:]], "gallery"),
        (lambda lines: [lines[0].replace("]}", ",77]}"), *lines[1:]], "frames, but"),
    ],
    ids=["added", "removed", "other camera", "other part", "longer"],
)
def test_tracklets_that_are_not_those_of_the_manifest_are_a_problem_each(
    mars: Path, change: object, message: str
) -> None:
    rewritten(mars / MANIFEST, change)
    (problem,) = checked(mars).problems
    assert message in problem
    assert problem.startswith(f"{mars}/bbox_train/")


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"{}\n", b'{"version":1}\n', b"\xff\n", b"[" * 100_000],
    ids=lambda text: repr(text[:9]),
)
def test_a_manifest_that_is_none_is_a_problem_in_one_line_and_is_kept(mars: Path, content: bytes) -> None:
    (mars / MANIFEST).write_bytes(content)
    (problem,) = checked(mars).problems
    assert problem.startswith(f"{mars / MANIFEST}: ")
    assert "\n" not in problem
    assert (mars / MANIFEST).read_bytes() == content


@quick
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_of_a_manifest_is_found_or_changes_nothing_that_matters(
    intact: Path, place: int, byte: int
) -> None:
    from trainer.data.manifest import read_manifest

    data = bytearray((intact / MANIFEST).read_bytes())
    data[place % len(data)] = byte
    copy = intact.parent / "changed.jsonl"
    copy.write_bytes(data)
    original = read_manifest(intact / MANIFEST)
    try:
        changed = read_manifest(copy)
    except DataError as error:
        assert str(copy) in str(error)
        assert "\n" not in str(error)
    else:
        assert original is not None
        assert changed is not None
        assert changed.lines == original.lines


def test_a_manifest_of_another_data_set_is_one_problem(mars: Path) -> None:
    text = (mars / MANIFEST).read_text()
    (mars / MANIFEST).write_text(text.replace('"data_set":"mars"', '"data_set":"prid2011"'))
    (problem,) = checked(mars).problems
    assert "of data set prid2011, this is mars" in problem


def test_a_folder_that_cannot_be_written_to_costs_a_note_only(fresh: Path) -> None:
    (fresh / f"{MANIFEST}.tmp").mkdir()  # stands for a read-only folder: tests may run as root
    found = checked(fresh)
    assert found.problem_count == 0
    assert found.manifest is None
    assert "cannot be written" in found.notes[-1]


def test_a_manifest_that_was_asked_for_and_cannot_be_written_is_a_problem(fresh: Path, tmp_path: Path) -> None:
    (problem,) = checked(fresh, manifest=tmp_path / "no" / "manifest.jsonl").problems
    assert str(tmp_path / "no" / "manifest.jsonl") in problem


def test_a_manifest_elsewhere_is_written_and_compared_there(fresh: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "manifest.jsonl"
    assert checked(fresh, manifest=elsewhere).manifest == str(elsewhere)
    assert not (fresh / MANIFEST).exists()
    assert manifest_digest(fresh) is None
    a_frame(fresh).write_bytes(a_frame(fresh).read_bytes() + b"\0")
    assert checked(fresh, manifest=elsewhere).problem_count == 1


# Packed data sets


@pytest.mark.parametrize("size", [None, (32, 16)], ids=["bytes", "pixels"])
def test_a_packed_data_set_is_checked_as_the_one_it_was_made_of(
    intact: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    packed = tmp_path / "packed"
    pack_data_set("mars", intact, packed, size=size)
    found, original = checked(packed), checked(intact)
    assert found.packed
    assert found.problems == ()
    assert found.fingerprint == original.fingerprint
    assert (found.train, found.query, found.gallery) == (original.train, original.query, original.gallery)
    assert found.frames.listed == found.frames.decoded == original.frames.listed
    assert found.manifest == str(packed / "index.json")
    assert manifest_digest(packed) == found.manifest_digest is not None
    assert not (packed / MANIFEST).exists()


def test_a_packed_data_set_takes_no_other_manifest_and_no_other_name(intact: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack_data_set("mars", intact, packed)
    with pytest.raises(DataError, match="leave --manifest out"):
        checked(packed, manifest=tmp_path / "manifest.jsonl")
    with pytest.raises(DataError, match="a packed MARS, not PRID2011"):
        find_data(packed, "prid2011")


# Statistics


def tracklet(identity: int, camera: int, length: int = 4) -> Tracklet:
    return Tracklet(tuple(f"{identity}_{camera}_{frame}" for frame in range(length)), identity, camera)


def test_statistics_of_a_small_case_are_those_counted_by_hand() -> None:
    splits = Splits(
        train=(tracklet(1, 1, 1), tracklet(1, 2, 3), tracklet(2, 2, 9)),
        query=(tracklet(5, 1), tracklet(6, 1)),
        gallery=(tracklet(5, 2), tracklet(5, 3), tracklet(6, 1), tracklet(0, 4)),
    )
    found = statistics(splits, "mars")
    train, gallery = found.parts["train"], found.parts["gallery"]
    assert train.counts == (2, 3, 13)
    assert train.short == 2
    assert train.lengths is not None
    assert train.lengths[:6] == (1, 2, 3, 6, 9, 13 / 3)
    assert train.lengths.histogram == {"1": 1, "2-3": 1, "4-7": 0, "8-15": 1}
    assert train.tracklets_by_camera == {1: 1, 2: 2}
    assert (gallery.counts.identities, gallery.distractors) == (2, 1)
    assert found.identities_by_cameras == {"train": {1: 1, 2: 1}, "test": {1: 1, 3: 1}}
    assert found.queries_by_matches["mars"] == {"0": 1, "1": 0, "2-3": 1}


tracklets = st.builds(tracklet, st.integers(0, 4), st.integers(1, 3), st.integers(1, 40))


@quick
@given(query=st.lists(tracklets), gallery=st.lists(tracklets))
def test_matches_of_queries_are_those_of_a_plain_loop(query: list[Tracklet], gallery: list[Tracklet]) -> None:
    splits = Splits((), tuple(query), tuple(gallery))
    for protocol, searched in (("mars", gallery), ("mars_query_in_gallery", [*gallery, *query])):
        slow = [sum(g.identity == q.identity and g.camera != q.camera for g in searched) for q in query]
        assert matches_of_queries(splits, protocol) == slow  # type: ignore[arg-type]
