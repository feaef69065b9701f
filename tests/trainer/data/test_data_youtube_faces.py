"""YouTube Faces: videos without cameras, ten folds of pairs, and what may be wrong with the list."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from miniatures import FACES, write_frames, write_youtube_faces

from trainer.commands import Outputs, evaluate_command, evaluation_line
from trainer.config import TrialConfig
from trainer.data import DataConfig, read_splits
from trainer.data.checks import check_data
from trainer.data.dataset import NO_CAMERA, Tracklet
from trainer.data.folder import DataFolder
from trainer.data.pack import HEADER
from trainer.data.packing import pack_data_set
from trainer.data.readers.youtube_faces import LIST, read_pairs, read_youtube_faces
from trainer.errors import DataError
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.folder import write_evaluation

IMAGES = "aligned_images_DB"
PAIR_LINES = 30


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "faces"
    write_youtube_faces(root)
    return root


@pytest.fixture
def root(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "faces"))


@pytest.fixture
def config(intact: Path) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"name": "youtube_faces", "root": intact},
            "model": {"backbone": "tiny", "weights": "none", "height": 16, "width": 16},
            "clips": {"frames": 2},
        }
    )


def lines(root: Path) -> list[str]:
    return (root / LIST).read_text().splitlines()


def rewrite(root: Path, number: int, *put: str) -> None:
    """Puts lines in place of one of the list, counted from 1."""
    content = lines(root)
    content[number - 1 : number] = put
    (root / LIST).write_text("\n".join(content) + "\n")


def refused(root: Path, fold: int = 0) -> str:
    with pytest.raises(DataError) as failure:
        read_youtube_faces(root, fold)
    message = str(failure.value)
    assert message.isprintable()
    return message.removeprefix(f"{root}/")


def names(tracklets: tuple[Tracklet, ...]) -> list[str]:
    return ["/".join(Path(tracklet.frames[0]).parts[-3:-1]) for tracklet in tracklets]


# What is read


@pytest.mark.parametrize("fold", [0, 9])
def test_a_fold_tests_the_identities_of_its_pairs_and_trains_on_all_others(root: Path, fold: int) -> None:
    splits = read_youtube_faces(root, fold)
    assert names(splits.query) == [f"Ann_{fold:02d}/0", f"Bo_{fold:02d}/1"]
    assert names(splits.gallery) == [f"Ann_{fold:02d}/2", f"Bo_{fold:02d}/3", f"Bo_{fold:02d}/10"]
    tested = {f"Ann_{fold:02d}", f"Bo_{fold:02d}"}
    assert {str(tracklet.identity) for tracklet in splits.train} == FACES.keys() - tested
    assert "Ann_10/0" in names(splits.train)
    assert {tracklet.camera for part in splits for tracklet in part} == {NO_CAMERA}


def test_an_identity_has_the_same_number_in_every_fold(root: Path) -> None:
    numbers = {
        (str(tracklet.identity), int(tracklet.identity))
        for fold in range(10)
        for part in read_youtube_faces(root, fold)
        for tracklet in part
    }
    assert sorted(number for _, number in numbers) == list(range(1, 1 + len(FACES)))


def test_frames_and_videos_are_in_the_order_of_their_numbers(root: Path) -> None:
    folder = root / IMAGES / "Bo_00" / "10"
    write_frames(folder, [f"aligned_detect_10.{frame}.jpg" for frame in (9, 1000)])
    video = read_youtube_faces(root, 0).gallery[-1]
    assert [int(frame.split(".")[-2]) for frame in video.frames] == [9, 151, 152, 153, 1000]


def test_other_files_are_left_out_and_whole_frames_are_read_where_no_aligned_ones_are(root: Path) -> None:
    before = read_pairs(root)
    (root / IMAGES / "Ann_00.labeled_faces.txt").touch()
    (root / IMAGES / ".hidden").mkdir()
    for name in ("aligned_detect_0.9.jpg.part", "aligned_detect_1.9.jpg", "notes.txt"):
        (root / IMAGES / "Ann_00" / "0" / name).touch()
    assert read_pairs(root) == before
    (root / IMAGES).rename(root / "frame_images_DB")
    for path in (root / "frame_images_DB").rglob("aligned_detect_*"):
        path.rename(path.with_name(path.name.removeprefix("aligned_detect_")))
    assert [pair.fold for pair in read_pairs(root)] == [pair.fold for pair in before]


def test_pairs_are_those_of_the_list(root: Path) -> None:
    pairs = read_pairs(root)
    assert [names((pair.first, pair.second)) for pair in pairs[:3]] == [
        ["Ann_00/0", "Ann_00/2"],
        ["Ann_00/0", "Bo_00/1"],
        ["Bo_00/3", "Ann_00/2"],
    ]
    assert [pair.same for pair in pairs] == [True, False, False] * 10
    assert [pair.fold for pair in pairs] == [fold for fold in range(10) for _ in range(3)]


@pytest.mark.parametrize("kind", ["no header", "spaces", "no pair number", "Windows"])
def test_the_list_is_the_same_without_header_or_pair_numbers_and_with_any_spaces(root: Path, kind: str) -> None:
    before = read_pairs(root)
    content = lines(root)
    changed = {
        "no header": content[1:],
        "spaces": [line.replace(", ", " ,\t").center(70) for line in content] + ["", " "],
        "no pair number": [f"{line.partition(',')[0]},{line.split(',', 2)[2]}" for line in content],
        "Windows": ["\ufeff" + "\r\n".join(content)],
    }
    (root / LIST).write_text("\n".join(changed[kind]), encoding="utf-8", newline="")
    assert read_pairs(root) == before


def test_a_pack_holds_the_pairs(intact: Path, tmp_path: Path) -> None:
    pack_data_set("youtube_faces", intact, tmp_path / "pack")
    packed = DataFolder(tmp_path / "pack", "youtube_faces", packed=True).pairs()
    files = read_pairs(intact)
    for one, other in zip(packed, files, strict=True):
        assert (one.fold, one.first.identity, one.second.identity) == (
            other.fold,
            other.first.identity,
            other.second.identity,
        )
        assert [Path(frame).name for frame in one.first.frames] == [Path(frame).name for frame in other.first.frames]
    header = json.loads((tmp_path / "pack" / HEADER).read_text())
    header["pairs"][0][1] = 999
    (tmp_path / "pack" / HEADER).write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"a pair of index\.json has a tracklet or a fold that is not there"):
        read_splits(DataConfig(name="youtube_faces", root=tmp_path / "pack"))


def test_a_check_compares_the_counts_of_all_parts_together(root: Path) -> None:
    found = check_data(root)
    assert found.counts_as_published is False
    assert found.problems[0].startswith(
        f"{root}: holds 22 identities (1,595 published), 55 tracklets (3,425 published); copy"
    )
    assert len(found.problems) == 1
    assert "30 listed pairs, 10 of the same identity" in found.notes
    assert check_data(root, any_counts=True).problems == ()
    frame = root / IMAGES / "Ann_00" / "0" / "aligned_detect_0.152.jpg"
    frame.unlink()
    assert any("Ann_00/0" in problem for problem in check_data(root, any_counts=True).problems)


# Damage


@pytest.mark.parametrize(
    ("put", "said"),
    [
        ("1, 1, Ann_00/0, 1", "(4 fields) is not a pair like '1, 7, Ann/0, Ann/2, 1'"),
        ("1, 1, Ann_00/0, Ann_00/2, 1, 1", "(6 fields) is not a pair like"),
        ("1, 1, Ann_00/0, Ann_00/2, yes", "is not a pair like"),
        ("1, 1, Ann_00/0, Ann_00/9, 1", "aligned_images_DB holds no video 'Ann_00/9'; unpack"),
        ("1, 1, Ann_00/0, ../2, 0", "holds no video '../2'"),
        ("11, 1, Ann_00/0, Ann_00/2, 1", "fold 11, but folds are 1 to 10"),
        ("0, 1, Ann_00/0, Ann_00/2, 1", "fold 0, but folds are 1 to 10"),
        ("1, 1, Ann_00/0, Ann_00/0, 1", "'Ann_00/0' is paired with itself"),
        ("1, 1, Ann_00/0, Ann_00/2, 0", "'Ann_00/0' and 'Ann_00/2' are listed as different identities"),
        ("1, 1, Ann_00/0, Bo_00/1, 1", "'Ann_00/0' and 'Bo_00/1' are listed as the same identity"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(root: Path, put: str, said: str) -> None:
    rewrite(root, 2, put)
    message = refused(root)
    assert message.startswith(f"{LIST}: line 2: ")
    assert said in message


def test_a_pair_that_is_listed_before_is_named_with_both_lines_in_either_order(root: Path) -> None:
    for again in ("1, 4, Ann_00/0, Ann_00/2, 1", "1, 4, Ann_00/2, Ann_00/0, 1"):
        (root / LIST).write_text("\n".join([*lines(root)[: PAIR_LINES + 1], again]))
        assert refused(root) == f"{LIST}: line 32: the pair is listed before, in line 2; copy the file again"


def test_an_identity_in_two_folds_is_named_with_both_lines(root: Path) -> None:
    rewrite(root, 6, "2, 2, Ann_01/0, Bo_00/10, 0")
    assert refused(root) == (
        f"{LIST}: line 6: identity 'Bo_00' is in fold 2, but in line 3 in fold 1, and would be trained on where it is "
        "tested; copy the file again"
    )


def test_a_fold_without_pairs_of_a_kind_is_named(root: Path) -> None:
    rewrite(root, PAIR_LINES - 1)
    assert refused(root).startswith(
        f"{LIST}: fold 10 holds 0 pairs of the same identity and 2 of different ones, and each of 10 folds needs both"
    )


def test_videos_and_identities_without_frames_are_named(root: Path) -> None:
    video = root / IMAGES / "Bo_03" / "10"
    for frame in video.iterdir():
        frame.unlink()
    assert refused(root) == f"{IMAGES}/Bo_03/10: is empty; unpack YouTube Faces again"
    (video / "10.jpg").touch()
    assert "none named like aligned_detect_10.1.jpg; the first is 10.jpg; unpack" in refused(root)
    shutil.rmtree(root / IMAGES / "Bo_03")
    (root / IMAGES / "Bo_03").mkdir()
    assert refused(root).startswith(f"{IMAGES}/Bo_03: is empty; unpack")


def test_a_missing_list_is_named_with_where_it_belongs(root: Path) -> None:
    (root / LIST).unlink()
    assert refused(root) == (
        f"{LIST}: no such file; data.root must be the folder that holds YouTube Faces' {IMAGES}/ and {LIST}"
    )


# What networks are judged by


def test_an_evaluation_of_the_test_part_judges_the_listed_pairs_of_its_fold(
    config: TrialConfig, intact: Path, tmp_path: Path
) -> None:
    result = evaluate(config, None, part="test")
    found = result.evaluation.pairs
    assert found is not None
    assert (found.matching_pairs, found.other_pairs) == (1, 2)
    assert found.accuracy in (0, 1 / 3, 2 / 3, 1)
    assert "listed pairs  accuracy " in evaluation_line(result.evaluation, "test")
    write_evaluation(tmp_path / "out", result, "test", images=True)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["pairs"]["accuracy"] == found.accuracy
    assert result.evaluation.protocol == "no_camera"
    pack_data_set("youtube_faces", intact, tmp_path / "pack")
    packed = config.model_copy(update={"data": config.data.model_copy(update={"root": tmp_path / "pack"})})
    assert evaluate(packed, None, part="test").evaluation == result.evaluation


def test_all_folds_give_mean_accuracy_and_its_standard_error(config: TrialConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config.model_dump_json())
    said: list[str] = []

    def run(as_json: bool) -> None:
        evaluate_command(
            tmp_path / "config.json",
            checkpoint=None,
            part="test",
            split=None,
            all_folds=True,
            outputs=Outputs(cache=tmp_path / "cache"),
            overrides=[],
            as_json=as_json,
            echo=said.append,
            progress=lambda *_: None,
        )

    run(as_json=True)
    found = json.loads(said.pop())
    accuracies = [fold["pairs"]["accuracy"] for fold in found["folds"]]
    over_folds = found["over_folds"]["pairs/accuracy"]
    assert over_folds["mean"] == pytest.approx(sum(accuracies) / 10)
    assert over_folds["standard_error"] == pytest.approx(over_folds["deviation"] / 10**0.5)
    run(as_json=False)
    assert said[-1].startswith(
        f"listed pairs  accuracy {100 * over_folds['mean']:.1f} ± {100 * over_folds['standard_error']:.1f}  EER "
    )


def test_the_validation_part_and_other_data_sets_say_nothing_of_pairs(
    config: TrialConfig, tiny_config: TrialConfig
) -> None:
    for evaluation in (
        evaluate(config, None, part="validation").evaluation,
        evaluate(tiny_config, None, part="test").evaluation,
    ):
        assert "pairs" not in evaluation.model_dump()
        assert "pairs" not in json.loads(evaluation.model_dump_json())
        assert not any(name.startswith("pairs/") for name in evaluation.metrics())
        assert "listed pairs" not in evaluation_line(evaluation, "test")
