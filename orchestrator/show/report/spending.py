"""What the search took, trial by trial, and what early stopping saved."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from orchestrator.base.formatting import duration
from orchestrator.show.report.markup import Figure, chart, number, plotly_text, table
from orchestrator.show.report.report_data import SearchReport
from orchestrator.show.report.scale import compact
from orchestrator.show.report.section import Section, block, empty, hint
from orchestrator.show.report.theme import COLOURS, figure
from orchestrator.summary.costs import Costs

HOUR_S = 3600
SMALL_HOURS = 0.1  # the longest trial below which seconds are drawn


def spending(report: SearchReport) -> Section:
    """Totals, and a bar per trial."""
    costs = report.costs
    if not costs.hours:
        return Section("cost", "Cost", empty("No epoch is finished yet."))
    totals = [(name, number(text)) for name, text in cost_rows(report)]
    text = (
        "Training and evaluation of finished epochs; lost work, waiting and starting are not in it. What was saved is "
        "an estimate: the epochs that stopped trials did not train, at the mean duration of those that they did."
    )
    drawn = chart("cost", cost_chart(costs), describes=f"cost of {len(costs.trials)} trials", height=340)
    return Section("cost", "Cost", block(table(("", ""), totals), drawn, hint(text)))


def cost_rows(report: SearchReport) -> Iterator[tuple[str, str]]:
    """Totals as names and texts."""
    costs = report.costs
    yield "wall time of all sessions", duration(HOUR_S * costs.wall_hours)
    yield "training and evaluation, all trials added up", duration(HOUR_S * costs.hours)
    yield "GPU hours", f"{costs.gpu_hours:.3g}" if costs.gpu_hours else "0 (no GPU was held)"
    if costs.stopped_early:
        yield "trials stopped early", str(costs.stopped_early)
        yield "saved by that, about", duration(HOUR_S * costs.saved_hours)
        if costs.saved_gpu_hours:
            yield "GPU hours saved, about", f"{costs.saved_gpu_hours:.3g}"
    results = [result for trial in report.search.study.all_trials.values() for result in trial.results]
    yield "epochs", f"{len(results)}"
    yield "images per second, median over epochs", f"{statistics.median(r.images_per_second for r in results):.0f}"
    yield (
        "share of training spent waiting for frames",
        f"{100 * statistics.fmean(r.data_wait_share for r in results):.0f} %",
    )


def cost_chart(costs: Costs) -> Figure:
    """What each trial took, and above it what stopping it early saved; in GPU hours where GPUs were held."""
    gpus = costs.gpu_hours > 0
    spent = [cost.gpu_hours if gpus else cost.hours for cost in costs.trials]
    saved = [cost.saved_gpu_hours if gpus else cost.saved_hours for cost in costs.trials]
    small = max(spent) < SMALL_HOURS
    unit, times = ("s", HOUR_S) if small else ("hours", 1)
    what = f"GPU {unit}" if gpus else unit
    names = [plotly_text(cost.trial) for cost in costs.trials]
    data = [
        {
            "type": "bar",
            "name": "taken",
            "x": names,
            "y": [compact(times * value) for value in spent],
            "marker": {"color": [COLOURS[cost.status] for cost in costs.trials]},
            "hovertemplate": "%{x}: %{y:.3g} " + what + "<extra></extra>",
        }
    ]
    if any(saved):
        data.append(
            {
                "type": "bar",
                "name": "saved by early stopping (estimate)",
                "x": names,
                "y": [compact(times * value) for value in saved],
                "marker": {"color": "rgba(140,140,140,0.3)"},
                "hovertemplate": "%{x}: about %{y:.3g} " + what + " saved<extra></extra>",
            }
        )
    return figure(data, {"title": "", "type": "category"}, what, barmode="stack")
