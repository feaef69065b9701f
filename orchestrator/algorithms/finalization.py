"""The best configurations, trained on all identities for the test set, as pure functions of the study.

The test set is opened by hand, after a search has finished, for configurations that were chosen without it; each
opening is an event of the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.replicates import confirmations
from orchestrator.algorithms.scoring import feasible
from orchestrator.study.study import Finalization, Study, Trial

if TYPE_CHECKING:
    from orchestrator.space.objective import Objective


class Final(NamedTuple):
    """A training for the test set."""

    key: str
    """Of the new trial."""
    original: Trial
    number: int
    """Of the configuration's trainings for the test set, from 1; its seed derives from it."""
    finalization: int
    """Number of the finalization that asks for it."""
    epochs: int | None
    """Epochs; None for those of the configuration."""


def final_candidates(study: Study, objective: Objective, count: int) -> list[Trial]:
    """The completed configurations that satisfy the objective's constraints, best first, at most `count`.

    Confirmed ones come first, by their mean over fresh seeds.
    """
    confirmed = [each.trial for each in confirmations(study, objective) if each.confirmed]
    by_one_seed = [trial.key for trial, _ in feasible(study, objective)]
    return [study.trials[key] for key in dict.fromkeys([*confirmed, *by_one_seed])][:count]


def open_finalization(study: Study) -> Finalization | None:
    """The latest finalization, if it has trainings left; otherwise None."""
    is_open = next_final(study) is not None or any(not trial.is_over for trial in study.finals.values())
    return study.finalizations[-1] if is_open else None


def next_final(study: Study) -> Final | None:
    """The next training for the test set; None if all are suggested."""
    return next(finals_left(study), None)


def finals_left(study: Study) -> Iterator[Final]:
    """Trainings of the latest finalization that are not suggested yet: one configuration after the other, best first.

    When the test set is opened again, the networks get new seeds.
    """
    if not study.finalizations:
        return
    asked = study.finalizations[-1].asked
    for leader in asked.leaders:
        earlier = [trial for trial in study.finals.values() if trial.repeats == leader]
        there = sum(trial.finalization == asked.finalization for trial in earlier)
        for number in range(len(earlier) + 1, len(earlier) + asked.seeds - there + 1):
            yield Final(f"{leader}-f{number}", study.trials[leader], number, asked.finalization, asked.epochs)


def final_seed(seed: int, number: int) -> int:
    """The trainer's seed of a configuration's training `number` for the test set, counted from 1."""
    from trainer.seeds import derived_seed  # imports torch

    return derived_seed(seed, "final", number) % 2**31
