"""Suggestions of the model, asked for before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.algorithms.ax_experiment import point_from_answer, reseeded
from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.health import PREFIX
from orchestrator.algorithms.points import point_key, tried_points
from orchestrator.algorithms.suggest import AskModel, Continuation, Exhausted, Suggestion, new_random_suggestion
from orchestrator.space.options import chunk_ends
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Forecast
from orchestrator.study.study import Study, TrialStatus

if TYPE_CHECKING:
    from trainer.config import TrialConfig

# How often a question is asked again, with another seed, if the answer is a point that was tried before or breaks a
# constraint. Ax itself has drawn five times by then.
REPEATS = 3


class _Answer(NamedTuple):
    """One answer of the model."""

    told: Mapping[str, Any]
    """As `orchestrator.algorithms.ax_worker.answers` gave it."""
    failure: str = ""
    """Why there is none; empty if there is one."""


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
        self._continued: set[str] = set()
        """Keys of the paused trials that its answers have continued."""
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

    def take(self, question: AskModel, study: Study, *, free: int = 1) -> Suggestion | Continuation | Exhausted | None:
        """The model's suggestion, or the paused trial that it continues; None while it computes.

        If the model fails, or gives nothing of use after `REPEATS` more questions, the suggestion is a random new point
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
            found = self._continuation(answer.told, study) if "continue" in answer.told else self._new(answer, study)
            if not isinstance(found, str):
                return found
            useless = found
        return self._ask_again(question.experiment, study, useless) if useless and not self._model.awaited else None

    def _new(self, answer: _Answer, study: Study) -> Suggestion | str:
        """The point of an answer, or why it is of no use."""
        try:
            point = point_from_answer(self._space, answer.told.get("params"))
            config = self._space.config(point, seed=study.seed)
        except SpaceError as error:
            return str(error)
        if point_key(point) in tried_points(study):
            return "the point had been tried"
        self._taken += 1
        until = self._until(answer.told, config)
        return Suggestion(point, "ax", answer.told.get("note", ""), config=config, until=until)

    def _until(self, told: Mapping[str, Any], config: TrialConfig) -> int | None:
        """The epoch after which a new trial pauses: the model thinks of a typical trial, of maybe other epochs."""
        if self._space.stopping.rule != "freeze_thaw":
            return None
        typical: list[int] = self._asked["ends"]
        if told.get("until") not in typical[:-1]:
            return config.optim.epochs
        ends = chunk_ends(0, config.optim.epochs, config.evaluation.every, self._space.stopping)
        return ends[min(typical.index(told["until"]), len(ends) - 1)]

    def _continuation(self, told: Mapping[str, Any], study: Study) -> Continuation | str:
        """The paused trial of an answer, or why it is of no use."""
        trial = study.trials.get(told["continue"])
        if trial is None or trial.status != TrialStatus.PAUSED:
            return f"{told['continue']} was not paused any more"
        self._continued.add(trial.key)
        until = told["until"] if told["until"] < trial.epochs else None
        value, error = told["forecast"]
        forecast = Forecast(value=self._space.objective.first.sign * value, error=error)
        reason = f"expected to end at {forecast.value:.4g} ± {error:.2g}; {told['reason']}"
        return Continuation(trial.key, until, reason, forecast)

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
            while self._model.awaited and (told := self._model.poll()) is not None:
                self._answers.append(_Answer(told))
        except AxFailed as error:
            self._answers.append(_Answer({}, str(error)))

    def _ask(self, asked: dict[str, Any], repeats: int, count: int) -> None:
        self._insists, self._has_dropped = self._has_dropped and self._stale > 0, False
        self._asked, self._taken, self._continued, self._repeats = asked, 0, set(), repeats
        question = reseeded(asked, repeats) if repeats else asked
        try:
            self._model.ask(question if count == 1 else {**question, "count": count})
        except AxFailed as error:
            self._answers.append(_Answer({}, str(error)))

    def _fits(self, now: Mapping[str, Any]) -> bool:
        at_most = len(now["trials"]) if self._insists else self._stale
        known = self._asked
        return known == now or _only_lacks_results(known, now, self._taken, self._continued, at_most=at_most)


def _only_lacks_results(
    asked: Mapping[str, Any], now: Mapping[str, Any], taken: int, continued: Set[str], *, at_most: int
) -> bool:
    """Whether a question differs from the present one only by its own answers and a few results.

    Args:
        asked: the question as it was asked.
        now: the question as it would be asked now.
        taken: answers to it that have become trials, the last ones of `now`; later answers took them for running.
        continued: keys of the paused trials that answers to it continued; later answers took them for running, too.
        at_most: trials that may have ended or paused since then.
    """
    # The seed follows from the number of trials.
    if any(asked.get(part) != now[part] for part in now.keys() - {"trials", "seed"}):
        return False
    trials = now["trials"]
    if len(asked["trials"]) + taken != len(trials):
        return False
    changed = [(old, new) for old, new in zip(asked["trials"], trials, strict=False) if old != new]
    changed = [(old, new) for old, new in changed if not (new["trial"] in continued and new["state"] == "pending")]
    changed += [(new, new) for new in trials[len(trials) - taken :] if new["state"] != "pending"]
    return len(changed) <= at_most and all(old["params"] == new["params"] for old, new in changed)
