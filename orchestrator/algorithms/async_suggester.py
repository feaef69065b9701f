"""Suggestions of the model, asked for before they are needed."""

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

# How often a question is asked again, with another seed, if the answer is a point that was tried before or breaks a
# constraint. Ax itself has drawn five times by then.
REPEATS = 3


class _Answer(NamedTuple):
    """One answer of the model."""

    params: object
    """As Ax gave them."""
    failure: str = ""
    """Why there is no point; empty if there is one."""


class AsyncSuggester:
    """Asks the model about the next trial while the last ones run, and never waits for it.

    With `stale` > 0 an answer is used although it lacks up to that many of the latest results: trials of a parallel
    search end while the model computes, and machines would idle if each waited for the latest result. With 0 only the
    answer to the present history is used, which makes a search of one trial at a time repeatable.

    A question asks for twice as many points as the one before if those were too few for the places that became free
    meanwhile, otherwise for one fewer; at most for `stale` / 2, since results keep coming while the model computes the
    last of them. Where trials end faster than the model computes, the answers to every other question are used however
    many results they lack: none would ever be recent enough.
    """

    def __init__(self, model: AxProcess, space: SearchSpace, *, stale: int) -> None:
        """Asks `model` about `space`; an answer may lack up to `stale` results."""
        self._model = model
        self._space = space
        self._stale = stale
        self._asked: dict[str, Any] = {}
        """The question that the answers belong to, with the seed that the history gives it."""
        self._taken = 0
        """Points of its answers that have become trials."""
        self._repeats = 0
        self._count = 0
        """Points that the last question asked for."""
        self._is_short = False
        """Whether more places have been free since then than it had points left."""
        self._has_dropped = False
        """Whether answers to it were dropped."""
        self._insists = False
        """Whether its answers are used however many results they lack, because earlier ones were dropped."""
        self._answers: deque[_Answer] = deque()

    def want(self, question: AskModel) -> None:
        """Asks the question unless it is answered or being asked. To be called whenever the history changes."""
        # Without stale answers the next result would make the answer worthless.
        if self._stale:
            self._proceed(question.experiment, 0)

    def take(self, question: AskModel, study: Study, *, free: int = 1) -> Suggestion | Exhausted | None:
        """The model's suggestion; None while it computes.

        If the model fails, or suggests nothing new after `REPEATS` more questions, the suggestion is a random new point
        with a note that says why.

        Args:
            question: what to ask the model.
            study: the history from which it was made.
            free: free places for trials, this one included.
        """
        self._proceed(question.experiment, free)
        useless = ""
        while self._answers:
            answer = self._answers.popleft()
            if answer.failure:
                return self._without_model(study, answer.failure)
            try:
                point = point_from_answer(self._space, answer.params)
                config = self._space.config(point, seed=study.seed)
            except SpaceError as error:
                useless = str(error)
                continue
            if point_key(point) not in tried_points(study):
                self._taken += 1
                return Suggestion(point, "ax", config=config)
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
        """Takes in new answers; asks the question unless it has been answered or is being asked."""
        self._receive()
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

    def _receive(self) -> None:
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
    """Whether a question differs from the present one only by its own answers and a few results.

    Args:
        asked: the question as it was asked.
        now: the question as it would be asked now.
        taken: answers to it that have become trials, the last ones of `now`; later answers took them for running.
        at_most: trials that may have ended since then.
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
