"""The rows of the paper's Table 1 with their published configurations, each over seeds on the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.errors import SearchError
from orchestrator.runner.finalize import WITHOUT_EFFECT, FinalizationOptions, unseal_test_set
from orchestrator.runner.launch import create_search
from orchestrator.runner.prepare_space import prepare_space
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder, Store, search_folder
from orchestrator.study.description import Options
from orchestrator.summary import read_summary

TABLE_1 = ("baseline", "b_bot", "b_bot_osm", "b_bot_osm_cl", "attn_cl")
"""Search spaces whose first point to start with is the published configuration of a row."""


class Ablation(NamedTuple):
    """The rows to compare, and how they are trained."""

    name: str
    """Searches are called by it and their row."""
    rows: Sequence[str]
    """Search spaces; the first point that each names to be tried first is what is trained."""
    data: str | None
    overrides: Sequence[str]
    """`path=value` settings of all rows."""
    seeds: int
    storage: Store
    options: Options


class Row(NamedTuple):
    """A search to run now."""

    space: str
    folder: SearchFolder


def rows_under_way(ablation: Ablation) -> Iterator[Row]:
    """The searches of the ablation, one after the other; each must be finished before the next one is requested.

    Each row comes twice: first with one trial, whose metrics on the validation split tell whether it works at all, then
    with the trainings on all identities for the test set. Finished parts are left out.

    Raises:
        SearchError: a row names no point to start with, or is there already with other settings or seeds.
        SpaceError, DataError: as a launch.
    """
    for row in ablation.rows:
        _check_agreement(row, ablation)
    for row in ablation.rows:
        folder = _folder(row, ablation)
        if not folder.journal.is_file():
            create_search(
                _space(row, ablation), storage=ablation.storage, name=folder.name, seed=0, options=ablation.options
            )
        if read_summary(folder).study.ended != "finished":
            yield Row(row, folder)
        study = read_summary(folder).study
        if study.ended == "finished" and not study.finalizations:
            unseal_test_set(folder, FinalizationOptions(top=1, seeds=ablation.seeds, evaluation=_evaluation(ablation)))
            yield Row(row, folder)


def _folder(row: str, ablation: Ablation) -> SearchFolder:
    return search_folder(ablation.storage, f"{ablation.name}-{Path(row).stem}")


def _evaluation(ablation: Ablation) -> list[str]:
    """The settings that also apply to the test set."""
    return [
        override
        for override in ablation.overrides
        if override.startswith("evaluation.")
        and override.partition("=")[0].removeprefix("evaluation.") not in WITHOUT_EFFECT
    ]


def _space(row: str, ablation: Ablation) -> SearchSpace:
    one = ("budget.trials=1", "replicates={seeds: 0, choose: leaders}", "stopping={rule: none}")
    space = prepare_space(
        row, data=ablation.data, overrides=[*ablation.overrides, *one], storage=ablation.storage, dry_run=False
    )
    if not space.start:
        raise SearchError(
            f"{row}: names no point to start with, which is what an ablation trains; add one under 'start'"
        )
    return space


def _check_agreement(row: str, ablation: Ablation) -> None:
    """Checks that a row that exists has the same settings and seeds.

    Raises:
        SearchError: it has others.
    """
    folder = _folder(row, ablation)
    if not folder.journal.is_file():
        return
    search = read_summary(folder)
    changes = search.description.space.differences(_space(row, ablation))
    if search.study.finalizations:
        seeds = search.study.finalizations[0].asked.seeds
        changes += [f"--seeds {seeds} -> {ablation.seeds}"] if seeds != ablation.seeds else []
    if changes:
        raise SearchError(
            f"{folder.name}: is there already, and differs: {'; '.join(changes)}; ask for the same again, or choose "
            "another --name"
        )
