"""The rows of the paper's Table 1 with their published configurations, each over seeds on the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.engine.creation import create_search
from orchestrator.engine.opening import open_test_set
from orchestrator.engine.preparation import prepare_space
from orchestrator.errors import SearchError
from orchestrator.history.description import Options
from orchestrator.history.folder import SearchFolder, search_folder
from orchestrator.history.loading import load_search

TABLE_1 = ("baseline", "b_bot", "b_bot_osm", "b_bot_osm_cl", "attn_cl")
"""Search spaces whose first point to start with is the published configuration of a row."""


class Ablation(NamedTuple):
    """What is to be compared."""

    name: str
    """Searches are called by it and their row."""
    rows: Sequence[str]
    """Search spaces; the first point that each names to be tried first is what is trained."""
    data: str | None
    overrides: Sequence[str]
    """`path=value` settings of all rows."""
    seeds: int
    storage: Path
    options: Options


class Row(NamedTuple):
    """A search that has to be driven now."""

    space: str
    folder: SearchFolder


def rows_under_way(ablation: Ablation) -> Iterator[Row]:
    """The searches of the ablation, one after the other: each to be driven to its end before the next is asked for.

    A row comes twice: first with one trial, whose figures on the validation split tell whether it works at all, then
    with the trainings on all persons for the test set. What is done already is not done again.

    Raises:
        SearchError: a row names no point to start with.
        SpaceError, DataError: as a launch.
    """
    for row in ablation.rows:
        folder = search_folder(ablation.storage, f"{ablation.name}-{Path(row).stem}")
        if not folder.journal.is_file():
            _create(row, folder.name, ablation)
        if load_search(folder).study.ended != "finished":
            yield Row(row, folder)
        study = load_search(folder).study
        if study.ended == "finished" and not study.finalizations:
            open_test_set(folder, top=1, seeds=ablation.seeds, epochs=None, again=False)
            yield Row(row, folder)


def _create(row: str, name: str, ablation: Ablation) -> None:
    one = ("budget.trials=1", "replicates={seeds: 0}", "stopping={rule: none}")
    space = prepare_space(
        row, data=ablation.data, overrides=[*ablation.overrides, *one], storage=ablation.storage, dry_run=False
    )
    if not space.start:
        raise SearchError(
            f"{row}: names no point to start with, which is what an ablation trains; add one under 'start'"
        )
    create_search(space, storage=ablation.storage, name=name, seed=0, options=ablation.options)
