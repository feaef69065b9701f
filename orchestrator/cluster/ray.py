"""The Ray cluster that trials run on: how it is reached and guarded."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.base.process import Process, children, children_named
from orchestrator.cluster.authentication import MODE, admit, own_token
from orchestrator.cluster.resources import Node
from trainer.atomic import in_place
from trainer.child import checkout
from trainer.formatting import first_line

log = logging.getLogger(__name__)

NODE_STARTS = 3
# Ray keeps at most this share of a machine's memory for objects by default, 30 %; trials pass nothing large through it.
OBJECT_STORE_BYTES = 200 * 2**20
# Set before Ray is imported. Ours are: no usage statistics, no per-trial loggers beside the journal, no change of
# folder in a trial (relative data paths), no handler of Ctrl-C beside ours, as many waiting trials as we ask for.
ENVIRONMENT = {
    MODE: "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# At 0 a node takes 127.0.0.1 for its address, and all that it starts listens there and nowhere else. Its option
# `_node_ip_address` does not do it: Ray puts the machine's address in place of 127.0.0.1. The variable is named after
# the systems where this is what Ray does anyway.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


# The node itself, and the register of nodes and actors, without which Ray ends the process that joined after 60 s.
VITAL = ("raylet", "gcs_server")


# What the kernel takes of a socket's path, and the longest that Ray makes below its folder, with its time and process.
MOST_SOCKET_BYTES = 107
LONGEST_SOCKET = "session_2026-11-29_19-00-00_000000_4194304/sockets/dash_MetricsHead"


class Connection(NamedTuple):
    """A cluster that trials can be sent to."""

    dashboard: str | None
    """Address of the Ray dashboard."""
    node: tuple[Process, ...] = ()
    """What the node that `connect` started here cannot live without; empty for a cluster that was joined."""
    head: str | None = None
    """HOST:PORT of the head of a cluster that was joined."""


def connect(
    address: str | None, *, insecure: bool = False, metadata: Mapping[str, str] = MappingProxyType({})
) -> Connection:
    """Starts Ray on this machine, or joins the cluster at `address`.

    What is started here listens on 127.0.0.1, demands the token in a file that only its owner can read, and keeps its
    files in a folder of that owner.

    Args:
        address: HOST:PORT of a cluster's head, `auto` for the one that this machine belongs to, None to start one.
        insecure: whether a cluster that demands no token may be joined beyond this machine.
        metadata: what Ray's list of jobs tells of us, see `orchestrator.cluster.names.job_metadata`.

    Raises:
        EnvironmentProblem: Ray could not be started or reached, does not take our token, or lets in everybody.
    """
    os.environ.update(ENVIRONMENT)
    try:
        context = _started_here(metadata) if address is None else _joined(address, insecure, metadata)
    except EnvironmentProblem:
        raise
    except Exception as error:  # a node that does not start in time is a bare Exception to Ray
        where = "on this machine" if address is None else f"at {address}"
        raise EnvironmentProblem(f"Ray could not be reached {where}: {first_line(error)}") from error
    # A lost worker is an event of the journal and a line of ours; Tune would add its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    url = f"http://{context.dashboard_url}" if context.dashboard_url else None
    if address is None:
        return Connection(url, node=children_named(*VITAL))
    return Connection(url, head=str(context.address_info["gcs_address"]))


def require_admission(address: str | None, *, insecure: bool) -> None:
    """Whether `connect` would be let in, found out in milliseconds, before anything of a search is written.

    Raises:
        EnvironmentProblem: the cluster cannot be reached, does not take our token, or lets in everybody.
    """
    if address is None:
        ray_folder()
    else:
        os.environ.update(ENVIRONMENT)  # looking for a cluster of this machine imports Ray
        admit(address, insecure=insecure)


def _started_here(metadata: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Ray gives a node 30 s to start, which a busy machine may not manage; the next one finds its files in memory."""
    own_token()
    settings: dict[str, Any] = {
        "address": "local",
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(ray_folder()),
        "metadata": metadata,
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


def _joined(address: str, insecure: bool, metadata: Mapping[str, str]) -> Any:
    """Ray would try a wrong token for 20 s, and join a cluster that demands none without a word."""
    found = admit(address, insecure=insecure)
    os.environ[MODE] = found.mode
    try:
        return _ray(only_here=found.only_here, address=found.address, metadata=metadata)
    except RuntimeError as error:
        if "No node info found" not in str(error):
            raise
        raise EnvironmentProblem(
            f"the cluster at {address} has no node on this machine: start one here (ray start --address "
            f"{found.address}), or hand the search over with --submit http://HOST:8265"
        ) from error


def _ray(*, metadata: Mapping[str, str], only_here: bool = True, **settings: Any) -> Any:
    os.environ[CLUSTERS] = "0" if only_here else "1"
    import ray
    from ray._private import ray_constants
    from ray._raylet import Config  # type: ignore[attr-defined]
    from ray.job_config import JobConfig

    class Job(JobConfig):
        """Ray puts the driver's current folder and its script's before all others from which its workers import."""

        def _get_proto_job_config(self) -> Any:
            ours = checkout()
            self._py_driver_sys_path = [] if ours is None else [str(ours)]
            return super()._get_proto_job_config()  # type: ignore[no-untyped-call]

    # Its Python part says what it has to say where its C++ part does, see `stderr_kept`.
    logging.getLogger("ray").handlers = [logging.StreamHandler(sys.__stderr__)]
    # Where Ray was imported before, it has read both variables already.
    ray_constants.ENABLE_RAY_CLUSTER = not only_here
    Config.initialize("")
    settings["job_config"] = Job(metadata=dict(metadata))
    return ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)


