"""The test set: opened once, by hand, for configurations that were chosen without it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from events import epoch_result, evaluation
from searches import a_search, completed

from orchestrator.algorithms.ax_experiment import ax_experiment
from orchestrator.algorithms.budget import spent
from orchestrator.algorithms.finalization import Final, final_candidates, finals_left, next_final, open_finalization
from orchestrator.algorithms.stopping import decide
from orchestrator.algorithms.suggest import ALGORITHMS
from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.base.errors import SearchError
from orchestrator.runner import finalize
from orchestrator.runner.epochs import recover_epochs
from orchestrator.runner.finalize import FinalizationOptions, record_test_set_use, unseal_test_set
from orchestrator.show.search_text import final_lines
from orchestrator.show.status import status_document
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.description import read_description
from orchestrator.study.events import (
    Event,
    FinalizationStarted,
    SearchCreated,
    SessionEnded,
    TrialCompleted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialSuggested,
    TrialTested,
)
from orchestrator.study.journal import Journal, read_journal
from orchestrator.study.lease import Lease
from orchestrator.study.study import Study, fold, fold_records, unfinished
from orchestrator.summary import read_summary
from trainer.errors import ConfigError
from trainer.result import DataRecord, write_results

FINGERPRINT = "0"


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchFolder:
    """A finished search of two trials, t0001 the better one, on a data set that is there."""
    monkeypatch.setattr("trainer.evaluation.test_set.check_test_set", lambda config: FINGERPRINT)
    return a_search(tmp_path / "first", fingerprint=FINGERPRINT)


def opened(
    search: SearchFolder,
    *,
    top: int | None = 2,
    seeds: int | None = 2,
    epochs: int | None = None,
    evaluation: Iterable[str] = (),
    again: bool = False,
) -> Study:
    unseal_test_set(search, FinalizationOptions(top, seeds, epochs, tuple(evaluation), again))
    return fold_records(read_journal(search.journal))


def add(search: SearchFolder, events: Iterable[Event]) -> Study:
    journal = Journal(search.journal)
    for event in events:
        journal.append(event)
    journal.close()
    return fold_records(read_journal(search.journal))


def suggestion(final: Final) -> TrialSuggested:
    return TrialSuggested(
        trial=final.key,
        index=final.original.index,
        params=final.original.params,
        source="finalize",
        seed=final.number,
        repeats=final.original.key,
        finalization=final.finalization,
        epochs=final.epochs or 3,
    )


def trained(final: Final, mean_ap: float) -> list[Event]:
    return [
        suggestion(final),
        TrialStarted(trial=final.key, attempt=1),
        TrialReported(trial=final.key, result=epoch_result(3)),
        TrialTested(trial=final.key, evaluation=evaluation(mean_ap)),
        TrialCompleted(trial=final.key),
    ]


def all_trained(search: SearchFolder, study: Study, value: float = 0.5) -> Study:
    for final in list(finals_left(study)):
        study = add(search, trained(final, value))
    return add(search, [SessionEnded(state="finished", reason="2 trials")])


def test_every_leader_is_trained_with_the_same_number_of_seeds_the_best_one_first(search: SearchFolder) -> None:
    assert [final.key for final in finals_left(opened(search))] == ["t0001-f1", "t0001-f2", "t0000-f1", "t0000-f2"]


def test_what_is_suggested_is_not_suggested_again(search: SearchFolder) -> None:
    study = opened(search)
    first = next_final(study)
    assert first is not None
    study = add(search, [suggestion(first)])
    assert [final.key for final in finals_left(study)] == ["t0001-f2", "t0000-f1", "t0000-f2"]
    assert [trial.key for trial in unfinished(study)] == ["t0001-f1"]


def test_the_opening_is_a_fact_before_anything_is_trained(search: SearchFolder) -> None:
    study = opened(search, top=1, seeds=3, epochs=400)
    (finalization,) = study.finalizations
    assert (finalization.asked.leaders, finalization.asked.seeds, finalization.asked.epochs) == (["t0001"], 3, 400)
    assert "@" in finalization.asked.by
    assert finalization.moment is not None
    assert not study.finals
    assert study.ended == "interrupted", "there is something to resume"


def test_a_test_set_that_was_opened_is_refused_with_who_opened_it(search: SearchFolder) -> None:
    study = all_trained(search, opened(search, top=1))
    by = study.finalizations[0].asked.by
    with pytest.raises(SearchError, match=f"was opened .* by {by} for t0001.*--again"):
        opened(search)
    assert len(fold_records(read_journal(search.journal)).finalizations) == 1


def test_again_is_recorded_and_trains_with_new_seeds(search: SearchFolder) -> None:
    all_trained(search, opened(search, top=1))
    study = opened(search, top=1, seeds=1, again=True)
    assert [each.asked.finalization for each in study.finalizations] == [1, 2]
    assert [(final.key, final.number) for final in finals_left(study)] == [("t0001-f3", 3)]


def test_one_that_is_under_way_goes_on_without_again(search: SearchFolder) -> None:
    study = opened(search, top=1)
    first = next_final(study)
    assert first is not None
    add(search, [*trained(first, 0.5), SessionEnded(state="interrupted", reason="SIGTERM")])
    study = opened(search, top=1)
    assert len(study.finalizations) == 1
    assert [final.key for final in finals_left(study)] == ["t0001-f2"]


OTHERWISE = {
    "--top 1": {"top": 1},
    "--seeds 3": {"seeds": 3},
    "--epochs 7": {"epochs": 7},
    "--set evaluation.sampling=even": {"evaluation": ["evaluation.sampling=even"]},
    "--set evaluation.rerank.k1=9": {"evaluation": ["evaluation.rerank.k1=9"]},
    "--again": {"again": True},
}


@pytest.mark.parametrize("option", OTHERWISE)
def test_options_that_differ_from_those_of_the_one_under_way_are_refused_and_named(
    option: str, search: SearchFolder
) -> None:
    study = opened(search, top=2, seeds=2, epochs=5, evaluation=["evaluation.clips=4"])
    before = search.journal.read_bytes()
    with pytest.raises(SearchError, match=f"under way, which differs in {option} "):
        opened(search, **{"top": None, "seeds": None, **OTHERWISE[option]})  # type: ignore[arg-type]
    assert search.journal.read_bytes() == before
    assert study.finalizations[0].asked.seeds == 2


@pytest.mark.parametrize(
    "again", [{}, {"top": 2, "seeds": 1}, {"top": 5}, {"epochs": 5}, {"evaluation": ["evaluation.clips=4"]}], ids=str
)
def test_options_that_agree_with_the_one_under_way_or_are_left_out_go_on_with_it(
    again: dict[str, object], search: SearchFolder
) -> None:
    first = opened(search, top=3, seeds=1, epochs=5, evaluation=["evaluation.clips=4"])
    study = opened(search, **{"top": None, "seeds": None, **again})  # type: ignore[arg-type]
    assert study.finalizations == first.finalizations


def test_all_frames_are_judged_as_in_the_paper_unless_settings_say_otherwise(search: SearchFolder) -> None:
    space = read_description(search.description).space
    assert space.config(space.any_sample()).evaluation.sampling == "even"
    for settings, frames in (([], "dense, at most 41 clips"), (["evaluation.sampling=even"], "even, 2 clips")):
        study = opened(search, top=1, seeds=1, evaluation=settings, again=bool(settings))
        final = next_final(study)
        assert final is not None
        study = add(search, [suggestion(final)])
        assert trial_config(space, study.finals[final.key]).evaluation.frames_seen == frames
        all_trained(search, add(search, trained(final, 0.5)))


def test_a_configuration_that_looks_at_all_frames_anyway_is_judged_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.test_set.check_test_set", lambda config: FINGERPRINT)
    dense = a_search(tmp_path / "dense", "evaluation.sampling=dense", "evaluation.max_clips=100")
    study = opened(dense, top=1, seeds=1)
    assert study.finalizations[0].asked.evaluation == []


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("optim.epochs=3", "only evaluation"),
        ("evaluation=3", "only evaluation"),
        ("evaluation.every=3", "no effect"),
        ("evaluation.images=true", "no effect"),
        ("evaluation.smapling=even", "unknown setting"),
        ("evaluation.max_clips=0", "must be at least 1"),
    ],
)
def test_settings_that_cannot_be_laid_over_the_configuration_are_refused_before_anything_is_recorded(
    setting: str, why: str, search: SearchFolder
) -> None:
    with pytest.raises((SearchError, ConfigError), match=why):
        opened(search, evaluation=[setting])
    assert not fold_records(read_journal(search.journal)).finalizations


def test_who_looked_at_the_test_set_with_one_trial_no_longer_opens_it_blindly(search: SearchFolder) -> None:
    weights = search.trial("t0000") / "checkpoint/best.pt"
    record_test_set_use(search, "t0000", weights, "evaluate", DataRecord(name="mars", fingerprint=FINGERPRINT))
    with pytest.raises(SearchError, match=r"was opened .* by .*@.* for t0000 .*--again"):
        opened(search)
    study = opened(search, again=True)
    assert (len(study.test_set_uses), len(study.finalizations)) == (1, 1)


def test_who_looked_at_the_test_set_of_another_data_set_opens_that_of_the_search_for_the_first_time(
    search: SearchFolder,
) -> None:
    weights = search.trial("t0000") / "checkpoint/best.pt"
    record_test_set_use(search, "t0000", weights, "evaluate", DataRecord(name="prid2011", fingerprint="ab"))
    assert len(opened(search).finalizations) == 1


def test_a_search_that_is_not_finished_is_refused(search: SearchFolder) -> None:
    add(search, [SessionEnded(state="interrupted", reason="SIGTERM")])
    with pytest.raises(SearchError, match="first is not finished"):
        opened(search)


def test_another_data_set_than_that_of_the_search_is_refused(
    search: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.test_set.check_test_set", lambda config: "another")
    with pytest.raises(SearchError, match="is not the data set that first was launched on"):
        opened(search)
    assert not fold_records(read_journal(search.journal)).finalizations


def test_a_search_without_a_feasible_trial_has_no_winner(search: SearchFolder) -> None:
    study = fold_records(read_journal(search.journal))
    space = SearchSpace.load("smoke.yaml", overrides=["objective.constraints=[rank1 >= 0.99]"])
    assert final_candidates(study, space.objective, 3) == []
    with pytest.raises(SearchError, match="no completed trial keeps"):
        finalize._chosen(search, study, space, 3, again=False)


def test_confirmed_configurations_lead_before_those_with_one_lucky_seed() -> None:
    events: list[Event] = [SearchCreated(search="s", space="0", seed=0), *completed(0, 0.9), *completed(1, 0.6)]
    for number in range(1, 4):
        repeat = completed(1, 0.58)
        key = f"t0001-r{number}"
        events += [
            event.model_copy(
                update={"trial": key}
                | ({"repeats": "t0001", "source": "repeat"} if isinstance(event, TrialSuggested) else {})
            )
            for event in repeat
        ]
    leaders = final_candidates(fold(events), SearchSpace.load("smoke.yaml").objective, 3)
    assert [leader.key for leader in leaders] == ["t0001", "t0000"]


def test_while_the_test_set_is_open_nothing_else_is_done_and_no_budget_ends_it(search: SearchFolder) -> None:
    study = opened(search, top=1, seeds=1)
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=99", "budget.epochs=3"])
    end = spent(study, space)
    assert end is not None
    assert (end.at_once, end.ends_replicates) == (False, True)
    study = all_trained(search, study)
    assert open_finalization(study) is None
    end = spent(study, space)
    assert end is not None and end.reason == "3 epochs"


def test_trainings_for_the_test_set_do_not_count_as_epochs_of_the_budget(search: SearchFolder) -> None:
    before = fold_records(read_journal(search.journal))
    after = all_trained(search, opened(search))
    trained_before = sum(trial.epoch for trial in before.trials.values())
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=99", f"budget.epochs={trained_before + 1}"])
    assert sum(trial.epoch for trial in after.all_trials.values()) > trained_before + 1
    assert spent(after, space) is None


def test_the_model_and_the_next_suggestion_never_hear_of_the_test_set(search: SearchFolder) -> None:
    space = read_description(search.description).space
    before = fold_records(read_journal(search.journal))
    after = all_trained(search, opened(search), value=0.99)
    assert ax_experiment(space, 0, before) == ax_experiment(space, 0, after)
    assert ALGORITHMS["sobol"](space, 0, before) == ALGORITHMS["sobol"](space, 0, after)
    assert read_summary(search).trial("best").key == "t0001"


def test_a_training_for_the_test_set_is_never_stopped_early(search: SearchFolder) -> None:
    study = opened(search, top=2, seeds=1)
    finals = list(finals_left(study))
    study = add(search, trained(finals[0], 0.9))
    study = add(search, [suggestion(finals[1]), TrialReported(trial=finals[1].key, result=epoch_result(1, 0.0))])
    space = SearchSpace.load("smoke.yaml", overrides=["stopping={rule: asha, reduction: 2}"])
    assert decide(study.finals[finals[1].key], study, space.stopping, space.objective) is None


def test_it_trains_on_all_identities_for_the_epochs_that_were_asked_for(search: SearchFolder) -> None:
    study = opened(search, top=1, seeds=1, epochs=400)
    final = next_final(study)
    assert final is not None
    study = add(search, [suggestion(final)])
    space = read_description(search.description).space
    config, original = trial_config(space, study.finals[final.key]), trial_config(space, study.trials["t0001"])
    assert config.optim.epochs == 400
    assert not config.data.validation.holds_out
    assert original.data.validation.holds_out
    assert config.seed != original.seed
    assert config.loss == original.loss


def test_status_says_what_the_test_set_said_and_who_opened_it(search: SearchFolder) -> None:
    study = opened(search, top=1)
    for final, value in zip(list(finals_left(study)), (0.4, 0.6), strict=True):
        add(search, trained(final, value))
    summary = read_summary(search)
    document = status_document(summary)
    assert [(each["trial"], each["test"]["mAP"]) for each in document["finals"]] == [
        ("t0001-f1", 0.4),
        ("t0001-f2", 0.6),
    ]
    lines = final_lines(summary)
    assert lines[0].startswith("t0001: mAP 50.0 ± 14.1 rank1 50.0 ± 14.1")
    assert lines[0].endswith("over 2 seeds")
    assert lines[1] == "protocol mars, even, 2 clips, 10 queries, 0 dropped"
    assert lines[2].endswith("chosen on the validation split: t0001")


def test_one_that_failed_for_good_does_not_keep_the_test_set_open(search: SearchFolder) -> None:
    study = opened(search, top=1, seeds=1)
    final = next_final(study)
    assert final is not None
    study = add(search, [suggestion(final), TrialFailed(trial=final.key, failure="error", reason="")])
    assert open_finalization(study) is None


def test_a_search_that_is_driven_is_not_opened_under_its_driver(search: SearchFolder) -> None:
    from orchestrator.base.errors import LeaseError

    with Lease(search.lease), pytest.raises(LeaseError):
        opened(search)


def test_no_event_has_a_field_that_the_journal_uses_itself() -> None:
    from typing import get_args

    for event in get_args(Event):
        assert not {"number", "time", "crc"} & set(event.model_fields), event
    assert FinalizationStarted in get_args(Event)


def test_what_the_test_set_said_before_a_kill_is_taken_from_disk_and_noted_once(search: SearchFolder) -> None:
    study = opened(search, top=1, seeds=1)
    final = next_final(study)
    assert final is not None
    add(search, [suggestion(final), TrialStarted(trial=final.key, attempt=1)])
    space = read_description(search.description).space
    out = search.trial(final.key)
    epochs = trial_config(space, fold_records(read_journal(search.journal)).finals[final.key]).optim.epochs
    (out / "test").mkdir(parents=True)
    write_results(out / "results.jsonl", [epoch_result(epoch) for epoch in range(1, epochs + 1)])
    with search.store.record(search) as recorder:
        recover_epochs(search, space, recorder)
        assert not recorder.study.finals[final.key].is_over, "it is trained, but not judged"
    (out / "test/result.json").write_text(evaluation(0.7).model_dump_json())
    add(search, [TrialTested(trial=final.key, evaluation=evaluation(0.7))])
    with search.store.record(search) as recorder:
        recover_epochs(search, space, recorder)
        assert recorder.study.finals[final.key].status == "completed"
    kinds = [record.event.kind for record in read_journal(search.journal)]
    assert kinds.count("trial_tested") == 1
