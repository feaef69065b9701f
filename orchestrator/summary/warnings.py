"""What speaks against a search's result: warnings and notes, computed from its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from orchestrator.algorithms.replicates import Best, Confirmation
from orchestrator.algorithms.scoring import ranked
from orchestrator.base.formatting import number
from orchestrator.space.objective import VALIDATION_METRICS
from orchestrator.space.options import CONFIRMING_SEEDS
from orchestrator.space.parameters import Choice, FloatRange, IntRange, Value
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import TrialStatus
from orchestrator.summary import Summary
from orchestrator.summary.intervals import welch_interval
from trainer.formatting import counted
from trainer.result import UNIFORM_ENTROPY

NEAR_BOUND = 0.01  # share of a range, on its own scale
GOOD_FIT = 0.3  # R2 of held-out trials below which Ax's authors would not read a sensitivity
FEW_TRIALS = 2  # per searched parameter; Ax's own initial design is of this order
MANY_FAILED = 0.2  # share of the trials

Level = Literal["warning", "note"]


class Notice(NamedTuple):
    """One thing to know before the result is used."""

    kind: str
    """A short name that programs can look for."""
    level: Level
    text: str


def warnings(summary: Summary, fits: Mapping[str, float | None]) -> list[Notice]:
    """All that speaks against the result, warnings before notes.

    Args:
        summary: the search.
        fits: R2 of the model's cross-validation by metric, as far as it is known.
    """
    found = [
        *_of_the_search(summary),
        *([] if summary.best is None else _of_the_best(summary, summary.best)),
        *_of_the_seeds(summary),
        *_of_the_trials(summary),
        *_of_the_model(summary, fits),
    ]
    return sorted(found, key=lambda notice: notice.level != "warning")


def _of_the_search(summary: Summary) -> Iterator[Notice]:
    if summary.description.synthetic:
        text = "SYNTHETIC data: these metrics say nothing about published results, nor about real people."
        yield Notice("synthetic", "warning", text)
    if summary.description.own_data:
        yield Notice("own_data", "note", "Own data: these metrics must not stand beside published results.")
    if summary.state == "running":
        yield Notice("running", "note", "The search is still running; everything here may change.")
    if summary.state in ("interrupted", "failed"):
        reason = f" ({summary.study.reason})" if summary.study.reason else ""
        yield Notice("unfinished", "warning", f"The search did not finish: it is {summary.state}{reason}.")
    if summary.proposals.fails:
        text = f"The model failed: {summary.proposals}."
        yield Notice("model_failed", "warning", text)
    if summary.best is None:
        yield Notice("none_completed", "warning", "No trial is completed yet, so that none is best.")


def _of_the_best(summary: Summary, best: Best) -> Iterator[Notice]:
    key, result = best.trial.key, best.score.result
    if not best.confirmed:
        yield Notice("not_confirmed", "warning", _unconfirmed(best))
    for path, end in on_bounds(summary.space, best.trial.params):
        value = number(best.trial.params[path])
        text = f"{path} of the best configuration ({value}) sits on the {end} bound of its range"
        yield Notice("on_bound", "warning", f"{text}: a better value may lie beyond it (`extend` widens it).")
    if result.attention.get("entropy", 0.0) >= UNIFORM_ENTROPY:
        text = f"Attention is uniform in the best trial {key} (entropy 1.00): no frame weighs more than another."
        yield Notice("uniform_attention", "warning", text)
    if result.validation is not None and result.validation.dropped_queries:
        dropped = result.validation.dropped_queries
        asked = dropped + result.validation.queries
        text = f"{dropped} of {asked} queries have no match in the gallery and are left out of every metric."
        yield Notice("dropped_queries", "note", text)
    error = best.score.standard_error
    metric = summary.metric
    if error is not None and metric in VALIDATION_METRICS:
        text = (
            f"Over the queries alone, {metric} of {key} has a standard error of {100 * error:.1f} points: smaller "
            "differences say little about other queries, even where the seeds agree."
        )
        yield Notice("query_noise", "note", text)


def _unconfirmed(best: Best) -> str:
    key, known = best.trial.key, best.confirmation
    reason = "it was trained with one seed only, by which it was also chosen"
    if known is not None:
        seeds = len(known.values)
        reason = f"only {seeds} of {CONFIRMING_SEEDS} fresh seeds are completed"
        if seeds >= CONFIRMING_SEEDS:
            reason = "the means over its fresh seeds break a constraint of the objective"
    return f"The best configuration {key} is not confirmed: {reason}. Its value is too good on average."


def on_bounds(space: SearchSpace, params: Mapping[str, Value]) -> list[tuple[str, Literal["lower", "upper"]]]:
    """The searched numbers, and ordered choices, of a point that lie at an end of their range."""
    found: list[tuple[str, Literal["lower", "upper"]]] = []
    for path, value in params.items():
        share = None if path not in space.parameters else place_in_range(space.parameters[path], value)
        if share is not None and (share <= NEAR_BOUND or share >= 1 - NEAR_BOUND):
            found.append((path, "lower" if share <= NEAR_BOUND else "upper"))
    return found


def place_in_range(parameter: FloatRange | IntRange | Choice, value: Value) -> float | None:
    """Where in its range a value lies, on the range's own scale: 0 the low end, 1 the high; None without an order."""
    if isinstance(parameter, Choice) and (not parameter.ordered or value not in parameter.values):
        return None
    return parameter.place(value)


