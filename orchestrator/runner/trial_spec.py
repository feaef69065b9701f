"""All that a worker is given for an attempt of a trial, what it sends back, and which file of a trial holds what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeGuard

from orchestrator.stores import open_store, trial_files
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.staging import DataSource
from orchestrator.study.description import HANG_AFTER_S
from orchestrator.study.events import FailureKind, NodeLoad
from trainer.result import EpochResult, Evaluation
from trainer.settings import FrozenConfig

# Files in the folder of a trial.
CONFIG_FILE = "config.json"
RESULTS_FILE = "results.jsonl"
ERROR_FILE = "error.txt"
HANG_FILE = "hang.txt"
LOG_FILE = "log.txt"
BEST_CHECKPOINT = "checkpoint/best.pt"
LAST_CHECKPOINT = "checkpoint/last.pt"
TEST_FOLDER = "test"
TEST_RESULT = "result.json"
# Tells the running attempt to save its state after the next step and to end.
STOP_FILE = trial_files.STOP_FILE


class TrialSpec(FrozenConfig):
    """All that a worker is given for one attempt of a trial; made once per attempt, by `TrialRunner`."""

    search: Path
    """Folder of the search."""
    trial: str
    attempt: int
    """1 for the first."""
    until: int | None = None
    """Epoch after which it pauses; None trains it to its end."""
    config: str
    """The trainer's configuration in JSON, as the trial's config.json holds it."""
    threads: int
    """CPU threads that the attempt may use."""
    gpus: float | None = None
    """GPUs that it may use; 0 hides those of the machine, None takes what it sees."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which the attempt ends itself."""
    fold: int | None = None
    """The validation fold, if not that of the search."""
    tests: bool = False
    """Whether it trains on all identities and evaluates the network on the test set at the end."""
    storage: str | None = None
    """URI of the storage that holds the search; the attempt then works in its node's mirror. None is a folder that
    all nodes see."""
    start: int = 0
    """Number of the journal's event that began the attempt."""
    data: DataSource = DataSource()
    """Where the node gets the data set from, unless it lies where the configuration says."""
    title: str = ""
    """Its name in logs and process lists, see `orchestrator.cluster.names.trial_title`."""

    @property
    def name(self) -> str:
        """Search and trial, as commands take them."""
        return f"{self.search.name}/{self.trial}"


class AttemptResult(FrozenConfig):
    """How an attempt ended, as reported by itself; an attempt that cannot report was lost.

    `paused`: after the epoch until which it was to train, with its state saved. `stopped`: by a signal or by the
    search, with its state saved after its last step.
    """

    state: Literal["completed", "paused", "failed", "stopped"]
    failure: FailureKind | None = None
    reason: str = ""


class WorkerMessage(FrozenConfig):
    """One message of an attempt: an epoch, the metrics on the test set, or, as the last one, the attempt's result."""

    epoch_result: EpochResult | None = None
    load: NodeLoad | None = None
    """Of the machine during that epoch."""
    test: Evaluation | None = None
    attempt_result: AttemptResult | None = None


def folder_here(spec: TrialSpec) -> SearchFolder:
    """The search's folder on this machine: the one that all see or, for a storage with a URI, the machine's own.

    Raises:
        SearchError, EnvironmentProblem: the machine cannot have one.
    """
    store = open_store(spec.search.parent if spec.storage is None else spec.storage)
    return SearchFolder(store.path / spec.search.name, store)


def shares_gpu(gpus: float | None) -> TypeGuard[float]:
    """Whether attempts that are given so much of a GPU have neighbours on it."""
    return gpus is not None and 0 < gpus < 1


def attempt_environment(threads: int, gpus: float | None) -> dict[str, str]:
    """Environment in which numeric libraries use no more threads, and no GPU where none, was given to an attempt.

    Of GPUs that were given, Ray has set which are seen; None leaves it at that. Where one is shared, torch returns more
    of the memory that it no longer needs, unless the user has set up its allocator.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 else {}
    allocator = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if shares_gpu(gpus) else {}
    return {**allocator, **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **hidden}
