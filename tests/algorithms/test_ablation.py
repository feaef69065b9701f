"""Ablations: which searches run, in which order, and that nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from events import epoch_result, evaluation

from orchestrator.algorithms.finalization import finals_left
from orchestrator.base.errors import SearchError
from orchestrator.runner.ablation import TABLE_1, Ablation, Row, rows_under_way
from orchestrator.show.tables import tables_of
from orchestrator.space.layers import builtin_files
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import existing_search
from orchestrator.stores.local import LocalStore
from orchestrator.study.description import Options
from orchestrator.study.events import (
    SessionEnded,
    TrialCompleted,
    TrialReported,
    TrialStarted,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.journal import Journal
from orchestrator.summary import read_summary


@pytest.fixture
def ablation(mini_mars: Path, tmp_path: Path) -> Ablation:
    """Two rows, the second with another learning rate."""
    other = tmp_path / "other.yaml"
    other.write_text("version: 1\nextends: smoke.yaml\nname: other\ntrainer: {model: {attention_gate: sigmoid}}\n")
    overrides = ("synthetic=null", f"data.root={mini_mars}")
    return Ablation("abl", ("smoke.yaml", str(other)), None, overrides, 2, LocalStore(tmp_path / "runs"), Options())


def drive(row: Row) -> None:
    """In place of a session: does all that is to be done."""
    study = read_summary(row.folder).study
    journal = Journal(row.folder.journal)
    if not study.trials:
        point = read_summary(row.folder).space.start[0]
        journal.append(TrialSuggested(trial="t0000", index=0, params=dict(point), source="start", seed=0, epochs=3))
        journal.append(TrialStarted(trial="t0000", attempt=1))
        journal.append(TrialReported(trial="t0000", result=epoch_result(3, 0.5)))
        journal.append(TrialCompleted(trial="t0000"))
    for final in list(finals_left(study)):
        params = study.trials["t0000"].params
        journal.append(
            TrialSuggested(
                **{"trial": final.key, "index": 0, "params": params, "source": "finalize", "seed": final.number},
                epochs=3,
                repeats="t0000",
                finalization=final.finalization,
            )
        )
        journal.append(TrialReported(trial=final.key, result=epoch_result(3)))
        journal.append(TrialTested(trial=final.key, evaluation=evaluation(0.6)))
        journal.append(TrialCompleted(trial=final.key))
    journal.append(SessionEnded(state="finished", reason="1 trials"))
    journal.close()


def driven(ablation: Ablation, *, most: int = 99) -> list[str]:
    names = []
    for row in rows_under_way(ablation):
        if len(names) == most:
            break
        drive(row)
        names.append(row.folder.name)
    return names


def test_each_row_is_tried_once_and_then_judged_on_the_test_set_over_the_seeds(ablation: Ablation) -> None:
    assert driven(ablation) == ["abl-smoke", "abl-smoke", "abl-other", "abl-other"]
    for name in ("abl-smoke", "abl-other"):
        search = read_summary(existing_search(ablation.storage, name))
        assert list(search.study.trials) == ["t0000"]
        assert sorted(search.study.finals) == ["t0000-f1", "t0000-f2"]
        (table,) = tables_of([search])
        assert table.lines[0].seeds == 2


def test_the_same_command_goes_on_where_it_was_interrupted_and_then_has_nothing_to_do(ablation: Ablation) -> None:
    assert driven(ablation, most=1) == ["abl-smoke"]
    assert driven(ablation) == ["abl-smoke", "abl-other", "abl-other"]
    assert driven(ablation) == []


@pytest.mark.parametrize(
    ("change", "most"), [("seeds", 2), ("seeds", 4), ("overrides", 1), ("overrides", 4), ("data", 1)]
)
def test_a_row_that_is_there_with_other_seeds_or_settings_is_refused_before_anything_is_driven(
    change: str, most: int, ablation: Ablation, mini_mars: Path, tmp_path: Path
) -> None:
    driven(ablation, most=most)
    (tmp_path / "elsewhere").symlink_to(mini_mars)
    changed = {
        "seeds": 3,
        "overrides": (*ablation.overrides, "optim.epochs=9"),
        "data": str(tmp_path / "elsewhere"),
    }[change]
    again = ablation._replace(**{change: changed}, rows=ablation.rows[::-1])  # type: ignore[arg-type]
    if change == "data":
        again = again._replace(overrides=())
    with pytest.raises(SearchError, match=r"is there already, and differs: .*(seeds|epochs|elsewhere)"):
        driven(again)


def test_settings_of_the_evaluation_hold_on_the_test_set_too(ablation: Ablation) -> None:
    overrides = (*ablation.overrides, "evaluation.sampling=even", "evaluation.every=1")
    driven(ablation._replace(overrides=overrides), most=2)
    (opened,) = read_summary(existing_search(ablation.storage, "abl-smoke")).study.finalizations
    assert opened.asked.evaluation[-1:] == ["evaluation.sampling=even"]


def test_a_row_without_a_point_to_start_with_is_refused(ablation: Ablation, tmp_path: Path) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text("version: 1\nextends: smoke.yaml\nname: bare\nstart: []\n")
    with pytest.raises(SearchError, match=r"bare\.yaml: names no point to start with"):
        driven(ablation._replace(rows=(str(bare),)))


def test_the_rows_of_table_1_are_built_in_and_begin_with_what_was_published() -> None:
    for row in TABLE_1:
        assert row in builtin_files()
        assert SearchSpace.load(f"{row}.yaml").start
