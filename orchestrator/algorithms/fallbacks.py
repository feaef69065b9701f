"""Random points that stood in for proposals of the model, as a pure function of the history."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import NamedTuple

from orchestrator.study.study import Study

# Begins the note of every such trial.
PREFIX = "Ax: "
# So many in a row are no chance: the model fails.
IN_A_ROW = 3


class Proposals(NamedTuple):
    """The trials that the model was to propose, and who did; those of the initial design are not among them."""

    by_model: int
    """Proposed by the model."""
    random: int
    """Random points that stood in for its proposals."""
    longest: int
    """The most of these in a row."""
    in_a_row: int
    """Those after its last proposal."""
    reason: str
    """Why the model did not propose, the most frequent one; empty where it always did."""

    @property
    def fails(self) -> bool:
        """Whether people should know: several in a row were random, or all."""
        return self.longest >= IN_A_ROW or (self.random > 0 and not self.by_model)

    def __str__(self) -> str:
        points = f"{self.random} random point{'' if self.random == 1 else 's'}"
        return f"Ax proposed {self.by_model} of {self.by_model + self.random}; {points} stood in: {self.reason}"


def proposals(study: Study) -> Proposals:
    """Who proposed the trials that the model was to propose."""
    in_order = sorted(study.trials.values(), key=lambda trial: trial.index)
    notes = [trial.note for trial in in_order if trial.source == "ax" or trial.note.startswith(PREFIX)]
    runs = [(is_random, len(list(run))) for is_random, run in groupby(notes, key=bool)]
    reasons = Counter(note.removeprefix(PREFIX) for note in notes if note)
    return Proposals(
        by_model=notes.count(""),
        random=sum(reasons.values()),
        longest=max((length for is_random, length in runs if is_random), default=0),
        in_a_row=runs[-1][1] if runs and runs[-1][0] else 0,
        reason=reasons.most_common(1)[0][0] if reasons else "",
    )
