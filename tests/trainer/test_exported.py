"""An exported network used from its folder alone: embeddings and matches, by torch and by ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import write_table
from PIL import Image
from pyarrow import parquet

from orchestrator.__main__ import run
from trainer.checkpoint import save_checkpoint
from trainer.config import TrialConfig
from trainer.export import FORMATS, TOLERATED_DIFFERENCE, export_network
from trainer.exported import THRESHOLD_FILE, Runtime, match, open_exported, read_source
from trainer.model.network import TemporalAttentionResNet

COLOURS = {"ann": (200, 30, 30), "bob": (30, 200, 30), "cleo": (30, 30, 200)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in all formats; the folder of its training is gone."""
    made = tmp_path_factory.mktemp("training")
    settings = {
        "clips": {"frames": 2},
        "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
        "compute": {"channels_last": True},
    }
    config = TrialConfig.model_validate(settings)
    torch.manual_seed(0)
    model = TemporalAttentionResNet(config.model, 3)
    model(torch.randn(8, 2, 3, 32, 16))
    state = {"config": config.model_dump(mode="json"), "epoch": 1, "model": model.state_dict()}
    save_checkpoint(made / "best.pt", state)
    out = tmp_path_factory.mktemp("exported")
    for to in FORMATS:
        export_network(made / "best.pt", out, to)
    shutil.rmtree(made)
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export."""
    shutil.copytree(exported, tmp_path / "exported")
    return tmp_path / "exported"


def draw(tracklet: Path, name: str, seed: int) -> None:
    """Five frames of one colour with noise."""
    tracklet.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    for frame in range(5):
        pixels = np.clip(np.array(COLOURS[name]) + draws.normal(0, 12, (32, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tracklet / f"{frame:03d}.png")


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Three identities by two cameras: identity/camera/tracklet/frames."""
    for seed, (name, camera) in enumerate((name, camera) for name in COLOURS for camera in ("door", "yard")):
        draw(tmp_path / "gallery" / name / camera / "t1", name, seed)
    return tmp_path / "gallery"


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """Two tracklets of nobody knows whom: tracklet/frames."""
    draw(tmp_path / "queries" / "track 7", "bob", 70)
    draw(tmp_path / "queries" / "track 8", "cleo", 80)
    return tmp_path / "queries"


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_query_finds_its_identity_first(exported: Path, queries: Path, gallery: Path, runtime: Runtime) -> None:
    found = match(open_exported(exported, runtime), queries, gallery, top=2)
    assert [each.query.name for each in found] == ["track 7", "track 8"]
    assert [[one.tracklet.identity for one in each.found] for each in found] == [["bob"] * 2, ["cleo"] * 2]
    assert all(one.same is None for each in found for one in each.found)


def test_onnx_runtime_and_both_files_of_weights_give_the_same_embeddings(folder: Path, gallery: Path) -> None:
    tracklets = [each.tracklet for each in read_source(gallery)]
    by_torch = open_exported(folder).embed(tracklets, lambda *_: None)
    by_onnx = open_exported(folder, "onnx").embed(tracklets, lambda *_: None)
    (folder / "model.pt").unlink()
    by_safetensors = open_exported(folder).embed(tracklets, lambda *_: None)
    assert torch.equal(by_torch, by_safetensors)
    assert float((by_torch - by_onnx).abs().max() / by_torch.abs().max()) <= TOLERATED_DIFFERENCE


def test_a_tracklet_is_not_found_by_itself(exported: Path, gallery: Path) -> None:
    for each in match(open_exported(exported), gallery, gallery, top=9):
        names = [one.tracklet.name for one in each.found]
        assert len(names) == 5
        assert each.query.name not in names
        assert each.found[0].tracklet.identity == each.query.identity


