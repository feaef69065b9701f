"""Records that the test set is used, before anything is trained for it or evaluated on it.

`unseal_test_set` opens it for the best configurations of a finished search, `record_test_set_use` for one trial.
"""

from __future__ import annotations

import getpass
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.budget import trainings_taken
from orchestrator.algorithms.finalization import final_candidates, open_finalization
from orchestrator.algorithms.trial_configs import without_validation_split
from orchestrator.base import provenance
from orchestrator.base.errors import SearchError
from orchestrator.base.hints import hint
from orchestrator.runner.data_staging import with_data_here
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.events import FinalizationStarted, TrialOpenedTestSet
from orchestrator.study.study import Finalization, Study, Trial, UseOfTestSet

if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.evaluation.test_set_record import Use
    from trainer.result import DataRecord

TOP, SEEDS = 3, 3
# All frames, at most 41 clips, as the paper's code: metrics are then comparable with published ones.
FINAL_EVALUATION = ("evaluation.sampling=dense", "evaluation.max_clips=41")
# Settings of `evaluation` without effect on a training on all identities, evaluated once and with re-ranking.
WITHOUT_EFFECT = ("every", "reranking", "folder", "images")


class FinalizationOptions(NamedTuple):
    """Options of a finalization; None stands for the value of the one under way, or for the default."""

    top: int | None = None
    """Configurations, the best by the validation split."""
    seeds: int | None = None
    """Networks that each of them is trained as."""
    epochs: int | None = None
    """Of each training; the configuration's by default."""
    evaluation: Sequence[str] = ()
    """Settings of `evaluation` as `path=value`; they override all frames of a tracklet and the configuration's."""
    again: bool = False
    """Whether the test set may be opened although it was opened before."""
    data: DataRecord | None = None
    """Another data set that the networks are judged on afterwards."""


def unseal_test_set(folder: SearchFolder, asked: FinalizationOptions) -> Finalization:
    """Records that the test set is opened; nothing is run. A finalization under way is returned.

    Args:
        folder: a finished search that no process drives.
        asked: options; must agree with a finalization that is under way.

    Raises:
        SearchError: the search is not finished, has no best configuration, its test set was opened before, or the
            finalization under way has other options.
        DataError, ConfigError: the data set is not that of the search, or cannot be evaluated on.
        LeaseError: a process drives the search.
    """
    _check_settings(asked.evaluation)
    description = read_description(folder.description)
    with folder.store.record(folder) as recorder:
        study = recorder.study
        space = current_space(description, study)
        if (known := open_finalization(study)) is not None:
            _check_agreement(known, asked, study, space)
            return known
        leaders = _chosen(folder, study, space, asked.top or TOP, again=asked.again)
        configs = [space.config(leader.params) for leader in leaders]
        evaluation = _evaluation(configs, asked.evaluation)
        finals = [without_validation_split(each, asked.epochs, evaluation) for each in configs]
        elsewhere = None if _has_test_part(finals[0]) else asked.data
        _check_data(folder, description, finals, tested=elsewhere is None)
        recorder.record(
            FinalizationStarted(
                finalization=len(study.finalizations) + 1,
                leaders=[leader.key for leader in leaders],
                seeds=asked.seeds or SEEDS,
                epochs=asked.epochs,
                evaluation=evaluation,
                by=this_user(),
                data=elsewhere,
            )
        )
        return study.finalizations[-1]


def record_test_set_use(folder: SearchFolder, trial: str, weights: Path, use: Use, data: DataRecord) -> None:
    """Records that a trial's network is used on a test set.

    Args:
        folder: a search that no process drives.
        trial: key of the trial.
        weights: file of the network, below the folder of the search.
        use: for metrics or for embeddings.
        data: whose test set; the search's own data set or another one.

    Raises:
        SearchError: the search has no such trial, or the folder is the inside of a storage with a URI.
        LeaseError: a process drives the search.
    """
    if not folder.journal.is_file():
        raise SearchError(
            f"{weights}: lies inside a storage whose journal is written through its URI; judge the copy that "
            f"`{hint('export', f'{folder.name}/{trial}', storage='URI')}` writes"
        )
    with folder.store.record(folder) as recorder:
        if trial not in recorder.study.all_trials:
            raise SearchError(f"{weights}: {folder.name} has no trial {trial!r} that its journal could record this for")
        inner = weights.resolve().relative_to(folder.path.resolve())
        is_own = data.fingerprint == read_description(folder.description).data_fingerprint
        recorder.record(
            TrialOpenedTestSet(trial=trial, use=use, weights=str(inner), by=this_user(), data=None if is_own else data)
        )


def this_user() -> str:
    """Who runs this process: user and host."""
    return f"{getpass.getuser()}@{provenance.host()}"


