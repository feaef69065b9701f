"""What a running search lets in and gives away: its listening sockets, its token, its process lists.

One search is started with a canary for a token, in a file that others can read, as Ray leaves it, and with one in every
variable of the environment that holds a secret.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import sqlite3
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest
from canaries import SECRETS, telling, told
from running import COMMAND, Search

from orchestrator.cluster.authentication import is_loopback
from orchestrator.cluster.ray import ray_folder

pytestmark = pytest.mark.e2e

TCP_LISTENING = psutil.CONN_LISTEN
# docs/security.md lists them: what listens beyond this machine while a search runs on it, as (program, protocol).
BEYOND_LOOPBACK: set[tuple[str, str]] = set()
# Listen to this machine and answer without a token: figures of Ray's own processes, for Prometheus.
WITHOUT_TOKEN = {"monitor.py", "dashboard.py", "ray::DashboardAgent"}
# A call of each of Ray's services, made without the token only.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetClusterId",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
)
# Pages and calls of the dashboard, and those of the agents of a node.
DASHBOARD = ("/api/jobs/", "/api/version", "/nodes?view=summary", "/api/v0/actors", "/api/cluster_status", "/logs/x")
AGENTS = ("/api/job_agent/jobs/", "/get_or_create_runtime_env", "/delete_runtime_env_if_possible")


class Listening(NamedTuple):
    """A socket that takes connections, or datagrams."""

    program: str
    protocol: str
    host: str
    port: int


class Running(NamedTuple):
    """A search under way."""

    search: Search
    token: str
    token_file: Path
    sockets: list[Listening]
    commands: list[str]
    """The command line of every process of it."""
    began: float
    """In seconds since 1970."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A search that trains."""
    home = tmp_path_factory.mktemp("home")
    token, file = f"canary{secrets.token_hex(24)}", home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text(token)
    file.chmod(0o644)
    search, began = Search(tmp_path_factory.mktemp("storage"), "guarded"), time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        search.launch("--trials", "2", "--concurrent", "1", "--set", "optim.epochs=500")
        try:
            search.until(lambda document: any(trial["epoch"] > 0 for trial in document["trials"]))
            processes = list(family_of(search))
            yield Running(
                search,
                token,
                file,
                sorted({socket for process in processes for socket in sockets_of(process)}),
                [text for process in processes if (text := command_of(process))],
                began,
            )
        finally:
            assert search.process is not None
            search.process.send_signal(signal.SIGINT)
            search.wait()


def family_of(search: Search) -> Iterator[psutil.Process]:
    """The driver and all that it brought forth."""
    assert search.process is not None
    driver = psutil.Process(search.process.pid)
    yield driver
    yield from driver.children(recursive=True)


def sockets_of(process: psutil.Process) -> Iterator[Listening]:
    with contextlib.suppress(psutil.NoSuchProcess):
        for found in process.net_connections(kind="inet"):
            is_tcp = found.type == 1
            if (is_tcp and found.status == TCP_LISTENING) or (not is_tcp and not found.raddr):
                yield Listening(program_of(process), "tcp" if is_tcp else "udp", found.laddr.ip, found.laddr.port)


def program_of(process: psutil.Process) -> str:
    """The script of a Python process, otherwise the program, without its folder and what changes with every run."""
    words = process.cmdline()
    script = next((word for word in words[1:] if word.endswith(".py")), None)
    return Path(script or (words[0] if words else process.name())).name.partition(" ")[0].partition(".train")[0]


def command_of(process: psutil.Process) -> str:
    try:
        return "\0".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def status_of(port: int, path: str, token: str | None, method: str = "GET") -> int:
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    body = b'{"entrypoint": "true"}' if method == "POST" else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def call(port: int, method: str, token: str | None) -> grpc.StatusCode:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def speaks_http(port: int) -> bool:
    """gRPC's servers speak HTTP/2, which is a bad answer to HTTP/1."""
    try:
        status_of(port, "/", None)
    except (http.client.HTTPException, OSError):
        return False
    return True