def disconnect() -> None:
    """Lets go of the cluster; one that `connect` started ends with all its processes."""
    import ray

    ray.shutdown()


def ray_folder() -> Path:
    """Where Ray keeps its sockets and logs, made if it is missing.

    Ray makes the folder that it is given, and those below, readable and writable by all: it gets one in a private one.

    Raises:
        EnvironmentProblem: the path is too long for Ray's sockets, or its place is somebody else's.
    """
    if (problem := temporary_folder_problem()) is not None:
        raise EnvironmentProblem(problem)
    folder = _own_temporary_folder()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or not stat.S_ISDIR(facts.st_mode):
        raise EnvironmentProblem(f"{folder} is not a folder of yours; set TMPDIR to one")
    folder.chmod(0o700)
    return folder / "ray"


def temporary_folder_problem() -> str | None:
    """Why the folder for temporary files is unfit for Ray's sockets, and what to do; None where it is fit."""
    longest = _own_temporary_folder() / "ray" / LONGEST_SOCKET
    excess = len(os.fsencode(longest)) - MOST_SOCKET_BYTES
    if excess <= 0:
        return None
    folder, count = tempfile.gettempdir(), f"{excess} byte{'s' * (excess > 1)}"
    return (
        f"{folder}: the path of the folder for temporary files is {count} too long for Ray's sockets; set TMPDIR to a "
        "shorter one, such as TMPDIR=/tmp"
    )


def _own_temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"reidsearch-{os.getuid()}"


class LiveNode(NamedTuple):
    """A node that is alive."""

    id: str
    """Ray's."""
    name: str
    """Its host's name, with its address where several nodes have that name."""
    all: Node
    free: Node


def live_nodes() -> list[LiveNode]:
    """The nodes that are alive, the head first."""
    import ray
    from ray._private.state import available_resources_per_node

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return read_nodes(alive, free)


def read_nodes(alive: list[dict[str, Any]], free: Mapping[str, Mapping[str, float]]) -> list[LiveNode]:
    """Nodes in Ray's words, and what is free of each by its id, in ours."""
    hosts = [str(node["NodeManagerHostname"]) for node in alive]
    found = []
    for node, host in zip(alive, hosts, strict=True):
        name = host if hosts.count(host) == 1 else f"{host} ({node['NodeID'][:6]})"
        resources = node["Resources"]
        left = free.get(node["NodeID"], {})
        found.append(LiveNode(node["NodeID"], name, _node(name, resources), _node(name, left)))
    heads = ["node:__internal_head__" in node["Resources"] for node in alive]
    return [node for _, node in sorted(zip(heads, found, strict=True), key=lambda pair: not pair[0])]


def _node(name: str, resources: Mapping[str, float]) -> Node:
    return Node(name, int(resources.get("CPU", 0)), resources.get("GPU", 0.0), int(resources.get("memory", 0)))


# A head that is busy or restarts its network may not answer for a moment.
LOST_AFTER_S = 15.0
LOOK_PERIOD_S = 3.0
PATIENCE_S = 3.0


class HeadHealth:
    """Asks the head's port now and then; silence for `LOST_AFTER_S` means that it is lost.

    Ray itself goes on trying for a minute and then ends the process that asked, whatever it is in the middle of.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        answers: Callable[[str, int], bool] | None = None,
    ) -> None:
        """Watches HOST:PORT."""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._clock = clock
        self._answers = answers or _answers
        self._looked = float("-inf")
        self._answered = clock()

    def is_lost(self) -> bool:
        """Whether it has been silent for too long; takes up to `PATIENCE_S`."""
        now = self._clock()
        if now - self._looked >= LOOK_PERIOD_S:
            self._looked = now
            if self._answers(self._host, self._port):
                self._answered = now
        return self._clock() - self._answered >= LOST_AFTER_S


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


RAY_LOG = "ray.log"
"""Its file, beside the other logs of a search."""


@contextmanager
def stderr_kept(log: Path) -> Iterator[None]:
    """Appends to `log` what C++ writes to file descriptor 2 while the block runs; `sys.stderr` goes on to the screen.

    Ray's C++ part has no setting for it either.
    """
    try:
        screen, is_ours = os.dup(2), sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # closed by whoever started us, or no file at all
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stderr
    if is_ours:
        # Not closed below: handlers of Python's logging hold it until the process ends.
        sys.stderr = os.fdopen(screen, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    with open(log, "ab", opener=in_place) as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        sys.stderr = before


def keep_messages(log: Path) -> None:
    """Appends from here on to `log` what Ray would print: pages of state for every node that is lost.

    Ray has no setting for it: `log_to_driver=False` is for what workers print.
    """
    from ray._private import worker

    lock = threading.Lock()
    log.parent.mkdir(parents=True, exist_ok=True)

    def append(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        with lock, open(log, "a", encoding="utf-8", opener=in_place) as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    worker.print_to_stdstream = append
