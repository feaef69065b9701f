"""Answers of the model, asked for before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.algorithms.ax_experiment import point_from_answer, reseeded
from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.health import PREFIX
from orchestrator.algorithms.points import point_key, tried_points
from orchestrator.algorithms.suggest import AskModel, Exhausted, Suggestion, new_random_suggestion
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study

# How often a question is asked again, with another seed, when the answer is a point that was tried before or that
# breaks a constraint. Ax itself has drawn five times by then.
REPEATS = 3


class _Answer(NamedTuple):
    """One of the points that came of a question."""

    params: object
    """Ax's words, if it had any."""
    failure: str = ""
    """Why there is no answer."""


class AsyncSuggester:
    """Asks the model about the next trial while the last ones run, and never waits for it.

    With `stale` answers an answer is used that does not know the latest results yet, as it must be in a search that
    runs trials at once if no machine is to idle: while the model thinks, others of them end. Without them only the
    answer to the very history counts, which makes a search of one trial at a time repeatable. A question asks for
    twice as many points as the one before it if those were too few for the places that became free meanwhile, and for
    one fewer if they were not; at most for half as many as results may be lacking, since others come while the model
    thinks of the last of them. Where trials end faster than the model thinks, the answers to every other question are
    used however many results they lack: none would ever be fresh enough.
    """

    def __init__(self, model: AxProcess, space: SearchSpace, *, stale: int) -> None:
        """Asks `model` about `space`; an answer may lack as many results as `stale` says."""
        self._model = model
        self._space = space
        self._stale = stale
        self._asked: dict[str, Any] = {}
        """The question that answers are for, as it stood in the history, whatever the seed it was asked with."""
        self._taken = 0
        """Points of its answer that have become trials."""
        self._repeats = 0
        self._count = 0
        """Points that the last question asked for."""
        self._is_short = False
        """Whether more places have been free since than points were left of it."""
        self._has_dropped = False
        """Whether answers to it were dropped."""
        self._insists = False
        """Whether its answers are used however many results they lack, since some to the one before it were dropped."""
        self._answers: deque[_Answer] = deque()

    def want(self, question: AskModel) -> None:
        """Asks the question if nothing is being asked and no answer is there for it. To be called at every change."""
        # Without stale answers the result that is still to come would make the answer worthless.
        if self._stale:
            self._proceed(question.experiment, 0)

    def take(self, question: AskModel, study: Study, *, free: int = 1) -> Suggestion | Exhausted | None:
        """What the model proposes for the question, which must be that of the study; None: ask again later.

        Where the model fails, or proposes nothing new however often it is asked, the proposal is a random new point
        with a note that says so.

        Args:
            question: what to ask the model.
            study: the history that it was made of.
            free: places for trials that are free, this one included.
        """
        self._proceed(question.experiment, free)
        useless = ""
        while self._answers:
            answer = self._answers.popleft()
            if answer.failure:
                return self._without_model(study, answer.failure)
            try:
                point = point_from_answer(self._space, answer.params)
                self._space.config(point)
            except SpaceError as error:
                useless = str(error)
                continue
            if point_key(point) not in tried_points(study):
                self._taken += 1
                return Suggestion(point, "ax")
            useless = "the point had been tried"
        return self._ask_again(question.experiment, study, useless) if useless and not self._model.awaited else None

    def _ask_again(self, asked: dict[str, Any], study: Study, useless: str) -> Suggestion | Exhausted | None:
        if self._repeats >= REPEATS:
            return self._without_model(study, f"{REPEATS + 1} answers in a row were of no use: {useless}")
        self._ask(asked, self._repeats + 1, 1)
        return None

    def _without_model(self, study: Study, reason: str) -> Suggestion | Exhausted:
        self._repeats = 0
        return new_random_suggestion(self._space, study.seed, study, f"{PREFIX}{reason}")

    def _proceed(self, asked: dict[str, Any], free: int) -> None:
        """Takes in answers that have come; sees to it that the question is answered or being asked."""
        self._listen()
        if self._answers and not self._fits(asked):
            self._answers.clear()
            self._has_dropped = True
        self._is_short |= free > len(self._answers) + self._model.awaited
        if not self._answers and not self._model.awaited:
            self._count = self._next_count(free)
            self._is_short = False
            self._ask(asked, 0, self._count)

    def _next_count(self, free: int) -> int:
        count = 2 * self._count if self._is_short else self._count - 1
        return max(1, min(self._stale // 2, max(free, count)))

    def _listen(self) -> None:
        try:
            while self._model.awaited and (params := self._model.poll()) is not None:
                self._answers.append(_Answer(params))
        except AxFailed as error:
            self._answers.append(_Answer(None, str(error)))

    def _ask(self, asked: dict[str, Any], repeats: int, count: int) -> None:
        self._insists, self._has_dropped = self._has_dropped and self._stale > 0, False
        self._asked, self._taken, self._repeats = asked, 0, repeats
        question = reseeded(asked, repeats) if repeats else asked
        try:
            self._model.ask(question if count == 1 else {**question, "count": count})
        except AxFailed as error:
            self._answers.append(_Answer(None, str(error)))

    def _fits(self, now: Mapping[str, Any]) -> bool:
        at_most = len(now["trials"]) if self._insists else self._stale
        return self._asked == now or _only_lacks_results(self._asked, now, taken=self._taken, at_most=at_most)


def _only_lacks_results(asked: Mapping[str, Any], now: Mapping[str, Any], *, taken: int, at_most: int) -> bool:
    """Whether a question is still that of now, but for its own answers and a few results.

    Args:
        asked: the question as it was asked.
        now: the question as it would be asked now.
        taken: answers to it that have become the last trials of now, which the answers after them took for running.
        at_most: trials that may have come to their ends since.
    """
    # The seed follows from the number of trials.
    if any(asked.get(part) != now[part] for part in now.keys() - {"trials", "seed"}):
        return False
    trials = now["trials"]
    if len(asked["trials"]) + taken != len(trials):
        return False
    changed = [(old, new) for old, new in zip(asked["trials"], trials, strict=False) if old != new]
    changed += [(new, new) for new in trials[len(trials) - taken :] if new["state"] != "pending"]
    return len(changed) <= at_most and all(old["params"] == new["params"] for old, new in changed)
