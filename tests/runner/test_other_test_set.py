"""finalize --data: a finalization's networks judged on another data set, without training, apart from its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from events import epoch_result, evaluation
from miniatures import write_miniature
from searches import POINT, a_search, completed, write_search

import trainer
from orchestrator.base.errors import SearchError
from orchestrator.runner.finalize import FinalizationOptions, record_test_set_use, unseal_test_set
from orchestrator.runner.other_test_set import (
    check_unopened,
    finalized,
    judge,
    other_data_set,
    refuse_settings_of_trainings,
)
from orchestrator.show.card import _on_other_data
from orchestrator.show.logs import event_line
from orchestrator.show.search_text import final_lines
from orchestrator.show.status import status_document
from orchestrator.show.tables import FORMATS, tables_of
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import (
    EVENT,
    FinalizationStarted,
    SessionEnded,
    TrialCompleted,
    TrialOpenedTestSet,
    TrialReported,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.journal import read_journal
from orchestrator.summary import read_summary
from orchestrator.tracking.projection import Plan
from trainer.checkpoint import save_checkpoint
from trainer.data import DataConfig, read_splits
from trainer.data.folder import data_record
from trainer.errors import DataError
from trainer.model.network import TemporalAttentionResNet
from trainer.result import DataRecord, no_progress

FINALS = ("t0000-f1", "t0000-f2")
OWN = DataRecord(name="mini-mars", fingerprint="0" * 64)
MARK = "trained on mini-mars, tested on tracklets"


@pytest.fixture
def search(tmp_path: Path) -> SearchFolder:
    """A finalized search: one configuration, two networks trained for the test set of mini-mars."""
    asked = FinalizationStarted(finalization=1, leaders=["t0000"], seeds=2, epochs=None, by="a@b")
    events = [*completed(0, 0.4), SessionEnded(state="finished", reason="1 trial"), asked]
    for number, key in enumerate(FINALS, 1):
        point = {"trial": key, "index": 0, "params": POINT, "source": "finalize", "seed": number, "epochs": 3}
        events += [
            TrialSuggested.model_validate({**point, "repeats": "t0000", "finalization": 1}),
            TrialReported(trial=key, result=epoch_result(3)),
            TrialTested(trial=key, evaluation=evaluation(0.5)),
            TrialCompleted(trial=key),
        ]
    events.append(SessionEnded(state="finished", reason="2 trials"))
    space = SearchSpace.load("smoke.yaml")
    folder = write_search(tmp_path / "first", space, events, fingerprint=OWN.fingerprint)
    for key in FINALS:
        config = space.config(POINT)
        torch.manual_seed(0)
        weights = TemporalAttentionResNet(config.model, 5).state_dict()
        state = {"config": config.model_dump(mode="json"), "data": OWN.model_dump(), "epoch": 3, "model": weights}
        save_checkpoint(folder.trial(key) / "checkpoint/best.pt", state)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_miniature("tracklets", tmp_path / "own")
    return tmp_path / "own"


def judged(search: SearchFolder, root: Path, *, again: bool = False) -> DataRecord:
    found, record = other_data_set(search, root)
    judge(search, found, record, again=again, progress=no_progress)
    return record


def test_every_network_is_judged_once_and_each_use_is_in_the_journal_before_its_result(
    search: SearchFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(read_journal(search.journal))
    record = judged(search, root)
    added = [each.event for each in read_journal(search.journal)[before:]]
    assert [(type(event), getattr(event, "trial", "")) for event in added] == [
        (kind, key) for key in FINALS for kind in (TrialOpenedTestSet, TrialTested)
    ]
    assert all(getattr(event, "data", None) == record for event in added)
    study = read_summary(search).study
    for key in FINALS:
        found = study.finals[key].other_tests[record.fingerprint]
        assert found.other_data == MARK
        assert study.finals[key].test == evaluation(0.5), "that of its own data set stays"
        assert (search.trial(key) / f"test-{record.label}/result.json").is_file()
    assert study.ended == "finished", "there is nothing to resume"
    assert len(study.finalizations) == 1
    monkeypatch.setattr(trainer, "evaluate_on_test_set", None, raising=False)
    judged(search, root)
    assert len(read_journal(search.journal)) == before + len(added)


def test_an_interrupted_judging_goes_on_without_a_second_record(
    search: SearchFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "evaluate_on_test_set", interrupted, raising=False)
        judged(search, root)
    judged(search, root)
    assert [use.asked.trial for use in read_summary(search).study.test_set_uses] == [*FINALS]


def test_results_on_another_data_set_stand_apart_wherever_they_are_shown(search: SearchFolder, root: Path) -> None:
    record = judged(search, root)
    summary = read_summary(search)
    assert [result.configuration for result in summary.final_results] == ["t0000"]
    (other,) = summary.other_results
    mark = f"{MARK} {record.fingerprint[:8]}"
    assert (other.other_data, len(other.evaluations)) == (mark, 2)
    assert any(line.endswith(f"over 2 seeds, {mark}") for line in final_lines(summary))
    own, apart = tables_of([summary])
    assert (own.title, apart.title) == ("Other searches", "Trained on one data set, tested on another")
    assert [line.data for line in (*own.lines, *apart.lines)] == ["", mark]
    assert own.lines[0].metrics["mAP"].value == 0.5
    for text in (form([own, apart]) for form in FORMATS.values()):
        assert MARK in text
    (test,) = status_document(summary)["finals"][0]["other_tests"]
    assert (test["trained_on"], test["tested_on"]) == ("mini-mars", "tracklets")
    assert next(_on_other_data(summary, summary.study.finals[FINALS[0]])).startswith(MARK)
    assert f"data={record.name}" in str(event_line(read_journal(search.journal)[-1]))
    plan = Plan(search)
    for each in read_journal(search.journal):
        plan.add(each.event, each.time)
    names = {point.metric for writes in plan._writes.values() for point in writes.points}
    assert {"test/mAP", f"other_data/{record.label}/mAP"} <= names
    assert plan._writes[FINALS[0]].tags.keys() == {f"test_set_opened.{record.label}"}


def test_a_test_set_that_was_opened_by_hand_is_opened_again_only_where_that_is_asked_for(
    search: SearchFolder, root: Path
) -> None:
    _, record = other_data_set(search, root)
    weights = search.trial("t0000") / "checkpoint/best.pt"
    record_test_set_use(search, "t0000", weights, "evaluate", OWN)
    check_unopened(read_summary(search).study, record, again=False)
    record_test_set_use(search, "t0000", weights, "evaluate", record)
    with pytest.raises(SearchError, match=r"the test set of tracklets was opened .* for t0000; --again"):
        judged(search, root)
    judged(search, root, again=True)
    judged(search, root)
    assert len(read_summary(search).other_results) == 1


def test_the_search_s_own_data_set_and_settings_of_trainings_are_refused(search: SearchFolder, root: Path) -> None:
    _, record = other_data_set(search, root)
    text = search.description.read_text()
    search.description.write_text(text.replace(OWN.fingerprint, record.fingerprint))
    with pytest.raises(SearchError, match="is the data set of first itself"):
        other_data_set(search, root)
    study = read_summary(search).study
    was = study.finalizations[-1].asked
    refuse_settings_of_trainings(study, FinalizationOptions(top=len(was.leaders), seeds=was.seeds))
    with pytest.raises(SearchError, match=r"--seeds, --set: the search is finalized with other values"):
        refuse_settings_of_trainings(study, FinalizationOptions(seeds=was.seeds + 1, evaluation=["evaluation.clips=1"]))


def test_joined_data_sets_without_a_test_part_are_finalized_for_another_data_set_only(
    root: Path, tmp_path: Path
) -> None:
    write_miniature("joined", tmp_path / "all")
    data = DataConfig(name="joined", root=tmp_path / "all")
    record = data_record(data, read_splits(data))
    joined = a_search(
        tmp_path / "joined",
        "synthetic=null",
        "data.name=joined",
        f"data.root={data.root}",
        fingerprint=record.fingerprint,
    )
    with pytest.raises(DataError, match="joined data sets have no test part"):
        unseal_test_set(joined, FinalizationOptions(top=1, seeds=1))
    _, other = other_data_set(joined, root)
    opened = unseal_test_set(joined, FinalizationOptions(top=1, seeds=1, data=other)).asked
    assert opened.data == other
    assert any(", on tracklets" in line for line in final_lines(read_summary(joined)))


def test_networks_count_as_finalized_once_all_their_trainings_have_ended(search: SearchFolder) -> None:
    study = read_summary(search).study
    assert [trial.key for trial in finalized(study)] == [*FINALS]
    del study.finals["t0000-f2"]
    assert not finalized(study)


def test_events_without_a_data_set_are_read_and_written_as_before() -> None:
    for event in (
        TrialTested(trial="t0000", evaluation=evaluation(0.5)),
        TrialOpenedTestSet(trial="t0000", use="evaluate", weights="w", by="a@b"),
    ):
        text = event.model_dump_json()
        assert "data" not in text
        assert "trained_on" not in text
        assert EVENT.validate_json(text) == event
