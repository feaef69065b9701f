"""The networks that a finalization trained, judged on the test set of another data set than the search's.

This process judges them, one after the other: nothing is trained, and no node has to reach the data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.algorithms.finalization import open_finalization
from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.base.errors import SearchError
from orchestrator.runner.finalize import FinalizationOptions, this_user, when
from orchestrator.runner.trial_spec import BEST_CHECKPOINT
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import current_space, read_description
from orchestrator.study.events import TrialOpenedTestSet, TrialTested
from orchestrator.study.study import Study, Trial, TrialStatus, UseOfTestSet
from trainer.result import Evaluation, Progress

if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.data.folder import DataFolder
    from trainer.result import DataRecord


def other_data_set(folder: SearchFolder, root: Path) -> tuple[DataFolder, DataRecord]:
    """The data set in a folder of this machine, which must not be the search's own.

    Raises:
        DataError: there is none that can be read.
        SearchError: it is the search's own.
    """
    from trainer.data import DataConfig
    from trainer.data.folder import data_record, find_data

    found = find_data(root.absolute())
    record = data_record(DataConfig(name=found.name, root=found.root), found.read())
    if record.fingerprint == read_description(folder.description).data_fingerprint:
        raise SearchError(f"--data {root}: is the data set of {folder.name} itself; leave --data out")
    return found, record


def finalized(study: Study) -> list[Trial]:
    """The networks of the latest finalization, once all of its trainings have ended; before that none."""
    if not study.finalizations or open_finalization(study) is not None:
        return []
    latest = study.finalizations[-1].asked.finalization
    return [
        trial
        for trial in study.finals.values()
        if trial.finalization == latest and trial.status == TrialStatus.COMPLETED
    ]


def refuse_settings_of_trainings(study: Study, asked: FinalizationOptions) -> None:
    """Checks that nothing is asked for that only other trainings than those of the latest finalization could follow.

    Raises:
        SearchError: names the options.
    """
    was = study.finalizations[-1].asked
    given = {
        "--top": (asked.top, len(was.leaders)),
        "--seeds": (asked.seeds, was.seeds),
        "--epochs": (asked.epochs, was.epochs),
        "--set": (list(asked.evaluation) or None, was.evaluation),
    }
    named = [option for option, (now, before) in given.items() if now is not None and now != before]
    if named:
        raise SearchError(
            f"{', '.join(named)}: the search is finalized with other values, and its networks are judged as they were "
            "on its own test set; leave it out"
        )


def judge(folder: SearchFolder, found: DataFolder, record: DataRecord, *, again: bool, progress: Progress) -> None:
    """Judges each network of the latest finalization on the test set of a data set, unless it has been judged on it.

    Each use is an event of the journal before it happens, each result is one afterwards. The folder
    `test-NAME-FINGERPRINT` of each trial holds what an evaluation leaves; on this machine only, if the storage has a
    URI.

    Args:
        folder: a finalized search that no process drives.
        found: the data set, on this machine.
        record: which it is.
        again: whether this test set may be opened although it was opened before.
        progress: called after every batch.

    Raises:
        SearchError: this test set was opened before.
        DataError, ConfigError, CheckpointError: as `trainer.evaluate`.
        LeaseError: a process drives the search.
    """
    from trainer import check_test_set
    from trainer.evaluation.test_set import check_network

    with folder.store.record(folder) as recorder:
        study = recorder.study
        trials = finalized(study)
        check_unopened(study, record, again=again)
        space = current_space(read_description(folder.description), study)
        configs = {trial.key: _config(trial_config(space, trial), found) for trial in trials}
        for key, config in configs.items():
            check_test_set(config)
            folder.store.pull_trial(folder, key, BEST_CHECKPOINT)
            check_network(config, folder.trial(key) / BEST_CHECKPOINT, advice="finalize judges partition 0 alone")
        known = {use.asked.trial for use in _uses(study, record) if use.asked.use == "finalize"}
        for trial in trials:
            if record.fingerprint in trial.other_tests:
                continue
            if trial.key not in known:
                weights = f"trials/{trial.key}/{BEST_CHECKPOINT}"
                recorder.record(
                    TrialOpenedTestSet(trial=trial.key, use="finalize", weights=weights, by=this_user(), data=record)
                )
            evaluation = _evaluated(folder, trial, configs[trial.key], record, progress)
            recorder.record(TrialTested(trial=trial.key, evaluation=evaluation, data=record))


def _uses(study: Study, record: DataRecord) -> list[UseOfTestSet]:
    return [
        use
        for use in study.test_set_uses
        if use.asked.data is not None and use.asked.data.fingerprint == record.fingerprint
    ]


def check_unopened(study: Study, record: DataRecord, *, again: bool) -> None:
    """Checks that a test set was not opened before, other than for the latest finalization's networks.

    Raises:
        SearchError: it was, and `again` is not set.
    """
    uses = _uses(study, record)
    keys = {trial.key for trial in finalized(study)}
    if uses and not again and not any(use.asked.use == "finalize" and use.asked.trial in keys for use in uses):
        last = uses[-1]
        raise SearchError(
            f"{study.name}: the test set of {record.name} was opened {when(last)} by {last.asked.by} for "
            f"{last.asked.trial}; --again opens it once more, which is recorded"
        )


def _config(config: TrialConfig, found: DataFolder) -> TrialConfig:
    from trainer.evaluation.trained_on import for_data_set

    return for_data_set(config, found)


def _evaluated(
    folder: SearchFolder, trial: Trial, config: TrialConfig, record: DataRecord, progress: Progress
) -> Evaluation:
    from trainer import evaluate_on_test_set

    place = folder.trial(trial.key)
    return evaluate_on_test_set(
        config,
        place / BEST_CHECKPOINT,
        place / f"test-{record.label}",
        progress=lambda what, done, total, note="": progress(f"{trial.key}, {what}", done, total, note),
        record=lambda *use: None,  # the journal holds it
    )
