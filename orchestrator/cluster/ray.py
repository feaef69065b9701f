"""The Ray cluster that trials run on: started or joined, its nodes, its messages; all of Ray's private names.

Ray is imported inside functions: it takes a second, and reads its environment variables while it is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.base.process import Process, children_named
from orchestrator.cluster.authentication import MODE, Admission, admit, own_token
from orchestrator.cluster.resources import Node, gpu_slices, this_machine
from trainer.child import checkout
from trainer.files import in_place
from trainer.formatting import first_line

log = logging.getLogger(__name__)

START_PATIENCE_S = 600
"""For Ray's servers to start on this machine; a busy one exceeds the 30 s that Ray gives each."""
WAITING_SAID_S = 20.0
"""How often it is said that they have not started yet."""
SERVER_POLL_S = 0.1
# What the agents of a raylet are told: ports below those that the kernel hands out.
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
PORTS = range(20000, 32768)
# Ray's default is 30 % of a machine's memory; trials pass nothing large through it.
OBJECT_STORE_BYTES = 200 * 2**20
# No usage statistics, no loggers beside the journal, no change of folder in a trial (data paths may be relative), no
# handler of Ctrl-C beside ours. Where memory runs low, Ray would end its workers, which hold little: trials train in
# processes of their own. Tune then ends the whole session with an exception.
ENVIRONMENT = {
    MODE: "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(START_PATIENCE_S),
    "RAY_agent_register_timeout_ms": str(1000 * START_PATIENCE_S),
    "RAY_worker_register_timeout_seconds": str(START_PATIENCE_S),
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# At 0, as on Windows and macOS, a node has the address 127.0.0.1, and all its servers listen there only. The setting
# `_node_ip_address` does not do it: Ray replaces 127.0.0.1 by the machine's address.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# The node and the head's server: without them Ray ends the process that joined, after 60 s.
VITAL = ("raylet", "gcs_server")
# The kernel's limit for the path of a socket, and the longest one that Ray creates below its folder.
MOST_SOCKET_BYTES = 107
LONGEST_SOCKET = "session_2026-11-29_19-00-00_000000_4194304/sockets/dash_MetricsHead"


class Connection(NamedTuple):
    """A cluster that trials can be sent to."""

    dashboard: str | None
    """URL of the Ray dashboard."""
    node: tuple[Process, ...] = ()
    """The vital processes of the node that `connect` started; empty for a cluster that was joined."""
    head: str | None = None
    """HOST:PORT of the head of a cluster that was joined."""


def connect(
    address: str | None, *, insecure: bool = False, metadata: Mapping[str, str] = MappingProxyType({})
) -> Connection:
    """Starts Ray on this machine, or joins the cluster at `address`.

    What is started listens on 127.0.0.1 only, demands the token, and keeps its files in a folder of mode 0700.

    Args:
        address: HOST:PORT of a cluster's head, `auto` for the cluster that this machine belongs to, None to start one.
        insecure: whether to join a cluster that demands no token and that other machines can reach.
        metadata: for Ray's list of jobs, see `orchestrator.cluster.names.job_metadata`.

    Raises:
        EnvironmentProblem: Ray cannot be started or reached, refuses our token, or demands none.
    """
    os.environ.update(ENVIRONMENT)
    try:
        context = _started(metadata) if address is None else _joined(address, insecure, metadata)
    except EnvironmentProblem:
        raise
    except Exception as error:  # Ray raises a bare Exception for a node that does not start in time
        where = "on this machine" if address is None else f"at {address}"
        raise EnvironmentProblem(f"Ray could not be reached {where}: {first_line(error)}") from error
    # A lost worker is an event of the journal and one line of output; Tune would add its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    url = f"http://{context.dashboard_url}" if context.dashboard_url else None
    if address is None:
        return Connection(url, node=children_named(*VITAL))
    return Connection(url, head=str(context.address_info["gcs_address"]))


def disconnect() -> None:
    """Leaves the cluster; one that `connect` started ends with all its processes."""
    import ray

    ray.shutdown()


def require_admission(address: str | None, *, insecure: bool) -> None:
    """Checks within milliseconds that `connect` would be let in, before anything of a search is written.

    Raises:
        EnvironmentProblem: the cluster cannot be reached, refuses our token, or demands none.
    """
    if address is None:
        ray_folder()
    else:
        admit_to(address, insecure=insecure)


def admit_to(address: str, *, insecure: bool) -> Admission:
    """`admit`, with `auto` replaced by RAY_ADDRESS or the cluster of the latest `ray start` on this machine.

    Raises:
        EnvironmentProblem: there is none, it cannot be reached, refuses our token, or demands none.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _started_here()
    return admit(address, insecure=insecure)


def _started_here() -> str:
    """The address that `ray start` leaves in a file, as the documentation of `ray.init` says."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with contextlib.suppress(OSError):
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="ascii").strip()
    raise EnvironmentProblem(
        "--address auto: no Ray cluster has a node on this machine; start one with `ray start`, or give HOST:PORT of "
        "the head"
    )