def _check_settings(overrides: Sequence[str]) -> None:
    """Raises SearchError for settings other than those of the evaluation: the rest is the chosen configuration."""
    for override in overrides:
        group, _, name = override.partition("=")[0].strip().partition(".")
        if group != "evaluation" or not name:
            raise SearchError(
                f"--set {override}: only evaluation.* can be set for the test set; all else is the configuration that "
                "the validation split chose"
            )
        if name in WITHOUT_EFFECT:
            raise SearchError(f"--set {override}: has no effect on the test set, which is judged once, with re-ranking")


def _evaluation(configs: Sequence[TrialConfig], overrides: Sequence[str]) -> list[str]:
    """Settings for all frames of every tracklet, unless the configurations use all of them, and those of the user."""
    is_dense = all(config.evaluation.sampling == "dense" for config in configs)
    return [*(() if is_dense else FINAL_EVALUATION), *overrides]


def _check_agreement(known: Finalization, asked: FinalizationOptions, study: Study, space: SearchSpace) -> None:
    """Checks that the options agree with the finalization under way.

    Raises:
        SearchError: names every option that differs.
    """
    under_way, leaders = known.asked, len(known.asked.leaders)
    differing = []
    # Fewer configurations than asked for are all that there were.
    if (
        asked.top is not None
        and asked.top != leaders
        and len(final_candidates(study, space.objective, asked.top)) != leaders
    ):
        differing.append(f"--top {asked.top} (it has {leaders})")
    if asked.seeds is not None and asked.seeds != under_way.seeds:
        differing.append(f"--seeds {asked.seeds} (it has {under_way.seeds})")
    if asked.epochs is not None and asked.epochs != under_way.epochs:
        epochs = "those of the configuration" if under_way.epochs is None else under_way.epochs
        differing.append(f"--epochs {asked.epochs} (it has {epochs})")
    if asked.evaluation:
        configs = [space.config(study.trials[key].params) for key in under_way.leaders]
        settings = _evaluation(configs, asked.evaluation)
        now, then = (
            [without_validation_split(each, None, laid) for each in configs]
            for laid in (settings, under_way.evaluation)
        )
        if now != then:
            given = " ".join(f"--set {override}" for override in asked.evaluation)
            differing.append(
                f"{given} (it has {', '.join(under_way.evaluation) or 'the settings of the configuration'})"
            )
    if asked.again and len(study.finalizations) == 1 and not study.own_test_set_uses:
        differing.append("--again (it is the first)")
    if differing:
        raise SearchError(
            f"{study.name}: a finalization by {under_way.by} is under way, which differs in {', '.join(differing)}; "
            "leave that out to go on with it, or ask for another one with --again when it is done"
        )


def _chosen(folder: SearchFolder, study: Study, space: SearchSpace, top: int, *, again: bool) -> list[Trial]:
    storage = folder.storage
    if study.ended != "finished":
        taken = math.ceil(trainings_taken(study, space))
        raise SearchError(
            f"{study.name} is not finished, and the test set must not be seen before that; "
            f"`{hint('resume', folder.name, storage=storage)}` goes on, with fewer trials after "
            f"`{hint('extend', folder.name, '--trials', str(taken), storage=storage)}`"
        )
    if study.finalizations and not again:
        last = study.finalizations[-1]
        raise SearchError(
            f"{study.name}: the test set was opened {when(last)} by {last.asked.by} for "
            f"{', '.join(last.asked.leaders)}; anyone who has seen those metrics "
            f"(`{hint('tables', folder.name, storage=storage)}`) "
            "no longer chooses blindly. --again opens it once more, which is recorded"
        )
    if study.own_test_set_uses and not again:
        use = study.own_test_set_uses[-1]
        raise SearchError(
            f"{study.name}: the test set was opened {when(use)} by {use.asked.by} for {use.asked.trial} "
            f"(`{use.asked.use} --part test`), so that nobody who has seen that chooses blindly. --again opens it "
            "once more, which is recorded"
        )
    leaders = final_candidates(study, space.objective, top)
    if not leaders:
        raise SearchError(f"{study.name}: no completed trial keeps the objective's constraints, so that none is best")
    return leaders


def when(opened: Finalization | UseOfTestSet) -> str:
    """The moment of an opening, for people."""
    moment = opened.moment
    return "earlier" if moment is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _has_test_part(config: TrialConfig) -> bool:
    from trainer.data import find_data_set

    return find_data_set(config.data.name).tested


def _check_data(
    folder: SearchFolder, description: SearchDescription, configs: Sequence[TrialConfig], *, tested: bool
) -> None:
    """Checks that the data set is that of the search and, if it is `tested`, can be evaluated on."""
    from trainer import check_test_set
    from trainer.data import read_splits
    from trainer.data.dataset import dataset_fingerprint

    for each in configs:
        config = with_data_here(each, folder)
        found = check_test_set(config) if tested else dataset_fingerprint(read_splits(config.data))
        if found != description.data_fingerprint:
            raise SearchError(
                f"{config.data.root}: is not the data set that {description.search} was launched on; restore that one"
            )
