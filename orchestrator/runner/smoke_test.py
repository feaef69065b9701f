"""A few steps of one configuration in a process of its own: what they cost, or that they do not fit.

A crash or the kernel's out-of-memory killer ends only that process.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.runner.failure_kind import failure_kind
from orchestrator.runner.prepare_space import any_config
from orchestrator.runner.trial_spec import attempt_environment, shares_gpu
from orchestrator.space.search_space import SearchSpace
from trainer.child import Child, ChildEnded, ChildError, Parent, child_command
from trainer.errors import ConfigError, DataError
from trainer.formatting import first_line
from trainer.result import Progress, no_progress

if TYPE_CHECKING:
    from trainer import StepCost, TrialConfig

CHILD = child_command("orchestrator.runner.smoke_test")
# Errors that the user can mend; they are raised in the parent as what they are.
USER_ERRORS: Mapping[str, type[Exception]] = {"bad_config": ConfigError, "bad_data": DataError}


@contextmanager
def smoke_test_space(space: SearchSpace) -> Iterator[SearchSpace]:
    """The space on data that exist: its own data set or, if that is still to be generated, an outline of it.

    The outline lies in a temporary folder and is deleted at the end.

    Raises:
        DataError: there is no room for it.
    """
    if space.synthetic is None or any_config(space).data.root.is_dir():
        yield space
        return
    from trainer.data.synthetic.dataset import write_outline

    with tempfile.TemporaryDirectory(prefix="reidsearch-") as folder:
        root = Path(folder) / "outline"
        write_outline(root, size=space.synthetic, seed=0)
        data = space.trainer.get("data")
        there = {**(data if isinstance(data, dict) else {}), "root": str(root)}
        yield space.model_copy(update={"trainer": {**space.trainer, "data": there}})


def run_smoke_test(
    config: TrialConfig,
    *,
    threads: int,
    gpus: float,
    disk: Path,
    progress: Progress = no_progress,
    command: Sequence[str] = CHILD,
) -> StepCost:
    """Runs a few steps of the configuration in a child.

    Args:
        config: what to run.
        threads: CPU threads that it may use.
        gpus: GPUs that it may use; of a share it may have as much memory as a trial may.
        disk: folder on the disk that checkpoints are to go to; nothing is left there.
        progress: called after every step.
        command: starts the child.

    Raises:
        ConfigError, DataError: as `trainer.measure_step`.
        EnvironmentProblem: it does not fit into the memory, or the child died.
    """
    from trainer import StepCost

    request = {"threads": threads, "gpus": gpus, "disk": str(disk), "config": config.model_dump(mode="json")}
    name, environment = "the process that tried the largest configuration", attempt_environment(threads, gpus)
    with Child(command, name=name, environment=environment) as child:
        child.send(request)
        try:
            while "progress" in (reply := child.receive()):
                progress(*reply["progress"])
        except ChildError as error:
            raise _death(error) from error
    if "error" in reply:
        raise _failure(*reply["error"], gpus=gpus)
    return StepCost.model_validate(reply["cost"])


def _death(error: ChildError) -> EnvironmentProblem:
    if isinstance(error, ChildEnded) and error.code == -9:
        return EnvironmentProblem(
            "the process that tried the largest configuration was killed from outside: most likely it did not fit into "
            "the memory; lower clips.identities, clips.tracklets, clips.frames or the size of frames"
        )
    return EnvironmentProblem(str(error))


def _failure(kind: str, name: str, message: str, *, gpus: float) -> Exception:
    """The error to raise for one that the child reports."""
    if kind in USER_ERRORS:
        return USER_ERRORS[kind](message)
    if kind == "out_of_memory" and shares_gpu(gpus):
        return EnvironmentProblem(
            f"the largest configuration does not fit into {gpus:g} of a GPU; give each trial more with "
            f"--gpus-per-trial: {message}"
        )
    if kind == "out_of_memory":
        return EnvironmentProblem(f"the largest configuration does not fit into the memory here: {message}")
    return EnvironmentProblem(f"the largest configuration failed: {name}: {message}")


def main(parent: Parent) -> None:
    """The child."""
    logging.basicConfig(format="%(message)s")
    parent.send(_measured(parent.receive(), parent))


def _measured(request: Mapping[str, Any], parent: Parent) -> dict[str, Any]:
    import torch

    from trainer import TrialConfig, limit_gpu_memory, measure_step, prepare_process

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        parent.send({"progress": [what, done, total, note]})

    prepare_process()
    torch.set_num_threads(request["threads"])
    try:
        if shares_gpu(request["gpus"]):
            limit_gpu_memory(request["gpus"])
        cost = measure_step(TrialConfig.model_validate(request["config"]), disk=Path(request["disk"]), progress=tell)
    except Exception as error:  # noqa: BLE001  # sent to the parent, which raises it
        return {"error": [failure_kind(error), type(error).__name__, first_line(error)]}
    return {"cost": cost.model_dump(mode="json")}
