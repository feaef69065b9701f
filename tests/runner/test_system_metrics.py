"""How busy the machine of a trial is: measured in the attempt, journaled with the epoch, sent to MLflow."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from events import epoch_result, evaluation, node_load, started, suggested

from orchestrator.runner.epochs import record_epoch
from orchestrator.runner.system_metrics import (
    SAMPLE_PERIOD_S,
    Gpus,
    GpuSample,
    SystemMeter,
    _sample,
    gpus_of_this_process,
)
from orchestrator.runner.trial_spec import WorkerMessage
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import local_search
from orchestrator.study.events import EVENT, GpuLoad, NodeLoad, TrialReported
from orchestrator.study.journal import Journal
from orchestrator.study.recorder import Recorder
from orchestrator.tracking.projection import Plan


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- measuring


def test_the_machine_is_measured_over_an_epoch(tmp_path: Path) -> None:
    load = SystemMeter(tmp_path).epoch(time.time())
    assert load is not None
    assert 0 <= load.cpu_utilization <= 1
    assert load.memory_bytes == pytest.approx(load.memory_share * psutil.virtual_memory().total, rel=0.01)
    disk = psutil.disk_usage(str(tmp_path))
    assert load.disk_used_bytes + load.disk_free_bytes == pytest.approx(disk.used + disk.free, rel=0.01)
    assert load.network_received_bytes >= 0
    assert (load.gpus, load.gpu_memory_peak_bytes) == ((), None)


def test_an_epoch_of_an_earlier_attempt_has_no_load(tmp_path: Path) -> None:
    assert SystemMeter(tmp_path).epoch(time.time() - 60) is None


def test_gpus_are_asked_now_and_then_and_averaged_over_the_epoch(tmp_path: Path) -> None:
    clock, asked = Clock(), iter(range(1, 100))

    def sample() -> list[GpuSample]:
        return [GpuSample(next(asked) * 1e9, 0.5, 0.25, None)]

    meter = SystemMeter(tmp_path, Gpus(sample, lambda: 7.0), clock)
    for _ in range(10):
        clock.now += SAMPLE_PERIOD_S / 2
        meter.step()
    first = meter.epoch(time.time())
    second = meter.epoch(time.time())
    assert first is not None and second is not None
    # Samples 1 to 5 at the steps and 6 at the end of the epoch; 7 at the end of the next one.
    assert first.gpus == (GpuLoad(memory_bytes=3.5e9, memory_share=0.5, utilization=0.25),)
    assert second.gpus[0].memory_bytes == 7e9
    assert first.gpu_memory_peak_bytes == 7.0


def test_a_gpu_is_asked_in_the_units_that_we_keep() -> None:
    class Cuda:
        device_memory_used = staticmethod(lambda index: 20e9)
        utilization = staticmethod(lambda index: 85)
        power_draw = staticmethod(lambda index: 300_000)

        @staticmethod
        def get_device_properties(index: int) -> Any:
            return type("Properties", (), {"total_memory": 80e9})

    torch = type("Torch", (), {"cuda": Cuda})
    assert _sample(torch, 0) == GpuSample(20e9, 0.25, 0.85, 300.0)


def test_gpus_that_were_not_given_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_of_this_process().sample() == ()


def test_what_cannot_be_measured_costs_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuses() -> list[GpuSample]:
        raise OSError("Driver/library version mismatch")

    with caplog.at_level(logging.WARNING):
        meter = SystemMeter(tmp_path, Gpus(refuses))
        assert [meter.epoch(time.time()) for _ in range(3)] == [None, None, None]
    assert caplog.text.count("Driver/library version mismatch") == 1


def test_measuring_an_epoch_takes_less_than_a_millisecond_of_processor_time(tmp_path: Path) -> None:
    meter = SystemMeter(tmp_path)
    began = time.process_time()
    for _ in range(50):
        meter.step()
        meter.epoch(time.time())
    assert (time.process_time() - began) / 50 < 1e-3


# --- on its way


def test_the_load_goes_with_the_epoch_into_the_journal(tmp_path: Path) -> None:
    recorder = Recorder(Journal(tmp_path / "journal.jsonl"))
    for event in (suggested(0), started(0)):
        recorder.record(event)
    message = WorkerMessage.model_validate_json(
        WorkerMessage(epoch_result=epoch_result(1), load=node_load(peak=1e9)).model_dump_json()
    )
    assert message.epoch_result is not None
    record_epoch(recorder, SearchSpace.load("smoke.yaml"), "t0000", message.epoch_result, message.load)
    assert Recorder(Journal(tmp_path / "journal.jsonl")).study.trials["t0000"].load == node_load(peak=1e9)


def test_journals_of_before_have_epochs_without_a_load() -> None:
    document = TrialReported(trial="t0000", result=epoch_result(1)).model_dump(mode="json")
    del document["load"]
    event = EVENT.validate_python(document)
    assert isinstance(event, TrialReported) and event.load is None


def test_a_trial_gets_system_metrics_at_the_step_of_its_epoch_and_its_nodes_as_a_tag(tmp_path: Path) -> None:
    plan = Plan(local_search(tmp_path))
    plan.add(suggested(0), 0.0)
    for epoch, node in enumerate(("n1", "n2", "n1"), 1):
        plan.add(TrialReported(trial="t0000", result=epoch_result(epoch), load=node_load(node=node)), 0.0)
    [writes] = plan.next(0.0, limit=1)
    points = [point for point in writes.points if point.metric == "system/cpu_utilization_percentage"]
    assert [(point.step, point.value, point.time) for point in points] == [
        (epoch, 50.0, round((1e9 + epoch) * 1000)) for epoch in (1, 2, 3)
    ]
    assert writes.tags["node"] == "n1, n2"


def test_an_epoch_without_a_load_has_no_system_metrics(tmp_path: Path) -> None:
    plan = Plan(local_search(tmp_path))
    plan.add(suggested(0), 0.0)
    plan.add(TrialReported(trial="t0000", result=epoch_result(1).model_copy(update={"validation": evaluation(0.5)})), 0)
    [writes] = plan.next(0.0, limit=1)
    assert not any(point.metric.startswith("system/") for point in writes.points)
    assert "node" not in writes.tags


def test_the_names_are_those_of_mlflow_itself() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert set(node_load().system_metrics()) == theirs


def test_gpus_are_numbered_as_mlflow_does_and_what_is_not_known_is_left_out() -> None:
    gpus = (
        GpuLoad(memory_bytes=8e9, memory_share=0.1, utilization=0.9, power_watts=300.0),
        GpuLoad(memory_bytes=0, memory_share=0, utilization=0),
    )
    metrics = node_load(peak=2e9).model_copy(update={"gpus": gpus}).system_metrics()
    assert metrics["system/gpu_0_memory_usage_megabytes"] == 8000
    assert metrics["system/gpu_0_memory_usage_percentage"] == 10
    assert metrics["system/gpu_0_utilization_percentage"] == 90
    assert metrics["system/gpu_0_power_usage_watts"] == 300
    assert metrics["system/gpu_1_utilization_percentage"] == 0
    assert "system/gpu_1_power_usage_watts" not in metrics
    assert metrics["system/process_gpu_memory_peak_megabytes"] == 2000


def test_a_load_is_as_good_as_its_json() -> None:
    load = node_load(peak=1.0)
    assert NodeLoad.model_validate_json(load.model_dump_json()) == load
