"""Whether the model answers: asked while Ray starts, known before a trial does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.budget import spent
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.options import missing_for
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study

POLL_S = 0.05
# A wait for the answer is explained after this long.
SAID_AFTER_S = 5.0


class ModelCheck:
    """Asks the model one question whose answer is of no use, in a search that will ask it others."""

    def __init__(
        self,
        model: AxProcess,
        space: SearchSpace,
        study: Study,
        say: Callable[[str, str], None],
        *,
        is_new: bool,
        resume: str,
    ) -> None:
        """Asks nothing yet.

        Args:
            model: the model, as the search will ask it.
            space: what is searched.
            study: the history so far.
            say: told a label and a line for people.
            is_new: whether the search is only being launched: then it does not begin without its model.
            resume: the command that continues it.
        """
        self._model = model
        self._space = space
        self._study = study
        self._say = say
        self._is_new = is_new
        self._resume = resume

    def ask(self) -> None:
        """Asks, without waiting for the answer.

        Raises:
            EnvironmentProblem: packages are missing that the model needs, or its process cannot be started.
        """
        # They import torch, for which commands that only look at a search should not wait.
        from orchestrator.algorithms.ax_experiment import made_up_experiment
        from orchestrator.algorithms.suggest import asks_model

        study, space = self._study, self._space
        if spent(study, space.budget, space.objective, time.time()) is not None or not asks_model(space, study):
            return
        if (missing := missing_for(self._space.algorithm.method)) is not None:
            raise EnvironmentProblem(f"algorithm.method: {missing}")
        with self._told():
            self._model.ask(made_up_experiment(self._space, self._study.seed))

    def wait(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Waits for the answer, if one was asked for, or until `is_over`.

        Raises:
            EnvironmentProblem: the model gave none, and the search is new.
        """
        began, said = time.monotonic(), False
        with self._told():
            while self._model.awaited and not is_over():
                if self._model.poll() is not None:
                    return
                if not said and time.monotonic() - began > SAID_AFTER_S:
                    self._say("model", "Ax is being asked for a first answer; trials start once it has given one")
                    said = True
                time.sleep(POLL_S)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A search that is resumed goes on without a model that fails, and says so; a new one does not begin."""
        try:
            yield
        except AxFailed as error:
            if not self._is_new:
                self._say("model", f"Ax gives no answer: {error}; random points stand in until it does")
                return
            raise EnvironmentProblem(
                f"Ax gives no answer: {error}. Nothing was trained; mend it and continue with `{self._resume}`, or "
                "launch a search without a model: --set algorithm.name=sobol"
            ) from error
