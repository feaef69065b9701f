"""What trials finished while nobody was there to hear of it."""

from __future__ import annotations

import logging

from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.runner.attempt import RESULTS_FILE, TEST_FOLDER, TEST_RESULT
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.remote import StorageProblem
from orchestrator.stores.trial_files import bring_trial
from orchestrator.study.events import TrialCompleted, TrialTested
from orchestrator.study.recorder import Recorder, record_epoch
from orchestrator.study.study import unfinished
from trainer.result import read_evaluation, read_results

log = logging.getLogger(__name__)


def recover_epochs(folder: SearchFolder, space: SearchSpace, recorder: Recorder) -> None:
    """Takes in what trials finished on disk after the last session had died and could not hear of it."""
    for trial in unfinished(recorder.study):
        try:
            bring_trial(folder, trial.key, RESULTS_FILE, f"{TEST_FOLDER}/{TEST_RESULT}")
        except StorageProblem as problem:
            log.warning("%s; its attempt tells again what it has", problem)
        out = folder.trial(trial.key)
        for result in read_results(out / RESULTS_FILE):
            record_epoch(recorder, space, trial.key, result)
        if trial.is_over or trial.epoch < trial_config(space, trial).optim.epochs:
            continue
        if trial.finalization:
            test = read_evaluation(out / TEST_FOLDER / TEST_RESULT)
            if test is None:
                continue
            if trial.test is None:
                recorder.record(TrialTested(trial=trial.key, evaluation=test))
        recorder.record(TrialCompleted(trial=trial.key))
