"""How busy the machine of a trial was during one of its epochs."""

from __future__ import annotations

from trainer.frozen import FrozenConfig


class GpuLoad(FrozenConfig):
    """One GPU that the trial may use; others may use it, too."""

    memory_bytes: float
    """Memory in use, by whomever, mean of the samples."""
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
        """The figures under the names that MLflow's page of system metrics expects, in its units, rounded as it does.

        Source: `mlflow.system_metrics` of MLflow 3.17. Megabytes are 10^6 bytes. `process_gpu_memory_peak_megabytes`
        is ours.
        """
        figures = {
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
            figures[f"gpu_{index}_memory_usage_percentage"] = 100 * gpu.memory_share
            figures[f"gpu_{index}_memory_usage_megabytes"] = gpu.memory_bytes / 1e6
            figures[f"gpu_{index}_utilization_percentage"] = 100 * gpu.utilization
            if gpu.power_watts is not None:
                figures[f"gpu_{index}_power_usage_watts"] = gpu.power_watts
        if self.gpu_memory_peak_bytes is not None:
            figures["process_gpu_memory_peak_megabytes"] = self.gpu_memory_peak_bytes / 1e6
        return {f"system/{name}": round(value, 1) for name, value in figures.items()}
