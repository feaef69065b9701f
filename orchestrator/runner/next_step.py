"""The next step of a search and the fate of its trials, as pure functions of the study.

Nothing here knows Ray, files or the journal: `orchestrator.runner.trial_runner` carries steps out, and records every
event before it acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from orchestrator.algorithms.budget import Spent, rest, spent, trainings_left
from orchestrator.algorithms.finalization import Final, final_seed, finals_left, next_final
from orchestrator.algorithms.replicates import Replicate, next_replicate, replicates_left_at_most
from orchestrator.algorithms.stopping import Promotion, decide, last_promotion, promotion
from orchestrator.algorithms.suggest import AskModel, Continuation, Exhausted, Proposal, Suggestion, find_algorithm
from orchestrator.space.options import next_pause
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    AttemptFailed,
    Source,
    TrialContinued,
    TrialFailed,
    TrialPaused,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.study import Study, Trial, TrialStatus, may_retry, unfinished

if TYPE_CHECKING:
    from trainer.config import TrialConfig


class StartAttempt(NamedTuple):
    """A trial of the study gets its next attempt."""

    trial: str


class AddTrial(NamedTuple):
    """A new trial is recorded, and gets its first attempt."""

    event: TrialSuggested
    config: TrialConfig | None = None
    """The configuration of a new point; None for a configuration that another trial has run."""


class ContinueTrial(NamedTuple):
    """A paused trial is continued, and gets its next attempt."""

    event: TrialContinued


class EndPaused(NamedTuple):
    """The paused trials that nothing will continue are stopped."""

    events: list[TrialStopped]


class Wait(NamedTuple):
    """Nothing can start until a running trial ends."""


class SearchOver(NamedTuple):
    """Nothing is left to run."""

    reason: str


Step: TypeAlias = StartAttempt | AddTrial | ContinueTrial | AskModel | EndPaused | Wait | SearchOver
"""`AskModel`: the model proposes the next trial; `step_of` makes a step of its proposal."""

Propose: TypeAlias = Callable[[Study, SearchSpace], Proposal]


def propose(study: Study, space: SearchSpace) -> Proposal:
    """The proposal of the space's algorithm. It does not depend on the epochs of unfinished trials."""
    return find_algorithm(space.algorithm.name)(space, study.seed, study)


def next_step(study: Study, space: SearchSpace, now: float, propose: Propose = propose) -> Step:
    """What to do with a free place for a trial.

    First come trials that wait for an attempt (interrupted ones of an earlier session, then retries), then trainings
    for an opened test set, paused trials or new configurations while budget and space last, and replicates of the best
    configurations.

    Args:
        study: the history.
        space: the search space.
        now: seconds since 1970.
        propose: as `propose`, possibly remembering its last answer.
    """
    if study.queue:
        return StartAttempt(study.queue[0])
    if (final := next_final(study)) is not None:
        return AddTrial(_final_trial(study, final))
    end = spent(study, space, now)
    if end is None:
        found = promotion(study, space.stopping, space.objective, _fits(study, space))
        proposal = propose(study, space) if found is None else _continuation(space, found)
        if isinstance(proposal, AskModel):
            return proposal
        if (step := step_of(study, space, proposal)) is not None:
            return step
        too_little = f"{space.budget.trials} trials leave too little for more"
        reason = proposal.reason if isinstance(proposal, Exhausted) else too_little
        end = Spent(reason, at_once=False, continues_paused=True)
    return _closing_step(study, space, end)


def _closing_step(study: Study, space: SearchSpace, end: Spent) -> Step:
    """What to do with a free place when no new configuration is tried."""
    running = [trial for trial in study.all_trials.values() if trial.status == TrialStatus.RUNNING]
    if any(trial.status == TrialStatus.PAUSED for trial in study.trials.values()):
        if end.continues_paused and not any(trial.until for trial in running):
            found = last_promotion(study, space.objective, _fits(study, space))
            if found is not None:
                return _continued(_continuation(space, found, to_its_end=True))
        # One that runs may improve the search yet, or fail, and the paused ones are still there to continue then.
        return Wait() if running else EndPaused(_paused_for_good(study, space, end))
    if not end.ends_replicates and (replicate := next_replicate(study, space)) is not None:
        return AddTrial(_replicate_trial(study, replicate))
    # A running trial may fail and want another attempt, or be among the best and then be replicated.
    return Wait() if running else SearchOver(end.reason)


def step_of(study: Study, space: SearchSpace, proposal: Proposal | None) -> AddTrial | ContinueTrial | None:
    """The step that carries out a proposal; None if it asks for nothing that can be done.

    Raises:
        SpaceError: the trainer refuses the point.
    """
    if isinstance(proposal, Suggestion):
        return new_trial(study, space, proposal)
    if isinstance(proposal, Continuation):
        trial = study.trials[proposal.trial]
        # The model may have computed while it was continued or stopped.
        is_possible = trial.status == TrialStatus.PAUSED and _fits(study, space)(trial)
        return _continued(proposal) if is_possible else None
    return None


def _fits(study: Study, space: SearchSpace) -> Callable[[Trial], bool]:
    """Whether the budget lasts for the rest of a paused trial."""
    left = trainings_left(study, space)
    return lambda trial: rest(trial) <= left


def _continuation(space: SearchSpace, found: Promotion, *, to_its_end: bool = False) -> Continuation:
    trial = found.trial
    every = space.config(trial.params).evaluation.every
    until = None if to_its_end else next_pause(trial.epoch, trial.epochs, every, space.stopping)
    return Continuation(trial.key, until, found.reason, None)


