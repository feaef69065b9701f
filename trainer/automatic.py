"""What settings that say `auto` become on the machine that trains: decided once, recorded with the trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from trainer.compute import Precision
from trainer.config import TrialConfig
from trainer.errors import ConfigError
from trainer.model.network import geometry

# Compute capabilities from which GPUs multiply bf16 and TF32, and fp16, in tensor cores: Ampere and Volta. Those of AMD
# that torch supports tell 9.0 and more.
AMPERE, VOLTA = (8, 0), (7, 0)
MOST_WORKERS = 8
# Of the last feature map. For outputs one pixel wide oneDNN's bf16 convolution of stride 2 reads, with AMX, memory that
# nobody wrote: wrong numbers and NaN, others in each run (torch 2.15.0).
LEAST_WIDTH = 2


class Machine(NamedTuple):
    """What decides the values that `auto` stands for."""

    capability: tuple[int, int] | None = None
    """Compute capability of the GPU that trains; None on a CPU."""
    amx: bool = False
    """Whether the processor multiplies matrices of bf16 in tiles."""
    cores: int = 1
    """That the trial may use."""

    @property
    def computes_bf16_on_cpu(self) -> bool:
        """Whether `auto` is bf16 on a CPU."""
        return self.capability is None and self.amx


def this_machine(device: torch.device | str | None = None) -> Machine:
    """The machine that this runs on.

    Its cores are the threads that torch may use, which a search sets to the cores of a trial.

    Args:
        device: where the trial trains; None takes the GPU if there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Machine(
        capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        amx=bool(torch.cpu.get_capabilities().get("amx_bf16", False)),
        cores=torch.get_num_threads(),
    )


def resolved(config: TrialConfig, machine: Machine, recorded: Mapping[str, Any] | None = None) -> TrialConfig:
    """The configuration with the values that `auto` stands for; how to save is no such value, and stays as it is.

    Args:
        config: the trial.
        machine: where it trains.
        recorded: the configuration of an earlier part of the same training, as plain data. What `auto` became there
            holds on, except for workers, which change no result.

    Raises:
        ConfigError: bf16 is asked for where this processor computes it wrongly.
    """
    earlier: Mapping[str, Any] = (recorded or {}).get("compute", {})
    narrow = machine.computes_bf16_on_cpu and geometry(config.model).map_size[1] < LEAST_WIDTH
    here = {"precision": "fp32" if narrow else precision(machine), "tf32": (machine.capability or (0, 0)) >= AMPERE}
    compute = {
        name: earlier.get(name, value) for name, value in here.items() if getattr(config.compute, name) == "auto"
    }
    if narrow and compute.get("precision", config.compute.precision) == "bf16":
        raise ConfigError(
            "compute.precision: bf16 on this processor gives wrong numbers for a network whose last feature map is one "
            "pixel wide (torch 2.15, AMX); set it to fp32, or make model.width larger"
        )
    clips = {"workers": workers(machine)} if config.clips.workers == "auto" else {}
    return config.model_copy(
        update={
            "compute": config.compute.model_copy(update=compute),
            "clips": config.clips.model_copy(update=clips),
        }
    )


def precision(machine: Machine) -> Precision:
    """The fastest precision that trains as well; see `ComputeConfig.precision`."""
    if machine.capability is None:
        return "bf16" if machine.computes_bf16_on_cpu else "fp32"
    return "bf16" if machine.capability >= AMPERE else "fp16" if machine.capability >= VOLTA else "fp32"


def workers(machine: Machine) -> int:
    """Processes that decode frames; see `ClipConfig.workers`."""
    if machine.capability is None:
        return 0
    return min(max(machine.cores - 1, 1), MOST_WORKERS)
