"""A search's summary in lines of text: how far it is, what is best and how sure that is, what the test set says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.algorithms.budget import HOUR_S
from orchestrator.algorithms.replicates import Best, Confirmation
from orchestrator.base.formatting import duration, number, percent, size
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.study.description import SearchDescription
from orchestrator.study.events import FinalizationStarted, Forecast, TrialOpenedTestSet
from orchestrator.study.study import Trial, TrialStatus
from orchestrator.summary import FinalResult, Mean, Summary
from orchestrator.summary.costs import Costs, search_seconds_left, seconds_left, share_done
from trainer.formatting import counted, one_line

SYNTHETIC_MARK = "SYNTHETIC data: these metrics say nothing about published results"
OWN_DATA_MARK = "own data: these metrics must not stand beside published results"
UNCONFIRMED = "one seed, not confirmed"
BAR = 6  # characters of a trial's bar
MARKS = "▁▂▃▄▅▆▇█"
OTHER_STATUSES = ("running", "paused", "pending", "stopped", "failed")
TEST_METRICS = ("mAP", "rank1", "rank5", "rank20", "reranked/mAP", "reranked/rank1")


class RunningTrial(NamedTuple):
    """A trial that runs, as a row of texts."""

    key: str
    epoch: int
    epochs: int
    loss: str
    value: str
    best: str
    """Best value of its epochs."""
    speed: str
    """Images a second."""
    memory: str
    left: str
    """Time."""


def data_mark(description: SearchDescription) -> str | None:
    """What has to be said wherever metrics of the search are printed; None where its data set is a published one."""
    return {"SYNTHETIC": SYNTHETIC_MARK, "own data": OWN_DATA_MARK}.get(description.data_kind)


def summary_line(summary: Summary, *, best: bool = True) -> str:
    """How far a search is, in one line, and, unless it stands elsewhere, what is best."""
    counts, repeats, budget = summary.counts, summary.repeat_counts, summary.space.budget.trials
    parts = [f"{counts['completed']}/{budget} trials completed"]
    if summary.space.stopping.pauses:  # the budget does not count them
        completed = counted(counts["completed"], "trial", "trials")
        parts = [f"{completed} completed", f"{summary.trainings:.1f}/{budget} trainings"]
    if total := sum(repeats.values()):
        parts.append(f"{repeats['completed']}/{total} repeats completed")
    others = {status: counts[status] + repeats[status] for status in counts}
    parts += [f"{others[status]} {status}" for status in OTHER_STATUSES if others[status]]
    if best and summary.best is not None:
        parts.append(f"best {best_value(summary.metric, summary.best)}")
    # Of a finished search the numbers say already that no trial of the budget is left.
    says = summary.state != "finished" or summary.trainings <= budget - 1
    reason = one_line(summary.study.reason or "") if says else ""
    return f"{summary.name}: {summary.state}" + (f" ({reason})" if reason else "") + "; " + ", ".join(parts)


def bar(share: float, width: int) -> str:
    """A bar of so many characters that is full at a share of 1."""
    done = int(width * share)
    return "━" * done + "·" * (width - done)


def spark_line(values: Sequence[float], most: int) -> str:
    """A mark for each value, or for so many of them, evenly spread; the higher the value the higher the mark."""
    count, low, high = min(len(values), most), min(values), max(values)
    places = [round(place * (len(values) - 1) / max(count - 1, 1)) for place in range(count)]
    return "".join(MARKS[round((len(MARKS) - 1) * (values[place] - low) / (high - low or 1))] for place in places)


def progress_line(trial: Trial) -> str:
    """How far a running trial is, how fast, and when it will be over; empty for others and before its first epoch."""
    left = seconds_left(trial)
    if left is None:
        return ""
    speed = f"{trial.results[-1].images_per_second:.0f} img/s"
    return f"{bar(trial.epoch / trial.epochs, BAR)} {duration(left)} left, {speed}"


def running_trials(summary: Summary) -> list[RunningTrial]:
    """The trials that run, those for the test set among them."""
    metric, sign = summary.metric, summary.objective.first.sign
    rows = []
    for trial in summary.study.all_trials.values():
        if trial.status == TrialStatus.RUNNING:
            values = [value for result in trial.results if (value := result.metric(metric)) is not None]
            last, left = trial.results[-1] if trial.results else None, seconds_left(trial)
            rows.append(
                RunningTrial(
                    trial.key,
                    trial.epoch,
                    trial.epochs,
                    "-" if last is None or "total" not in last.losses else f"{last.losses['total']:.3f}",
                    metric_text(metric, values[-1]) if values else "-",
                    metric_text(metric, max(values, key=lambda value: sign * value)) if values else "-",
                    "-" if last is None else f"{last.images_per_second:.0f}",
                    _memory(trial),
                    "-" if left is None else duration(left),
                )
            )
    return rows


def _memory(trial: Trial) -> str:
    """Of the trial's tensors on its GPUs or, without one, the share of the machine's that all its processes use."""
    if trial.load is None:
        return "-"
    own = trial.load.gpu_memory_peak_bytes
    return f"{100 * trial.load.memory_share:.0f} % RAM" if own is None else size(int(own))


def left_line(summary: Summary) -> str:
    """`about 14 min left`; empty where that is not known."""
    left = search_seconds_left(summary.study, summary.space) if summary.state == "running" else None
    return "" if left is None else f"about {duration(left)} left"


def progress_parts(summary: Summary) -> list[str]:
    """How much of a search is done, the time that is left where that is known, and what it has cost."""
    parts = [f"{100 * share_done(summary.study, summary.space):.0f} %", left_line(summary)]
    return [part for part in (*parts, trained(summary.costs)) if part]


def trained(costs: Costs, unit: str = "GPU h") -> str:
    """What all trials have cost together; empty before an epoch was trained."""
    if costs.gpu_hours:
        return f"{costs.gpu_hours:.3g} {unit}"
    return f"{duration(HOUR_S * costs.hours)} of training in all trials" if costs.hours else ""


def best_value(metric: str, best: Best) -> str:
    """The objective's value of the best configuration and its trial, in a few words."""
    if best.confirmation is not None and best.confirmed:
        return f"{metric} {_mean(best.confirmation)} ({best.trial.key}, {_seeds(best.confirmation)})"
    return f"{metric} {100 * best.score.value:.1f} ({best.trial.key}, {UNCONFIRMED})"


