"""MLflow's server for one user on this machine, and the pages of a search, served until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.process import until_interrupted
from orchestrator.base.uris import database_uri, file_uri
from orchestrator.stores.base import Store, existing_search, searches_here
from orchestrator.study.description import EXPERIMENT, read_description
from orchestrator.summary import read_summary
from orchestrator.tracking.database import ARTIFACTS, DATABASE, missing_database
from orchestrator.tracking.pages import comparison_view, view_of
from orchestrator.tracking.sync import trusted_tracking_uri
from trainer.child import die_with_parent, python_command, start_child
from trainer.files import in_place

HOST = "127.0.0.1"
# The loopback by a name that browsers know (RFC 6761). On `localhost` and 127.0.0.1 MLflow's page opens an assistant
# over a quarter of its width, and no setting of the server turns that off.
NAME = "mlflow.localhost"
PORT = 5000
START_S = 120.0
STOP_S = 10.0
POLL_S = 0.2
# Everybody on the machine reaches the loopback: the server takes no jobs, and its assistant runs nothing outside a
# container of its own. Addresses, which may hold passwords, go by the environment: others can read arguments.
SAFE_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# What would undo one of them, or open the server to other machines.
UNSAFE_ENVIRONMENT = (
    *("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "MLFLOW_ENABLE_REMOTE_ASSISTANT"),
    *("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_HOST", "MLFLOW_PORT"),
)


def server_command(port: int, artifacts: Path) -> list[str]:
    """The command that starts the server."""
    return [
        *python_command("-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", f"localhost:*,{NAME}:*,{HOST}:*", "--x-frame-options", "DENY"),
        *("--cors-allowed-origins", f"http://{NAME}:{port}"),
        *("--artifacts-destination", file_uri(artifacts)),
    ]


def server_environment(uri: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment; `uri` is where runs are kept."""
    kept = {name: value for name, value in inherited.items() if name not in UNSAFE_ENVIRONMENT}
    return {**kept, **SAFE_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri}


@contextmanager
def mlflow_server(uri: str, artifacts: Path, port: int, log: Path) -> Iterator[str]:
    """A server on this machine's loopback; its address. It ends with the block, and with this process.

    Args:
        uri: where runs are kept.
        artifacts: folder of their files.
        port: 0 takes a free one.
        log: file that gets what the server prints.

    Raises:
        EnvironmentProblem: the port is taken, or the server does not start.
    """
    port = _free_port(port)
    address = f"http://{HOST}:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb", opener=in_place) as output:
        process = start_child(
            server_command(port, artifacts),
            server_environment(uri, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; the server and its workers are ended below
            preexec_fn=die_with_parent,
        )
    try:
        _await_health(address, process, log)
        yield address
    finally:
        _end(process)


def _free_port(port: int) -> int:
    try:
        with socket.create_server((HOST, port)) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise EnvironmentProblem(
            f"port {port} of {HOST} is taken ({error.strerror}), perhaps by another `ui`; choose another "
            "with --port, or any free one with --port 0"
        ) from error


def _await_health(address: str, process: subprocess.Popen[bytes], log: Path) -> None:  # noqa: TID251 - a type
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(POLL_S)
    raise EnvironmentProblem(f"MLflow's server did not start; what it said is in {log}")


def _end(process: subprocess.Popen[bytes]) -> None:  # noqa: TID251 - a type
    """Ends the server and its workers, which are its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


LOG = "mlflow-ui.log"


def serve(
    store: Store, name: str | None, port: int, say: Callable[[str], None], *, tracking: str | None = None
) -> None:
    """Serves MLflow's pages of a storage and says the address of those of the search `name`, until Ctrl-C or SIGTERM.

    A search that is tracked by a server of its own needs none: then only the address is said.

    Raises:
        SearchError: there is no such search, no run was tracked in the storage, or only the search's own files say
            where runs are.
        EnvironmentProblem: the port is taken, or MLflow's server does not start or answer.
    """
    storage = store.path.absolute()
    uri, view, experiment = database_uri(storage / DATABASE), view_of(None, ()), _latest_experiment(store)
    if name is not None:
        search = read_summary(existing_search(store, name))
        uri = trusted_tracking_uri(search.folder, search.description, tracking)
        view = view_of(name, list(search.space.parameters), grouped=bool(search.study.replicates))
        experiment = search.description.options.experiment
    elif tracking is not None:
        uri = tracking
    if uri.startswith(("http://", "https://")):
        say(comparison_view(uri, view, experiment))
        return
    if (missing := missing_database(uri)) is not None:
        raise SearchError(f"{missing}: no such file, no search was tracked in {storage} yet")
    print("starting MLflow's server", file=sys.stderr, flush=True)
    with until_interrupted(), mlflow_server(uri, storage / ARTIFACTS, port, storage / LOG) as server:
        say(comparison_view(server, view, experiment).replace(HOST, NAME, 1))
        say(f"Ctrl-C ends it; for a browser that does not know {NAME} write {HOST}")
        signal.pause()


def _latest_experiment(store: Store) -> str:
    """The experiment of the search that was written to last; the default one where there is none, or it is damaged."""
    with suppress(SearchError, StopIteration):
        return read_description(next(iter(searches_here(store))).description).options.experiment
    return EXPERIMENT
