"""Records epochs of trials: those that an attempt reports, and those that it left on disk."""

from __future__ import annotations

import logging

from orchestrator.runner.next_step import pause_after_epoch, stop_after_epoch
from orchestrator.runner.trial_spec import RESULTS_FILE, TEST_FOLDER, TEST_RESULT
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder, StorageProblem
from orchestrator.study.events import NodeLoad, TrialCompleted, TrialReported, TrialTested
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import TrialStatus, unfinished
from trainer.result import EpochResult, read_evaluation, read_results

log = logging.getLogger(__name__)


def record_epoch(
    recorder: Recorder, space: SearchSpace, key: str, result: EpochResult, load: NodeLoad | None = None
) -> None:
    """Records an epoch that is new, then decides whether the trial stops after it."""
    trial = recorder.study.all_trials[key]
    if trial.is_over or result.epoch <= trial.epoch:
        return
    recorder.record(TrialReported(trial=key, result=result, load=load))
    if (stop := stop_after_epoch(recorder.study, space, trial)) is not None:
        recorder.record(stop)


def recover_epochs(folder: SearchFolder, space: SearchSpace, recorder: Recorder) -> None:
    """Records what attempts finished on disk after the last session had died."""
    for trial in unfinished(recorder.study):
        if trial.status == TrialStatus.PAUSED:
            continue  # its attempt had ended
        try:
            folder.store.pull_trial(folder, trial.key, RESULTS_FILE, f"{TEST_FOLDER}/{TEST_RESULT}")
        except StorageProblem as problem:
            log.warning("%s; the next attempt reports its epochs again", problem)
        out = folder.trial(trial.key)
        for result in read_results(out / RESULTS_FILE):
            record_epoch(recorder, space, trial.key, result)
        if trial.is_over:
            continue
        if (pause := pause_after_epoch(trial)) is not None:
            recorder.record(pause)
        if trial.epoch < trial.epochs:
            continue
        if trial.finalization:
            test = read_evaluation(out / TEST_FOLDER / TEST_RESULT)
            if test is None:
                continue
            if trial.test is None:
                recorder.record(TrialTested(trial=trial.key, evaluation=test))
        recorder.record(TrialCompleted(trial=trial.key))
