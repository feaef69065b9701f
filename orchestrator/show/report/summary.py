"""The first thing to read: what is best, how sure that is, what was spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.algorithms.replicates import Best
from orchestrator.base.formatting import duration, percent
from orchestrator.base.formatting import number as short
from orchestrator.show.report.markup import Markup, element, number, table
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import points, shown
from orchestrator.show.report.section import Section, block, empty, hint, part, side_by_side
from orchestrator.show.search_text import UNCONFIRMED
from trainer.formatting import counted

HEADLINE = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP")
COMMIT_DIGITS = 10


def summary(report: SearchReport) -> Section:
    """Headline figures, the best configuration, and facts about the search."""
    body = block(
        _tiles(report),
        _attention(report),
        side_by_side(part("Best configuration", _best(report)), part("This search", _facts(report))),
        _front(report),
        _test_set(report),
    )
    return Section("summary", "Summary", body)


def value_and_spread(metric: str, best: Best) -> tuple[str, str]:
    """The value of the best configuration, and what is known of its uncertainty."""
    known = best.confirmation
    if known is None or not best.confirmed:
        error = best.score.standard_error
        spread = "" if error is None else f"; standard error over queries {points(metric, error)}"
        return shown(metric, best.score.value), f"{best.trial.key}, {UNCONFIRMED}{spread}"
    text = f"{best.trial.key}, mean of {len(known.values)} fresh seeds"
    if known.standard_deviation is not None and known.interval is not None:
        low, high = known.interval
        text += f" ± {points(metric, known.standard_deviation)}"
        text += f"; 95 % interval {points(metric, low)} to {points(metric, high)}"
    return shown(metric, known.mean), text


def _tiles(report: SearchReport) -> Markup:
    counts, repeats = report.status["counts"], report.status["repeats"]
    best, metric, costs = report.best, report.metric, report.costs
    tiles = []
    if best is None:
        tiles.append(_tile(f"best {metric}", "-", "no trial is completed yet"))
    else:
        tiles.append(_tile(f"best {metric}", *value_and_spread(metric, best), main=True))
        if metric != "rank1":
            means = best.confirmation.metrics if best.confirmed and best.confirmation else best.score.metrics
            note = (
                f"mean of {len(best.confirmation.values)} seeds" if best.confirmed and best.confirmation else "one seed"
            )
            tiles.append(_tile("rank-1", shown("rank1", means.get("rank1")), note))
    done = f"{counts['completed']} of {report.search.space.budget.trials}"
    others = [f"{counts[status]} {status}" for status in ("stopped", "failed", "running", "pending") if counts[status]]
    tiles.append(_tile("trials completed", done, ", ".join(others) or "none stopped, none failed"))
    if any(repeats.values()):
        tiles.append(
            _tile("repeats completed", f"{repeats['completed']} of {sum(repeats.values())}", "with other seeds")
        )
    spent = f"{costs.gpu_hours:.3g} GPU hours" if costs.gpu_hours else f"{duration(3600 * costs.hours)} of training"
    tiles.append(_tile("took", duration(3600 * costs.wall_hours), spent))
    if costs.stopped_early:
        saved = f"{costs.saved_gpu_hours:.3g} GPU h" if costs.gpu_hours else duration(3600 * costs.saved_hours)
        tiles.append(_tile("early stopping saved", f"≈ {saved}", f"{costs.stopped_early} trials stopped"))
    return element("div", *tiles, class_="tiles")


def _tile(label: str, value: str, note: str, *, main: bool = False) -> Markup:
    return element(
        "div",
        element("div", label, class_="label"),
        element("div", value, class_="value"),
        element("div", note, class_="note"),
        class_="tile main" if main else "tile",
    )


def _attention(report: SearchReport) -> Markup | None:
    """The warnings themselves stand further below; whoever reads only the first screen must know of them."""
    count = sum(remark.level == "warning" for remark in report.remarks)
    if not count:
        return None
    text = f"{count} warning{'s' * (count > 1)} about this result: see “Can I trust this?”"
    return element("p", element("a", text, href="#trust"), class_="callout")


def _best(report: SearchReport) -> Markup:
    best = report.best
    if best is None:
        return empty("No trial is completed yet.")
    confirmed = best.confirmation if best.confirmed else None
    names = [name for name in HEADLINE if name in best.score.metrics]
    columns = {"first seed" if confirmed else "one seed": best.score.metrics}
    if confirmed is not None:
        columns = {"mean of fresh seeds": confirmed.metrics, **columns}
    rows = [(name, *(number(percent(values, name)) for values in columns.values())) for name in names]
    defaults = report.search.space.parameters
    settings = [
        (path, number(short(value)), _range_of(defaults.get(path))) for path, value in best.trial.params.items()
    ]
    return block(
        table((f"{best.trial.key}, %", *columns), rows),
        table(("setting", "value", "searched"), settings),
        hint("The first seed is the one by which the configuration was chosen: its figures are too good on average.")
        if confirmed
        else None,
    )


def _range_of(parameter: Any) -> str:
    if parameter is None:
        return ""
    if parameter.type == "choice":
        return ", ".join(map(str, parameter.values))
    return f"{short(parameter.low)} to {short(parameter.high)}{', log' * parameter.log}"


def _facts(report: SearchReport) -> Markup:
    return table(("", ""), [(element("td", name, class_="key"), value) for name, value in facts(report)])


def facts(report: SearchReport) -> Iterator[tuple[str, str]]:
    """What the figures stand on, as names and texts."""
    search, judged = report.search, report.judged
    description, space = search.description, search.space
    yield "state", search.state + (f" ({search.study.reason})" if search.study.reason else "")
    goal = ", ".join(f"{term.goal} {term.metric}" for term in space.objective.terms)
    epoch = "last epoch" if space.objective.epoch == "last" else "best epoch"
    yield (
        "objective",
        f"{goal}, validation split, {epoch}" + "".join(f"; {text}" for text in space.objective.constraints),
    )
    yield "data set", f"{report.data_set} ({'SYNTHETIC' if description.synthetic else 'real'})"
    yield "data fingerprint", description.data_fingerprint[:COMMIT_DIGITS]
    if judged is not None:
        yield "protocol", judged.protocol
        yield "queries", f"{judged.queries} valid, {judged.dropped_queries} dropped for want of a match"
    yield "budget", ", ".join(_budget(report))
    yield "algorithm", space.algorithm.name + (f" ({space.algorithm.method})" if space.algorithm.name == "ax" else "")
    if report.status["proposals"]["fails"]:
        yield "proposals", report.status["proposals"]["text"]
    yield "early stopping", space.stopping.rule
    yield "seed", str(description.seed)
    yield "sessions", str(search.study.sessions)
    yield "started", description.created
    yield "report written", report.written
    versions = description.versions
    known = [name for name in ("reidsearch", "torch", "ray", "ax-platform") if name in versions]
    yield "commit", (description.commit or "unknown")[:COMMIT_DIGITS]
    yield "versions", ", ".join(f"{name} {versions[name]}" for name in known)


def _budget(report: SearchReport) -> Iterator[str]:
    budget, repeats = report.search.space.budget, report.search.space.replicates
    yield counted(budget.trials, "trial", "trials")
    if repeats.seeds:
        yield f"then {repeats.seeds} fresh seeds for each of {repeats.leaders} leaders"
    for name, value in (("epochs", budget.epochs), ("hours", budget.hours), ("GPU hours", budget.gpu_hours)):
        if value is not None:
            yield f"at most {value:g} {name}"
    if budget.target is not None:
        yield f"until {report.metric} {budget.target:g}"
    if budget.patience is not None:
        yield f"{budget.patience} trials without improvement"


def _front(report: SearchReport) -> Markup | None:
    front = report.status["front"]
    metrics = [term.metric for term in report.search.space.objective.terms]
    if len(metrics) < 2 or not front:
        return None
    rows = [(each["trial"], *(number(shown(name, each["values"][name])) for name in metrics)) for each in front]
    return part(
        "Pareto front", table(("trial", *metrics), rows), hint("No completed trial is better in all objectives.")
    )


def _test_set(report: SearchReport) -> Markup | None:
    """That the test set was opened, and what it said."""
    study = report.search.study
    if not study.finalizations and not study.test_set_uses:
        return None
    asked = [each.asked for each in study.finalizations]
    uses = [each.asked for each in study.test_set_uses]
    opened = [
        element(
            "li",
            f"no. {each.finalization}: {', '.join(each.leaders)}, {counted(each.seeds, 'seed', 'seeds')}, by {each.by}",
        )
        for each in asked
    ] + [element("li", f"for {each.trial} alone ({each.use} of {each.weights}), by {each.by}") for each in uses]
    rows = [
        (
            trial.key,
            trial.repeats,
            *(number(percent(trial.test.metrics(), name)) for name in ("mAP", "rank1", "rank5", "rank20")),
            trial.test.protocol,
            trial.test.sampling,
            number(trial.test.dropped_queries),
        )
        for trial in study.finals.values()
        if trial.test is not None
    ]
    head = ("trial", "configuration", "mAP", "R1", "R5", "R20", "protocol", "sampling", "dropped queries")
    times = len(opened)
    return part(
        f"Test set, opened {times} time{'s' * (times > 1)}",
        element("ul", *opened),
        table(head, rows, caption="per cent") if rows else empty("No network was judged on it yet."),
    )
