"""`reidsearch compare` prints a comparison: a document for programs, tables and sentences for people, a sheet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from orchestrator.base.errors import SearchError
from orchestrator.base.formatting import number
from orchestrator.base.hints import hint
from orchestrator.base.progress import step_progress
from orchestrator.show.terminal import output, plain_output, plain_table
from orchestrator.summary.intervals import METRIC, SeedDifference
from orchestrator.tracking.pages import comparison_page, experiment_of
from orchestrator.tracking.sync import trusted_tracking_uri
from trainer.formatting import counted

if TYPE_CHECKING:
    from orchestrator.show.compare import Comparison, MetricChange, Pair, Side
    from trainer.evaluation.compare import CameraPairChange, EvaluationComparison, QueryChange
    from trainer.evaluation.folder import Network

SHOWN = 3  # queries, and pairs of cameras, on either side
GAINS, LOSSES = 3, 3  # queries of the sheet
NOT_SHARES = ("attention_entropy",)


def comparison_document(comparison: Comparison, link: str | None) -> dict[str, Any]:
    """The comparison for programs; shares are in [0, 1]."""
    return {
        "synthetic": comparison.synthetic,
        "mark": comparison.mark,
        "sides": [_side_document(side) for side in comparison.sides],
        "settings": comparison.settings,
        "pairs": [_pair_document(pair) for pair in comparison.pairs],
        "notes": comparison.notes,
        "mlflow": link,
    }


def _side_document(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "search": side.search.name,
        "trial": side.trial.key,
        "status": side.trial.status,
        "seed": side.trial.seed,
        "epoch": side.epoch.epoch,
        "protocol": side.validation.protocol,
        "queries": side.validation.queries,
        "metrics": side.validation.metrics(),
        "runs": [{"seed": seed, "fold": fold, METRIC: value} for (seed, fold), value in side.runs.items()],
        "evaluation": None if side.evaluation is None else str(side.evaluation),
        "mlflow_run_id": side.trial.mlflow_run_id,
    }


def _pair_document(pair: Pair) -> dict[str, Any]:
    return {
        "before": pair.before.name,
        "after": pair.after.name,
        "metrics": {name: {**change._asdict(), "delta": change.delta} for name, change in pair.metrics.items()},
        "query_noise": None if pair.queries is None else _queries_document(pair.queries),
        "seed_noise": None if pair.seeds is None else {**pair.seeds._asdict(), "exceeds": pair.seeds.exceeds},
    }


def _queries_document(found: EvaluationComparison) -> dict[str, Any]:
    from trainer.evaluation.compare import comparison_document as queries_document

    result = found.comparison
    return {**queries_document(found), "exceeds": result.low > 0 or result.high < 0}


def show(comparison: Comparison, *, as_json: bool) -> None:
    """Prints the comparison."""
    link = _link(comparison)
    if as_json:
        print(json.dumps(comparison_document(comparison, link), indent=2, allow_nan=False))
    else:
        _show_to_people(output(), comparison, link)


def _link(comparison: Comparison) -> str | None:
    """The page of MLflow's server that compares the runs, if there is a server and it answers."""
    uri, runs = comparison.tracking, [side.trial.mlflow_run_id for side in comparison.sides]
    known = [run for run in runs if run is not None]
    if uri is not None and known:
        try:
            for side in comparison.sides:
                trusted_tracking_uri(side.search.folder, side.search.description)
        except SearchError as error:
            command = hint("ui", side.search.name, storage=side.search.folder.storage)
            click.echo(f"no link to MLflow's pages: {error}, to `{command}`", err=True)
            return None
    experiment = experiment_of(uri, known[0]) if uri is not None and known else None
    return None if uri is None or experiment is None else comparison_page(uri, known, experiment)


def comparison_text(comparison: Comparison) -> str:
    """The tables and sentences of the comparison, without colours."""
    text = io.StringIO()
    _show_to_people(plain_output(text), comparison, None)
    return text.getvalue().rstrip()


def _show_to_people(console: Console, comparison: Comparison, link: str | None) -> None:
    console.print(_table(*metric_rows(comparison)))
    for pair in comparison.pairs:
        console.print()
        for line in pair_lines(pair):
            console.print(line, soft_wrap=True, highlight=False)
    console.print()
    if comparison.settings:
        console.print(_table(*setting_rows(comparison)))
    else:
        console.print("no setting differs but the seed")
    for note in comparison.notes:
        console.print(f"note      {note}", soft_wrap=True, highlight=False)
    if comparison.mark:
        console.print(comparison.mark)
    if link is not None:
        console.print(f"MLflow    {link}", soft_wrap=True, highlight=False)


