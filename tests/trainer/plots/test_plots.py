"""Pictures: what stands where, marks of synthetic data, and files that are whole or not there."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import DataConfig, read_splits
from trainer.data.dataset import NamedNumber, Splits, Tracklet
from trainer.data.frames import pixels_address, read_frame
from trainer.errors import DataError
from trainer.evaluation.verification import verify
from trainer.plots import canvas, charts
from trainer.plots.sheets import (
    AttendedClip,
    RankedItem,
    RankedQuery,
    Verdict,
    attention_strip,
    contact_sheet,
    ranking_sheet,
)
from trainer.result import VerificationMetrics

Draw = Callable[..., None]


@pytest.fixture(scope="module")
def splits(mini_mars: Path) -> Splits:
    return read_splits(DataConfig(root=mini_mars))


def ranked(splits: Splits, verdicts: list[Verdict], missed: int = 0) -> RankedQuery:
    gallery = splits.gallery
    items = [RankedItem(gallery[place], place + 1, 0.1 * place, verdict) for place, verdict in enumerate(verdicts)]
    others = [RankedItem(gallery[place], 20 + place, 0.9, "match") for place in range(missed)]
    return RankedQuery(splits.query[0], 0.5, tuple(items), tuple(others))


def clip(splits: Splits, weights: list[float]) -> AttendedClip:
    return AttendedClip(splits.train[0], range(len(weights)), torch.tensor(weights))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


def share(path: Path, colour: tuple[int, int, int]) -> float:
    """Of the picture's pixels, those of exactly this colour."""
    return float((pixels(path) == colour).all(2).mean())


def roc_of(near: np.ndarray, far: np.ndarray) -> tuple[list[tuple[float, float]], VerificationMetrics]:
    found = verify(near, far)
    return found.roc, found.metrics


def every_picture(splits: Splits) -> dict[str, Draw]:
    """Each kind, to be drawn with (out, synthetic=)."""
    values, cameras = np.array([[math.nan, 0.5], [1.0, math.nan]]), [1, 2]
    counts = np.array([[0, 3], [4, 0]])
    deltas = np.array([0.3, 0.0, -0.1, math.nan])
    near, far = np.linspace(0, 0.5, 90), np.linspace(0.3, 1, 200)
    return {
        "contact": lambda out, **mark: contact_sheet(splits.train[:3], out, title="three", **mark),
        "ranking": lambda out, **mark: ranking_sheet([ranked(splits, ["match", "wrong"], 1)], out, **mark),
        "attention": lambda out, **mark: attention_strip([clip(splits, [0.7, 0.3])], out, **mark),
        "cmc": lambda out, **mark: charts.cmc_curve({"plain": [0.5, 0.9, 1.0]}, out, **mark),
        "distances": lambda out, **mark: charts.distance_histogram(near, far, out, nearer=0.9, margin=0.3, **mark),
        "roc": lambda out, **mark: charts.roc_curve(*roc_of(near, far), out, **mark),
        "cameras": lambda out, **mark: charts.camera_matrix(values, cameras, out, queries=counts, **mark),
        "deltas": lambda out, **mark: charts.average_precision_deltas(deltas, (-0.1, 0.2), out, **mark),
    }


KINDS = ("contact", "ranking", "attention", "cmc", "distances", "roc", "cameras", "deltas")
every_kind = pytest.mark.parametrize("kind", KINDS)


# --- all pictures


@every_kind
def test_pictures_of_synthetic_data_say_so_at_the_top_and_others_do_not(
    splits: Splits, tmp_path: Path, kind: str
) -> None:
    draw = every_picture(splits)[kind]
    for synthetic in (True, False):
        draw(tmp_path / "a.png", synthetic=synthetic)
        top = pixels(tmp_path / "a.png")[3]
        assert (np.abs(top.astype(int) - canvas.WARNING).max(1) <= 1).mean() == (1 if synthetic else 0)


@every_kind
def test_the_same_picture_has_the_same_bytes_and_replaces_what_was_there(
    splits: Splits, tmp_path: Path, kind: str
) -> None:
    draw = every_picture(splits)[kind]
    first, second = tmp_path / "new" / "folder" / "a.png", tmp_path / "b.png"
    second.write_text("old")
    draw(first, synthetic=True)
    draw(second, synthetic=True)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["a.png"]


@every_kind
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(
    splits: Splits, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="taken: cannot be written") as caught:
        every_picture(splits)[kind](tmp_path / "taken", synthetic=True)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_drawing_needs_neither_a_display_nor_the_global_state_of_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, trainer.plots.charts as charts, trainer.plots.sheets, pathlib\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"charts.cmc_curve({{'a': [1.0]}}, pathlib.Path({str(tmp_path / 'a.png')!r}), synthetic=False)\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"MPLBACKEND": "TkAgg"})


# --- sheets


