"""What a search says to Prometheus: values from its state, and which series there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from events import completed, epoch_result, node_load, paused, reported, started, suggested

from orchestrator.cluster.metrics import (
    KINDS,
    LINGER_S,
    LONGEST_LABEL,
    MOST_TRIALS,
    OF_SEARCH,
    OF_TRIAL,
    TRIAL_KINDS,
    Exporter,
    Reading,
    best_value,
    label,
    search_labels,
    search_readings,
    shown_trials,
    trial_readings,
)
from orchestrator.cluster.names import marked
from orchestrator.space.objective import Objective
from orchestrator.study.events import AttemptFailed, Event, SearchCreated, SessionStarted, TrialReported, TrialStarted
from orchestrator.study.journal import Journal
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import fold

LABELS = search_labels("demo", "mars")
BEGINNING: list[Event] = [SearchCreated(search="demo", space="0", seed=0), SessionStarted(session=1, host="h", pid=1)]


def objective(**settings: object) -> Objective:
    return Objective.model_validate({"metric": "mAP", **settings})


def of_trial(events: Sequence[Event], key: str = "t0000") -> dict[str, float]:
    """The values of a trial by the name of their gauge, without the prefix."""
    readings = trial_readings(fold([*BEGINNING, *events]).all_trials[key], LABELS)
    return {each.kind.name.removeprefix("reidsearch_trial_"): each.value for each in readings}


def of_search(events: Sequence[Event], **settings: object) -> list[Reading]:
    given = {"budget": 8, "best": None, "unsent": 0, **settings}
    return list(search_readings(fold([*BEGINNING, *events]), LABELS, **given))  # type: ignore[arg-type]


# --- values


def test_a_trial_that_reports_has_the_figures_of_its_latest_epoch_and_its_best_map() -> None:
    events = [suggested(0), started(0), reported(0, 1, 0.5), reported(0, 2, 0.3), reported(0, 3)]
    assert of_trial(events) == {
        "info": 1,
        "epochs": 3,
        "map_ratio": 0.3,
        "best_map_ratio": 0.5,
        "images_per_second": 100,
        "data_wait_ratio": 0.1,
        "epoch_duration_seconds": 1,
        "last_report_timestamp_seconds": 1e9 + 3,
        "gpu_memory_bytes": 0,
    }


def test_nothing_is_said_of_what_a_trial_has_not_reported() -> None:
    assert of_trial([suggested(0), started(0)]) == {"info": 1, "epochs": 0, "gpu_memory_bytes": 0}


def test_the_gpu_memory_of_a_trial_with_a_gpu_is_unknown_until_it_was_measured() -> None:
    begun = [suggested(0), TrialStarted(trial="t0000", attempt=1, gpus=1.0)]
    assert "gpu_memory_bytes" not in of_trial([*begun, reported(0, 1)])
    measured = TrialReported(trial="t0000", result=epoch_result(1), load=node_load(peak=3e9))
    assert of_trial([*begun, measured])["gpu_memory_bytes"] == 3e9


def test_the_labels_of_a_trial_say_its_node_and_its_leading_parameters() -> None:
    events = [suggested(0, **{"optim.learning_rate": 0.00037421, "loss.triplet_margin": 0.31}), started(0)]
    study = fold([*BEGINNING, *events, TrialReported(trial="t0000", result=epoch_result(1), load=node_load())])
    info = next(trial_readings(study.trials["t0000"], LABELS))
    assert info.labels == {
        "search": "demo",
        "data": "mars",
        "trial": "t0000",
        "node": "n1",
        "parameters": "learning_rate=0.0003742 triplet_margin=0.31",
    }


def test_a_search_counts_its_trials_by_state_its_failures_by_kind_and_what_mlflow_has_not() -> None:
    lost = AttemptFailed(trial="t0001", attempt=1, failure="worker_lost", reason="")
    readings = of_search(
        [*completed(0, 0.4), suggested(1), started(1), lost, suggested(2), started(2)], unsent=7, best=("mAP", 0.4)
    )
    values = {(each.kind.name, *list(each.labels.values())[2:]): each.value for each in readings}
    assert [values["reidsearch_search_trials", state] for state in ("completed", "pending", "running")] == [1, 1, 1]
    assert values["reidsearch_search_failed_attempts", "worker_lost"] == 1
    assert values["reidsearch_search_failed_attempts", "hang"] == 0
    assert values["reidsearch_search_unsent_events",] == 7
    assert values["reidsearch_search_budget_trials",] == 8
    assert values["reidsearch_search_best", "mAP"] == 0.4
    assert values["reidsearch_search_session",] == 1


def test_paused_trials_are_counted_as_such() -> None:
    readings = of_search([suggested(0), started(0), reported(0, 1, 0.2), paused(0, 1)])
    states = {each.labels["state"]: each.value for each in readings if "state" in each.labels}
    assert (states["paused"], states["pending"], states["running"]) == (1, 0, 0)


def test_the_best_value_follows_the_objective_and_its_constraints() -> None:
    events = [*BEGINNING, *completed(0, 0.4), *completed(1, 0.9), *completed(2, 0.6)]
    assert best_value(fold(events), objective()) == ("mAP", 0.9)
    assert best_value(fold(events), objective(constraints=["mINP <= 0.4"])) == ("mAP", 0.6)
    assert best_value(fold(BEGINNING), objective()) is None


# --- which series there are


def test_all_readings_carry_the_labels_that_their_gauge_declares() -> None:
    events = [*completed(0, 0.4), suggested(1), started(1), reported(1, 1, 0.2)]
    study = fold([*BEGINNING, *events])
    readings = [*of_search(events, best=("mAP", 0.4)), *trial_readings(study.trials["t0001"], LABELS)]
    assert {each.kind for each in readings} == set(KINDS)
    for each in readings:
        assert tuple(each.labels) == each.kind.labels


def test_every_name_has_the_prefix_and_every_trial_is_told_apart() -> None:
    assert all(kind.name.startswith("reidsearch_") for kind in KINDS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.labels[:2] == OF_SEARCH for kind in KINDS)
    assert all(kind.labels[:3] == OF_TRIAL for kind in TRIAL_KINDS)


def test_figures_on_generated_data_say_so_in_every_series() -> None:
    assert search_labels("demo", marked("mini-mars", synthetic=True))["data"] == "SYNTHETIC mini-mars"
    assert "SYNTHETIC" not in search_labels("demo", marked("mars", synthetic=False))["data"]


def test_values_of_labels_are_short_and_printable() -> None:
    assert label("naïve\n{}" + "x" * 500) == ("na?ve?{}" + "x" * 500)[:LONGEST_LABEL]


def test_a_trial_that_is_over_keeps_its_series_for_a_minute() -> None:
    given = {"t0000": 100.0, "t0001": 190.0, "t0002": 10.0}
    assert shown_trials({"t0002"}, given, now=195.0) == ["t0001", "t0002"]
    assert shown_trials({"t0002"}, given, now=191.0 + LINGER_S) == ["t0002"]


def test_of_more_trials_than_fit_those_that_began_last_are_shown() -> None:
    given = {f"t{index:04d}": 0.0 for index in range(MOST_TRIALS + 3)}
    shown = shown_trials(given.keys(), given, now=1e6)
    assert (len(shown), shown[0]) == (MOST_TRIALS, "t0003")


# --- in a running search


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    found = Recorder(Journal(tmp_path / "journal.jsonl"))
    for event in BEGINNING:
        found.record(event)
    return found


def exporter_of(recorder: Recorder) -> Exporter:
    return Exporter(recorder, objective(), LABELS, budget=4, unsent=lambda: 0)


def test_the_exporter_shows_trials_that_run_and_forgets_those_that_ended(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = exporter_of(recorder)
    for event in (*completed(0, 0.4), suggested(1), started(1), suggested(2)):
        recorder.record(event)
    assert shown(exporter) == {"t0000", "t0001"}
    later = time.monotonic() + LINGER_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert shown(exporter) == {"t0001"}
    assert any(each.kind.name == "reidsearch_search_best" for each in exporter.readings())


def shown(exporter: Exporter) -> set[str]:
    return {each.labels["trial"] for each in exporter.readings() if "trial" in each.labels}


def test_a_ray_that_fails_costs_the_search_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no Ray here")

    monkeypatch.setattr("ray.util.metrics.Gauge", broken)
    with exporter_of(recorder):
        recorder.record(suggested(0))
    assert "gauges are no longer set" in caplog.text


def test_every_value_is_set_with_its_labels(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, float, dict[str, str]]] = []
    first = threading.Event()

    class Gauge:
        def __init__(self, name: str, **_: object) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            given.append((self.name, value, tags))
            first.set()

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    with exporter_of(recorder):
        assert first.wait(5)
    assert ("reidsearch_search_budget_trials", 4.0, dict(LABELS)) in given
