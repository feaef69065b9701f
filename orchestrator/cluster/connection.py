"""The Ray cluster that trials run on: how it is reached, guarded and shared out."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import EnvironmentProblem
from orchestrator.process import Process, child_named, children
from trainer.wording import first_line

log = logging.getLogger(__name__)

NODE_STARTS = 3
TOKEN_FILE = Path("~/.ray/auth_token")
# Ray keeps at most this share of a machine's memory for objects by default, 30 %; trials pass nothing large through it.
OBJECT_STORE_BYTES = 200 * 2**20
# Set before Ray is imported. Ours are: no usage statistics, no per-trial loggers beside the journal, no change of
# folder in a trial (relative data paths), no handler of Ctrl-C beside ours, as many waiting trials as we ask for.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Share(NamedTuple):
    """What one trial gets, and how many run at once."""

    concurrent: int
    cpus: int
    gpus: float
    reason: str
    """One line for people."""


def share_out(
    resources: Mapping[str, float], *, concurrent: int | None, gpus_per_trial: float | None, trials: int
) -> Share:
    """Divides a cluster among trials: one GPU each where there are any, otherwise CPU cores.

    Raises:
        EnvironmentProblem: GPUs were asked for that the cluster does not have.
    """
    cpus, gpus = max(1, int(resources.get("CPU", 1))), resources.get("GPU", 0)
    if gpus_per_trial and gpus_per_trial > gpus:
        raise EnvironmentProblem(
            f"--gpus-per-trial {gpus_per_trial:g}: the cluster has {gpus:g} GPUs; leave it out to train on CPU cores"
        )
    if gpus == 0 or gpus_per_trial == 0:
        running = min(concurrent or cpus, cpus, trials)
        each = cpus // running
        why = "no GPU in the cluster" if gpus == 0 else "GPUs are left alone"
        return Share(running, each, 0, f"{why}: {running} at once, {each} of {cpus} CPU cores each")
    wanted = gpus_per_trial or 1.0
    slots = math.floor(1 / wanted) * int(gpus) if wanted < 1 else math.floor(gpus / wanted)
    running = min(concurrent or slots, slots, trials)
    each = max(1, cpus // max(running, 1))
    return Share(running, each, wanted, f"{running} at once, {wanted:g} of {gpus:g} GPUs and {each} CPU cores each")


class Connection(NamedTuple):
    """A cluster that trials can be sent to."""

    dashboard: str | None
    """Address of the Ray dashboard."""
    resources: dict[str, float]
    node: Process | None = None
    """The process that is the node which `connect` started here; None for a cluster that was joined."""


def connect(address: str | None) -> Connection:
    """Starts Ray on this machine, or joins the cluster at `address`.

    The dashboard listens on 127.0.0.1 and every request needs the token in a file that only its owner can read.

    Raises:
        EnvironmentProblem: Ray could not be started or reached.
    """
    os.environ.update(ENVIRONMENT)
    _ensure_token()
    try:
        context = _started_here() if address is None else _ray(address=address)
    except Exception as error:  # a node that does not start in time is a bare Exception to Ray
        where = "on this machine" if address is None else f"at {address}"
        raise EnvironmentProblem(f"Ray could not be reached {where}: {first_line(error)}") from error
    # A lost worker is an event of the journal and a line of ours; Tune would add its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    import ray

    url = context.dashboard_url
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Connection(f"http://{url}" if url else None, resources, child_named("raylet") if address is None else None)


def _started_here() -> Any:
    """Ray gives a node 30 s to start, which a busy machine may not manage; the next one finds its files in memory."""
    settings = {
        "address": "local",
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(_private_folder()),
    }
    for _ in range(NODE_STARTS - 1):
        before = children()
        try:
            return _ray(**settings)
        except Exception as error:  # noqa: BLE001  # bare to Ray; the last one is raised
            log.warning("Ray: %s; starting it again", first_line(error))
            # Ray would keep what it started of the node until we end.
            for process in children().keys() - before.keys():
                with contextlib.suppress(ProcessLookupError):  # some end by themselves once the first is gone
                    os.kill(process.pid, signal.SIGKILL)
    return _ray(**settings)


def _ray(**settings: Any) -> Any:
    import ray

    return ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)


def disconnect() -> None:
    """Lets go of the cluster; one that `connect` started ends with all its processes."""
    import ray

    ray.shutdown()


def _ensure_token() -> None:
    """A token that only its owner can read; Ray itself would make the file readable by all."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = TOKEN_FILE.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    path.chmod(0o600)


def _private_folder() -> Path:
    """Where Ray keeps its sockets and logs. Short, because socket paths end at 107 characters; private, because
    Ray makes the folders below readable and writable by all."""
    folder = Path(tempfile.gettempdir()) / f"reidsearch-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise EnvironmentProblem(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    folder.chmod(0o700)
    return folder
