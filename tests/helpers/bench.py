"""A searcher on a journal of its own, and an Ax that answers what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from events import epoch_result

from orchestrator.algorithms.async_suggester import AsyncSuggester
from orchestrator.runner.searcher import TuneSearcher
from orchestrator.runner.stop_request import StopRequest
from orchestrator.runner.trial_runner import AttemptSettings, TrialRunner
from orchestrator.runner.trial_spec import AttemptResult, WorkerMessage
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.events import SearchCreated, SessionStarted
from orchestrator.study.journal import Journal
from orchestrator.study.recorder import Recorder


class FakeAx:
    """Answers what it is told to, after being asked a given number of times."""

    def __init__(self, *answers: dict[str, Any] | Exception, delay: int = 1) -> None:
        self.answers = list(answers)
        self.questions: list[dict[str, Any]] = []
        self.awaited = 0
        self._delay = delay
        self._polls = 0

    def start(self) -> None:
        pass

    def ask(self, question: dict[str, Any]) -> None:
        assert not self.awaited
        self.questions.append(question)
        self.awaited, self._polls = 1, 0

    def poll(self) -> dict[str, Any] | None:
        self._polls += 1
        if self._polls <= self._delay:
            return None
        self.awaited = 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"params": answer}


TWO_POINTS = ["optim.learning_rate=1e-3", "clips.identities=4"]


# In Ax's codes: a place in a range, and numbers of values.
ANSWER = {"optim.learning_rate": 0.6, "clips.identities": 1, "model.attention_gate": 1}


ANOTHER = {"optim.learning_rate": 0.4, "clips.identities": 1, "model.attention_gate": 0}


class Bench:
    """A searcher on a journal of its own."""

    def __init__(
        self,
        folder: Path,
        ax: FakeAx | None = None,
        *,
        trials: int = 6,
        concurrent: int = 2,
        overrides: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = local_search(folder)
        fresh = not self.folder.journal.exists()
        self.journal = Journal(self.folder.journal)
        self.recorder = Recorder(self.journal)
        if fresh:
            self.recorder.record(SearchCreated(search="s", space="0", seed=0))
        self.recorder.record(SessionStarted(session=self.recorder.study.sessions + 1, host="h", pid=1))
        self.stop = StopRequest()
        self.ax = ax or FakeAx()
        space = SearchSpace.load("smoke.yaml", overrides=[f"budget.trials={trials}", *overrides])
        runner = TrialRunner(
            self.recorder,
            space,
            self.folder,
            self.stop,
            AsyncSuggester(self.ax, space, stale=0 if concurrent == 1 else 1),  # type: ignore[arg-type]
            AttemptSettings(threads=1),
        )
        self.searcher = TuneSearcher(runner, self.stop, lambda: concurrent)

    def epoch(self, trial_id: str, epoch: int, mean_ap: float) -> bool:
        """As Tune does: the scheduler is asked first."""
        message = {"message": WorkerMessage(epoch_result=epoch_result(epoch, mean_ap)).model_dump_json()}
        stops = self.searcher.on_epoch(trial_id, message)
        if not stops:
            self.searcher.on_trial_result(trial_id, message)
        return stops

    def end(self, trial_id: str, attempt_result: AttemptResult | None, *, error: bool = False) -> None:
        result = (
            None
            if attempt_result is None
            else {"message": WorkerMessage(attempt_result=attempt_result).model_dump_json()}
        )
        self.searcher.on_trial_complete(trial_id, result, error)

    def complete(self, trial_id: str, mean_ap: float) -> None:
        self.epoch(trial_id, 3, mean_ap)
        self.end(trial_id, AttemptResult(state="completed"))

    def next(self, trial_id: str) -> Any:
        """What is suggested once the model has thought."""
        for _ in range(100):
            assert self.searcher.failure is None
            if (spec := self.searcher.suggest(trial_id)) is not None:
                return spec
        raise AssertionError("nothing was suggested")

    def status(self) -> dict[str, str]:
        return {key: trial.status for key, trial in self.recorder.study.trials.items()}