def test_with_a_threshold_in_the_folder_matches_are_marked_same_or_not(
    folder: Path, queries: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    within = match(open_exported(folder), queries, gallery, top=6)[0].found[1].distance
    (folder / THRESHOLD_FILE).write_text(json.dumps({"distance": within, "false_positive_rate": 0.01}))
    found = match(open_exported(folder), queries, gallery, top=6)[0].found
    assert [one.same for one in found] == [True, True, False, False, False, False]
    assert run(["match", str(folder), str(queries), str(gallery)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "same" in lines[1]
    assert "not" in lines[6]


def test_match_writes_the_ranked_lists_and_a_sheet(
    exported: Path, queries: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "match.json", tmp_path / "match.png"
    arguments = [str(exported), str(queries), str(gallery), "--top", "3", "--out", str(out), "--sheet", str(sheet)]
    assert run(["match", *arguments, "--json"]) == 0
    document = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == document
    assert (document["distance"], document["threshold"]) == ("cosine", None)
    first = document["queries"][0]
    assert (first["tracklet"], first["identity"], first["camera"]) == ("track 7", None, None)
    assert [one["rank"] for one in first["found"]] == [1, 2, 3]
    assert first["found"][0]["identity"] == "bob"
    assert first["found"][0]["camera"] in ("door", "yard")
    with Image.open(sheet) as image:
        assert image.height > 200


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed_writes_a_row_for_each_tracklet_of_a_folder(
    exported: Path, gallery: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"embeddings{suffix}"
    assert run(["embed", str(exported), str(gallery), "--out", str(out)]) == 0
    if suffix == ".npz":
        with np.load(out) as arrays:
            columns = {name: arrays[name].tolist() for name in arrays.files}
    else:
        columns = parquet.read_table(out).to_pydict()
    assert columns["identity"] == ["ann", "ann", "bob", "bob", "cleo", "cleo"]
    assert columns["camera"] == ["door", "yard"] * 3
    assert columns["tracklet"][0] == "ann/door/t1"
    assert columns["frames"] == [5] * 6
    expected = open_exported(exported).embed([each.tracklet for each in read_source(gallery)], lambda *_: None)
    np.testing.assert_array_equal(np.array(columns["embedding"], dtype=np.float32), expected.numpy())


def test_embed_names_the_parts_of_a_data_set_and_match_takes_query_and_gallery(
    exported: Path, mini_mars: Path, tmp_path: Path
) -> None:
    everything = read_source(mini_mars)
    assert {each.part for each in everything} == {"train", "query", "gallery"}
    assert {each.part for each in read_source(mini_mars, "query")} == {"query"}
    assert {each.part for each in read_source(mini_mars, "gallery")} == {"gallery"}


@pytest.mark.parametrize(
    ("damage", "arguments", "what"),
    [
        ("config.json", [], "is no folder that `reidsearch export` wrote, it holds no config.json"),
        ("model.pt model.safetensors", [], "holds neither model.pt nor model.safetensors"),
        ("model.onnx", ["--runtime", "onnx"], "model.onnx: is missing; use --runtime torch"),
        ("", ["--out", "embeddings.csv"], "embeddings.csv: embeddings are written to a file that ends with .parquet"),
    ],
)
def test_what_is_missing_or_not_possible_is_one_line_and_exit_3(
    folder: Path,
    gallery: Path,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    arguments: list[str],
    what: str,
) -> None:
    for name in damage.split():
        (folder / name).unlink()
    assert run(["embed", str(folder), str(gallery), "--out", "embeddings.npz", *arguments]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line


@pytest.mark.parametrize("name", ["config.json", "threshold.json", "model.pt", "model.onnx"])
def test_a_damaged_file_of_the_export_is_one_line_and_exit_3(
    folder: Path, gallery: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / name).write_bytes(b"{damaged")
    runtime = "onnx" if name == "model.onnx" else "torch"
    arguments = [str(folder), str(gallery), "--out", "embeddings.npz", "--runtime", runtime]
    assert run(["embed", *arguments]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line


def test_a_folder_without_tracklets_is_one_line_and_exit_3(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["embed", str(exported), str(tmp_path / "empty"), "--out", "embeddings.npz"]) == 3
    assert run(["embed", str(exported), str(tmp_path / "gone"), "--out", "embeddings.npz"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "empty" in lines[0]
    assert "gone: no such folder" in lines[-1]


@pytest.mark.parametrize("place", ["exported/config.json", "gallery/bob/door/t1/000.png", "gallery/tracklets.parquet"])
def test_what_is_read_is_never_written_over(
    exported: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    shutil.copytree(exported, tmp_path / "exported")
    out = str(tmp_path / place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sources = [str(tmp_path / "exported"), str(gallery)]
    assert run(["match", *sources, str(gallery), "--out", out]) == 3
    assert run(["match", *sources, str(gallery), "--sheet", str(Path(out).with_suffix(".png"))]) == 3
    assert run(["embed", *sources, "--out", out]) == 3
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().err.count("which is read") == 3


def test_a_picture_that_is_no_png_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("match a b c --sheet x.gif", "compare a b --sheet x", "data preview a --out x.jpg"):
        assert run(command.split()) == 2
        assert "does not end with .png; pictures are PNG files" in capsys.readouterr().err


def test_tracklets_of_a_table_are_told_apart_by_their_folders(gallery: Path) -> None:
    rows = [
        {"identity": name, "camera": camera, "path": f"{name}/{camera}/t1"}
        for name in COLOURS
        for camera in ("door", "yard")
    ]
    write_table(gallery / "tracklets.csv", rows)
    names = [each.name for each in read_source(gallery)]
    assert sorted(names) == sorted(f"{row['path']}/000.png" for row in rows)
