"""Figures in words: what the command lines say to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluation.compare import EvaluationComparison, QueryChange
from trainer.evaluation.partitions import Spread
from trainer.formatting import counted
from trainer.result import EpochResult, Evaluation, RetrievalMetrics

SHOWN_CHANGES = 5  # queries, and pairs of cameras, on either side of a comparison


def epoch_line(result: EpochResult, epochs: int) -> str:
    """An epoch for people."""
    terms = "  ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    line = (
        f"epoch {result.epoch}/{epochs}  {terms}  lr {result.learning_rate:.2e}  "
        f"{result.images_per_second:.0f} images/s, {100 * result.data_wait_share:.0f} % waiting for frames"
    )
    if result.attention:
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in result.attention.items())
        line += f"\n  attention  {figures}"
    if result.validation is not None:
        line += "\n  " + evaluation_line(result.validation, "validation")
    return line


def evaluation_line(figures: Evaluation, part: str) -> str:
    """An evaluation for people, with its protocol and the queries that were left out."""
    sampling = f", {figures.sampling}" if figures.sampling else ""
    line = (
        f"{part}  {_figures(figures)}  attention entropy {figures.attention_entropy:.2f}  "
        f"({figures.protocol} protocol, {counted(figures.queries, 'query', 'queries')}, {figures.dropped_queries} "
        f"dropped{sampling})"
    )
    if figures.reranked is not None:
        line += f"\n  re-ranked  {_figures(figures.reranked)}"
    return line


def _figures(figures: RetrievalMetrics) -> str:
    return (
        f"mAP {100 * figures.mAP:.1f} ± {100 * figures.mAP_standard_error:.1f}  mINP {100 * figures.mINP:.1f}  "
        f"rank-1 {100 * figures.rank1:.1f}  rank-5 {100 * figures.rank5:.1f}  rank-10 {100 * figures.rank10:.1f}  "
        f"rank-20 {100 * figures.rank20:.1f}"
    )


def stages_line(seconds: Mapping[str, float]) -> str:
    """How long each stage of an evaluation took, for people."""
    return "  seconds  " + "  ".join(f"{stage} {taken:.2f}" for stage, taken in seconds.items())


def spread_line(spreads: Mapping[str, Spread], prefix: str) -> str:
    """Mean and standard deviation over partitions, for people; `prefix` is "" or "reranked/"."""
    names = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")
    figures = [(name, spreads[prefix + name]) for name in names]
    shown = "  ".join(f"{name} {100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" for name, spread in figures)
    return f"{'re-ranked' if prefix else 'all folds'}  {shown}  (mean ± standard deviation over partitions)"


def comparison_text(found: EvaluationComparison) -> str:
    """Two evaluations side by side, for people."""
    result = found.comparison
    lines = [
        f"mAP {100 * found.before:.1f} -> {100 * found.after:.1f}  difference {100 * result.delta:+.1f} "
        f"[{100 * result.low:+.1f}, {100 * result.high:+.1f}] (95 %, identities resampled), p {result.p_value:.2g}  "
        f"({found.protocol} protocol, {counted(found.queries, 'query', 'queries')})",
        f"queries better {result.better}, worse {result.worse}, equal {result.equal}",
    ]
    moved = [change for change in found.cameras if change.delta]
    lines += [
        f"  camera {change.query_camera} -> {change.gallery_camera}  mAP {100 * change.before:.1f} -> "
        f"{100 * change.after:.1f}  ({counted(change.queries, 'query', 'queries')})"
        for change in (*moved[:SHOWN_CHANGES], *moved[SHOWN_CHANGES:][-SHOWN_CHANGES:])
    ]
    return "\n".join([*lines, *_changes("gains", found.gains), *_changes("losses", found.losses)])


def _changes(title: str, changes: Sequence[QueryChange]) -> list[str]:
    return [f"largest {title}" if changes else f"no {title}"] + [
        f"  {change.first_frame}  identity {change.identity}, camera {change.camera}  AP {100 * change.before:.1f} -> "
        f"{100 * change.after:.1f}"
        for change in changes[:SHOWN_CHANGES]
    ]


def comparison_document(found: EvaluationComparison) -> dict[str, Any]:
    """Two evaluations side by side, for programs."""
    return {
        "protocol": found.protocol,
        "queries": found.queries,
        "before": found.before,
        "after": found.after,
        **found.comparison._asdict(),
        "cameras": [change._asdict() for change in found.cameras],
        "gains": [change._asdict() for change in found.gains],
        "losses": [change._asdict() for change in found.losses],
    }
