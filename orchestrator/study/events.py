"""The events of a search, each immutable and one line of the journal."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter

from orchestrator.space.parameters import Value
from trainer.result import DataRecord, EpochResult, Evaluation
from trainer.settings import FrozenConfig

FailureKind = Literal[
    "diverged", "out_of_memory", "bad_data", "bad_config", "worker_lost", "hang", "disk_full", "error"
]
Source = Literal["start", "center", "sobol", "ax", "random", "grid", "plugin", "repeat", "compare", "finalize"]
"""What proposed a trial: the space's known-good points, its center, a Sobol sequence, Ax, a random draw, the grid, an
algorithm of another package; or a leading configuration that is run again with another seed, to confirm it or for the
test set."""
StopRule = Literal["asha", "percentile", "promote", "freeze_thaw", "user", "budget"]
"""What stopped a trial before its last epoch; `promote` and `freeze_thaw` had paused it."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What searches and trials may be called: a name is a folder's."""

TrialKey = Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
"""The key of a trial; names a folder below that of the search."""


class GpuLoad(FrozenConfig):
    """One GPU of the trial, which other processes may use as well."""

    memory_bytes: float
    """Memory in use by all processes, mean of the samples."""
    memory_share: float
    """The same as a share of what the GPU has, in [0, 1]."""
    utilization: float
    """Share of the time in which the GPU computed anything, in [0, 1], mean of the samples."""
    power_watts: float | None = None
    """Mean of the samples; None where the GPU does not say."""


class NodeLoad(FrozenConfig):
    """What the whole machine did while the trial trained an epoch; several trials of a machine see the same."""

    node: str
    """Its host name."""
    cpu_utilization: float
    """Share of its processor time that was used since the epoch before, in [0, 1]."""
    memory_bytes: float
    """Memory in use at the end of the epoch."""
    memory_share: float
    """The same as a share of what the machine has, in [0, 1]."""
    disk_used_bytes: float
    """Of the file system that holds the trial's folder, at the end of the epoch."""
    disk_free_bytes: float
    """What is left of it."""
    disk_share: float
    """Share of it that is used, in [0, 1]."""
    network_received_bytes: float
    """Received by the machine since the attempt began."""
    network_sent_bytes: float
    """Sent by the machine since the attempt began."""
    gpus: tuple[GpuLoad, ...] = ()
    """Those that the trial may use, as it numbers them; empty without any, and where they cannot be asked."""
    gpu_memory_peak_bytes: float | None = None
    """The most that the trial's own tensors took of its GPUs in the epoch; None without a GPU."""

    def system_metrics(self) -> dict[str, float]:
        """The values under the names and in the units of MLflow's page of system metrics, rounded as MLflow does.

        Source: `mlflow.system_metrics` of MLflow 3.17. Megabytes are 10^6 bytes. `process_gpu_memory_peak_megabytes`
        is ours.
        """
        values = {
            "cpu_utilization_percentage": 100 * self.cpu_utilization,
            "system_memory_usage_megabytes": self.memory_bytes / 1e6,
            "system_memory_usage_percentage": 100 * self.memory_share,
            "disk_usage_percentage": 100 * self.disk_share,
            "disk_usage_megabytes": self.disk_used_bytes / 1e6,
            "disk_available_megabytes": self.disk_free_bytes / 1e6,
            "network_receive_megabytes": self.network_received_bytes / 1e6,
            "network_transmit_megabytes": self.network_sent_bytes / 1e6,
        }
        for index, gpu in enumerate(self.gpus):
            values[f"gpu_{index}_memory_usage_percentage"] = 100 * gpu.memory_share
            values[f"gpu_{index}_memory_usage_megabytes"] = gpu.memory_bytes / 1e6
            values[f"gpu_{index}_utilization_percentage"] = 100 * gpu.utilization
            if gpu.power_watts is not None:
                values[f"gpu_{index}_power_usage_watts"] = gpu.power_watts
        if self.gpu_memory_peak_bytes is not None:
            values["process_gpu_memory_peak_megabytes"] = self.gpu_memory_peak_bytes / 1e6
        return {f"system/{name}": round(value, 1) for name, value in values.items()}


FORMAT: Final = 2  # 1 was that of version 0.1, whose trials did not name their epochs


