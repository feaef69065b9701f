"""Asks the model one question while Ray starts, so that a search does not begin with a model that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.algorithms.ax_experiment import made_up_experiment
from orchestrator.algorithms.ax_process import AxFailed, AxProcess
from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.suggest import asks_model
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.space.options import missing_for
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.study import Study

POLL_S = 0.05
EXPLAINED_AFTER_S = 5.0  # of waiting for the answer


class ModelCheck:
    """Asks the model one question about made-up trials, in a search that will ask it about real ones."""

    def __init__(
        self,
        model: AxProcess,
        space: SearchSpace,
        study: Study,
        notice: Callable[[str, str], None],
        *,
        is_new: bool,
        resume: str,
    ) -> None:
        """Asks nothing yet.

        Args:
            model: the model, as the search will ask it.
            space: what is searched.
            study: the history so far.
            notice: called with a label and a line for people.
            is_new: whether this is the first session; it does not begin without a model that answers.
            resume: the command that continues it.
        """
        self._model = model
        self._space = space
        self._study = study
        self._notice = notice
        self._is_new = is_new
        self._resume = resume

    def ask(self) -> None:
        """Asks, without waiting for the answer.

        Raises:
            EnvironmentProblem: packages are missing that the model needs, or its process cannot be started.
        """
        study, space = self._study, self._space
        if spent(study, space, time.time()) is not None or not asks_model(space, study):
            return
        if (missing := missing_for(self._space.algorithm.method)) is not None:
            raise EnvironmentProblem(f"algorithm.method: {missing}")
        with self._failure_reported():
            self._model.ask(made_up_experiment(self._space, self._study.seed))

    def wait(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Waits for the answer, if one was asked for, or until `is_over`.

        Raises:
            EnvironmentProblem: the model gave none, and the search is new.
        """
        began, is_explained = time.monotonic(), False
        with self._failure_reported():
            while self._model.awaited and not is_over():
                if self._model.poll() is not None:
                    return
                if not is_explained and time.monotonic() - began > EXPLAINED_AFTER_S:
                    self._notice("model", "Ax is being asked for a first answer; trials start once it has given one")
                    is_explained = True
                time.sleep(POLL_S)

    @contextmanager
    def _failure_reported(self) -> Iterator[None]:
        """A resumed search continues with random points if the model fails; a new one ends."""
        try:
            yield
        except AxFailed as error:
            if not self._is_new:
                self._notice("model", f"Ax gives no answer: {error}; random points stand in until it does")
                return
            raise EnvironmentProblem(
                f"Ax gives no answer: {error}. Nothing was trained; mend it and continue with `{self._resume}`, or "
                "launch a search without a model: --set algorithm.name=sobol"
            ) from error
