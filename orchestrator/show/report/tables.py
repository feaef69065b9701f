"""The tables of a report as rows of text, for the page and for Markdown; the trials also as rows of values."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.algorithms.replicates import Confirmation
from orchestrator.base.escaping import csv_cell
from orchestrator.base.formatting import duration, number, percent
from orchestrator.show.report.model_charts import direction
from orchestrator.show.report.report_data import ReportData
from orchestrator.show.report.theme import unit
from orchestrator.show.search_text import UNCONFIRMED, on_other_data, outlook_line, pauses_line, trained
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.space.parameters import Choice, FloatRange, IntRange
from orchestrator.summary import Summary
from trainer.formatting import counted

HEADLINE = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP")
METRICS = ("mAP", "mAP_standard_error", "mINP", "rank1", "rank5", "rank10", "rank20", "attention_entropy")
TEST_METRICS = ("mAP", "rank1", "rank5", "rank20")
COMMIT_DIGITS = 10
CARD_TITLES = {
    "importance": "Importance for",
    "fit": "Cross-validation of",
    "slice": "Slice along",
    "contour": "Contour over",
}


class Tile(NamedTuple):
    """One of the numbers at the top of the page."""

    label: str
    value: str
    note: str


def value_text(metric: str, value: float | None) -> str:
    """A value of a metric with its unit: `41.2 %`, `0.35 h`, a dash for None."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric in VALIDATION_METRICS else f"{number(float(value))} {unit(metric)}".strip()


def points(metric: str, value: float) -> str:
    """A difference or a spread of a metric without its unit: `2.8` points of per cent."""
    return f"{100 * value:.1f}" if metric in VALIDATION_METRICS else number(float(value))


def value_and_spread(report: ReportData) -> tuple[str, str]:
    """The value of the best configuration, and what is known of its uncertainty."""
    best, metric = report.best, report.metric
    if best is None:
        return "-", "no trial is completed yet"
    known = best.confirmation
    if known is None or not best.confirmed:
        error = best.score.standard_error
        spread = "" if error is None else f"; standard error over queries {points(metric, error)}"
        return value_text(metric, best.score.value), f"{best.trial.key}, {UNCONFIRMED}{spread}"
    text = f"{best.trial.key}, mean of {len(known.values)} fresh seeds"
    if known.standard_deviation is not None and known.interval is not None:
        low, high = known.interval
        text += f" ± {points(metric, known.standard_deviation)}"
        text += f"; 95 % interval {points(metric, low)} to {points(metric, high)}"
    return value_text(metric, known.mean), text


def tiles(report: ReportData) -> Iterator[Tile]:
    """The numbers at the top of the page; the first is the best value."""
    repeats, costs = report.summary.repeat_counts, report.summary.costs
    yield Tile(f"best {report.metric}", *value_and_spread(report))
    if report.best is not None and report.metric != "rank1":
        means = _confirmed(report)
        metrics = report.best.score.metrics if means is None else means.metrics
        note = "one seed" if means is None else f"mean of {len(means.values)} seeds"
        yield Tile("rank-1", value_text("rank1", metrics.get("rank1")), note)
    yield _trials_tile(report.summary)
    if any(repeats.values()):
        yield Tile("repeats completed", f"{repeats['completed']} of {sum(repeats.values())}", "with other seeds")
    yield Tile("took", duration(HOUR_S * costs.wall_hours), trained(costs, "GPU hours") or "no epoch trained")
    if costs.epochs_saved:
        saved = f"{costs.saved_gpu_hours:.3g} GPU h" if costs.gpu_hours else duration(HOUR_S * costs.saved_hours)
        stopped = counted(costs.stopped_early, "trial", "trials") + " stopped"
        yield Tile("not trained", f"≈ {saved}", pauses_line(costs) or stopped)


def _trials_tile(summary: Summary) -> Tile:
    counts, budget = summary.counts, summary.space.budget.trials
    statuses = ("stopped", "failed", "running", "paused", "pending")
    others = [f"{counts[status]} {status}" for status in statuses if counts[status]]
    if summary.space.stopping.pauses:
        trainings = f"{summary.trainings:.1f} of {budget} trainings"
        return Tile("trials completed", str(counts["completed"]), ", ".join([trainings, *others]))
    note = ", ".join(others) or "none stopped, none failed"
    return Tile("trials completed", f"{counts['completed']} of {budget}", note)


def _confirmed(report: ReportData) -> Confirmation | None:
    """The means over fresh seeds of the best configuration, once they are enough to confirm it."""
    return report.best.confirmation if report.best is not None and report.best.confirmed else None


def best_metrics(report: ReportData) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heading and rows of the best configuration's metrics in per cent, the means over fresh seeds first."""
    if report.best is None:
        return [], []
    first, means = report.best.score.metrics, _confirmed(report)
    columns = {"one seed": first} if means is None else {"mean of fresh seeds": means.metrics, "first seed": first}
    names = [name for name in HEADLINE if name in first]
    rows = [(name, *(percent(values, name) for values in columns.values())) for name in names]
    return [f"{report.best.trial.key}, %", *columns], rows