class SearchCreated(FrozenConfig):
    """First event of every journal."""

    kind: Literal["search_created"] = "search_created"
    format: Literal[2] = FORMAT
    """Version of the journal's vocabulary."""
    search: str
    space: str
    """Fingerprint of the resolved search space."""
    seed: int


class SessionStarted(FrozenConfig):
    """A process took the lease and drives the search from here on."""

    kind: Literal["session_started"] = "session_started"
    session: int
    """1 for the launch, one more for each resume."""
    host: str
    pid: int


class Forecast(FrozenConfig):
    """A prediction of the objective at the end of a trial's training."""

    value: float
    """In the objective's own units; of several objectives the first."""
    error: float = Field(ge=0)
    """One standard deviation, in the same units."""


class TrialSuggested(FrozenConfig):
    """A trial exists from here on, whether or not it ever starts."""

    kind: Literal["trial_suggested"] = "trial_suggested"
    trial: TrialKey
    index: int
    """Index of the trial in Ax, counted from 0; of a repeat that of the trial that it repeats."""
    params: dict[str, Value]
    source: Source
    seed: int
    note: str = ""
    """Why this and not what the algorithm would have proposed, or why a configuration trains again; else empty."""
    repeats: str = ""
    """Key of the trial whose configuration is run again with another seed; empty for a new configuration."""
    fold: int | None = None
    """The validation fold, where it is not that of the search."""
    finalization: int = 0
    """Number of the finalization that trains it on all identities for the test set, from 1; 0 for all other trials."""
    epochs: int = Field(ge=1)
    """Epochs of the training."""
    until: int | None = Field(None, ge=1)
    """Epoch after which it pauses; None trains it to its end."""


class TrialTracked(FrozenConfig):
    """MLflow has a run for the trial."""

    kind: Literal["trial_tracked"] = "trial_tracked"
    trial: TrialKey
    mlflow_run_id: str


class TrialStarted(FrozenConfig):
    """An attempt of the trial was submitted to Ray."""

    kind: Literal["trial_started"] = "trial_started"
    trial: TrialKey
    attempt: int
    """1 for the first."""
    gpus: float = 0.0
    """GPUs that it holds."""
    threads: int | None = None
    """CPU threads that it may use, which determine the last bits of its numbers; None in older journals."""


class TrialReported(FrozenConfig):
    """The trial finished an epoch."""

    kind: Literal["trial_reported"] = "trial_reported"
    trial: TrialKey
    result: EpochResult
    load: NodeLoad | None = None
    """Load of the machine that trained it; None if it was not measured, and in older journals."""


class TrialCompleted(FrozenConfig):
    """The trial finished its last epoch."""

    kind: Literal["trial_completed"] = "trial_completed"
    trial: TrialKey


class TrialTested(FrozenConfig):
    """The network that a finalization trained was judged on the test set."""

    kind: Literal["trial_tested"] = "trial_tested"
    trial: TrialKey
    evaluation: Evaluation
    data: DataRecord | None = Field(None, exclude_if=lambda data: data is None)
    """Whose test set, where it is not that of the search's data set."""


class TrialStopped(FrozenConfig):
    """The trial ends before its last epoch without a failure."""

    kind: Literal["trial_stopped"] = "trial_stopped"
    trial: TrialKey
    rule: StopRule
    epoch: int
    """Epochs that it had finished."""
    reason: str


class TrialPaused(FrozenConfig):
    """The trial's attempt ended after the epoch until which it was to train, with its state saved; its slot is free."""

    kind: Literal["trial_paused"] = "trial_paused"
    trial: TrialKey
    epoch: int
    """Epochs that it has finished."""
    reason: str
    forecast: Forecast | None = None
    """The model's, where the stopping rule has one."""


class TrialContinued(FrozenConfig):
    """The paused trial waits for an attempt, which continues it from its checkpoint."""

    kind: Literal["trial_continued"] = "trial_continued"
    trial: TrialKey
    until: int | None = Field(None, ge=1)
    """Epoch after which it pauses again; None trains it to its end."""
    reason: str
    forecast: Forecast | None = None
    """The model's, by which it was chosen; None where the stopping rule has no model."""