def test_nothing_of_a_search_listens_beyond_this_machine(running: Running) -> None:
    programs = {socket.program for socket in running.sockets}
    assert {"gcs_server", "raylet", "dashboard.py", "ray::DashboardAgent"} <= programs, "this is no running search"
    beyond = {(socket.program, socket.protocol) for socket in running.sockets if not is_loopback(socket.host)}
    assert beyond == BEYOND_LOOPBACK


def test_every_socket_demands_the_token_but_for_those_that_show_rays_own_figures(running: Running) -> None:
    without = set()
    for socket in running.sockets:
        if speaks_http(socket.port):
            paths = [(path, method) for path in (*DASHBOARD, *AGENTS) for method in ("GET", "POST")]
            guarded = {status_of(socket.port, path, None, method) for path, method in paths} <= {401}
        else:
            answers = {call(socket.port, method, None) for method in CALLS} - {grpc.StatusCode.UNIMPLEMENTED}
            guarded = answers == {grpc.StatusCode.UNAUTHENTICATED}
        if not guarded:
            without.add(socket.program)
    # Monitor and dashboard show theirs at fixed ports, which another Ray of this machine may hold.
    assert without <= WITHOUT_TOKEN


def test_jobs_and_pages_of_the_dashboard_are_refused_without_the_token_and_given_with_it(running: Running) -> None:
    (port,) = (
        socket.port
        for socket in running.sockets
        if socket.program == "dashboard.py"
        and status_of(socket.port, "/api/version", running.token) == 200
        and status_of(socket.port, "/api/version", None) == 401
    )
    for path in DASHBOARD:
        assert status_of(port, path, None) == 401, path
        assert status_of(port, path, "wrong" * 10) == 403, path
        assert status_of(port, path, running.token) in (200, 404, 500), path
    assert status_of(port, "/api/jobs/", running.token) == 200
    assert status_of(port, "/api/jobs/", None, "POST") == 401
    assert status_of(port, "/api/jobs/", "wrong" * 10, "POST") == 403
    assert status_of(port, "/api/jobs/raysubmit_x", None, "DELETE") == 401


def test_a_wrong_token_is_as_good_as_none(running: Running) -> None:
    for socket in running.sockets:
        if not speaks_http(socket.port):
            answers = {call(socket.port, method, "wrong" * 10) for method in CALLS}
            assert answers == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, socket


def test_the_token_file_was_mended_and_that_was_said_once(running: Running) -> None:
    assert stat.S_IMODE(running.token_file.stat().st_mode) == 0o600
    assert running.search.log.read_text().count("could be read by other users") == 1


def test_rays_folder_can_be_read_by_its_owner_only(running: Running) -> None:
    assert stat.S_IMODE(ray_folder().parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(running.search.folder.stat().st_mode) == 0o700


def test_no_secret_of_the_environment_is_in_a_list_of_processes(running: Running) -> None:
    assert len(running.commands) > 5
    assert [found for command in running.commands for found in told(command)] == []


def test_the_token_and_the_secrets_of_the_environment_are_in_no_file_and_the_token_in_no_list_of_processes(
    running: Running,
) -> None:
    assert len(running.commands) > 5
    assert not [command for command in running.commands if running.token in command]
    assert running.search.process is not None
    running.search.process.send_signal(signal.SIGINT)
    running.search.wait()
    paths = (*running.search.storage.rglob("*"), *ray_folder().rglob("*"))
    found, names = telling(paths, running.token, since=running.began)
    assert {"gcs_server.out", "raylet.out", "journal.jsonl", "mlflow.db"} <= names, (
        "logs and records were not looked at"
    )
    assert found == []
    with contextlib.closing(sqlite3.connect(running.search.storage / "mlflow.db")) as database:
        assert not [row for row in database.iterdump() if running.token in row or told(row)]


@pytest.mark.long
def test_mlflows_pages_are_for_this_machine_only(running: Running) -> None:
    command = [*COMMAND, "ui", running.search.name, "--storage", str(running.search.storage), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("http://mlflow.localhost:")
            server = psutil.Process(process.pid)
            found = [socket for each in (server, *server.children(recursive=True)) for socket in sockets_of(each)]
        finally:
            process.terminate()
            process.wait()
    assert found
    assert [socket for socket in found if not is_loopback(socket.host)] == []