def test_contact_sheet_shows_the_frames_that_it_names(splits: Splits, tmp_path: Path) -> None:
    contact_sheet(splits.train[:1], tmp_path / "a.png", frames=3, synthetic=False)
    found, frames = pixels(tmp_path / "a.png"), splits.train[0].frames
    for column, index in enumerate((0, round((len(frames) - 1) / 2), len(frames) - 1)):
        left = canvas.MARGIN + 104 + column * 66
        shown = found[canvas.MARGIN : canvas.MARGIN + 128, left : left + 64]
        np.testing.assert_array_equal(shown, read_frame(frames[index], 128, 64))


def test_names_are_drawn_in_place_of_numbers_and_cut_off_where_they_are_too_long(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(canvas.Canvas, "lines", lambda self, place, lines, **_: drawn.extend(lines))
    identity, camera = NamedNumber(1, "Ada"), NamedNumber(2, "door of the yard behind the house")
    named = splits.train[0]._replace(identity=identity, camera=camera)
    item = RankedItem(named, 1, 0.25, "match")
    ranking_sheet([RankedQuery(named, 0.5, (item,), ())], tmp_path / "a.png", synthetic=False)
    assert drawn[0] == "Ada"
    assert drawn[1].startswith("camera door")
    assert drawn[1].endswith("…")
    assert canvas.text_width(drawn[1]) <= 94
    assert drawn[4].endswith("…  0.250")


def test_many_tracklets_stand_in_two_columns(splits: Splits, tmp_path: Path) -> None:
    sizes = []
    for count in (6, 12):
        contact_sheet(splits.train[:count], tmp_path / "a.png", synthetic=False)
        sizes.append(pixels(tmp_path / "a.png").shape[:2])
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] > 1.8 * sizes[0][1]


def test_a_tracklet_shorter_than_the_row_shows_each_frame_once(splits: Splits, tmp_path: Path) -> None:
    short = splits.train[0]._replace(frames=splits.train[0].frames[:1])
    contact_sheet([short], tmp_path / "a.png", frames=8, synthetic=False)
    assert (pixels(tmp_path / "a.png")[canvas.MARGIN : canvas.MARGIN + 128, canvas.MARGIN + 104 + 66 :] == 255).all()


def test_strips_are_framed_by_what_they_are(splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    before: dict[str, float] = {}
    rows = {
        "nothing": ranked(splits, []),
        "match": ranked(splits, ["match"]),
        "wrong": ranked(splits, ["wrong"]),
        "distractor": ranked(splits, ["distractor"]),
        "missed": ranked(splits, [], 1),
    }
    for name, row in rows.items():
        ranking_sheet([row], out, synthetic=False)
        colours = {"query": canvas.BLUE, "match": canvas.GREEN, "wrong": canvas.RED, "missed": canvas.GREY}
        found = {kind: share(out, colour) for kind, colour in colours.items()}
        before = before or found
        expected = {"nothing": None, "distractor": "wrong"}.get(name, name)
        assert {kind for kind in found if found[kind] > 1.5 * before[kind]} == ({expected} - {None})


def test_missed_matches_that_find_no_place_are_counted_beside_the_others(splits: Splits, tmp_path: Path) -> None:
    widths = []
    for missed in (3, 4, 9):
        ranking_sheet([ranked(splits, ["wrong"] * 10, missed)], tmp_path / "a.png", synthetic=False)
        widths.append(pixels(tmp_path / "a.png").shape[1])
    assert widths[0] < widths[1] == widths[2]


def test_bars_of_uniform_weights_end_at_the_line(splits: Splits, tmp_path: Path) -> None:
    attention_strip([clip(splits, [0.25] * 4)], tmp_path / "a.png", synthetic=False)
    picture = pixels(tmp_path / "a.png")
    left = canvas.MARGIN + 104
    bars = np.flatnonzero((picture[:, left + 32] == canvas.BLUE).all(1))
    line = np.flatnonzero((picture[:, left + 2] == canvas.RED).all(1))
    assert len(line) == 1
    assert abs(int(bars.min()) - int(line[0])) <= 1


def test_bars_are_as_high_as_weights(splits: Splits, tmp_path: Path) -> None:
    attention_strip([clip(splits, [0.6, 0.3, 0.1])], tmp_path / "a.png", synthetic=False)
    picture = pixels(tmp_path / "a.png")
    columns = [canvas.MARGIN + 104 + number * 66 + 32 for number in range(3)]
    heights = [int((picture[:, column] == canvas.BLUE).all(1).sum()) for column in columns]
    assert heights[0] > heights[1] > heights[2] > 0
    assert heights[0] == pytest.approx(2 * heights[1], abs=3)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], []])
