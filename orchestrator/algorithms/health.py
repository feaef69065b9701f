"""Whether a search works, as pure functions of the history: equal failures in a row, random points in Ax's place."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import NamedTuple

from orchestrator.base.errors import Exit, OrchestratorError
from orchestrator.base.hints import hint
from orchestrator.stores.base import SearchFolder
from orchestrator.study.study import Study

# One failure may be chance, and two a coincidence.
EQUAL_FAILURES = 3
# Failures that depend on the configuration say nothing about the next one.
OF_THE_CONFIGURATION = ("diverged", "out_of_memory")
# Begins the note of every trial whose point stands in for one of the model.
PREFIX = "Ax: "
# Begins the note of a trial that does not pause because the first values of others said nothing.
WHOLE = "trials run whole"
# With as many in a row the model fails; fewer may be chance.
IN_A_ROW = 3


class DiskFull(OrchestratorError):
    """An attempt had no room for its checkpoint. No trial is lost; the message says where to make room."""

    exit_code = Exit.ENVIRONMENT

    def __init__(self, folder: SearchFolder, reason: str) -> None:
        super().__init__(f"{reason}; make room there, then `{hint('resume', folder.name, storage=folder.storage)}`")


class CircuitBroken(OrchestratorError):
    """Several trials in a row failed in the same way; the message says how, and what to do."""

    exit_code = Exit.SEARCH_FAILED


def broken_circuit(study: Study, folder: SearchFolder) -> CircuitBroken | None:
    """The error that ends the search if its last three trials failed in the same way and none completed meanwhile.

    Trials that diverged or needed too much memory are not counted. A resumed search counts from 0.
    """
    latest = study.failed[-EQUAL_FAILURES:]
    ways = {(event.failure, event.reason.partition("\n")[0]) for event in latest}
    if len(latest) < EQUAL_FAILURES or len(ways) > 1 or latest[0].failure in OF_THE_CONFIGURATION:
        return None
    last, storage = latest[-1], folder.storage
    text = f"{EQUAL_FAILURES} trials in a row failed in the same way ({last.failure}: {last.reason}); "
    logs = f"(`{hint('logs', f'{folder.name}/{last.trial}', storage=storage)}`)"
    if last.failure == "bad_config":
        return CircuitBroken(f"{text}a search keeps its settings: launch a new one with another {logs}")
    retry = hint("resume", folder.name, "--errored", "retry", storage=storage)
    return CircuitBroken(f"{text}mend that {logs}, then `{retry}`")


class Proposals(NamedTuple):
    """Counts of the trials after the initial design by their source: the model, or random points in its place."""

    by_model: int
    """Proposed by the model."""
    random: int
    """Random points in place of its proposals."""
    longest: int
    """Most random points in a row."""
    in_a_row: int
    """Random points since its last proposal."""
    reason: str
    """Most frequent reason for them; empty if there were none."""

    @property
    def fails(self) -> bool:
        """Whether to warn: several in a row were random, or all."""
        return self.longest >= IN_A_ROW or (self.random > 0 and not self.by_model)

    def __str__(self) -> str:
        points = f"{self.random} random point{'' if self.random == 1 else 's'}"
        return f"Ax proposed {self.by_model} of {self.by_model + self.random}; {points} stood in: {self.reason}"


def proposals(study: Study) -> Proposals:
    """How many of the trials after the initial design the model proposed."""
    in_order = sorted(study.trials.values(), key=lambda trial: trial.index)
    random = [trial.note if trial.note.startswith(PREFIX) else "" for trial in in_order]
    notes = [note for trial, note in zip(in_order, random, strict=True) if note or trial.source == "ax"]
    runs = [(is_random, len(list(run))) for is_random, run in groupby(notes, key=bool)]
    reasons = Counter(note.removeprefix(PREFIX) for note in notes if note)
    return Proposals(
        by_model=notes.count(""),
        random=sum(reasons.values()),
        longest=max((length for is_random, length in runs if is_random), default=0),
        in_a_row=runs[-1][1] if runs and runs[-1][0] else 0,
        reason=reasons.most_common(1)[0][0] if reasons else "",
    )