def _started(metadata: Mapping[str, str]) -> Any:
    own_token()
    settings: dict[str, Any] = {
        "address": "local",
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "object_store_memory": OBJECT_STORE_BYTES,
        "_memory": this_machine().memory,  # Ray would count what is free now, which `launch` has not checked
        "_temp_dir": str(ray_folder()),
        "metadata": metadata,
    }
    if slices := gpu_slices():  # Ray counts whole GPUs
        settings["num_gpus"] = len(slices)
    os.environ[CLUSTERS] = "0"  # before anything of Ray is imported
    with _waiting_said(), _servers_awaited():
        return _initialised(**settings)


@contextmanager
def _waiting_said() -> Iterator[None]:
    """Says every `WAITING_SAID_S` what Ray is waiting for while it starts."""
    over, began = threading.Event(), time.monotonic()

    def say() -> None:
        while not over.wait(WAITING_SAID_S):
            server = "raylet" if children_named("raylet") else "GCS and dashboard"
            took, load, cores = time.monotonic() - began, os.getloadavg()[0], os.cpu_count()
            log.warning(
                "waiting for Ray's %s to start on this machine: %.0f s so far, at most %d s; load %.1f on %d cores",
                *(server, took, START_PATIENCE_S, load, cores),
            )

    threading.Thread(target=say, name="waiting for Ray", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _joined(address: str, insecure: bool, metadata: Mapping[str, str]) -> Any:
    found = admit_to(address, insecure=insecure)
    os.environ[MODE] = found.mode
    try:
        return _initialised(only_here=found.only_here, address=found.address, metadata=metadata)
    except RuntimeError as error:
        if "No node info found" not in str(error):
            raise
        raise EnvironmentProblem(
            f"the cluster at {address} has no node on this machine: start one (ray start --address {found.address}), "
            "or hand the search over with --submit http://HOST:8265"
        ) from error


def _initialised(*, metadata: Mapping[str, str], only_here: bool = True, **settings: Any) -> Any:
    os.environ[CLUSTERS] = "0" if only_here else "1"
    import ray

    # Ray's Python part logs to the same place as its C++ part, see `stderr_kept`.
    logging.getLogger("ray").handlers = [logging.StreamHandler(sys.__stderr__)]
    settings["job_config"] = _job_config(metadata)
    return ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)


# --- Ray's folder


def ray_folder() -> Path:
    """Where Ray keeps its sockets and logs, created if it is missing.

    Ray makes its folder readable and writable by everyone, so it gets one inside a private one.

    Raises:
        EnvironmentProblem: the path is too long for Ray's sockets, or another user owns its place.
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
    """Why Ray's sockets cannot lie in the folder for temporary files, and what to do; None if they can."""
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


# --- nodes


class LiveNode(NamedTuple):
    """A node that is alive."""

    id: str
    """Ray's identifier."""
    name: str
    """Name of its host, with the first six digits of `id` where several nodes share it."""
    all: Node
    free: Node


def read_nodes(alive: list[dict[str, Any]], free: Mapping[str, Mapping[str, float]]) -> list[LiveNode]:
    """The nodes of `ray.nodes()`, the head first, with the free resources of each by its identifier."""
    hosts = [str(node["NodeManagerHostname"]) for node in alive]
    found = []
    for node, host in zip(alive, hosts, strict=True):
        name = host if hosts.count(host) == 1 else f"{host} ({node['NodeID'][:6]})"
        resources, left = node["Resources"], free.get(node["NodeID"], {})
        is_head = "node:__internal_head__" in resources
        found.append((not is_head, LiveNode(node["NodeID"], name, _node(name, resources), _node(name, left))))
    return [node for _, node in sorted(found, key=lambda pair: pair[0])]


