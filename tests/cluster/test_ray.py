"""How a cluster is reached: one of our own, or one that is there, which has to demand a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from heads import head
from waiting import wait_until

from orchestrator.__main__ import run
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster import authentication
from orchestrator.cluster import ray as cluster_ray
from orchestrator.cluster.authentication import (
    admit,
    existing_token,
    is_loopback,
    own_address,
    own_token,
)
from orchestrator.cluster.resources import this_machine
from orchestrator.doctor import machine, network

OPEN = "demands no token: anyone who can reach it can run code on it"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def token_file(home: Path) -> Path:
    """Where the token goes."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    return path


@pytest.fixture
def beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens on 127.0.0.1 counts as listening elsewhere, so that no test does."""
    monkeypatch.setattr(authentication, "is_loopback", lambda host: False)


class Everybody(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A head that answers everybody, and notes what it is shown."""

    def __init__(self, shown: list[object]) -> None:
        self._shown = shown

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self._shown.extend(call.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


# --- the token


def test_a_token_is_made_once_and_only_its_owner_can_read_it(home: Path) -> None:
    token = own_token()
    path = home / ".ray" / "auth_token"
    assert (len(token), path.read_text(), own_token()) == (64, token, token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]


def test_two_searches_that_start_at_once_agree_on_the_token(home: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(own_token())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert set(found) == {(home / ".ray" / "auth_token").read_text()}


def test_a_token_that_others_could_read_is_mended_and_that_is_said_once(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file.write_text("canary-token\n")
    token_file.chmod(0o644)  # as Ray makes it
    assert (own_token(), own_token()) == ("canary-token", "canary-token")
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    (said,) = caplog.messages
    assert "could be read by other users (mode 0644); it is 0600 now" in said
    assert "canary" not in said


@pytest.mark.parametrize("content", ["", " \n", "two words", "canary\x00", "canary\r\nX: y", "ü"])
def test_a_file_without_a_token_is_refused_without_showing_it(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    with pytest.raises(EnvironmentProblem, match=r"auth_token: holds no token") as caught:
        own_token()
    assert "canary" not in str(caught.value)


def test_a_named_token_may_be_the_link_that_kubernetes_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "auth_token").write_text("mounted")
    (tmp_path / "auth_token").symlink_to(tmp_path / "..data" / "auth_token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    assert existing_token() == "mounted"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(EnvironmentProblem, match=r"RAY_AUTH_TOKEN_PATH=.*missing: no such file"):
        existing_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "first")
    assert existing_token() == "first"


# --- clusters that are there


def test_a_cluster_without_a_token_is_refused_unless_it_is_accepted(tmp_path: Path, beyond: None) -> None:
    with head(tmp_path, None) as port:
        with pytest.raises(EnvironmentProblem, match=OPEN) as caught:
            admit(f"127.0.0.1:{port}", insecure=False)
        assert "--insecure" in str(caught.value)
        assert admit(f"127.0.0.1:{port}", insecure=True) == (f"127.0.0.1:{port}", "disabled", False)


def test_a_cluster_without_a_token_never_sees_ours(token_file: Path) -> None:
    token_file.write_text("canary-token")
    shown: list[object] = []
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Everybody(shown),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert admit(f"127.0.0.1:{port}", insecure=True).mode == "disabled"
    finally:
        server.stop(None)
    assert shown
    assert "canary" not in str(shown)


def test_a_cluster_that_only_this_machine_reaches_is_joined_without_a_token(tmp_path: Path) -> None:
    with head(tmp_path, None) as port:
        assert admit(f"localhost:{port}", insecure=False) == (f"127.0.0.1:{port}", "disabled", True)


@pytest.mark.skipif(own_address() is None, reason="this machine has no network")
def test_a_cluster_that_listens_everywhere_is_known_behind_its_loopback_address(tmp_path: Path) -> None:
    with head(tmp_path, None, address=str(own_address())) as port:
        with pytest.raises(EnvironmentProblem, match=OPEN):
            admit(f"127.0.0.1:{port}", insecure=False)
        found = admit(f"127.0.0.1:{port}", insecure=True)
    assert (found.address, found.only_here) == (f"{own_address()}:{port}", False)


def test_the_right_token_is_let_in_and_a_wrong_or_missing_one_is_one_line(tmp_path: Path, token_file: Path) -> None:
    right = secrets.token_hex(32)
    with head(tmp_path, right) as port:
        with pytest.raises(EnvironmentProblem, match=r"demands a token, and there is none here: .*get-auth-token"):
            admit(f"127.0.0.1:{port}", insecure=True)
        assert not token_file.exists(), "one made here would be a wrong one"
        token_file.write_text("canary" + right)
        with pytest.raises(EnvironmentProblem, match=r"it refuses the one in ~/\.ray/auth_token: ") as caught:
            admit(f"127.0.0.1:{port}", insecure=True)
        assert "canary" not in str(caught.value)
        token_file.write_text(right)
        assert admit(f"127.0.0.1:{port}", insecure=False).mode == "token"


def test_doctor_says_what_a_cluster_demands(tmp_path: Path, token_file: Path, beyond: None) -> None:
    token_file.write_text("right")
    with head(tmp_path, "right") as port:
        (found,) = network.ray_address(f"127.0.0.1:{port}")
        assert (found.level, found.text) == ("ok", f"127.0.0.1:{port} answers, demands a token and accepts ours")
    with head(tmp_path, None) as port:
        (found,) = network.ray_address(f"127.0.0.1:{port}")
        assert (found.level, found.text) == ("problem", f"127.0.0.1:{port} answers, no token asked for")
        assert "--insecure" in found.advice


@pytest.mark.parametrize("verb", ["launch", "finalize", "ablate"])
def test_nothing_of_a_search_is_written_before_its_cluster_lets_us_in(
    verb: str, tmp_path: Path, beyond: None, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    if verb == "finalize":
        from searches import write_search

        from orchestrator.space.search_space import SearchSpace

        write_search(storage / "done", SearchSpace.load("smoke.yaml"), [])
    arguments = {"launch": ["--space", "smoke.yaml"], "finalize": ["done"], "ablate": ["--data", "mini-mars"]}[verb]
    before = sorted(storage.rglob("*"))
    with head(tmp_path, None) as port:
        code = run([verb, *arguments, "--storage", str(storage), "--address", f"127.0.0.1:{port}"])
    assert (code, sorted(storage.rglob("*"))) == (5, before)
    assert OPEN in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray head answers at 127.0.0.1:1 (Connection refused); start it"),
        ("ray://head:10001", "Ray Client (ray://) cannot run a search"),
        ("http://head:8265", "A dashboard (http://HOST:8265) is for --submit"),
        ("head:port", "give HOST:PORT of the cluster's head"),
        ("head:99999", "give HOST:PORT of the cluster's head"),
        ("a b:1", "give HOST:PORT of the cluster's head"),
        ("user@head:1", "give HOST:PORT of the cluster's head"),
        ("head:1/path", "give HOST:PORT of the cluster's head"),
        ("head\x1b[31m:1", "give HOST:PORT of the cluster's head"),
        ("", "give HOST:PORT of the cluster's head"),
    ],
)
def test_an_address_that_leads_nowhere_is_answered_in_one_line(address: str, words: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        admit(address, insecure=False)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_page_in_place_of_a_head_is_told_from_one() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EnvironmentProblem, match=r"no Ray head answers .* a dashboard's URL is for --submit"):
            admit(f"127.0.0.1:{server.server_port}", insecure=False)
        server.shutdown()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.2", "head", "127.0.0.1.example.org", ""])  # noqa: S104 - asks whether it counts as loopback
def test_nothing_else_counts_as_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_rays_own_certificates_take_the_place_of_the_probe(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert admit("head.example:6379", insecure=False) == ("head.example:6379", "disabled", False)
    token_file.write_text("right")
    assert admit("head.example:6379", insecure=False).mode == "token"


def test_auto_is_the_address_in_the_environment_or_that_of_the_latest_ray_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="no Ray cluster has a node on this machine"):
        cluster_ray.require_admission("auto", insecure=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    with pytest.raises(EnvironmentProblem, match=r"no Ray head answers at 127\.0\.0\.1:1 "):
        cluster_ray.require_admission("auto", insecure=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(EnvironmentProblem, match=r"no Ray head answers at 127\.0\.0\.1:2 "):
        cluster_ray.require_admission("auto", insecure=False)


# --- a cluster of our own


def test_nothing_imports_ray_before_the_variables_are_set_that_it_reads_while_it_is_imported() -> None:
    modules = "cli.launch, orchestrator.runner.session, orchestrator.runner.launch, orchestrator.show.live"
    program = f"import sys, orchestrator.{modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(("is_alive", "patience", "times"), [(True, 600, 3), (False, 600, 1), (True, -1, 1)])
def test_a_node_is_waited_for_as_long_as_its_raylet_lives_and_patience_lasts(
    is_alive: bool, patience: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    asked: list[str] = []

    def get_node(address: str, node: str) -> dict[str, str]:
        asked.append(node)
        if len(asked) < 3:
            raise RuntimeError("not there yet")  # as Ray does
        return {}

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(cluster_ray, "children_named", lambda *names: names * is_alive)
    monkeypatch.setattr(cluster_ray, "SERVER_POLL_S", 0.0)
    monkeypatch.setattr(cluster_ray, "START_PATIENCE_S", patience)
    with cluster_ray._servers_awaited(), contextlib.suppress(RuntimeError):
        services.get_node("127.0.0.1:1", "n")
    assert len(asked) == times
    assert services.get_node is get_node


def test_the_agents_of_a_raylet_are_told_free_ports_which_it_need_not_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services
    from ray._raylet import wait_for_persisted_port

    begun = {}

    def start_raylet(address: str, node_id: str, session_dir: str, **settings: int) -> None:
        begun.update(settings)

    monkeypatch.setattr(services, "start_raylet", start_raylet)
    with cluster_ray._servers_awaited():
        services.start_raylet("127.0.0.1:1", "n", str(tmp_path), metrics_agent_port=0)
    assert set(begun) == set(cluster_ray.AGENT_PORTS)
    assert len(set(begun.values())) == len(begun)
    node = "0" * 56
    with cluster_ray._servers_awaited():
        services.start_raylet("127.0.0.1:1", node, str(tmp_path))
    for name, port in begun.items():
        assert wait_for_persisted_port(str(tmp_path), node, name, timeout_ms=0) == port


def test_what_ray_waits_for_while_it_starts_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = "waiting for Ray's GCS and dashboard to start on this machine: 0 s so far, at most 600 s; load "

    def start(**settings: object) -> SimpleNamespace:
        wait_until(lambda: said in caplog.text, lambda: "nothing was said", pause=0.01)
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    monkeypatch.setattr(cluster_ray, "WAITING_SAID_S", 0.01)
    monkeypatch.setattr("ray.init", start)
    assert cluster_ray.connect(None).dashboard == "http://127.0.0.1:8265"


@pytest.mark.parametrize(("seen", "told"), [("MIG-a,MIG-b,MIG-c", 3), ("0,1", None), ("", None)])
def test_slices_of_gpus_are_counted_by_their_names_as_ray_does_not(
    seen: str, told: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def start(**settings: object) -> SimpleNamespace:
        given.update(settings)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    monkeypatch.setattr("ray.init", start)
    cluster_ray.connect(None)
    assert given.get("num_gpus") == told
    assert this_machine().gpus == (told or 0)
    assert given["_memory"] == this_machine().memory, "what a launch has checked, not what is free now"


def test_a_node_that_never_starts_is_an_environment_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**settings: object) -> None:
        raise Exception("The current node timed out during startup.\nAnd more.")  # as Ray does

    monkeypatch.setattr("ray.init", start)
    with pytest.raises(EnvironmentProblem, match="could not be reached on this machine: The current node timed out"):
        cluster_ray.connect(None)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of its own with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r-") as folder:
        yield Path(folder)


def test_a_folder_for_temporary_files_that_is_too_long_for_sockets_is_refused_before_anything_starts(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = cluster_ray.MOST_SOCKET_BYTES - len(f"/reidsearch-{os.getuid()}/ray/{cluster_ray.LONGEST_SOCKET}")
    just, over = (short_path / ("x" * (room - len(str(short_path)) - 1 + more)) for more in (0, 1))
    for folder in (just, over):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(just))
    cluster_ray.require_admission(None, insecure=False)
    longest = socket.socket(socket.AF_UNIX)
    with contextlib.closing(longest):
        path = cluster_ray.ray_folder() / cluster_ray.LONGEST_SOCKET
        path.parent.mkdir(parents=True)
        longest.bind(str(path))
    monkeypatch.setattr("tempfile.tempdir", str(over))
    arguments = ["launch", "--space", "smoke.yaml", "--storage", str(tmp_path / "runs"), "--name", "n"]
    assert run(arguments) == 5
    assert capsys.readouterr().err == (
        f"{over}: the path of the folder for temporary files is 1 byte too long for Ray's sockets; set TMPDIR to a "
        "shorter one, such as TMPDIR=/tmp\n"
    )
    assert not (tmp_path / "runs" / "n").exists()
    assert list(over.iterdir()) == []
    assert next(machine.temporary_folder()).level == "problem"
    assert next(machine.temporary_folder()).advice == "set TMPDIR to a shorter one, such as TMPDIR=/tmp"


def test_rays_folder_is_private_and_nobody_elses(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = short_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cluster_ray.ray_folder().parent
    folder.chmod(0o777)
    assert cluster_ray.ray_folder().parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentProblem, match="is not a folder of yours; set TMPDIR to one"):
        cluster_ray.ray_folder()
