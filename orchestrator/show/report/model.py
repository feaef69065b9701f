"""What Ax's model says of a search, asked of a child process and given in the words of the space."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from orchestrator.algorithms.ax_process import ONE_THREAD
from orchestrator.algorithms.replicates import best_configuration
from orchestrator.stores.loading import LoadedSearch
from trainer.child import python_command, start_child
from trainer.files import in_place

LEAST_TRIALS = 3  # completed; fewer say nothing about any parameter
DEADLINE_S = 180.0
SLICES, CONTOURS = 6, 3
SLICE_POINTS, CONTOUR_POINTS = 41, 21
WORKER = python_command("-m", "orchestrator.show.report.model_worker")


class Card(NamedTuple):
    """One thing that the model says, or why it does not."""

    kind: str
    """importance, fit, slice, or contour."""
    about: list[str]
    """The metric, or the one or two parameters."""
    data: dict[str, Any]
    """Empty where it was skipped; values of parameters are real values, not Ax's codes."""
    skipped: str
    """Why it is missing; empty where it is there."""


class ModelView(NamedTuple):
    """All that the model was asked."""

    cards: list[Card]
    missing: str
    """Why there is no card at all, or not every one; empty where all were made or each says why not."""

    def of_kind(self, kind: str) -> list[Card]:
        """The cards of a kind that were made."""
        return [card for card in self.cards if card.kind == kind and not card.skipped]

    def fits(self) -> dict[str, float | None]:
        """R2 of the cross-validation by metric."""
        return {card.about[0]: card.data["r2"] for card in self.of_kind("fit")}


class ModelProcess:
    """The child that is asked; it imports Ax, which takes seconds, while the search is read."""

    def __init__(self, log: Path | None, *, deadline: float = DEADLINE_S, command: Sequence[str] = WORKER) -> None:
        """Starts the child. To be called from the main thread: the child dies with the thread that started it.

        Args:
            log: receives what the child prints besides cards; nothing does where None.
            deadline: seconds after the question; what is not there by then is given up.
            command: the child; reads a request, prints cards.
        """
        self._deadline = deadline
        self._child: subprocess.Popen[str] | None = None
        self._trouble = ""
        noise: int | IO[bytes] = subprocess.DEVNULL
        if log is not None:
            with suppress(OSError):  # a storage that can only be read has reports all the same
                noise = open(log, "wb", opener=in_place)  # noqa: SIM115 - closed below
        try:
            self._child = start_child(
                command,
                {**os.environ, **ONE_THREAD},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            self._trouble = f"the model's process could not be started: {error.strerror}"
        finally:
            if not isinstance(noise, int):
                noise.close()
        self._lines: list[str] = []
        self._talk: threading.Thread | None = None

    def ask(self, search: LoadedSearch) -> None:
        """Tells the child the search; `answer` brings the cards."""
        request = model_request(search)
        if request is None:
            self._trouble = f"the model needs {LEAST_TRIALS} completed trials at least"
        elif self._child is not None:
            text = json.dumps(request, allow_nan=False)
            self._talk = threading.Thread(target=self._converse, args=(self._child, text), daemon=True)
            self._talk.start()

    def _converse(self, child: subprocess.Popen[str], text: str) -> None:
        try:
            printed, _ = child.communicate(text, timeout=self._deadline)
            if child.returncode:
                self._trouble = f"the model's process ended with code {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            printed, _ = child.communicate()
            self._trouble = f"the model gave no more cards within {self._deadline:g} s"
        self._lines = [line for line in printed.splitlines() if line]

    def answer(self, search: LoadedSearch) -> ModelView:
        """Waits for the cards; values on their axes are real ones."""
        if self._talk is not None:
            self._talk.join()
        cards = []
        for line in self._lines:
            try:
                cards.append(_decoded(json.loads(line), search))
            except (ValueError, KeyError, TypeError, IndexError):
                self._trouble = self._trouble or "the model's process printed something that is no card"
        if not cards:
            self._trouble = self._trouble or "the model's process gave no card"
        return ModelView(cards, self._trouble)

    def close(self) -> None:
        """Ends the child if it still runs."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
        if self._talk is not None:
            self._talk.join()
        if self._child is not None:
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None and not pipe.closed:
                    with suppress(OSError):
                        pipe.close()
            self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def model_request(search: LoadedSearch) -> dict[str, Any] | None:
    """All that the child needs, as plain JSON; None with too few completed trials."""
    from orchestrator.algorithms.ax_experiment import (
        ax_experiment,  # imports torch: seconds, in which the child imports Ax
    )

    space, study = search.space, search.study
    question = ax_experiment(space, search.description.seed, study)
    best = best_configuration(study, space.objective)
    # The others are no observations: they change nothing but the time it takes.
    completed = [trial for trial in question["trials"] if trial["state"] == "completed"]
    if best is None or len(completed) < LEAST_TRIALS:
        return None
    encoded = question["parameters"]
    # The trials of this search stand last, in the order of their index.
    place = sorted(trial.index for trial in study.trials.values()).index(best.trial.index)
    centre = question["trials"][place - len(study.trials)]["params"]
    return {
        "question": {**question, "method": "fast", "trials": completed},
        "metrics": [term.metric for term in space.objective.terms],
        "centre": centre,
        "grids": {
            path: {"slice": grid(spec, SLICE_POINTS), "contour": grid(spec, CONTOUR_POINTS)}
            for path, spec in encoded.items()
        },
        "slices": SLICES,
        "contours": CONTOURS,
    }


def grid(spec: Mapping[str, Any], most: int) -> list[float]:
    """Codes of a parameter, evenly spread, at most `most`; all of a choice without an order."""
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


def _decoded(card: Mapping[str, Any], search: LoadedSearch) -> Card:
    """A card with real values on its axes."""
    from orchestrator.algorithms.ax_experiment import decoded

    data = dict(card.get("data", {}))
    for axis, path in zip(("x", "y"), card["about"], strict=False):
        if axis in data:
            parameter = search.space.parameters[path]
            data[axis] = [decoded(parameter, code) for code in data[axis]]
            if None in data[axis]:
                raise ValueError(f"{path} has a code that means no value")
    return Card(card["card"], list(card["about"]), data, card.get("skipped", ""))