def _node(name: str, resources: Mapping[str, float]) -> Node:
    return Node(name, int(resources.get("CPU", 0)), resources.get("GPU", 0.0), int(resources.get("memory", 0)))


# --- messages of Ray's daemons


RAY_LOG = "ray.log"
"""File for Ray's messages, beside the other logs of a search."""


@contextmanager
def stderr_kept(log: Path) -> Iterator[None]:
    """Appends to `log` what C++ writes to file descriptor 2 inside the block; `sys.stderr` still reaches the screen.

    Ray has no setting for the output of its C++ part.
    """
    try:
        screen, is_ours = os.dup(2), sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # it is closed, or no file
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


# --- private names of Ray, for which it has no public ones; tests/cluster/test_ray_names.py fails when one goes


def live_nodes() -> list[LiveNode]:
    """The nodes that are alive, the head first. Publicly, Ray tells only the sum of what is free."""
    import ray
    from ray._private.state import available_resources_per_node

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return read_nodes(alive, available_resources_per_node())  # type: ignore[no-untyped-call]


def placed_workers() -> int:
    """Living workers of this driver that Ray has placed on a node; publicly, only the dashboard lists them."""
    import ray
    from ray._private.state import actors

    job = ray.get_runtime_context().get_job_id()
    return len(actors(job_id=ray.JobID.from_hex(job), actor_state_name="ALIVE"))


def keep_messages(log: Path) -> None:
    """Appends to `log` from here on what Ray would print: pages of state for every node that is lost.

    `log_to_driver=False` is about the output of workers.
    """
    from ray._private import worker

    lock = threading.Lock()
    log.parent.mkdir(parents=True, exist_ok=True)

    def append(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        with lock, open(log, "a", encoding="utf-8", opener=in_place) as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    worker.print_to_stdstream = append


@contextmanager
def _servers_awaited() -> Iterator[None]:
    """Lets `ray.init` wait for the servers that it starts as long as they live, up to `START_PATIENCE_S`.

    Ray's code gives the GCS and the raylet 30 s each, and the raylet ends itself where one of its agents has not
    written after 15 s which port it listens on. So the agents are told their ports, written before they start.
    """
    node: Any = import_module("ray._private.node")
    services: Any = import_module("ray._private.services")
    persist_port: Any = import_module("ray._raylet").persist_port
    end = time.monotonic() + START_PATIENCE_S

    def patient(ask: Callable[..., Any], server: str) -> Callable[..., Any]:
        def asked(*arguments: Any, **settings: Any) -> Any:
            while True:
                try:
                    return ask(*arguments, **settings)
                except Exception:  # which Ray raises bare
                    if time.monotonic() > end or not children_named(server):
                        raise
                    time.sleep(SERVER_POLL_S)

        return asked

    def start_raylet(*arguments: Any, **settings: Any) -> Any:
        ports = dict(zip(AGENT_PORTS, _free_ports(len(AGENT_PORTS)), strict=True))
        told = signature(start).bind(*arguments, **{**settings, **ports}).arguments
        for name, port in ports.items():
            persist_port(told["session_dir"], told["node_id"], name, port)
        return start(*arguments, **{**settings, **ports})

    start, node_of, gcs_port = services.start_raylet, services.get_node, node.wait_for_persisted_port
    services.start_raylet = start_raylet
    services.get_node, node.wait_for_persisted_port = patient(node_of, "raylet"), patient(gcs_port, "gcs_server")
    try:
        yield
    finally:
        services.start_raylet, services.get_node, node.wait_for_persisted_port = start, node_of, gcs_port


def _free_ports(count: int) -> list[int]:
    """Ports that nothing on this machine uses, below those that the kernel hands out to others."""
    found: set[int] = set()
    while len(found) < count:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _job_config(metadata: Mapping[str, str]) -> Any:
    """Keeps the current folder and the script's, which `ray.init` adds, out of the import path of workers."""
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _get_proto_job_config(self) -> Any:
            ours = checkout()
            self._py_driver_sys_path = [] if ours is None else [str(ours)]
            return super()._get_proto_job_config()  # type: ignore[no-untyped-call]

    return Job(metadata=dict(metadata))