def _continued(continuation: Continuation) -> ContinueTrial:
    trial, until, reason, forecast = continuation
    return ContinueTrial(TrialContinued(trial=trial, until=until, reason=reason, forecast=forecast))


def _paused_for_good(study: Study, space: SearchSpace, end: Spent) -> list[TrialStopped]:
    rule = space.stopping.rule if space.stopping.pauses and not end.at_once else "budget"
    return [
        TrialStopped(
            trial=trial.key,
            rule=rule,
            epoch=trial.epoch,
            reason=f"paused for good after {trial.epoch} of {trial.epochs} epochs, as the search is over: {end.reason}",
        )
        for trial in study.trials.values()
        if trial.status == TrialStatus.PAUSED
    ]


def pause_after_epoch(trial: Trial) -> TrialPaused | None:
    """The event that pauses a trial whose attempt has ended in order; None if it was to train on."""
    if trial.until is None or not trial.until <= trial.epoch < trial.epochs:
        return None
    reason = f"waits after {trial.epoch} of {trial.epochs} epochs to be compared with others"
    return TrialPaused(trial=trial.key, epoch=trial.epoch, reason=reason)


def new_trial(study: Study, space: SearchSpace, suggestion: Suggestion) -> AddTrial:
    """The step that adds a suggested point to the study.

    Raises:
        SpaceError: the trainer refuses the point.
    """
    index = len(study.trials)
    config = suggestion.config or space.config(suggestion.params, seed=study.seed)
    event = TrialSuggested(
        trial=f"t{index:04d}",
        index=index,
        params=suggestion.params,
        source=suggestion.source,
        seed=study.seed,
        note=suggestion.note,
        epochs=config.optim.epochs,
        until=_first_pause(space, suggestion, index, config),
    )
    return AddTrial(event, config)


def _first_pause(space: SearchSpace, suggestion: Suggestion, index: int, config: TrialConfig) -> int | None:
    """The epoch after which a new trial first pauses; the baseline of constraints never does."""
    if space.objective.is_relative and index == 0 and suggestion.source == "start":
        return None
    if suggestion.until is not None:
        return suggestion.until if suggestion.until < config.optim.epochs else None
    return next_pause(0, config.optim.epochs, config.evaluation.every, space.stopping)


def _replicate_trial(study: Study, replicate: Replicate) -> TrialSuggested:
    again = _again(replicate.key, replicate.original, replicate.source, replicate.seed)
    return again.model_copy(update={"fold": replicate.fold, "note": replicate.note})


def _final_trial(study: Study, final: Final) -> TrialSuggested:
    again = _again(final.key, final.original, "finalize", final_seed(study.seed, final.number))
    epochs = again.epochs if final.epochs is None else final.epochs
    return again.model_copy(update={"finalization": final.finalization, "epochs": epochs})


def _again(key: str, original: Trial, source: Source, seed: int) -> TrialSuggested:
    """A trial that runs the configuration of another one with a seed of its own."""
    return TrialSuggested(
        trial=key,
        index=original.index,
        params=original.params,
        source=source,
        seed=seed,
        epochs=original.epochs,
        repeats=original.key,
    )


def question_ahead(study: Study, space: SearchSpace, propose: Propose = propose) -> AskModel | None:
    """The question to ask the model before a place is free; None if the next trial needs no model."""
    if spent(study, space) is not None:
        return None
    proposal = propose(study, space)
    return proposal if isinstance(proposal, AskModel) else None


def trials_left(study: Study, space: SearchSpace, now: float) -> int:
    """Trials that may still run: unfinished ones, new ones up to the budget, then replicates and trainings for the
    test set."""
    end = spent(study, space, now)
    if end is None and isinstance(proposal := propose(study, space), Exhausted):
        end = Spent(proposal.reason, at_once=False)
    if end is None:
        shortest = Fraction(space.stopping.first) if space.stopping.pauses else 1
        return len(unfinished(study)) + int(trainings_left(study, space) / shortest)
    replicates = 0 if end.ends_replicates else replicates_left_at_most(study, space)
    return len(unfinished(study)) + replicates + sum(1 for _ in finals_left(study))


def stop_after_epoch(study: Study, space: SearchSpace, trial: Trial) -> TrialStopped | None:
    """The event that stops a trial after its latest epoch where the space's stopping rule says so, otherwise None."""
    reason = decide(trial, study, space.stopping, space.objective)
    if reason is None or space.stopping.rule == "none":
        return None
    return TrialStopped(trial=trial.key, rule=space.stopping.rule, epoch=trial.epoch, reason=reason)


def stops_for_budget(study: Study, space: SearchSpace, now: float) -> list[TrialStopped]:
    """The events that stop all unfinished trials for which the budget leaves nothing."""
    end = spent(study, space, now)
    if end is None or not end.at_once:
        return []
    return [
        TrialStopped(trial=trial.key, rule="budget", epoch=trial.epoch, reason=end.reason)
        for trial in unfinished(study)
        if end.ends_replicates or not trial.repeats
    ]


def failure_of_trial(study: Study, failed: AttemptFailed) -> TrialFailed | None:
    """The event that ends a trial after an attempt that failed, which is in the study already; None for a retry."""
    if may_retry(study.all_trials[failed.trial], failed.failure):
        return None
    return TrialFailed(trial=failed.trial, failure=failed.failure, reason=failed.reason)
