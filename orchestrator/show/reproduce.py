"""A trial trained again from the start, and every epoch compared with what the journal says of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.replicates import find_trial
from orchestrator.base.errors import SearchError
from orchestrator.cluster.resources import allocate, this_machine
from orchestrator.runner.attempt import TrialSpec, WorkerMessage, attempt_environment
from orchestrator.runner.worker import ATTEMPTS_LOG, AttemptServer
from orchestrator.show.environment_diff import Circumstance, circumstances, recorded_config
from orchestrator.show.metrics_diff import Agreement, Difference, agreement
from orchestrator.space.options import Resources
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.loading import LoadedSearch
from orchestrator.study.study import Trial
from trainer.files import write_atomically

if TYPE_CHECKING:
    from trainer import TrialConfig

# On a GPU sums are taken in an order that changes from run to run, and trainings drift apart. Chosen, not measured.
GPU_TOLERANCE = 0.02
KEPT_BELOW = "reproductions"

Heard = Callable[[int, Agreement], None]
"""Told of every epoch that was compared."""


class Rehearsed(NamedTuple):
    """What is to be trained again, before it is."""

    trial: Trial
    config: TrialConfig
    split: Path
    threads: int
    tolerance: float
    """Of relative differences; 0 asks for equality to the last bit."""
    found: list[Circumstance]


class Reproduction(NamedTuple):
    """What came of it."""

    out: Path
    epochs: int
    """Compared."""
    compared: int
    """Compared, over all epochs."""
    largest: float
    """Largest relative difference."""
    first: Difference | None
    """The first figure beyond the tolerance; nothing after its epoch was trained."""
    failure: str | None
    """Why the training ended before its time."""

    @property
    def is_equal(self) -> bool:
        """Whether every epoch of the journal was found again."""
        return self.first is None and self.failure is None


def rehearse_reproduction(
    loaded: LoadedSearch, key: str, *, data: Path | None, threads: int | None, tolerance: float | None
) -> Rehearsed:
    """All that can be said before anything is trained.

    Args:
        loaded: the search.
        key: of the trial.
        data: where its data set lies now; None is where it lay.
        threads: CPU threads; None are those that it had or, where the journal does not say, that it would get here.
        tolerance: of relative differences; None is 0 for a trial on CPU cores.

    Raises:
        SearchError: there is no such trial, it has reported nothing, or its data are not where or what they were.
        DataError: the data set or the split is damaged.
    """
    trial = find_trial(loaded, key)
    if trial.finalization:
        raise SearchError(f"{trial.key}: is judged on the test set, which is not opened for a repetition; take another")
    if not trial.results:
        raise SearchError(f"{trial.key}: has reported no epoch ({trial.status}), so that there is nothing to compare")
    then = recorded_config(loaded, trial)
    root = (then.data.root if data is None else data).absolute()
    if not root.is_dir():
        raise SearchError(f"{root}: the data set of {trial.key} is not there; say where it is with --data DIR")
    now = then.model_copy(update={"data": then.data.model_copy(update={"root": root})})
    used = threads or trial.threads or threads_here(loaded)
    found = circumstances(loaded, trial, then, now, used)
    if any(each.what.startswith("data") and each.matters for each in found):
        raise SearchError(f"{root}: is not the data set that {loaded.name} was trained on; --data DIR names another")
    exact = GPU_TOLERANCE if trial.gpus else 0.0
    split = loaded.folder.split_of(trial.fold)
    return Rehearsed(trial, now, split, used, exact if tolerance is None else tolerance, found)


def threads_here(loaded: LoadedSearch) -> int:
    """CPU threads that a trial of the search would get on this machine, with what it was launched with."""
    options, space = loaded.description.options, loaded.space
    if (asked := options.resources(space).cpus_per_trial) is not None:
        return asked
    share = allocate(
        [this_machine()],
        Resources(),
        concurrent=options.concurrent or space.budget.concurrent,
        trials=max(1, space.budget.trials + space.replicates.seeds * space.replicates.leaders),
    )
    return share.cpus


def fresh_folder(loaded: LoadedSearch, trial: Trial) -> Path:
    """A folder below the search, where `purge` finds it, that is not there yet."""
    below = loaded.folder.path / KEPT_BELOW
    number = 1
    while (below / f"{trial.key}-{number}").exists():
        number += 1
    return below / f"{trial.key}-{number}"


def reproduce(loaded: LoadedSearch, rehearsed: Rehearsed, out: Path, heard: Heard) -> Reproduction:
    """Trains in `out` as an attempt of the search does, in a process of its own, until the first difference.

    Raises:
        SearchError: `out` holds something, or the training's process died.
    """
    if out.exists() and any(out.iterdir()):
        raise SearchError(f"{out}: holds something already; choose another --out")
    trial = rehearsed.trial
    folder = SearchFolder(out.absolute())
    folder.trial(trial.key).mkdir(parents=True, mode=0o700)
    shutil.copyfile(rehearsed.split, folder.split_of(trial.fold))
    config = rehearsed.config.model_dump_json(indent=2) + "\n"
    write_atomically(folder.trial(trial.key) / "config.json", config)
    spec = TrialSpec(
        search=folder.path,
        trial=trial.key,
        attempt=1,
        threads=rehearsed.threads,
        hang_after=loaded.description.options.hang_after,
        fold=trial.fold,
    )
    log = folder.logs / ATTEMPTS_LOG
    server = AttemptServer(log, attempt_environment(rehearsed.threads, rehearsed.trial.gpus))
    try:
        return _compared(server, spec, rehearsed, out, heard)
    except ChildProcessError as error:
        raise SearchError(f"{trial.key}: {error}; what it printed is in {log}") from error
    finally:
        server.close()


def _compared(server: AttemptServer, spec: TrialSpec, rehearsed: Rehearsed, out: Path, heard: Heard) -> Reproduction:
    left = {result.epoch: result for result in rehearsed.trial.results}
    epochs, figures, largest = 0, 0, 0.0
    first: Difference | None = None
    failure: str | None = None
    with closing(server.messages(spec)) as messages:
        for line in messages:
            message = WorkerMessage.model_validate_json(line)
            if message.attempt_result is not None and left:
                failure = message.attempt_result.reason or message.attempt_result.state
            if message.epoch_result is None or message.epoch_result.epoch not in left:
                continue
            found = agreement(left.pop(message.epoch_result.epoch), message.epoch_result, rehearsed.tolerance)
            epochs, figures, largest = epochs + 1, figures + found.compared, max(largest, found.largest)
            heard(message.epoch_result.epoch, found)
            first = found.first
            # A trial that was stopped early reported fewer epochs than it would train now.
            if first is not None or not left:
                break
    return Reproduction(out, epochs, figures, largest, first, failure)
