"""Opens the test set for the best configurations of a finished search, which is recorded before anything is trained."""

from __future__ import annotations

import getpass
import time

from orchestrator import provenance
from orchestrator.engine.datastaging import with_data_here
from orchestrator.errors import SearchError
from orchestrator.history.description import SearchDescription, read_description
from orchestrator.history.events import FinalizationStarted
from orchestrator.history.extension import current_space
from orchestrator.history.folder import SearchFolder
from orchestrator.history.ledger import owned_ledger
from orchestrator.history.study import Finalization, Study, Trial
from orchestrator.search.configured import on_all_persons
from orchestrator.search.finalization import best_leaders, open_finalization
from orchestrator.space import SearchSpace


def open_test_set(folder: SearchFolder, *, top: int, seeds: int, epochs: int | None, again: bool) -> Finalization:
    """Journals that the test set is opened; nothing is run. One that was opened and is not done yet goes on.

    Args:
        folder: a finished search that no process drives.
        top: configurations, the best by the validation split.
        seeds: networks that each of them is trained as.
        epochs: of each training; None leaves those of the configuration.
        again: whether a test set that was opened before may be opened once more.

    Raises:
        SearchError: the search is not finished, has no best configuration, or its test set was opened before.
        DataError, ConfigError: the data set is not that of the search, or cannot be evaluated on.
        LeaseError: a process drives the search.
    """
    description = read_description(folder.description)
    with owned_ledger(folder) as ledger:
        study = ledger.study
        if (known := open_finalization(study)) is not None:
            return known
        space = current_space(description, study)
        leaders = _chosen(study, space, top, again=again)
        _check_data(folder, description, space, leaders, epochs)
        ledger.record(
            FinalizationStarted(
                finalization=len(study.finalizations) + 1,
                leaders=[leader.key for leader in leaders],
                seeds=seeds,
                epochs=epochs,
                by=f"{getpass.getuser()}@{provenance.host()}",
            )
        )
        return study.finalizations[-1]


def _chosen(study: Study, space: SearchSpace, top: int, *, again: bool) -> list[Trial]:
    if study.ended != "finished":
        raise SearchError(
            f"{study.name} is not finished, and the test set must not be seen before that; "
            f"`reidsearch resume {study.name}` goes on, with fewer trials after "
            f"`reidsearch extend {study.name} --trials {len(study.trials)}`"
        )
    if study.finalizations and not again:
        last = study.finalizations[-1]
        raise SearchError(
            f"{study.name}: the test set was opened {_when(last)} by {last.asked.by} for "
            f"{', '.join(last.asked.leaders)}; whoever has seen those figures (`reidsearch tables {study.name}`) "
            "no longer chooses blindly. --again opens it once more, which is recorded"
        )
    leaders = best_leaders(study, space.objective, top)
    if not leaders:
        raise SearchError(f"{study.name}: no completed trial keeps the objective's constraints, so that none is best")
    return leaders


def _when(finalization: Finalization) -> str:
    moment = finalization.moment
    return "earlier" if moment is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _check_data(
    folder: SearchFolder, description: SearchDescription, space: SearchSpace, leaders: list[Trial], epochs: int | None
) -> None:
    from trainer import check_test_set

    for leader in leaders:
        config = with_data_here(on_all_persons(space.trial_config(leader.params), epochs), folder)
        if check_test_set(config) != description.data_fingerprint:
            raise SearchError(
                f"{config.data.root}: is not the data set that {description.search} was launched on; restore that one"
            )
