"""Joined data sets: what is kept apart, what is refused, and who is held out for validation."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from evaluations import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write_miniature
from strategies import quick
from trainings import changed

from trainer import fit
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import EvaluationConfig, TrialConfig
from trainer.data import READERS, DataConfig, Tracklet, read_splits
from trainer.data.checks import check_data
from trainer.data.dataset import DISTRACTOR, MEMBER, NO_CAMERA, fingerprint
from trainer.data.folder import data_record, find_data
from trainer.data.packing import pack_data_set
from trainer.data.readers.joined import FILE
from trainer.data.splits import ValidationConfig, applied_split, cut_validation
from trainer.data.synthetic.dataset import is_synthetic, write_outline
from trainer.errors import ConfigError, DataError
from trainer.evaluation.evaluate import Part, evaluate
from trainer.evaluation.retrieval import rank, retrieval_data
from trainer.evaluation.test_set import check_test_set
from trainer.result import Evaluation


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of MARS, PRID2011, tracklets of one's own, and two generated data sets."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("mars", "prid2011", "tracklets", "joined"):
        write_miniature(name, folder / name)
    for seed in (1, 2):
        write_outline(folder / f"drawn-{seed}", size="tiny", seed=seed)
    pack_data_set("joined", folder / "joined", folder / "packed")
    return folder


@pytest.fixture
def join(there: Path, tmp_path: Path) -> Callable[..., Path]:
    """Joins the data sets of these settings, in a folder beside none of them."""

    def write(**sets: object) -> Path:
        root = tmp_path / "joined"
        root.mkdir(exist_ok=True)
        (root / FILE).write_text(json.dumps({"sets": sets}).replace("THERE", str(there)))
        return root

    return write


def train_of(root: Path) -> tuple[Tracklet, ...]:
    return read_splits(DataConfig(name="joined", root=root)).train


MARS, PRID = {"root": "THERE/mars"}, {"root": "THERE/prid2011"}
OWN = {"root": "THERE/tracklets", "name": "tracklets"}

# What is read


def test_the_union_of_all_training_tracklets_is_read_and_no_test_part(join: Callable[..., Path], there: Path) -> None:
    splits = read_splits(DataConfig(name="joined", root=join(mars=MARS, prid=PRID, own=OWN)))
    members = [READERS[name](there / name).train for name in ("mars", "prid2011", "tracklets")]
    assert [tracklet.frames for tracklet in splits.train] == [t.frames for member in members for t in member]
    assert splits.query == splits.gallery == ()


def test_equal_numbers_in_two_data_sets_are_two_identities_and_two_cameras(join: Callable[..., Path]) -> None:
    train = train_of(join(mars=MARS, prid=PRID))
    assert sorted({str(tracklet.identity) for tracklet in train} & {"mars/1", "prid/1"}) == ["mars/1", "prid/1"]
    assert {str(tracklet.camera) for tracklet in train} == {"mars/1", "mars/2", "prid/1", "prid/2"}
    of_member = {(str(t.identity).partition("/")[0], t.identity // MEMBER, t.camera // MEMBER) for t in train}
    assert of_member == {("mars", 1, 1), ("prid", 2, 2)}


def test_names_of_ones_own_are_kept_behind_that_of_their_data_set(join: Callable[..., Path]) -> None:
    train = train_of(join(street=OWN, mars=MARS))
    assert {str(tracklet.camera) for tracklet in train} >= {"street/door", "street/yard 2"}
    assert "street/Bo, jr." in {str(tracklet.identity) for tracklet in train}


def test_the_partition_of_a_data_set_is_read(join: Callable[..., Path], there: Path) -> None:
    train = train_of(join(mars=MARS, prid=PRID | {"fold": 3}))
    numbers = {tracklet.identity % MEMBER for tracklet in train if tracklet.identity // MEMBER == 2}
    assert numbers == {tracklet.identity for tracklet in READERS["prid2011"](there / "prid2011", 3).train}


def test_unknown_cameras_stay_unknown_and_distractors_distractors(join: Callable[..., Path], there: Path) -> None:
    own = Path(shutil.copytree(there / "tracklets", join().parent / "own"))
    rows = [line.rsplit(",", 3) for line in (own / "tracklets.csv").read_text().splitlines()]
    (own / "tracklets.csv").write_text("".join(f"{name},{path},{part}\n" for name, _, path, part in rows))
    train = train_of(join(mars=MARS, own={"root": "../own"}))
    assert {tracklet.camera for tracklet in train if tracklet.identity // MEMBER == 2} == {NO_CAMERA}
    assert all(tracklet.camera != NO_CAMERA for tracklet in train if tracklet.identity // MEMBER == 1)
    assert all(tracklet.identity > DISTRACTOR for tracklet in train)


def test_a_packed_data_set_is_joined_as_its_files_are(join: Callable[..., Path], there: Path, tmp_path: Path) -> None:
    pack_data_set("mars", there / "mars", tmp_path / "mars-packed")
    packed = train_of(join(mars={"root": "../mars-packed"}, prid=PRID))
    assert fingerprint(packed) == fingerprint(train_of(join(mars=MARS, prid=PRID)))


def test_a_pack_of_joined_data_sets_has_the_same_names_and_is_cut_the_same(there: Path) -> None:
    files, packed = (find_data(there / name).read().train for name in ("joined", "packed"))
    assert [str(t.identity) for t in packed] == [str(t.identity) for t in files]
    config = ValidationConfig(share=0.4)
    assert cut_validation(packed, config) == cut_validation(files, config)


def test_generated_data_sets_stay_marked_as_such_joined_and_packed(
    join: Callable[..., Path], there: Path, tmp_path: Path
) -> None:
    root = join(one={"root": "THERE/drawn-1"}, two={"root": "THERE/drawn-2"})
    pack_data_set("joined", root, tmp_path / "pack")
    assert is_synthetic(root)
    assert is_synthetic(tmp_path / "pack")
    assert not is_synthetic(there / "joined")


def test_a_check_counts_the_identities_of_each_and_misses_no_test_part(there: Path, tmp_path: Path) -> None:
    found = check_data(there / "joined", manifest=tmp_path / "manifest.jsonl")
    assert found.problems == ()
    assert "identities by data set: mars 3, own 3;" in found.notes[0]


def test_a_check_sees_that_a_frame_of_a_data_set_has_changed(join: Callable[..., Path], there: Path) -> None:
    own = Path(shutil.copytree(there / "tracklets", join().parent / "own"))
    root = join(mars=MARS, own={"root": "../own"})
    assert check_data(root).problems == ()
    frame = next((own / "crops" / "001").iterdir())
    frame.write_bytes(frame.read_bytes() + b"\0")
    (problem,) = check_data(root).problems
    assert problem.startswith(f"{root}/../own/crops/001/{frame.name}: ")


# What is refused

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "one only": ({"mars": MARS}, "sets: needs at least 2 (has 1)"),
    "missing": ({"mars": MARS, "gone": {"root": "../gone"}}, "gone: {root}/../gone: no such folder"),
    "empty": ({"mars": MARS, "void": {"root": "../void"}}, "void: {root}/../void: looks like no data set"),
    "no training part": ({"mars": MARS, "rest": {"root": "../rest"}}, "rest: {root}/../rest: has no training tracklet"),
    "another partition": ({"a": PRID, "b": PRID | {"fold": 1}}, "b: {there}/prid2011: is the data set a once more"),
    "a copy of it": (
        {"mars": MARS, "copy": {"root": "../copy"}},
        "copy: {root}/../copy: is the data set mars once more",
    ),
    "a joined one": ({"mars": MARS, "more": {"root": "THERE/joined"}}, "more: {there}/joined: is joined itself"),
    "a packed joined one": ({"mars": MARS, "more": {"root": "THERE/packed"}}, "more: {there}/packed: is joined itself"),
    "itself": ({"mars": MARS, "self": {"root": "."}}, "self: {root}: is joined itself"),
    "another layout": ({"mars": MARS | {"name": "ls_vid"}, "prid": PRID}, "mars: {there}/mars/list_sequence"),
    "no such layout": (
        {"mars": MARS | {"name": "marz"}, "prid": PRID},
        "mars: name: marz cannot be joined - did you mean 'mars'?",
    ),
    "a plug-in": ({"mars": MARS, "zoo": {"root": ".", "name": "plugin:zoo"}}, "zoo: name: plugin:zoo cannot be joined"),
    "no such partition": (
        {"mars": MARS | {"fold": 1}, "prid": PRID},
        "mars: fold: 1, but the last partition of mars is 0",
    ),
    "unknown setting": ({"mars": MARS | {"path": "."}, "prid": PRID}, "sets.mars.path: unknown setting"),
    "no root": ({"mars": {}, "prid": PRID}, "sets.mars.root: is missing"),
    "NUL": ({"mars": {"root": "a\0"}, "prid": PRID}, "sets.mars.root: holds a NUL"),
    "a path as a name": ({"../mars": MARS, "prid": PRID}, "sets.../mars: must hold only letters"),
    "drawn beside real": ({"mars": MARS, "drawn": {"root": "THERE/drawn-1"}}, "drawn: {there}/drawn-1: drawn and real"),
}


@pytest.mark.parametrize(("sets", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_joined_is_one_line_with_file_and_data_set(
    join: Callable[..., Path], there: Path, tmp_path: Path, sets: dict[str, object], said: str
) -> None:
    (tmp_path / "void").mkdir()
    shutil.copytree(there / "mars" / "info", tmp_path / "copy" / "info")
    shutil.copytree(there / "tracklets", tmp_path / "rest")
    table = tmp_path / "rest" / "tracklets.csv"
    table.write_text("".join(line for line in table.open() if not line.endswith(",train\n")))
    root = join(**sets)
    with pytest.raises(DataError) as caught:
        train_of(root)
    message = str(caught.value)
    assert message.startswith(f"{root / FILE}: ")
    assert said.format(root=root, there=there) in message
    assert message.isprintable()


def test_every_fault_of_a_table_names_the_file_that_joins_it(
    join: Callable[..., Path], there: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(there / "tracklets", tmp_path / "own"))
    (own / "tracklets.csv").write_text("identity,camera,path\n,door,crops/001\n7,,crops/002\n")
    root = join(mars=MARS, own={"root": "../own"})
    with pytest.raises(DataError) as caught:
        train_of(root)
    assert [line.partition("row ")[0] for line in str(caught.value).splitlines()] == [
        f"{root / FILE}: own: {root}/../own/tracklets.csv: "
    ] * 2


def test_the_test_part_is_refused_before_anything_is_recorded(there: Path, tiny_config: TrialConfig) -> None:
    data = DataConfig(name="joined", root=there / "joined")
    config = tiny_config.model_copy(update={"data": data})
    for judge in (lambda: evaluate(config, None, part="test"), lambda: check_test_set(config)):
        with pytest.raises(DataError, match=r"have no test part; name one of them with --data DIR$"):
            judge()


def test_a_network_trained_on_several_is_judged_on_the_test_part_of_each(
    join: Callable[..., Path], there: Path, tmp_path: Path, tiny_config: TrialConfig
) -> None:
    root = join(one={"root": "THERE/drawn-1"}, two={"root": "THERE/drawn-2"})
    config = changed(tiny_config, data__name="joined", data__root=str(root), optim__epochs=1)
    fit(config, out=tmp_path / "run")
    trained = tmp_path / "run" / "checkpoint" / "last.pt"
    data = applied_split(train_of(root), cut_validation(train_of(root), config.data.validation))
    assert len(load_checkpoint(trained)["model"]["classifier.weight"]) == data.num_classes == 10
    for member in ("drawn-1", "drawn-2"):
        of_member = changed(config, data__name="mars", data__root=str(there / member))
        found = evaluate(of_member, trained, part="test").evaluation
        assert (found.trained_on, found.tested_on) == ("mini-joined", "mini-mars")
        assert found.queries + found.dropped_queries == len(READERS["mars"](there / member).query)


def judged(joined: Path, config: TrialConfig, there: Path, part: Part, fold: int) -> Evaluation:
    """PRID's partition, judged by a network that says that it was trained on the joined data set."""
    path = checkpoint(joined.parent / "joined.pt", config, classes=3)
    data = DataConfig(name="joined", root=joined)
    record = data_record(data, read_splits(data)).model_dump()
    state = load_checkpoint(path)
    state["config"]["data"] = data.model_dump(mode="json")
    save_checkpoint(path, {**state, "data": record})
    of_prid = {"data__name": "prid2011", "data__root": str(there / "prid2011"), "data__fold": fold}
    return evaluate(changed(config, **of_prid, evaluation__protocol="prid"), path, part=part).evaluation


