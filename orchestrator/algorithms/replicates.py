"""Replicates: the best configurations trained again with fresh seeds, which confirm them; pure functions of the study.

The value by which a configuration was chosen is the largest of many noisy ones, and so too good on average (the
winner's curse; Cawley and Talbot 2010, JMLR 11, 2079-2107). Means and intervals are therefore of the fresh seeds only.
Where the model chooses the winner (`choose: model`), trainings that choose and trainings that confirm are different
ones, the first with the source `compare`, the second with the source `repeat`: the reported mean is of the second only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.scoring import Score, best_first, feasible, outcome_limits, ranked, satisfies_all, score
from orchestrator.space.options import CONFIRMING_SEEDS
from orchestrator.study.events import Source
from orchestrator.study.study import Study, Trial, TrialStatus

if TYPE_CHECKING:
    from orchestrator.space.objective import Objective
    from orchestrator.space.search_space import SearchSpace
    from trainer.config import TrialConfig

CONFIDENCE = 0.95
# Quantiles of Student's t for 2 to 9 values, as `scipy.special.stdtrit` gives them.
T_QUANTILES: Mapping[float, float] = {
    **{1: 12.706204736174694, 2: 4.302652729749462, 3: 3.1824463052837078, 4: 2.7764451051977934},
    **{5: 2.5705818356363146, 6: 2.4469118511449786, 7: 2.364624251592784, 8: 2.306004135204166},
}


class Replicate(NamedTuple):
    """A further training of a configuration, with a fresh seed."""

    key: str
    """Of the new trial."""
    original: Trial
    seed: int
    fold: int | None
    """The validation fold, if the identities are divided into folds."""
    source: Source = "repeat"
    """`compare` of a training that chooses between the best configurations."""
    note: str = ""
    """Why this configuration, where the model says it."""


class Confirmation(NamedTuple):
    """Results of the fresh seeds of a configuration."""

    trial: str
    """Key of the configuration's first trial."""
    values: tuple[float, ...]
    """The objective's value with each completed fresh seed, in the order of the seeds; at least one."""
    mean: float
    standard_deviation: float | None
    """Of the values, by n - 1; None with one value."""
    interval: tuple[float, float] | None
    """See `t_interval`; None with one value."""
    metrics: Mapping[str, float]
    """Mean of every metric of the validation split."""
    lost: int
    """Fresh seeds that failed or were stopped; the others may be the lucky ones."""
    feasible: bool
    """Whether the mean metrics satisfy the constraints of the objective."""

    @property
    def confirmed(self) -> bool:
        """Whether the configuration may be called the best."""
        return len(self.values) >= CONFIRMING_SEEDS and self.feasible


class Best(NamedTuple):
    """The configuration that is best so far, and how sure that is."""

    trial: Trial
    score: Score
    """Of its first seed, by which it was chosen."""
    confirmation: Confirmation | None
    """Of its fresh seeds; None before one of them is completed."""

    @property
    def confirmed(self) -> bool:
        """Whether enough fresh seeds say so."""
        return self.confirmation is not None and self.confirmation.confirmed


def best_configuration(study: Study, objective: Objective) -> Best | None:
    """The confirmed configuration with the best mean over its fresh seeds, or the best by one seed where none is.

    None before the first completed trial. The earlier suggested of equals is the better one.
    """
    first_seeds = {trial.key: (trial, found) for trial, found in ranked(study, objective)}
    known = {each.trial: each for each in confirmations(study, objective)}
    confirmed = next((each.trial for each in known.values() if each.confirmed), None)
    key = confirmed or next(iter(first_seeds), None)
    return None if key is None else Best(*first_seeds[key], known.get(key))


def confirmations(study: Study, objective: Objective) -> list[Confirmation]:
    """All configurations with a completed fresh seed: confirmed ones first, then by their mean, best first."""
    sign, repeated = objective.first.sign, {trial.repeats for trial in study.replicates.values()}
    completed = [
        trial for trial in study.trials.values() if trial.key in repeated and trial.status == TrialStatus.COMPLETED
    ]
    scored = best_first(completed, study, objective)
    known = [found for trial, _ in scored if (found := confirmation(study, trial.key, objective))]
    return sorted(known, key=lambda each: (not each.confirmed, -sign * each.mean, study.trials[each.trial].index))


def confirmation(study: Study, original: str, objective: Objective) -> Confirmation | None:
    """Results of the fresh seeds of a configuration; None before the first of them is completed.

    The seed by which it was chosen does not count: its value is too good on average.
    """
    replicates = fresh_seeds(study, original)
    scores = [
        found for trial in replicates if trial.status == TrialStatus.COMPLETED and (found := score(trial, objective))
    ]
    if not scores:
        return None
    values = tuple(found.value for found in scores)
    metrics = _means([found.metrics for found in scores])
    return Confirmation(
        trial=original,
        values=values,
        mean=statistics.fmean(values),
        standard_deviation=statistics.stdev(values) if len(values) > 1 else None,
        interval=t_interval(values),
        metrics=metrics,
        lost=sum(trial.status in (TrialStatus.FAILED, TrialStatus.STOPPED) for trial in replicates),
        feasible=satisfies_all(metrics, outcome_limits(study, objective)),
    )


