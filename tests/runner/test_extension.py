"""Searches that go on with more budget or wider bounds, and searches that learn from earlier ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import POINT, a_search

from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.replicates import replicates_left
from orchestrator.algorithms.warm_start import WarmStart, observations
from orchestrator.base.errors import LeaseError, SearchError
from orchestrator.runner.extension import extend
from orchestrator.runner.splits import cut_splits, write_splits
from orchestrator.show.status import status_document
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import SearchDescription, current_space, read_description
from orchestrator.study.events import (
    ObservationsAttached,
    SearchCreated,
    SearchExtended,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.study.journal import Journal, read_journal
from orchestrator.study.lease import Lease
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import fold, fold_records, unfinished
from orchestrator.summary import read_summary
from trainer.data import read_splits
from trainer.data.splits import read_validation

RATE = "parameters.optim.learning_rate"


@pytest.fixture
def search(tmp_path: Path) -> SearchFolder:
    return a_search(tmp_path / "old")


def space_now(search: SearchFolder) -> SearchSpace:
    return current_space(read_description(search.description), fold_records(read_journal(search.journal)))


def test_more_trials_and_wider_bounds_hold_from_the_journal_on(search: SearchFolder) -> None:
    changes = extend(search, trials="+20", overrides=[f"{RATE}.high=0.5"])
    assert changes == ["budget.trials 2 -> 22", f"{RATE}.high 0.01 -> 0.5"]
    space = space_now(search)
    assert space.budget.trials == 22
    assert space.parameters["optim.learning_rate"].refusal(0.4) is None
    document = status_document(read_summary(search))
    assert (document["state"], document["reason"]) == ("interrupted", "extended; resume continues")
    assert status_document(read_summary(search))["budget"] == 22


def test_a_search_can_be_extended_again_and_says_so_each_time(search: SearchFolder) -> None:
    extend(search, trials="+1", overrides=[])
    extend(search, trials="+1", overrides=["stopping.rule=asha"])
    events = [record.event for record in read_journal(search.journal)]
    assert [event.changes for event in events if isinstance(event, SearchExtended)] == [
        ["budget.trials 2 -> 3"],
        ["budget.trials 3 -> 4", "stopping.rule 'none' -> 'asha'"],
    ]


@pytest.mark.parametrize(
    ("trials", "overrides", "why"),
    [
        (None, [], "nothing would change"),
        ("2", [], "nothing would change"),
        ("many", [], "write how many in all, such as 60, or how many more"),
        ("1", [], "has 2 trials already"),
        (None, ["optim.epochs=9"], "a search keeps its trainer"),
        (None, ["objective.metric=rank1"], "a search keeps its objective"),
        (None, [f"{RATE}.high=2e-3"], "bounds can be widened, not narrowed"),
        (None, ["parameters.loss.osm_alpha={type: float, low: 1, high: 2}", "start=[]"], "is searched anew"),
        (None, ["clips.identities=4"], "clips.identities is no longer searched"),
    ],
)
def test_what_would_leave_trials_without_meaning_is_refused_and_nothing_is_journaled(
    search: SearchFolder, trials: str | None, overrides: list[str], why: str
) -> None:
    before = search.journal.read_bytes()
    with pytest.raises(SearchError, match=why):
        extend(search, trials=trials, overrides=overrides)
    assert search.journal.read_bytes() == before


def test_a_finished_search_is_confirmed_later_by_seeds_that_it_is_given(search: SearchFolder) -> None:
    assert extend(search, trials=None, overrides=["replicates=3"]) == ["replicates.seeds 0 -> 3"]
    assert status_document(read_summary(search))["state"] == "interrupted"
    study = fold_records(read_journal(search.journal))
    space = space_now(search)
    assert spent(study, space) is not None
    assert len(list(replicates_left(study, space))) == 6


def test_repeats_that_a_used_up_budget_ended_go_on_with_more_of_it(tmp_path: Path) -> None:
    search = a_search(tmp_path / "short", "replicates=3", "budget.epochs=8")
    journal = Journal(search.journal)
    repeats = list(replicates_left(fold_records(journal.records), space_now(search)))[:2]
    for repeat, rule in zip(repeats, ("budget", "user"), strict=True):
        suggestion = {"trial": repeat.key, "index": 1, "params": POINT, "source": "repeat", "seed": repeat.seed}
        journal.append(TrialSuggested.model_validate({**suggestion, "epochs": 3, "repeats": repeat.original.key}))
        journal.append(TrialStopped.model_validate({"trial": repeat.key, "rule": rule, "epoch": 2, "reason": "x"}))
    journal.close()
    extend(search, trials=None, overrides=["budget.epochs=99"])
    assert [trial.key for trial in unfinished(fold_records(read_journal(search.journal)))] == [repeats[0].key]


def test_a_search_that_comes_to_need_other_folds_gets_their_splits_and_keeps_its_own(
    tmp_path: Path, mini_mars: Path
) -> None:
    folds = ("synthetic=null", f"data.root={mini_mars}", "data.validation.folds=3", "data.validation.fold=1")
    search = a_search(tmp_path / "folded", *folds)
    space = read_description(search.description).space
    train = read_splits(space.config(space.any_sample()).data).train
    write_splits(search, cut_splits(space, train), train)
    assert [path.name for path in search.path.glob("split*")] == ["split.json"]
    own = search.split.read_bytes()
    extend(search, trials=None, overrides=["replicates=3"])
    paths = [search.split_of(fold) for fold in (0, None, 2)]
    identities = [read_validation(path, train).identities for path in paths]
    assert search.split.read_bytes() == own
    assert len({identity for each in identities for identity in each}) == sum(map(len, identities)), (
        "folds share no identity"
    )
    assert not search.split_of(1).exists()


def test_a_space_that_would_not_be_valid_is_refused_as_at_launch(search: SearchFolder) -> None:
    with pytest.raises(SpaceError, match="did you mean"):
        extend(search, trials=None, overrides=["budget.trails=9"])


def test_a_search_that_runs_is_not_extended_under_its_driver(search: SearchFolder) -> None:
    with Lease(search.lease), pytest.raises(LeaseError, match="already driven"):
        extend(search, trials="+1", overrides=[])


def the_new(search: SearchFolder, *overrides: str, fingerprint: str = "0") -> SearchDescription:
    new = a_search(search.path.parent / "new", *overrides, fingerprint=fingerprint)
    return read_description(new.description)


def test_finished_trials_of_an_equal_search_become_observations(search: SearchFolder) -> None:
    attached = observations(WarmStart(search, anyway=False), the_new(search))
    assert [(each.params, each.value) for each in attached.observations] == [
        (POINT, 0.4),
        ({**POINT, "clips.identities": 4}, 0.6),
    ]
    assert attached.note == ""


def test_what_the_new_search_fixes_must_have_been_so_in_the_old_one(search: SearchFolder) -> None:
    with pytest.raises(SearchError, match=r"differs in clips\.identities"):
        observations(WarmStart(search, anyway=False), the_new(search, "clips.identities=4"))


def test_what_the_old_search_fixed_has_its_value_in_every_observation(search: SearchFolder) -> None:
    new = the_new(search, "parameters.optim.weight_decay={type: float, low: 0, high: 0.1}", "start=[]")
    for each in observations(WarmStart(search, anyway=False), new).observations:
        assert each.params.keys() == new.space.parameters.keys()


def test_trials_outside_the_new_bounds_are_left_out_and_none_at_all_is_an_error(search: SearchFolder) -> None:
    narrow = the_new(search, "parameters.clips.identities.low=4", "parameters.clips.identities.high=6", "start=[]")
    assert [each.trial for each in observations(WarmStart(search, anyway=False), narrow).observations] == ["t0001"]
    nothing = narrow.model_copy(
        update={"space": SearchSpace.load("smoke.yaml", overrides=[f"{RATE}.high=2e-3", "start=[]"])}
    )
    with pytest.raises(SearchError, match="none of its 2 completed trials"):
        observations(WarmStart(search, anyway=False), nothing)


@pytest.mark.parametrize(
    ("overrides", "fingerprint", "what"),
    [
        ([], "1", "the data"),
        (["objective.metric=rank1"], "0", "the objective"),
        (["optim.epochs=9"], "0", r"optim\.epochs"),
    ],
)
def test_figures_that_do_not_compare_are_refused_unless_asked_for_and_then_said(
    search: SearchFolder, overrides: list[str], fingerprint: str, what: str
) -> None:
    new = the_new(search, *overrides, fingerprint=fingerprint)
    with pytest.raises(SearchError, match=what):
        observations(WarmStart(search, anyway=False), new)
    assert observations(WarmStart(search, anyway=True), new).note.startswith("although they differ in")


def test_observations_are_known_to_the_study_and_are_no_trials_of_it(search: SearchFolder) -> None:
    attached = observations(WarmStart(search, anyway=False), the_new(search))
    study = fold([SearchCreated(search="new", space="0", seed=0), attached])
    assert study.attached == [attached.observations]
    assert study.trials == {}


def test_events_of_all_kinds_survive_the_journal(tmp_path: Path, search: SearchFolder) -> None:
    attached = observations(WarmStart(search, anyway=False), the_new(search))
    journal = Journal(tmp_path / "journal.jsonl")
    recorder = Recorder(journal)
    for event in (attached, SearchExtended(changes=["x"], space=space_now(search).resolved())):
        recorder.record(event)
    journal.close()
    read = [record.event for record in read_journal(tmp_path / "journal.jsonl")]
    assert isinstance(read[0], ObservationsAttached)
    assert read[0] == attached
    assert Recorder(Journal(tmp_path / "journal.jsonl")).study == recorder.study