def best_lines(summary: Summary) -> list[str]:
    """The best configuration with its settings, and what the fresh seeds say; nothing before a trial is completed."""
    best = summary.best
    if best is None:
        return []
    settings = [f"{path} = {number(value)}" for path, value in best.trial.params.items()]
    repeated = confirmation_lines(summary)
    if best.confirmation is None or not best.confirmed:
        head = f"{best.trial.key}: validation {_metrics(best.score.result.metrics())} ({UNCONFIRMED})"
        return [head, *settings, *repeated.values()]
    first_seed = f"{summary.metric} {100 * best.score.value:.1f} with the first seed"
    means = f"validation {_metrics(best.confirmation.metrics)} (means; {first_seed})"
    return [repeated.pop(best.trial.key), means, *settings, *repeated.values()]


def confirmation_lines(summary: Summary) -> dict[str, str]:
    """What the fresh seeds say of each configuration that was repeated, by its trial, the best first."""
    return {each.trial: f"{each.trial}: {summary.metric} {_confirmation(each)}" for each in summary.confirmations}


def _confirmation(found: Confirmation) -> str:
    text = f"{_mean(found)} over {_seeds(found)}"
    if found.interval is not None:
        low, high = found.interval
        text += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    return text + ("" if found.confirmed else ", not confirmed")


def _mean(found: Confirmation) -> str:
    return spread(Mean(found.mean, found.standard_deviation))


def _seeds(found: Confirmation) -> str:
    """`3 seeds`, or `2 of 3 seeds` where one was lost."""
    done = len(found.values)
    return (f"{done} of " if found.lost else "") + counted(done + found.lost, "seed", "seeds")