def fresh_seeds(study: Study, original: str) -> list[Trial]:
    """The trainings that confirm a configuration, without those that chose it."""
    return [trial for trial in study.replicates.values() if (trial.repeats, trial.source) == (original, "repeat")]


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the mean of independent values (Student 1908); None for fewer than two.

    It covers what differs between the values: the seed and, with several folds, the choice of the validation identities
    (folds share training identities, so that the interval is somewhat too narrow for the latter). It does not cover the
    error over the queries of one split, which is `mAP_standard_error`. With few values the interval of a share may end
    beyond 0 or 1.
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    margin = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - margin, mean + margin


def t_quantile(freedom: float) -> float:
    """Half the width of a 95 % interval in standard errors: a quantile of Student's t.

    Args:
        freedom: degrees of freedom, positive, not necessarily whole.
    """
    if freedom in T_QUANTILES:
        return T_QUANTILES[freedom]
    from scipy.special import stdtrit  # its import takes longer than reading most searches

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric that all have, without standard errors, whose mean says nothing."""
    return {
        name: statistics.fmean(each[name] for each in metrics)
        for name in metrics[0]
        if not name.endswith("_standard_error") and all(name in each for each in metrics)
    }


def next_replicate(study: Study, space: SearchSpace) -> Replicate | None:
    """The next replicate, to be called when no new configuration will be suggested; None if there is none, or not yet.

    Which configurations are best is known only when all of them are over.
    """
    if any(not trial.is_over for trial in study.trials.values()):
        return None
    if space.replicates.choose == "model":
        return _next_by_model(study, space)
    return next(replicates_left(study, space), None)


def replicates_left_at_most(study: Study, space: SearchSpace) -> int:
    """The number of replicates that are not suggested yet, if no configuration becomes one of the best besides."""
    if space.replicates.choose == "leaders":
        return sum(1 for _ in replicates_left(study, space))
    from orchestrator.algorithms.final_choice import Contenders, comparing

    contenders = Contenders.of(study, space)
    if contenders is None:
        return 0
    left = space.replicates.trainings - len(comparing(study))
    confirming = 0 if left > 0 else len(fresh_seeds(study, contenders.winner.key))
    return max(left, 0) + max(space.replicates.seeds - confirming, 0)


def replicates_left(study: Study, space: SearchSpace) -> Iterator[Replicate]:
    """All replicates that are not suggested yet, if the best configurations so far remain the best.

    One configuration after the other, the best first: a search that ends early has confirmed one rather than none. All
    get the same seeds and folds, so that their means differ by the configuration alone. A failed replicate is not
    replaced.
    """
    for trial in top_trials(study, space.objective, space.replicates.leaders):
        for number in range(1, space.replicates.seeds + 1):
            key = f"{trial.key}-r{number}"
            if key not in study.replicates:
                fold = replicate_fold(space.config(trial.params), number)
                yield Replicate(key, trial, replicate_seed(study.seed, number), fold)


def _next_by_model(study: Study, space: SearchSpace) -> Replicate | None:
    """The next training that chooses the winner, then the next that confirms it; None if there is none, or not yet.

    Those that choose are spent one after the other, or several at once as if each that runs had the value that is
    expected of it. The winner has the largest mean by the model once all of them are over; what confirms it chooses
    no more. A failed training is not replaced; a configuration that fails when it is compared is out.
    """
    from orchestrator.algorithms.final_choice import Contenders, comparing  # import SciPy, which few reads need

    contenders, compared = Contenders.of(study, space), comparing(study)
    if contenders is None:
        return None
    if len(compared) < space.replicates.trainings:
        trial, _ = contenders.next_training()
        return _again(study, trial, "compare", "one more training of it improves the best mean most")
    if any(not trial.is_over for trial in compared):
        return None
    winner = contenders.winner
    if len(fresh_seeds(study, winner.key)) >= space.replicates.seeds:
        return None
    return _again(study, winner, "repeat", "confirms the winner, which has the best mean by the model")


def _again(study: Study, original: Trial, source: Source, note: str) -> Replicate:
    number = 1 + sum(trial.repeats == original.key for trial in study.replicates.values())
    return Replicate(f"{original.key}-r{number}", original, replicate_seed(study.seed, number), None, source, note)


def interrupted_replicates(study: Study) -> list[Trial]:
    """Replicates that were stopped because a budget was spent; they continue if it is raised."""
    return [
        trial
        for trial in study.replicates.values()
        if trial.status == TrialStatus.STOPPED and trial.stopped_by == "budget"
    ]


def top_trials(study: Study, objective: Objective, count: int) -> list[Trial]:
    """At most `count` completed configurations that satisfy the objective's constraints, best by their first seed."""
    return [trial for trial, _ in feasible(study, objective)[:count]]


def replicate_seed(seed: int, number: int) -> int:
    """The trainer's seed of replicate `number`, counted from 1, in a search whose trials have the seed `seed`."""
    from trainer.seeds import derived_seed  # imports torch

    return derived_seed(seed, "repeat", number) % 2**31


def replicate_fold(config: TrialConfig, number: int) -> int | None:
    """The validation fold of replicate `number`, counted from 1; None without folds.

    Takes the other folds in turn, never that of the search, by whose identities the configuration was chosen.
    """
    validation = config.data.validation
    if validation.folds is None:
        return None
    others = validation.folds - 1
    return (validation.fold + 1 + (number - 1) % others) % validation.folds


def replicate_folds(space: SearchSpace) -> list[int]:
    """The validation folds on which replicates are evaluated."""
    config = space.config(space.any_sample())
    folds = (replicate_fold(config, number) for number in range(1, space.replicates.seeds + 1))
    return [fold for fold in dict.fromkeys(folds) if fold is not None]