def best_settings(report: ReportData) -> list[tuple[str, str, str]]:
    """The best configuration's settings: path, value, what was searched."""
    parameters = report.summary.space.parameters
    settings = {} if report.best is None else report.best.trial.params
    return [(path, number(value), _range_text(parameters.get(path))) for path, value in settings.items()]


def _range_text(parameter: FloatRange | IntRange | Choice | None) -> str:
    if parameter is None:
        return ""
    if isinstance(parameter, Choice):
        return ", ".join(map(str, parameter.values))
    return f"{number(parameter.low)} to {number(parameter.high)}{', log' * parameter.log}"


def facts(report: ReportData) -> Iterator[tuple[str, str]]:
    """What the metrics depend on, as names and texts."""
    summary, judged = report.summary, report.summary.protocol
    description, space, study = summary.description, summary.space, summary.study
    yield "state", summary.state + (f" ({study.reason})" if study.reason else "")
    if outlook := outlook_line(summary):
        yield "outlook", outlook
    goal = ", ".join(f"{term.goal} {term.metric}" for term in space.objective.terms)
    epoch = "last epoch" if space.objective.epoch == "last" else "best epoch"
    constraints = "".join(f"; {text}" for text in space.objective.constraints)
    yield "objective", f"{goal}, validation split, {epoch}{constraints}"
    yield "data set", f"{report.data_set} ({description.data_kind})"
    yield "data fingerprint", description.data_fingerprint[:COMMIT_DIGITS]
    if judged is not None:
        yield "protocol", judged.protocol
        yield "queries", f"{judged.queries} valid, {judged.dropped_queries} dropped (no match in the gallery)"
    yield "budget", ", ".join(_budget(report))
    yield "algorithm", space.algorithm.name + (f" ({space.algorithm.method})" if space.algorithm.name == "ax" else "")
    if summary.proposals.fails:
        yield "proposals", str(summary.proposals)
    yield "stopping", space.stopping.rule
    yield "seed", str(description.seed)
    yield "sessions", str(study.sessions)
    yield "started", description.created
    yield "report written", report.written
    yield "commit", (description.commit or "unknown")[:COMMIT_DIGITS]
    versions = description.versions
    known = [name for name in ("reidsearch", "torch", "ray", "ax-platform") if name in versions]
    yield "versions", ", ".join(f"{name} {versions[name]}" for name in known)


def _budget(report: ReportData) -> Iterator[str]:
    budget, repeats = report.summary.space.budget, report.summary.space.replicates
    what = "whole training" if report.summary.space.stopping.pauses else "trial"
    yield counted(budget.trials, what, f"{what}s")
    if repeats.choose == "model":
        yield f"then {repeats.trainings} trainings that choose the winner and {repeats.seeds} that confirm it"
    elif repeats.seeds:
        yield f"then {repeats.seeds} fresh seeds for each of {repeats.leaders} leaders"
    for name, value in (("epochs", budget.epochs), ("hours", budget.hours), ("GPU hours", budget.gpu_hours)):
        if value is not None:
            yield f"at most {value:g} {name}"
    if budget.target is not None:
        yield f"until {report.metric} {budget.target:g}"
    if budget.patience is not None:
        yield f"{budget.patience} trials without improvement"
    if budget.gain is not None:
        yield f"until 10 more trials are expected to improve {report.metric} by less than {budget.gain:g}"


def front_rows(report: ReportData) -> list[tuple[str, ...]]:
    """The Pareto front: trial and the values of all objectives."""
    names = [term.metric for term in report.summary.objective.terms]
    return [
        (trial.key, *(value_text(name, value) for name, value in zip(names, found.values, strict=True)))
        for trial, found in report.summary.front
    ]


def test_set_uses(report: ReportData) -> list[str]:
    """Every opening of the test set, a line each."""
    study = report.summary.study
    finalizations = [
        f"no. {each.finalization}: {', '.join(each.leaders)}, {counted(each.seeds, 'seed', 'seeds')}, by {each.by}"
        f"{on_other_data(each)}"
        for each in (finalization.asked for finalization in study.finalizations)
    ]
    uses = (use.asked for use in study.test_set_uses)
    return finalizations + [
        f"for {each.trial} alone ({each.use} of {each.weights}){on_other_data(each)}, by {each.by}" for each in uses
    ]


def test_rows(report: ReportData) -> list[tuple[str, ...]]:
    """What the test set says: trial, configuration, `TEST_METRICS` in per cent, protocol, sampling, dropped queries.

    Those of other data sets follow, and say so beside the trial.
    """
    finals = report.summary.study.finals.values()
    own = [(trial, trial.test, trial.key) for trial in finals if trial.test is not None]
    others = [
        (trial, test, f"{trial.key}, {test.other_data}") for trial in finals for test in trial.other_tests.values()
    ]
    return [
        (
            name,
            trial.repeats or "",
            *(percent(test.metrics(), metric) for metric in TEST_METRICS),
            test.protocol,
            test.sampling,
            str(test.dropped_queries),
        )
        for trial, test, name in own + others
    ]