def _metrics(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {percent(metrics, name)}" for name in ("mAP", "rank1", "rank5", "rank20"))


def spread(mean: Mean) -> str:
    """Mean and standard deviation of shares in per cent: `41.2 ± 2.1`."""
    deviation = mean.standard_deviation
    return f"{100 * mean.value:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def metric_text(metric: str, value: float) -> str:
    """A share in per cent with one decimal, anything else with three significant digits."""
    return f"{100 * value:.1f}" if metric in VALIDATION_METRICS else f"{value:.3g}"


def forecast_text(metric: str, forecast: Forecast) -> str:
    """What a trial is expected to reach and the standard deviation of that, shares in per cent: `78.1 ± 2.0`."""
    return f"{metric_text(metric, forecast.value)} ± {metric_text(metric, forecast.error)}"


def pauses_line(costs: Costs) -> str:
    """How many trials paused and went on, and what is not trained; empty where none ever paused."""
    if not costs.paused:
        return ""
    trials, epochs = counted(costs.paused, "trial", "trials"), counted(costs.epochs_saved, "epoch", "epochs")
    return f"{trials} paused, {costs.continued} continued; {epochs} not trained"


def outlook_line(summary: Summary) -> str:
    """What more trials are expected to bring: `10 more trials: +0.4 mAP, 95 % 0.0 to 1.3`; empty where none says."""
    ahead, sign = summary.study.outlook, summary.objective.first.sign
    if ahead is None:
        return ""
    mean, low, high = (metric_text(summary.metric, sign * value) for value in (ahead.gain, ahead.low, ahead.high))
    plus = "" if mean.startswith("-") else "+"
    return f"{ahead.trials} more trials: {plus}{mean} {summary.metric}, 95 % {low} to {high}"


def attention_line(summary: Summary) -> str:
    """Which trials weigh all frames of a clip alike; empty if none does."""
    trials = summary.uniform_attention
    if not trials:
        return ""
    named = ", ".join(trials[:3]) + (f" and {len(trials) - 3} more" if len(trials) > 3 else "")
    return f"is uniform (entropy 1.00) in {named}: no frame weighs more than another there"


def final_lines(summary: Summary) -> list[str]:
    """What the test set says of each configuration, and who opened it when; nothing where it was never opened."""
    lines = []
    for opened in (each.asked for each in summary.study.finalizations):
        results = [each for each in summary.final_results if each.asked is opened and each.evaluations]
        lines += [_final_line(each) for each in results]
        tests = [trial.test for trial in summary.study.finals.values() if trial.finalization == opened.finalization]
        if first := next(filter(None, tests), None):
            sampling = f", {first.sampling}" if first.sampling else ""
            queries = f"{counted(first.queries, 'query', 'queries')}, {first.dropped_queries} dropped"
            lines.append(f"protocol {first.protocol}{sampling}, {queries}")
        again = "" if opened.finalization == 1 else f", for time {opened.finalization}"
        lines.append(
            f"opened by {opened.by}{again}{on_other_data(opened)}; chosen on the validation split: {opened.leaders[0]}"
        )
    lines += other_lines(summary)
    uses = (use.asked for use in summary.study.test_set_uses)
    return lines + [
        f"opened by {use.by} for {use.trial} ({use.use} of {use.weights}){on_other_data(use)}" for use in uses
    ]


def other_lines(summary: Summary) -> list[str]:
    """What the test sets of other data sets say of each configuration."""
    return [f"{_final_line(each)}, {each.other_data}" for each in summary.other_results]


def on_other_data(use: TrialOpenedTestSet | FinalizationStarted) -> str:
    """Whose test set was used, where it is not that of the search's data set."""
    return "" if use.data is None else f", on {use.data.name} {use.data.fingerprint[:8]}"


def _final_line(result: FinalResult) -> str:
    means = " ".join(f"{name} {spread(result.metrics[name])}" for name in TEST_METRICS if name in result.metrics)
    return f"{result.configuration}: {means} over {counted(len(result.evaluations), 'seed', 'seeds')}"
