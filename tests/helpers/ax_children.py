"""Children that stand in for Ax, and the questions they get."""

from __future__ import annotations

import sys
from pathlib import Path

from events import completed, suggested
from small_spaces import random_point

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.ax_process import AxProcess
from orchestrator.algorithms.suggest import AskModel
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import Event
from orchestrator.study.study import Study, fold

# In Ax's codes: places in ranges, on their scales, and numbers of values.
ANSWER = {
    "optim.learning_rate": 0.5,
    "clips.flip": 0.25,
    "clips.erase": 2,
    "clips.identities": 2,
    "model.pooling": 0,
    "model.attention_hidden": 0.5,
}


def history(space: SearchSpace, finished: int, running: int = 0) -> Study:
    """A search with so many trials."""
    events: list[Event] = []
    for index in range(finished + running):
        suggestion = suggested(index, **random_point(space, 0, index))  # type: ignore[arg-type]
        events += [suggestion, *(completed(index, 0.1 * index)[1:] if index < finished else [])]
    return fold(events)


def question_of(space: SearchSpace, study: Study) -> AskModel:
    return AskModel(ax_experiment(space, 0, study))


LOOP = "import sys, os, time, json\nfor line in sys.stdin:\n    "


def child(tmp_path: Path, script: str, deadline: float = 0.5) -> AxProcess:
    return AxProcess(tmp_path / "ax.log", deadline=deadline, command=(sys.executable, "-c", script))
