"""Whole searches whose trials pause, played by `next_step` alone: no Ray, no training, curves from a function."""

from __future__ import annotations

import random
from collections.abc import Callable

from events import epoch_result

from orchestrator.runner.next_step import (
    AddTrial,
    ContinueTrial,
    EndPaused,
    Propose,
    SearchOver,
    StartAttempt,
    Wait,
    next_step,
    pause_after_epoch,
    propose,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    SearchCreated,
    SessionEnded,
    SessionStarted,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
)
from orchestrator.study.study import Study, Trial

NOW = 2e9
Curve = Callable[[int, int], float]
"""mAP of a trial, by its index, after an epoch."""


def rising(index: int, epoch: int) -> float:
    """Curves of which each keeps its place: trial 3 is the best of 7, whatever the epoch."""
    return round((0.1 + 0.1 * ((index + 3) % 7)) * (1 - 0.9**epoch), 6)


class Play:
    """A search under way; each event is applied at once, as a recorder does."""

    def __init__(self, space: SearchSpace, curve: Curve = rising, *, propose: Propose = propose) -> None:
        self.space, self.curve, self.propose = space, curve, propose
        self.study, self.events = Study(), list[Event]()
        self.running: list[str] = []
        self.record(SearchCreated(search="s", space="0", seed=0), SessionStarted(session=1, host="h", pid=1))

    def record(self, *events: Event) -> None:
        for event in events:
            self.study.apply(event)
            self.events.append(event)

    def fill(self, slots: int) -> bool:
        """Starts what fits into free places; whether the search is over."""
        while len(self.running) < slots:
            step = next_step(self.study, self.space, NOW, self.propose)
            if isinstance(step, Wait | SearchOver):
                assert isinstance(step, SearchOver) or self.running, "nothing runs, and nothing is to start"
                return isinstance(step, SearchOver)
            if isinstance(step, EndPaused):
                self.record(*step.events)
                continue
            assert isinstance(step, AddTrial | ContinueTrial | StartAttempt)
            key = step.trial if isinstance(step, StartAttempt) else step.event.trial
            if not isinstance(step, StartAttempt):
                self.record(step.event)
            self.record(TrialStarted(trial=key, attempt=self.study.all_trials[key].attempts + 1))
            self.running.append(key)
        return False

    def advance(self, place: int) -> None:
        """One running trial finishes an epoch and, with it, what it was to train."""
        key = self.running[place % len(self.running)]
        trial = self.study.all_trials[key]
        epoch = trial.epoch + 1
        is_evaluated = epoch % self._every(trial) == 0 or epoch == trial.epochs
        value = self.curve(trial.index, epoch) if is_evaluated else None
        self.record(TrialReported(trial=key, result=epoch_result(epoch, value)))
        pause = pause_after_epoch(trial)
        end = pause or (TrialCompleted(trial=key) if epoch == trial.epochs else None)
        if end is not None:
            self.record(end)
            self.running.remove(key)

    def fail(self, place: int, *, for_good: bool) -> None:
        """An attempt is lost; its trial is tried again, or has diverged."""
        key = self.running.pop(place % len(self.running))
        failure = "diverged" if for_good else "disk_full"  # without a limit of attempts
        attempt = self.study.all_trials[key].attempts
        self.record(AttemptFailed(trial=key, attempt=attempt, failure=failure, reason="x"))
        if for_good:
            self.record(TrialFailed(trial=key, failure=failure, reason="x"))

    def to_the_end(self, slots: int = 1, seed: int = 0) -> Study:
        """Plays on, with trials that take turns at random."""
        chance = random.Random(seed)
        while not self.fill(slots):
            self.advance(chance.randrange(len(self.running)))
        self.record(SessionEnded(state="finished", reason="x"))
        return self.study

    def _every(self, trial: Trial) -> int:
        return self.space.config(trial.params).evaluation.every


def paused_space(*overrides: str, trials: int = 4, epochs: int = 12, rule: str = "promote") -> SearchSpace:
    """The space `smoke` with longer trials that pause, without a model, which a launch refuses for `freeze_thaw`."""
    settings = [
        "algorithm.name=sobol",
        f"optim.epochs={epochs}",
        "stopping.rule=promote",
        "stopping.first=0.25",
        f"budget.trials={trials}",
    ]
    space = SearchSpace.load("smoke.yaml", overrides=[*settings, *overrides])
    return space.model_copy(update={"stopping": space.stopping.model_copy(update={"rule": rule})})