def _of_the_seeds(summary: Summary) -> Iterator[Notice]:
    known = [each for each in summary.confirmations if each.confirmed]
    if len(known) > 1 and _overlap(known[0], known[1]):
        text = (
            f"{known[0].trial} and {known[1].trial} cannot be told apart: the difference of their means over fresh "
            "seeds is smaller than its uncertainty."
        )
        yield Notice("leaders_alike", "warning", text)
    for each in known:
        if each.lost:
            lost = f"{each.lost} fresh seed{'s' * (each.lost > 1)} of {each.trial} failed or was given up"
            yield Notice("seeds_lost", "warning", f"{lost}: those that are left may be the lucky ones.")


def _overlap(first: Confirmation, second: Confirmation) -> bool:
    """Whether the 95 % interval of the difference of two means contains 0 (Welch 1947)."""
    low, high = welch_interval(first.values, second.values)
    return low <= 0 <= high


def _of_the_trials(summary: Summary) -> Iterator[Notice]:
    study, space = summary.study, summary.space
    values = [found.value for _, found in ranked(study, summary.objective)]
    if len(values) > 2 and len(set(values)) == 1:
        text = "All completed trials have exactly the same value: the searched settings seem to have no effect."
        yield Notice("all_alike", "warning", text)
    if 0 < len(values) < FEW_TRIALS * len(space.parameters):
        text = f"{len(values)} completed trials for {len(space.parameters)} searched parameters are few."
        yield Notice("few_trials", "note", text)
    if uniform := summary.uniform_attention:
        few = ", ".join(uniform[:3]) + (f" and {len(uniform) - 3} more" if len(uniform) > 3 else "")
        yield Notice("uniform_attention_somewhere", "note", f"Attention is uniform (entropy 1.00) in {few}.")
    precisions = Counter(trial.results[-1].precision for trial in study.all_trials.values() if trial.results)
    del precisions[""]
    if len(precisions) > 1 and "compute.precision" not in space.parameters:
        what = ", ".join(f"{counted(count, 'trial', 'trials')} in {name}" for name, count in precisions.most_common())
        text = f"Machines differ, and trials were computed in different precision: {what}; set compute.precision."
        yield Notice("mixed_precision", "warning", text)
    failed = [trial for trial in study.all_trials.values() if trial.status == TrialStatus.FAILED]
    if failed and len(failed) >= MANY_FAILED * len(study.all_trials):
        kinds = Counter(kind for trial in failed for kind in trial.failures)
        why = f", most often: {kinds.most_common(1)[0][0]}" if kinds else ""
        text = f"{len(failed)} of {counted(len(study.all_trials), 'trial', 'trials')} failed{why}."
        yield Notice("many_failed", "warning", text)


def _of_the_model(summary: Summary, fits: Mapping[str, float | None]) -> Iterator[Notice]:
    metric = summary.metric
    fit = fits.get(metric)
    if fit is not None and fit < GOOD_FIT:
        text = (
            f"The model predicts {metric} of held-out trials poorly (R² {fit:.2f}): importance, slices and contours "
            "are guesses."
        )
        yield Notice("poor_fit", "warning", text)