class AttemptFailed(FrozenConfig):
    """An attempt ended without a result; the trial may be tried again."""

    kind: Literal["attempt_failed"] = "attempt_failed"
    trial: TrialKey
    attempt: int
    failure: FailureKind
    reason: str


class TrialFailed(FrozenConfig):
    """The trial will not be tried again."""

    kind: Literal["trial_failed"] = "trial_failed"
    trial: TrialKey
    failure: FailureKind
    reason: str


class TrialReopened(FrozenConfig):
    """A failed trial, or a repeat that a used-up budget ended, is tried again, its attempts counted anew."""

    kind: Literal["trial_reopened"] = "trial_reopened"
    trial: TrialKey


class Observation(FrozenConfig):
    """A finished trial of an earlier search, as the model gets it."""

    trial: TrialKey
    params: dict[str, Value]
    value: float
    standard_error: float | None
    metrics: dict[str, float] = Field(default_factory=dict)
    """Its other objectives, and the metrics that constraints bound."""


class ObservationsAttached(FrozenConfig):
    """The model knows finished trials of an earlier search from here on; they are no trials of this one."""

    kind: Literal["observations_attached"] = "observations_attached"
    search: str
    """Name of the earlier search."""
    observations: list[Observation]
    note: str = ""
    """In what the two searches differ, where that was accepted."""


class SearchExtended(FrozenConfig):
    """The search goes on in another space, or with another budget."""

    kind: Literal["search_extended"] = "search_extended"
    changes: list[str]
    """Each as `path before -> after`."""
    space: dict[str, JsonValue]
    """The resolved space that holds from here on."""


class FinalizationStarted(FrozenConfig):
    """The test set is opened: the best configurations are trained on all identities and judged on it."""

    kind: Literal["finalization_started"] = "finalization_started"
    finalization: int
    """1 for the first time, one more for each time that it is opened again."""
    leaders: list[str]
    """Keys of the configurations, the best first."""
    seeds: int
    """Networks that each of them is trained as."""
    epochs: int | None
    """Of each training; None leaves those of the configuration."""
    evaluation: list[str] = Field(default_factory=list)
    """Settings of the evaluation that are laid over the configurations', as `evaluation.sampling=dense`; empty in
    older journals."""
    by: str
    """Who asked for it: user and host."""
    data: DataRecord | None = Field(None, exclude_if=lambda data: data is None)
    """Whose test set it is for, where the data set of the search has none; None is that of the search."""


class TrialOpenedTestSet(FrozenConfig):
    """The test set was used with a trial's network outside of a finalization, or that of another data set by one."""

    kind: Literal["trial_opened_test_set"] = "trial_opened_test_set"
    trial: TrialKey
    use: Literal["evaluate", "embed", "finalize"]
    """Whether metrics or embeddings were computed by hand, or metrics on another data set by `finalize --data`."""
    weights: str
    """File of the network, relative to the folder of the search."""
    by: str
    """Who asked for it: user and host."""
    data: DataRecord | None = Field(None, exclude_if=lambda data: data is None)
    """Whose test set, where it is not that of the search's data set."""


class Outlook(FrozenConfig):
    """By how much further trials are expected to improve the best configuration, in the objective's units.

    Improvements are positive, whether the objective is maximized or minimized.
    """

    trials: int
    """The number of further trials."""
    gain: float
    low: float
    """Of the 95 % interval; negative where the best by few seeds may turn out not to be the best."""
    high: float


class SessionEnded(FrozenConfig):
    """The process that drove the search ended in good order."""

    kind: Literal["session_ended"] = "session_ended"
    state: Literal["finished", "interrupted", "failed"]
    reason: str
    outlook: Outlook | None = None
    """None before there are enough trials, and where no model tells."""


Event = (
    SearchCreated
    | SessionStarted
    | TrialSuggested
    | TrialTracked
    | TrialStarted
    | TrialReported
    | TrialCompleted
    | TrialTested
    | TrialStopped
    | TrialPaused
    | TrialContinued
    | AttemptFailed
    | TrialFailed
    | TrialReopened
    | ObservationsAttached
    | SearchExtended
    | FinalizationStarted
    | TrialOpenedTestSet
    | SessionEnded
)

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
