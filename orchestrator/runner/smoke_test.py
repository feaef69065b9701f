"""One step of one configuration in a process of its own: what it costs, or that it does not fit.

The child (`python -m orchestrator.runner.smoke_test`) reads a configuration from standard input, answers in JSON, one
object per line, on standard output, and ends with its parent. A crash or the kernel's out-of-memory killer takes it
alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.runner.attempt import attempt_environment
from orchestrator.runner.failure_kind import failure_kind
from trainer.child import die_with_parent, python_command, start_child
from trainer.errors import ConfigError, DataError
from trainer.formatting import first_line
from trainer.result import Progress, no_progress

if TYPE_CHECKING:
    from trainer import StepCost, TrialConfig

CHILD = python_command("-m", "orchestrator.runner.smoke_test")
# Errors that are the user's to mend, and reach the parent as what they are.
OF_THE_USER: Mapping[str, type[Exception]] = {"bad_config": ConfigError, "bad_data": DataError}
LAST_WORDS = 2000  # characters of what a child that died had printed


def run_smoke_test(
    config: TrialConfig, *, threads: int, disk: Path, progress: Progress = no_progress, command: Sequence[str] = CHILD
) -> StepCost:
    """Runs a few steps of the configuration in a child.

    Args:
        config: what to run.
        threads: CPU threads that it may use.
        disk: folder on the disk that checkpoints are to go to; nothing is left there.
        progress: told after every step.
        command: starts the child.

    Raises:
        ConfigError, DataError: as `trainer.measure_step`.
        EnvironmentProblem: it does not fit into the memory, or the child died.
    """
    from trainer import StepCost

    order = json.dumps({"threads": threads, "disk": str(disk), "config": config.model_dump(mode="json")})
    with (
        tempfile.TemporaryFile() as errors,
        start_child(
            command,
            attempt_environment(threads, None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        try:
            reply = _converse(child, order, progress)
        finally:
            child.kill()
        code = child.wait()
        if "cost" not in reply:
            raise _failure(reply, code, errors)
    return StepCost.model_validate(reply["cost"])


def _converse(child: subprocess.Popen[str], order: str, progress: Progress) -> dict[str, Any]:
    """The child's last word: its cost or its error; nothing where it died before."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(order)
        child.stdin.close()
    except BrokenPipeError:
        return {}
    for line in child.stdout:
        reply: dict[str, Any] = json.loads(line)
        if "progress" not in reply:
            return reply
        progress(*reply["progress"])
    child.wait()
    return {}


def _failure(reply: Mapping[str, Any], code: int, errors: IO[bytes]) -> Exception:
    """What went wrong, as the error to raise."""
    kind, name, message = reply.get("error", ("", "", ""))
    if kind in OF_THE_USER:
        return OF_THE_USER[kind](message)
    if kind == "out_of_memory":
        return EnvironmentProblem(f"the largest configuration does not fit into the memory here: {message}")
    if kind:
        return EnvironmentProblem(f"the largest configuration failed: {name}: {message}")
    if code == -9:
        return EnvironmentProblem(
            "the process that tried the largest configuration was killed from outside: most likely it did not fit into "
            "the memory; lower clips.identities, clips.tracklets, clips.frames or the size of frames"
        )
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip()[-LAST_WORDS:]
    return EnvironmentProblem(
        f"the process that tried the largest configuration died with exit code {code}" + (f":\n{said}" if said else "")
    )


def main() -> None:
    """The child."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is no answer
    die_with_parent()
    logging.basicConfig(format="%(message)s")
    print(json.dumps(_answer(json.load(sys.stdin), answers)), file=answers, flush=True)


def _answer(order: Mapping[str, Any], answers: IO[str]) -> dict[str, Any]:
    import torch

    from trainer import TrialConfig, measure_step, prepare_process

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        print(json.dumps({"progress": [what, done, total, note]}), file=answers, flush=True)

    prepare_process()
    torch.set_num_threads(order["threads"])
    try:
        cost = measure_step(TrialConfig.model_validate(order["config"]), disk=Path(order["disk"]), progress=tell)
    except Exception as error:  # noqa: BLE001  # told to the parent, which raises it
        return {"error": [failure_kind(error), type(error).__name__, first_line(error)]}
    return {"cost": cost.model_dump(mode="json")}


if __name__ == "__main__":
    main()
