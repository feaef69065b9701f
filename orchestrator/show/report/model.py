"""Ax's model of a search: asks a child process for its cards and translates them into values of the space."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from orchestrator.algorithms.ax_process import ONE_THREAD
from orchestrator.algorithms.replicates import best_configuration
from orchestrator.summary import Summary
from trainer.child import BadReply, Child, ChildEnded, ChildTimeout, child_command

LEAST_TRIALS = 3  # completed; fewer say nothing about any parameter
DEADLINE_S = 180.0
SLICES, CONTOURS = 6, 3
SLICE_POINTS, CONTOUR_POINTS = 41, 21
WORKER = child_command("orchestrator.show.report.model_worker")


class Card(NamedTuple):
    """One result of the model, or why it is missing."""

    kind: str
    """importance, fit, slice, or contour."""
    about: list[str]
    """The metric, or the one or two parameters."""
    data: dict[str, Any]
    """Empty if it was skipped; parameters have values of the space, not Ax's codes."""
    skipped: str
    """Why it is missing; empty if it was made."""


class ModelView(NamedTuple):
    """Everything that the model was asked."""

    cards: list[Card]
    missing: str
    """Why there are no cards, or not all; empty if each card was made or says why it was not."""

    def of_kind(self, kind: str) -> list[Card]:
        """The cards of a kind that were made."""
        return [card for card in self.cards if card.kind == kind and not card.skipped]

    def fits(self) -> dict[str, float | None]:
        """R2 of the cross-validation by metric."""
        return {card.about[0]: card.data["r2"] for card in self.of_kind("fit")}


class ModelProcess:
    """The child that fits Ax's model; it imports Ax, which takes seconds, while the search is read."""

    def __init__(self, log: Path | None, *, deadline: float = DEADLINE_S, command: Sequence[str] = WORKER) -> None:
        """Starts the child, from the main thread: the kernel ends it with the thread that started it.

        Args:
            log: file to which it appends what it prints besides cards.
            deadline: seconds after the request; cards that come later are left out.
            command: of the child, which receives a request and sends cards.
        """
        self._deadline = deadline
        self._ends: float | None = None
        self._missing = ""
        self._child: Child | None = None
        try:
            environment = {**os.environ, **ONE_THREAD}
            self._child = Child(command, name="the model's process", environment=environment, log=log)
        except OSError as error:
            self._missing = f"the model's process could not be started: {error.strerror}"

    def ask(self, search: Summary) -> None:
        """Sends the search to the child."""
        request = model_request(search)
        if request is None:
            self._missing = f"the model needs {LEAST_TRIALS} completed trials at least"
        elif self._child is not None:
            self._child.send(request)
            self._child.end_input()
            self._ends = time.monotonic() + self._deadline

    def answer(self, search: Summary) -> ModelView:
        """Waits for the cards; the values on their axes are values of the space."""
        cards: list[Card] = []
        missing = self._missing
        while self._child is not None and self._ends is not None:
            try:
                cards.append(_decoded(self._child.receive(self._ends - time.monotonic()), search))
            except ChildEnded as ended:
                missing = str(ended) if ended.code else missing
                break
            except ChildTimeout:
                missing = f"the model gave no more cards within {self._deadline:g} s"
                break
            except (BadReply, ValueError, KeyError, TypeError, IndexError):
                missing = missing or "the model's process printed something that is no card"
        if not cards:
            missing = missing or "the model's process gave no card"
        return ModelView(cards, missing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()


def model_request(search: Summary) -> dict[str, Any] | None:
    """Everything that the child needs, as plain JSON; None with too few completed trials."""
    # Imports torch, which takes seconds; the child imports Ax meanwhile.
    from orchestrator.algorithms.ax_experiment import ax_experiment

    space, study = search.space, search.study
    question = ax_experiment(space, search.description.seed, study)
    best = best_configuration(study, space.objective)
    # The others are no observations and only cost time.
    completed = [trial for trial in question["trials"] if trial["state"] == "completed"]
    if best is None or len(completed) < LEAST_TRIALS:
        return None
    encoded = question["parameters"]
    # The trials of this search stand last, in the order of their index.
    place = sorted(trial.index for trial in study.trials.values()).index(best.trial.index)
    centre = question["trials"][place - len(study.trials)]["params"]
    return {
        "question": {**question, "method": "fast", "model": "ax", "trials": completed},
        "metrics": [term.metric for term in space.objective.terms],
        "flat": [
            term.metric
            for term in space.objective.terms
            if len({trial["metrics"].get(term.metric, trial["value"]) for trial in completed}) == 1
        ],
        "centre": centre,
        "grids": {
            path: {"slice": grid(spec, SLICE_POINTS), "contour": grid(spec, CONTOUR_POINTS)}
            for path, spec in encoded.items()
        },
        "slices": SLICES,
        "contours": CONTOURS,
    }


def grid(spec: Mapping[str, Any], most: int) -> list[float]:
    """At most `most` codes of a parameter, evenly spread; all codes of a choice without an order."""
    low, high = (spec["values"][0], spec["values"][-1]) if spec["type"] == "choice" else (spec["low"], spec["high"])
    even = [low + (high - low) * place / (most - 1) for place in range(most)]
    if spec["type"] == "float":
        return even
    values = spec["values"] if spec["type"] == "choice" else range(low, high + 1)
    if len(values) <= most or not spec.get("ordered", True):
        return list(values)
    if spec["type"] == "int":
        return sorted({round(code) for code in even})
    return sorted({min(values, key=lambda value: abs(value - code)) for code in even})


def _decoded(reply: Any, search: Summary) -> Card:
    """The card of a reply, with values of the space on its axes."""
    from orchestrator.algorithms.ax_experiment import decoded

    card = Card(**reply)
    data = dict(card.data)
    for axis, path in zip(("x", "y"), card.about, strict=False):
        if axis in data:
            parameter = search.space.parameters[path]
            data[axis] = [decoded(parameter, code) for code in data[axis]]
            if None in data[axis]:
                raise ValueError(f"{path} has a code that means no value")
    return card._replace(data=data)
