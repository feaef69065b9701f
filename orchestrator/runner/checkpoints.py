"""Drops checkpoints that nothing will continue from."""

from __future__ import annotations

import logging
from collections.abc import Collection

from orchestrator.runner.trial_spec import LAST_CHECKPOINT
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.study.study import Study, TrialStatus

log = logging.getLogger(__name__)


def drop_checkpoint(folder: SearchFolder, trial: str) -> None:
    """Deletes the state from which a stopped trial would continue, unless an attempt of it lives on.

    Its best network stays.
    """
    try:
        folder.store.delete_file(folder, trial, LAST_CHECKPOINT)
    except (StorageProblem, OSError) as problem:
        log.warning("%s of %s stays: %s", LAST_CHECKPOINT, trial, problem)


def stopped_trials(study: Study) -> set[str]:
    """Keys of the configurations that are stopped; repeats that a budget stopped continue once it is raised."""
    return {trial.key for trial in study.trials.values() if trial.status == TrialStatus.STOPPED}


def drop_checkpoints(folder: SearchFolder, study: Study, before: Collection[str]) -> None:
    """Drops those of all trials stopped in a session, and those that an earlier session has left on this machine.

    Args:
        folder: the search.
        study: at the end of the session.
        before: the trials that were stopped at its beginning.
    """
    for trial in sorted(stopped_trials(study)):
        if trial not in before or (folder.trial(trial) / LAST_CHECKPOINT).exists():
            drop_checkpoint(folder, trial)
