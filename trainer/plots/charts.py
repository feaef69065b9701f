"""Charts of metrics, drawn by matplotlib without a display and without its global state.

K ranks, C cameras, Q queries.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64, Int

from trainer.plots.files import PNG_LEVEL, SYNTHETIC, picture_file
from trainer.result import VerificationMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib takes 0.3 seconds to import and is wanted rarely: functions import it when they draw.

DOTS = 120  # per inch
INK, FAINT, WARNING = "#282828", "#787878", "#a84200"
BLUE, GREEN, RED, GREY = "#1f5eb2", "#006e42", "#e4543a", "#969696"
CURVES = (BLUE, RED, GREEN, "#8a5bb8", "#b07d00", "#3aa0b0")
NAMED_RANKS = (1, 5, 10, 20)
BINS = range(8, 81)  # of a histogram; the square root of the number of pairs in between
LEAST_RATE = 1e-4  # the smallest false positive rate of the axis
CHOSEN_RATE = "TPR@FPR=1e-2"  # of the threshold that is chosen
MANY_CAMERAS = 8  # beyond, cells of the matrix are too small for the number of queries


def cmc_curve(curves: Mapping[str, Sequence[float]], out: Path, *, title: str = "", synthetic: bool) -> None:
    """Draws shares of queries with a match among the first 1 .. K, a curve per name, with its values at some ranks.

    Raises:
        ValueError: there is no curve, or one without ranks.
        DataError: the picture cannot be written.
    """
    if not curves or not all(len(curve) for curve in curves.values()):
        raise ValueError("there is nothing to draw: no curve, or one without ranks")
    figure, axes = _figure(title or "Cumulative matching characteristic", synthetic)
    for number, (name, curve) in enumerate(curves.items()):
        shares = 100 * np.asarray(curve, dtype=np.float64)
        values = ", ".join(f"R{rank} {shares[rank - 1]:.1f}" for rank in NAMED_RANKS if rank <= len(shares))
        axes.plot(
            np.arange(1, len(shares) + 1),
            shares,
            color=CURVES[number % len(CURVES)],
            linestyle=("-", "--", ":")[number // len(CURVES) % 3],
            marker="o" if len(shares) <= 20 else None,
            label=f"{name}   {values}",
        )
    longest = max(len(curve) for curve in curves.values())
    axes.set_xticks(
        [rank for rank in (*range(1, 5 if longest < 10 else 2), 5, 10, 15, 20, 30, 40, 50) if rank <= longest]
    )
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_ylim(top=100 + 0.03 * (100 - axes.get_ylim()[0]))  # a marker at 100 is whole
    axes.set_xlabel("rank: the match is among this many nearest tracklets")
    axes.set_ylabel("queries, %")
    axes.grid(color="#e6e6e6")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, out)


def distance_histogram(
    matching: Float[np.ndarray, " matching"],
    others: Float[np.ndarray, " others"],
    out: Path,
    *,
    nearer: float,
    margin: float | None,
    synthetic: bool,
) -> None:
    """Draws how far apart matching and other pairs are, and how often a matching pair is nearer than another.

    `nearer` is that share, see `trainer.evaluation.verification.share_nearer`. `margin`, if it is one of the same
    distance, is drawn from the median of the matching pairs.

    Raises:
        ValueError: there are no pairs of a kind.
        DataError: the picture cannot be written.
    """
    if not len(matching) or not len(others):
        raise ValueError("there is nothing to draw: no pairs of a kind")
    figure, axes = _figure("Distances of matching pairs and of others", synthetic)
    fewest = math.isqrt(min(len(matching), len(others)))
    edges = np.histogram_bin_edges(np.concatenate([matching, others]), sorted((BINS[0], fewest, BINS[-1]))[1])
    top = 0.0
    for name, values, colour in (
        ("same identity, other camera", matching, GREEN),
        ("different identities", others, RED),
    ):
        shares = np.histogram(values, edges)[0] / len(values)
        top = max(top, 100 * float(shares.max()))
        median = float(np.median(values))
        axes.stairs(100 * shares, edges, fill=True, color=colour, alpha=0.35)
        label = f"{name}: {len(values):,} pairs, median {median:.3f}"
        axes.stairs(100 * shares, edges, color=colour, linewidth=1.5, label=label)
        axes.vlines(median, 0, 100 * shares.max(), color=colour, linewidth=1.5, linestyle="--")
    axes.set_ylim(0, 1.4 * top)
    if margin is not None:
        _draw_margin(axes, float(np.median(matching)), margin, 1.06 * top)
    compared = f"the matching pair is nearer in {100 * nearer:.1f} % of comparisons"
    axes.set_xlabel(f"distance (dashed: medians); {compared}")
    axes.set_ylabel("share of the pairs, %")
    axes.legend(loc="upper left", frameon=False)
    _save(figure, out)


def roc_curve(
    points: Sequence[tuple[float, float]], metrics: VerificationMetrics, out: Path, *, title: str = "", synthetic: bool
) -> None:
    """Draws the true positive rate over the false positive rate on a logarithmic axis from 1e-4 to 1.

    The equal error rate and the chosen threshold are marked. Rates below one in the pairs of different identities are
    not measurable and greyed.

    Args:
        points: false and true positive rates, ascending, as `trainer.evaluation.verification.Verification.roc`.
        metrics: of the same pairs.
        out: the file.
        title: above the chart.
        synthetic: whether the people in it are drawn.

    Raises:
        ValueError: there are no points.
        DataError: the picture cannot be written.
    """
    if not points:
        raise ValueError("there is nothing to draw: no points of the ROC curve")
    figure, axes = _figure(title or "Same identity or not", synthetic)
    rates = np.asarray(points, dtype=np.float64)
    measurable = 1 / metrics.other_pairs
    axes.step(np.maximum(rates[:, 0], LEAST_RATE / 10), 100 * rates[:, 1], where="post", color=BLUE, linewidth=1.5)
    chance = np.geomspace(LEAST_RATE, 1, 200)
    axes.plot(chance, 100 * chance, color=GREY, linestyle=":", label="chance")
    if measurable > LEAST_RATE:
        note = f"not measurable with {metrics.other_pairs:,} pairs of different identities"
        axes.axvspan(LEAST_RATE, measurable, color="#dcdcdc", zorder=0, label=note)
    marked = [(f"equal error rate {100 * metrics.EER:.1f} %", metrics.EER, 1 - metrics.EER, "o", RED)]
    if (chosen := metrics.threshold) is not None and (accepted := metrics.TPR[CHOSEN_RATE]) is not None:
        name = (
            f"threshold {chosen.distance:.4g}: FPR {100 * chosen.false_positive_rate:.2g} %, TPR {100 * accepted:.1f} %"
        )
        marked.append((name, chosen.false_positive_rate, accepted, "D", GREEN))
    for name, false_positives, true_positives, marker, colour in marked:
        place = max(false_positives, LEAST_RATE), 100 * true_positives
        axes.plot(*place, marker, color=colour, label=name, clip_on=False, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(LEAST_RATE, 1)
    axes.set_ylim(0, 103)  # a marker at 100 is whole
    axes.set_xlabel("false positive rate: pairs of different identities that are accepted")
    axes.set_ylabel("true positive rate, %")
    axes.grid(color="#e6e6e6")
    axes.legend(loc="best", facecolor="white", edgecolor="white", framealpha=1)
    _save(figure, out)


def camera_matrix(
    values: Float64[np.ndarray, "C C"],
    cameras: Sequence[int],
    out: Path,
    *,
    queries: Int[np.ndarray, "C C"] | None = None,
    synthetic: bool,
) -> None:
    """Draws mAP by camera of the query (rows) and of the gallery (columns); NaN is left empty.

    `queries`, how many there are, stand below the values where there are at most 8 cameras.

    Raises:
        ValueError: the matrix has not a row and a column for each camera.
        DataError: the picture cannot be written.
    """
    count = len(cameras)
    if not count or values.shape != (count, count):
        raise ValueError(f"{count} cameras need a matrix of {count} x {count} (is {values.shape})")
    side = 2.6 + 0.5 * count
    figure, axes = _figure("mAP by pair of cameras, %", synthetic, size=(max(side + 1, 5), side))
    image = axes.imshow(100 * values, cmap="viridis", vmin=0, vmax=100)
    for row, column in np.ndindex(values.shape):
        _write_cell(axes, row, column, values, queries if count <= MANY_CAMERAS else None)
    axes.set_xticks(range(count), [str(camera) for camera in cameras])
    axes.set_yticks(range(count), [str(camera) for camera in cameras])
    axes.set_xlabel("camera of the gallery")
    axes.set_ylabel("camera of the query")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8).outline.set_visible(False)
    _save(figure, out)


def average_precision_deltas(
    deltas: Float64[np.ndarray, " Q"], interval: tuple[float, float], out: Path, *, synthetic: bool
) -> None:
    """Draws the change of each query's average precision, largest gain first, and their mean with its interval.

    Queries whose delta is NaN are left out.

    Raises:
        ValueError: no query is left.
        DataError: the picture cannot be written.
    """
    ordered = 100 * np.sort(deltas[~np.isnan(deltas)])[::-1]
    if not len(ordered):
        raise ValueError("there is nothing to draw: no query is in both evaluations")
    mean, (low, high) = float(ordered.mean()), (100 * interval[0], 100 * interval[1])
    figure, axes = _figure(f"mAP {mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})", synthetic)
    edges = np.arange(len(ordered) + 1)
    for name, colour, part in (("better", GREEN, ordered > 0), ("worse", RED, ordered < 0)):
        label = f"{int(part.sum())} {name}"
        axes.stairs(np.where(part, ordered, 0), edges, fill=True, color=colour, label=label)
    axes.plot([], [], " ", label=f"{int((ordered == 0).sum())} equal")
    axes.axhspan(low, high, color=BLUE, alpha=0.2, linewidth=0, zorder=0, label="mean and its interval")
    axes.axhline(mean, color=BLUE, linewidth=1.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    furthest = max(5.0, float(np.abs(ordered).max()))
    axes.set_ylim(-1.1 * furthest, 1.1 * furthest)
    axes.set_xlim(0, len(ordered))
    axes.set_xlabel("queries, largest gain first")
    axes.set_ylabel("average precision after less before, points")
    axes.legend(loc="upper right", frameon=False)
    _save(figure, out)


def _figure(title: str, synthetic: bool, *, size: tuple[float, float] = (7.2, 4.6)) -> tuple[Figure, Axes]:
    """An empty chart of `size` in inches with its title, and the mark of synthetic data above it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Rectangle

    banner = 0.28 if synthetic else 0.0
    top = size[1] / (size[1] + banner)
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, top), w_pad=0.1, h_pad=0.1)
    figure = Figure((size[0], size[1] + banner), dpi=DOTS, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    if synthetic:
        figure.add_artist(Rectangle((0, top), 1, 1 - top, color=WARNING, transform=figure.transFigure))
        figure.text(0.02, (1 + top) / 2, SYNTHETIC, color="white", va="center", fontsize=8)
    axes = figure.add_subplot()
    axes.set_title(textwrap.fill(title, round(9.5 * size[0])), color=INK, fontsize=12, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_margin(axes: Axes, start: float, margin: float, height: float) -> None:
    ends = {"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (start + margin, height), (start, height), arrowprops=ends)
    axes.text(start + margin / 2, 1.01 * height, f"margin {margin:g}", ha="center", va="bottom", color=INK, fontsize=9)
    axes.set_xlim(right=max(axes.get_xlim()[1], start + 1.05 * margin))


def _write_cell(
    axes: Axes, row: int, column: int, values: Float64[np.ndarray, "C C"], queries: Int[np.ndarray, "C C"] | None
) -> None:
    value = float(values[row, column])
    if math.isnan(value):
        axes.text(column, row, "-", ha="center", va="center", color=GREY)
        return
    colour = "black" if value > 0.6 else "white"
    raised = 0.0 if queries is None else 0.1
    axes.text(column, row - raised, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=11)
    if queries is not None:
        axes.text(column, row + 0.28, f"n={queries[row, column]}", ha="center", va="center", color=colour, fontsize=7)


def _save(figure: Figure, out: Path) -> None:
    with picture_file(out) as file:
        # Without the name of the software: the same bytes from any release.
        figure.savefig(file, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": PNG_LEVEL})