@pytest.mark.parametrize("packed", [False, True])
def test_other_partitions_and_the_validation_part_of_what_was_joined_are_not_judged(
    join: Callable[..., Path], there: Path, tmp_path: Path, tiny_config: TrialConfig, packed: bool
) -> None:
    root = join(mars=MARS, prid=PRID | {"fold": 3})
    if packed:
        pack_data_set("joined", root, root := tmp_path / "pack")
    assert judged(root, tiny_config, there, "test", 3).queries == 4
    with pytest.raises(
        ConfigError, match=r"trained on partition 3 of prid2011, joined with others.*set data\.fold to 3$"
    ):
        judged(root, tiny_config, there, "test", 0)
    with pytest.raises(ConfigError, match="the identities of its validation part; judge its test part"):
        judged(root, tiny_config, there, "validation", 3)


# Validation


def crowd(*sizes: int) -> list[Tracklet]:
    """So many identities of each data set, each under two cameras."""
    return [
        Tracklet((f"{member}/{number}/{camera}",), member * MEMBER + number, member * MEMBER + camera)
        for member, size in enumerate(sizes, start=1)
        for number in range(1, size + 1)
        for camera in (1, 2)
    ]


@quick
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=4).filter(lambda sizes: sum(sizes) > 12),
    share=st.floats(0.1, 0.6),
    seed=st.integers(0, 99),
)
def test_each_data_set_is_held_out_in_proportion(sizes: list[int], share: float, seed: int) -> None:
    split = cut_validation(crowd(*sizes), ValidationConfig(share=share, seed=seed))
    held = Counter(identity // MEMBER for identity in split.identities)
    assert len(split.identities) == max(2, round(share * sum(sizes)))
    for member, size in enumerate(sizes, start=1):
        assert abs(held[member] - size * len(split.identities) / sum(sizes)) < 1


@quick
@given(sizes=st.lists(st.integers(8, 30), min_size=2, max_size=3), folds=st.integers(2, 8))
def test_folds_hold_out_each_identity_once_and_each_data_set_alike(sizes: list[int], folds: int) -> None:
    train = crowd(*sizes)
    splits = [cut_validation(train, ValidationConfig(folds=folds, fold=fold)) for fold in range(folds)]
    assert sorted(identity for split in splits for identity in split.identities) == sorted({t.identity for t in train})
    for member, size in enumerate(sizes, start=1):
        held = [sum(identity // MEMBER == member for identity in split.identities) for split in splits]
        assert {*held} <= {size // folds, -(-size // folds)}


def test_another_seed_holds_out_others(there: Path) -> None:
    one, other = (cut_validation(crowd(30, 30), ValidationConfig(share=0.2, seed=seed)) for seed in (1, 2))
    assert one.identities != other.identities


def test_a_query_matches_its_own_data_set_only_and_others_are_in_its_gallery(join: Callable[..., Path]) -> None:
    train = train_of(join(mars=MARS, prid=PRID, own=OWN))
    data = applied_split(train, cut_validation(train, ValidationConfig(share=0.7, distractors=1)))
    assert len({query.identity // MEMBER for query in data.query}) == 3
    for query in data.query:
        matches = [found for found in data.gallery if found.identity == query.identity]
        assert matches
        assert {found.identity // MEMBER for found in matches} == {query.identity // MEMBER}
        assert len({found.identity // MEMBER for found in data.gallery}) == 3


def test_a_query_leaves_out_its_own_camera_beside_a_data_set_that_has_none() -> None:
    first, second = MEMBER + 1, 2 * MEMBER + 1
    query = [Tracklet(("a",), first, first), Tracklet(("b",), second, NO_CAMERA)]
    gallery = [Tracklet(("c",), first, first), Tracklet(("d",), first, first + 1), Tracklet(("e",), second, NO_CAMERA)]
    # Counted, the tracklet of the own camera, which is farthest, would halve the precision of the first query.
    embeddings = torch.tensor([[1.0, 0], [0, 1], [-1, 0.1], [1, 0.1], [0.1, 1]])
    data = retrieval_data(embeddings, query, gallery, EvaluationConfig())
    assert data.protocol == "no_camera"
    assert rank(data).mean_ap == 1