def test_weights_that_are_no_shares_are_refused(splits: Splits, tmp_path: Path, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        attention_strip([clip(splits, weights)], tmp_path / "a.png", synthetic=False)


def damaged(tracklet: Tracklet, folder: Path, *places: int) -> Tracklet:
    """The tracklet with some frames cut short."""
    frames = list(tracklet.frames)
    for place in places:
        frames[place] = str(folder / f"{place}.jpg")
        Path(frames[place]).write_bytes(Path(tracklet.frames[place]).read_bytes()[:300])
    return tracklet._replace(frames=tuple(frames))


def test_a_damaged_frame_is_marked_and_the_nearest_stands_in_its_place(splits: Splits, tmp_path: Path) -> None:
    tracklet = splits.train[0]
    out = tmp_path / "a.png"
    contact_sheet([damaged(tracklet, tmp_path, 1)], out, frames=len(tracklet.frames), synthetic=False)
    left = canvas.MARGIN + 104 + 66
    shown = pixels(out)[canvas.MARGIN : canvas.MARGIN + 128, left : left + 64]
    np.testing.assert_array_equal(shown, read_frame(tracklet.frames[0], 128, 64))
    assert share(out, canvas.RED) > 0


def test_a_missing_frame_and_a_tracklet_of_damaged_ones_are_refused_without_a_picture(
    splits: Splits, tmp_path: Path
) -> None:
    gone = splits.train[0]._replace(frames=(str(tmp_path / "gone.jpg"),))
    broken = damaged(splits.train[0], tmp_path, *range(len(splits.train[0].frames)))
    for tracklet in (gone, broken):
        with pytest.raises(DataError) as caught:
            contact_sheet([tracklet], tmp_path / "a.png", synthetic=False)
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "a.png").exists()


def test_packed_pixels_are_shown_whatever_their_size(splits: Splits, tmp_path: Path) -> None:
    packed = [read_frame(frame, 96, 48) for frame in splits.train[0].frames]
    pack = tmp_path / "frames-000.pack"
    pack.write_bytes(b"".join(frame.tobytes() for frame in packed))
    addresses = [pixels_address(str(pack), place * 96 * 48 * 3, (96, 48), "0.jpg") for place in range(len(packed))]
    tracklet = splits.train[0]._replace(frames=tuple(addresses))
    out = tmp_path / "a.png"
    ranking_sheet([ranked(splits, ["match"])._replace(query=tracklet)], out, synthetic=False)
    small = pixels(out)
    contact_sheet([tracklet], out, synthetic=False)
    left, top = canvas.MARGIN + 104 + 3, canvas.MARGIN + canvas.LARGE + 20 + 18
    np.testing.assert_array_equal(small[top : top + 96, left : left + 48], packed[0])


@pytest.mark.parametrize("draw", [contact_sheet, ranking_sheet, attention_strip])
def test_a_sheet_of_nothing_is_refused(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([], tmp_path / "a.png", synthetic=False)


def test_a_sheet_that_no_viewer_opens_is_refused_before_a_frame_is_read(tmp_path: Path) -> None:
    tracklets = [Tracklet((str(tmp_path / "gone.jpg"),), 1, 1)] * 20_000
    with pytest.raises(ValueError, match="draw fewer rows"):
        contact_sheet(tracklets, tmp_path / "a.png", synthetic=False)


# --- charts


@pytest.mark.parametrize("ranks", [1, 3, 50])
def test_cmc_of_any_length_and_of_many_runs_is_drawn(tmp_path: Path, ranks: int) -> None:
    curves = {f"run {number}": np.linspace(0.5, 1, ranks).tolist() for number in range(8)}
    charts.cmc_curve(curves, tmp_path / "a.png", synthetic=False)
    assert pixels(tmp_path / "a.png").shape[1] == 864


@pytest.mark.parametrize("curves", [{}, {"empty": []}])
def test_cmc_of_nothing_is_refused(tmp_path: Path, curves: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.cmc_curve(curves, tmp_path / "a.png", synthetic=False)


def test_equal_distances_are_drawn_and_missing_ones_refused(tmp_path: Path) -> None:
    same, none = np.full(5, 0.5), np.zeros(0)
    charts.distance_histogram(same, same, tmp_path / "a.png", nearer=0.5, margin=None, synthetic=False)
    with pytest.raises(ValueError, match="no pairs"):
        charts.distance_histogram(same, none, tmp_path / "a.png", nearer=0.5, margin=None, synthetic=False)


@pytest.mark.parametrize("others", [1, 200])
def test_a_roc_curve_is_drawn_of_any_pairs_and_refused_without_points(tmp_path: Path, others: int) -> None:
    points, metrics = roc_of(np.array([0.1, 0.5]), np.linspace(0.3, 1, others))
    charts.roc_curve(points, metrics, tmp_path / "a.png", synthetic=False)
    with pytest.raises(ValueError, match="no points"):
        charts.roc_curve([], metrics, tmp_path / "a.png", synthetic=False)


def test_a_matrix_without_any_match_is_drawn_and_one_of_another_size_refused(tmp_path: Path) -> None:
    charts.camera_matrix(np.full((2, 2), math.nan), [1, 2], tmp_path / "a.png", synthetic=False)
    with pytest.raises(ValueError, match="2 cameras need"):
        charts.camera_matrix(np.zeros((3, 3)), [1, 2], tmp_path / "a.png", synthetic=False)


def test_deltas_that_are_all_zero_are_drawn_and_none_refused(tmp_path: Path) -> None:
    charts.average_precision_deltas(np.zeros(4), (0, 0), tmp_path / "a.png", synthetic=False)
    with pytest.raises(ValueError, match="no query"):
        charts.average_precision_deltas(np.array([math.nan]), (0, 0), tmp_path / "a.png", synthetic=False)
