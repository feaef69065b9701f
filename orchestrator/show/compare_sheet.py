"""A picture of what the compared networks find for the queries that changed most."""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.errors import SearchError
from orchestrator.base.progress import step_progress
from orchestrator.show.compare import Comparison, Side, evaluation_command
from trainer.config import TrialConfig
from trainer.evaluation.compare_sheet import Network, draw_comparison

GAINS, LOSSES = 3, 3


def draw_sheet(comparison: Comparison, out: Path, *, images: bool) -> None:
    """Draws the largest gains and losses of the first pair, each as every network of the comparison answers it.

    Raises:
        SearchError: an evaluation is missing, no query changed, or real people would be shown unasked.
        DataError: a frame is missing or the file cannot be written.
        CheckpointError: a network is missing or damaged.
    """
    if not comparison.synthetic and not images:
        raise SearchError("--sheet would show real people; allow it with --images, and mind where the file goes")
    first = comparison.pairs[0]
    if first.queries is None:
        lacking = next(side for side in (first.before, first.after) if side.evaluation is None)
        raise SearchError(
            f"{lacking.name} left no figures of every query; make them with: {evaluation_command(lacking)}"
        )
    changed = [*first.queries.gains[:GAINS], *first.queries.losses[:LOSSES]]
    if not changed:
        raise SearchError(
            f"{first.before.name} and {first.after.name} answer every query equally well: nothing to draw"
        )
    with step_progress() as progress:
        draw_comparison(
            [_network(side) for side in comparison.sides],
            [change.place for change in changed],
            out,
            synthetic=comparison.synthetic,
            progress=progress,
        )


def _network(side: Side) -> Network:
    config = TrialConfig.model_validate(side.config)
    return Network(side.name, config, side.folder / "checkpoint/best.pt", side.split)