def seed_rows(report: ReportData) -> list[tuple[str, ...]]:
    """Fresh seeds by configuration: trial, first seed, mean, sd, 95 % interval, seeds, confirmed."""
    metric, scores = report.metric, report.summary.scores
    return [
        (
            each.trial,
            value_text(metric, scores[each.trial].value),
            value_text(metric, each.mean),
            "-" if each.standard_deviation is None else points(metric, each.standard_deviation),
            "-" if each.interval is None else " to ".join(points(metric, end) for end in each.interval),
            f"{len(each.values)}" + (f" ({each.lost} lost)" if each.lost else ""),
            "yes" if each.confirmed else "no",
        )
        for each in report.summary.confirmations
    ]


def importance_rows(report: ReportData) -> list[tuple[str, str, str]]:
    """Importance for the first objective: setting, share, direction."""
    return [
        (name, f"{100 * abs(value):.0f} %", direction(report.summary.space.parameters[name], value))
        for card in report.model.of_kind("importance")[:1]
        for name, value in zip(card.data["names"], card.data["values"], strict=True)
    ]


def left_out(report: ReportData) -> list[str]:
    """What the model does not say, and why."""
    skipped = [
        f"{CARD_TITLES.get(card.kind, card.kind)} {' and '.join(card.about)}: {card.skipped}"
        for card in report.model.cards
        if card.skipped
    ]
    return skipped + ([report.model.missing] if report.model.missing else [])


def cost_rows(report: ReportData) -> Iterator[tuple[str, str]]:
    """Totals as names and texts; nothing before the first epoch is finished."""
    costs = report.summary.costs
    if not costs.hours:
        return
    yield "wall time of all sessions", duration(HOUR_S * costs.wall_hours)
    yield "training and evaluation, all trials added up", duration(HOUR_S * costs.hours)
    yield "GPU hours", f"{costs.gpu_hours:.3g}" if costs.gpu_hours else "0 (no GPU was held)"
    if costs.paused:
        yield "trials that paused", f"{costs.paused}, of which {costs.continued} continued"
    if costs.stopped_early:
        yield "trials stopped early", str(costs.stopped_early)
    if costs.epochs_saved:
        yield "epochs not trained", str(costs.epochs_saved)
        yield "time that these would have taken, about", duration(HOUR_S * costs.saved_hours)
        if costs.saved_gpu_hours:
            yield "GPU hours that these would have taken, about", f"{costs.saved_gpu_hours:.3g}"
    results = [result for trial in report.summary.study.all_trials.values() for result in trial.results]
    yield "epochs", f"{len(results)}"
    yield "images per second, median over epochs", f"{statistics.median(r.images_per_second for r in results):.0f}"
    waiting = statistics.fmean(r.data_wait_share for r in results)
    yield "share of training spent waiting for frames", f"{100 * waiting:.0f} %"


def setting_paths(report: ReportData) -> list[str]:
    """Every searched setting that some trial has."""
    return list(dict.fromkeys(path for trial in report.summary.study.all_trials.values() for path in trial.params))


def trial_rows(report: ReportData) -> list[dict[str, Any]]:
    """One flat row of values per trial and repeat: state, cost, metrics, settings. Shares are in [0, 1]."""
    costs = {cost.trial: cost for cost in report.summary.costs.trials}
    paths = setting_paths(report)
    rows = []
    for trial in report.summary.trials:
        cost, metrics = costs[trial.key], report.summary.latest_metrics[trial.key]
        row = {"trial": trial.key, "status": trial.status, "epoch": trial.epoch, "epochs": cost.planned}
        row |= {name: metrics.get(name) for name in METRICS}
        forecast = report.forecasts.get(trial.key)
        row |= {"forecast": None if forecast is None else forecast.value}
        row |= {"forecast_error": None if forecast is None else forecast.error}
        row |= {"pauses": " ".join(map(str, trial.pauses)), "epochs_saved": cost.epochs_saved}
        row |= {"hours": cost.hours, "gpu_hours": cost.gpu_hours, "saved_hours": cost.saved_hours}
        row |= {"seed": trial.seed, "fold": trial.fold, "repeats": trial.repeats, "source": trial.source}
        row |= {"attempts": trial.attempts}
        row |= {path: trial.params.get(path) for path in paths}
        row |= {"note": trial.note, "reason": trial.reason}
        rows.append(row)
    return rows


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each path, or the whole path where another one ends alike."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def csv_text(report: ReportData) -> str:
    """A row per trial under a heading; shares are between 0 and 1. A ' keeps a spreadsheet from running a text."""
    rows = trial_rows(report)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in [list(rows[0]) if rows else ["trial"], *(row.values() for row in rows)]:
        writer.writerow(map(csv_cell, row))
    return buffer.getvalue()
