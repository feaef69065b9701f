"""Events and results for tests, short to write."""

from __future__ import annotations

from orchestrator.study.events import (
    Event,
    NodeLoad,
    TrialCompleted,
    TrialContinued,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)
from trainer.result import EpochResult, Evaluation


def evaluation(mean_ap: float) -> Evaluation:
    return Evaluation(
        mAP=mean_ap,
        mAP_standard_error=0.03,
        mINP=mean_ap / 2,
        rank1=mean_ap,
        rank5=mean_ap,
        rank10=mean_ap,
        rank20=mean_ap,
        attention_entropy=0.5,
        protocol="mars",
        sampling="even, 2 clips",
        queries=10,
        dropped_queries=0,
    )


def epoch_result(epoch: int, mean_ap: float | None = None, time: float = 1e9) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        losses={"total": 1.0 / epoch},
        learning_rate=1e-3,
        validation=None if mean_ap is None else evaluation(mean_ap),
        images_per_second=100.0,
        data_wait_share=0.1,
        seconds=1.0,
        time=time + epoch,
    )


def suggested(index: int, **params: float) -> TrialSuggested:
    return TrialSuggested(
        trial=f"t{index:04d}", index=index, params=params or {"a": 0.5}, source="sobol", seed=0, epochs=3
    )


def started(index: int, attempt: int = 1) -> TrialStarted:
    return TrialStarted(trial=f"t{index:04d}", attempt=attempt)


def reported(index: int, epoch: int, mean_ap: float | None = None) -> TrialReported:
    return TrialReported(trial=f"t{index:04d}", result=epoch_result(epoch, mean_ap))


def paused(index: int, epoch: int) -> TrialPaused:
    return TrialPaused(trial=f"t{index:04d}", epoch=epoch, reason="because")


def continued(index: int, until: int | None = None) -> TrialContinued:
    return TrialContinued(trial=f"t{index:04d}", until=until, reason="because")


def completed(index: int, *curve: float) -> list[Event]:
    """A whole trial with its curve of validation mAP."""
    key = f"t{index:04d}"
    epochs = [reported(index, epoch, value) for epoch, value in enumerate(curve, 1)]
    return [suggested(index), started(index), *epochs, TrialCompleted(trial=key)]


def node_load(peak: float | None = None, node: str = "n1") -> NodeLoad:
    return NodeLoad(
        node=node,
        cpu_utilization=0.5,
        memory_bytes=2e9,
        memory_share=0.25,
        disk_used_bytes=1e9,
        disk_free_bytes=3e9,
        disk_share=0.25,
        network_received_bytes=5e6,
        network_sent_bytes=1e6,
        gpu_memory_peak_bytes=peak,
    )
