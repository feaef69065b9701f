"""Answers of the model, asked for before they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.history.study import Study
from orchestrator.language.problems import SpaceError
from orchestrator.search.ax_process import AxFailed, AxProcess
from orchestrator.search.points import point_key, tried_points
from orchestrator.search.question import asked_again, point_from_answer
from orchestrator.search.suggest import Exhausted, Question, Suggestion, new_random_suggestion
from orchestrator.space import SearchSpace

# How often a question is asked again, with another seed, when the answer is a point that was tried before or that
# breaks a constraint. Ax itself has drawn five times by then.
REPEATS = 3


class _Answer(NamedTuple):
    """What came of a question."""

    asked: dict[str, Any]
    """The question as it stood in the history, whatever the seed it was asked with."""
    params: object
    """Ax's words, if it had any."""
    failure: str = ""
    """Why there is no answer."""


class Ahead:
    """Asks the model about the next trial while the last ones run, and never waits for it.

    With `stale` answers an answer is used that does not know the latest results yet, as it must be in a search that
    runs trials at once if no machine is to idle: while the model thinks, others of them end. Without them only the
    answer to the very history counts, which makes a search of one trial at a time repeatable.
    """

    def __init__(self, model: AxProcess, space: SearchSpace, *, stale: int) -> None:
        """Asks `model` about `space`; an answer may lack as many results as `stale` says."""
        self._model = model
        self._space = space
        self._stale = stale
        self._asked: dict[str, Any] = {}
        self._repeats = 0
        self._answer: _Answer | None = None

    def want(self, question: Question) -> None:
        """Asks the question if nothing is being asked and no answer is there for it. To be called at every change."""
        # Without stale answers the result that is still to come would make the answer worthless.
        if self._stale:
            self._proceed(question.asked)

    def take(self, question: Question, study: Study) -> Suggestion | Exhausted | None:
        """What the model proposes for the question, which must be that of the study; None: ask again later.

        Where the model fails, or proposes nothing new however often it is asked, the proposal is a random new point
        with a note that says so.
        """
        self._proceed(question.asked)
        answer = self._answer
        if answer is None:
            return None
        self._answer = None
        if answer.failure:
            return self._without_model(study, answer.failure)
        try:
            point = point_from_answer(self._space, answer.params)
            self._space.trial_config(point)
        except SpaceError as error:
            useless = str(error)
        else:
            if point_key(point) not in tried_points(study):
                return Suggestion(point, "ax")
            useless = "the point had been tried"
        return self._ask_again(question.asked, study, useless)

    def _ask_again(self, asked: dict[str, Any], study: Study, useless: str) -> Suggestion | Exhausted | None:
        if self._repeats >= REPEATS:
            return self._without_model(study, f"{REPEATS + 1} answers in a row were of no use: {useless}")
        self._ask(asked, self._repeats + 1)
        return None

    def _without_model(self, study: Study, reason: str) -> Suggestion | Exhausted:
        self._repeats = 0
        return new_random_suggestion(self._space, study.seed, study, f"Ax: {reason}")

    def _proceed(self, asked: dict[str, Any]) -> None:
        """Takes in an answer that has come; sees to it that the question is answered or being asked."""
        if self._model.is_thinking:
            self._listen()
        if self._answer is not None and not self._fits(self._answer.asked, asked):
            self._answer = None
        if self._answer is None and not self._model.is_thinking:
            self._ask(asked, 0)

    def _listen(self) -> None:
        try:
            params = self._model.poll()
        except AxFailed as error:
            self._answer = _Answer(self._asked, None, str(error))
        else:
            if params is not None:
                self._answer = _Answer(self._asked, params)

    def _ask(self, asked: dict[str, Any], repeats: int) -> None:
        self._asked, self._repeats = asked, repeats
        try:
            self._model.ask(asked_again(asked, repeats) if repeats else asked)
        except AxFailed as error:
            self._answer = _Answer(asked, None, str(error))

    def _fits(self, asked: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        return asked == now or _only_lacks_results(asked, now, self._stale)


def _only_lacks_results(asked: Mapping[str, Any], now: Mapping[str, Any], at_most: int) -> bool:
    """Whether a question was asked about the same trials, so many of which at most have come to their ends since."""
    if {**asked, "trials": None} != {**now, "trials": None} or len(asked["trials"]) != len(now["trials"]):
        return False
    changed = [(old, new) for old, new in zip(asked["trials"], now["trials"], strict=True) if old != new]
    return len(changed) <= at_most and all(old["params"] == new["params"] for old, new in changed)