def metric_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the metrics in per cent, those of others with the difference to the first."""
    rows = []
    for name, value in comparison.sides[0].validation.metrics().items():
        changes = [pair.metrics.get(name) for pair in comparison.pairs]
        if not name.endswith("_standard_error") and any(change is not None for change in changes):
            rows.append([name, _metric(name, value), *(_changed(name, change) for change in changes)])
    return _head("validation, %", comparison), [*rows, ["epoch", *(str(side.epoch.epoch) for side in comparison.sides)]]


def _head(first: str, comparison: Comparison) -> list[str]:
    return [first, *(side.name for side in comparison.sides)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = plain_table()
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row, style="dim" if row[0] == "epoch" else None)
    return table


def _changed(name: str, change: MetricChange | None) -> str:
    return "-" if change is None else f"{_metric(name, change.after)} ({_metric(name, change.delta, sign='+')})"


def _metric(name: str, value: float, *, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if name in NOT_SHARES else f"{100 * value:{sign}.1f}"


def setting_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the settings that differ."""
    rows = [
        [path, *("-" if value is None else number(_plain(value)) for value in values)]
        for path, values in comparison.settings.items()
    ]
    return _head("differs", comparison), rows


def _plain(value: JsonValue) -> JsonValue:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def pair_lines(pair: Pair) -> Iterator[str]:
    """Whether a difference exceeds the noise, and which queries and cameras it comes from."""
    change = pair.metrics[METRIC]
    yield f"{pair.after.name} against {pair.before.name}: {METRIC} {100 * change.delta:+.1f}"
    yield f"  queries   {_query_verdict(pair.queries)}"
    yield f"  seeds     {_seed_verdict(pair.seeds)}"
    if pair.queries is not None:
        yield from _where(pair.queries)


def _query_verdict(found: EvaluationComparison | None) -> str:
    if found is None:
        return "the noise of their choice is not known"
    result = found.comparison
    return (
        f"{_verdict(result.low, result.high)} (95 % interval of {100 * result.delta:+.1f}: {100 * result.low:+.1f} to "
        f"{100 * result.high:+.1f}, identities resampled, p {result.p_value:.2g}); {result.better} better, "
        f"{result.worse} worse, {result.equal} equal of {found.queries}"
    )


def _seed_verdict(found: SeedDifference | None) -> str:
    if found is None:
        return "their noise is not known: no configuration was trained with more than one fresh seed"
    how = "in pairs of seed and fold" if found.paired else f"{found.freedom} degrees of freedom"
    return (
        f"{_verdict(found.low, found.high)} (95 % interval of {100 * found.delta:+.1f}: {100 * found.low:+.1f} to "
        f"{100 * found.high:+.1f}; {counted(found.runs[1], 'training', 'trainings')} against {found.runs[0]}, {how})"
    )


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "better than noise explains"
    return "worse than noise explains" if high < 0 else "within noise"


def _where(found: EvaluationComparison) -> Iterator[str]:
    moved = [change for change in found.cameras if change.delta]
    for change in _ends(moved):
        pair = f"{change.query_camera} -> {change.gallery_camera}"
        yield f"  cameras   {pair}  {_points(change)}, {counted(change.queries, 'query', 'queries')}"
    for title, changes in (("gains", found.gains), ("losses", found.losses)):
        for each in changes[:SHOWN]:
            yield f"  {title:<9} {each.first_frame} (identity {each.identity}, camera {each.camera})  {_points(each)}"


def _ends(moved: list[CameraPairChange]) -> list[CameraPairChange]:
    """The largest gains and the largest losses."""
    return moved if len(moved) <= 2 * SHOWN else [*moved[:SHOWN], *moved[-SHOWN:]]


def _points(change: CameraPairChange | QueryChange) -> str:
    return f"{100 * change.before:.1f} -> {100 * change.after:.1f} ({100 * change.delta:+.1f})"


def draw_sheet(comparison: Comparison, out: Path, *, images: bool) -> None:
    """Draws the largest gains and losses of the first pair, each as every network of the comparison answers it.

    Raises:
        SearchError: an evaluation is missing, no query changed, or real people would be shown unasked.
        DataError: a frame is missing or the file cannot be written.
        CheckpointError: a network is missing or damaged.
    """
    from trainer.evaluation.folder import draw_comparison  # imports torch

    if not comparison.synthetic and not images:
        raise SearchError("--sheet would show real people; allow it with --images, and mind where the file goes")
    first = comparison.pairs[0]
    if first.queries is None:
        lacking = next(side for side in (first.before, first.after) if side.evaluation is None)
        raise SearchError(f"{lacking.name} left no metrics per query; make them with: {lacking.evaluation_command}")
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
    from trainer import TrialConfig
    from trainer.evaluation.folder import Network

    config = TrialConfig.model_validate(side.config)
    return Network(side.name, config, side.folder / "checkpoint/best.pt", side.split)
