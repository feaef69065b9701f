"""Servers that only a received search names get nothing until the user has named them."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from evaluations import save_network, search
from searches import a_search, completed, write_search

from orchestrator.__main__ import run
from orchestrator.base.errors import SearchError
from orchestrator.base.uris import database_uri, has_password, without_passwords
from orchestrator.cluster.trusted_servers import (
    ADDRESS,
    TRACKING,
    is_own,
    is_trusted,
    require_trusted,
    trust,
    trusted_servers_file,
)
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import LocalStore, local_search
from orchestrator.study.description import Options, read_description, write_description
from orchestrator.study.events import TrialTracked
from orchestrator.tracking import registry

TRACKER, HEAD = "http://tracker.example:5000", "head.example:6379"


@pytest.fixture(autouse=True)
def nothing_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that somebody looked up, or connected to; none is there."""
    hosts: list[str] = []

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        hosts.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return hosts


def received(storage: Path, **options: str) -> SearchFolder:
    """A search with such options in its search.yaml, as somebody else has sent it."""
    events = [*completed(0, 0.4), *completed(1, 0.6, **{"clips.identities": 4})]
    folder = write_search(storage / "first", SearchSpace.load("smoke.yaml"), events)
    name_servers(folder, **options)
    return folder


def name_servers(folder: SearchFolder, **options: str) -> None:
    described = read_description(folder.description)
    write_description(folder.description, described.model_copy(update={"options": Options.model_validate(options)}))


COMMANDS: list[tuple[list[str], str]] = [
    *((command, TRACKING) for command in (["resume"], ["finalize"], ["sync"], ["purge", "--yes"], ["ui"])),
    (["report", "--to-mlflow", "--without-model", "--format", "md", "--out", "OUT/report.md"], TRACKING),
    (["export", "--register", "--out", "OUT/export"], TRACKING),
    (["resume"], ADDRESS),
    (["finalize"], ADDRESS),
]


@pytest.mark.parametrize(("command", "option"), COMMANDS, ids=lambda value: value if value is str else value[0])
def test_without_a_terminal_a_server_that_only_the_search_names_is_refused_by_its_option(
    command: list[str], option: str, tmp_path: Path, reached: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"tracking_uri": TRACKER} if option == TRACKING else {"address": HEAD}
    folder = received(tmp_path / "runs", **options)
    save_network(folder, "t0001")
    verb, *rest = (word.replace("OUT", str(tmp_path)) for word in command)
    journal = folder.journal.read_bytes()
    assert run([verb, "first", *rest, "--storage", str(tmp_path / "runs")]) == 3
    said = capsys.readouterr().err
    assert "nothing was sent to it" in said
    assert f"{option} {options.popitem()[1]}" in said
    assert reached == []
    assert folder.journal.read_bytes() == journal


def test_compare_goes_on_without_a_link_to_a_server_that_only_the_search_names(
    tmp_path: Path, reached: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = [TrialTracked(trial=trial, mlflow_run_id="0" * 32) for trial in ("t0000", "t0001")]
    search(tmp_path, "first", [*completed(0, 0.5), *completed(1, 0.6, **{"clips.identities": 4}), *tracked])
    name_servers(local_search(tmp_path / "first"), tracking_uri=TRACKER)
    assert run(["compare", "first/t0000", "first/t0001", "--storage", str(tmp_path)]) == 0
    assert "no link to MLflow's pages: first: its search.yaml names" in capsys.readouterr().err
    assert reached == []


def test_what_the_command_line_names_is_asked_and_remembered_for_that_storage_alone(
    tmp_path: Path, reached: list[str]
) -> None:
    for name in ("runs", "others"):
        received(tmp_path / name, tracking_uri=TRACKER)
    at = ["--storage", str(tmp_path / "runs")]
    assert run(["purge", "first", "--yes", "--tracking-uri", TRACKER, *at]) == 5
    assert reached
    reached.clear()
    assert run(["purge", "first", "--yes", *at]) == 5
    assert reached
    reached.clear()
    assert run(["purge", "first", "--yes", "--storage", str(tmp_path / "others")]) == 3
    assert reached == []


def test_what_is_trusted_is_in_a_file_of_the_user_alone_without_passwords(tmp_path: Path) -> None:
    trust(LocalStore(tmp_path), TRACKING, "postgresql://me:secret@host/db")
    file = trusted_servers_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "secret" not in file.read_text()
    assert is_trusted(LocalStore(tmp_path), TRACKING, "postgresql://me:secret@host/db")
    assert not is_trusted(LocalStore(tmp_path), ADDRESS, "postgresql://me:secret@host/db")


@pytest.mark.parametrize("content", ["", "{}\n", "null\n", "[[]]\n", "[" * 100_000 + "\n", "\0\n"])
def test_a_damaged_file_trusts_nothing(content: str, tmp_path: Path) -> None:
    trusted_servers_file().parent.mkdir(parents=True)
    trusted_servers_file().write_text(content)
    assert not is_trusted(LocalStore(tmp_path), TRACKING, TRACKER)
    trust(LocalStore(tmp_path), TRACKING, TRACKER)
    assert is_trusted(LocalStore(tmp_path), TRACKING, TRACKER)


def test_the_environment_names_a_server_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKER)
    require_trusted(LocalStore(tmp_path), "first", TRACKING, TRACKER)
    monkeypatch.setenv("RAY_ADDRESS", HEAD)
    require_trusted(LocalStore(tmp_path), "first", ADDRESS, HEAD)
    with pytest.raises(SearchError):
        require_trusted(LocalStore(tmp_path), "first", TRACKING, f"{TRACKER}0")


@pytest.mark.parametrize(
    ("option", "server", "own"),
    [
        *((TRACKING, uri, True) for uri in ("http://127.0.0.1:5000", "http://localhost", "https://[::1]:5000/mlflow")),
        *((ADDRESS, address, True) for address in ("auto", "127.0.0.1:6379", "[::1]:6379", "localhost")),
        (TRACKING, "IN/mlflow.db", True),
        *((TRACKING, uri, False) for uri in (TRACKER, "file:///etc", "databricks", "", "OUT/mlflow.db", "LINK/x.db")),
        *((ADDRESS, address, False) for address in (HEAD, "", "ray://127.0.0.1:1", "127.0.0.1@evil", "local")),
        # Read otherwise by other libraries, or with a host in the settings.
        (TRACKING, "http://evil.example\\@127.0.0.1/", False),
        (TRACKING, "http://127.0.0.1@evil.example/", False),
        (TRACKING, "http://127.0.0.1#@evil.example/", False),
        (TRACKING, "http://127.0.0.1.evil.example", False),
        (TRACKING, "http://127.0.0.1\n.evil.example", False),
        (TRACKING, "postgresql://localhost/db?host=evil.example", False),
        (TRACKING, "postgresql:///db", False),
        (TRACKING, "sqlite:///IN/x.db?uri=true", False),
    ],
)
def test_only_this_machine_and_this_storage_are_trusted_unasked(
    option: str, server: str, own: bool, tmp_path: Path
) -> None:
    storage = tmp_path / "runs"
    storage.mkdir()
    (storage / "link").symlink_to(tmp_path)
    places = {"IN/": storage, "OUT/": tmp_path, "LINK/": storage / "link"}
    for begin, folder in places.items():
        if server.startswith(begin):
            server = database_uri(folder / server.removeprefix(begin))
    assert is_own(LocalStore(storage), option, server) is own


@pytest.mark.parametrize(
    "uri",
    [
        *("http://u:p@h", "https://token@h:5000/x", "postgresql://u:p@h/db", "postgresql+psycopg://u:p/w@h/db"),
        *("mysql://h/db?user=u&password=p", "http://u:p@ss@h"),
    ],
)
def test_a_password_on_the_command_line_is_refused_by_every_command_that_takes_an_address(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_search(tmp_path / "first")
    at = ["--storage", str(tmp_path), "--tracking-uri", uri]
    slurm = ["cluster", "slurm", "demo.yaml", "--nodes", "1", "--cpus-per-node", "4", "--time", "08:00:00"]
    commands = [
        *([verb, "first"] for verb in ("resume", "finalize", "sync", "purge", "ui", "report")),
        *(["export", "first", "--out", "x"], ["launch", "--space", "demo.yaml"], slurm),
        ["launch", "--space", "demo.yaml", "--submit", "http://127.0.0.1:1"],
    ]
    for command in commands:
        assert run([*command, *at]) == 2, command
        said = capsys.readouterr()
        assert "MLFLOW_TRACKING_PASSWORD" in said.err
        assert uri not in said.err + said.out


def test_a_password_in_an_address_of_before_is_not_printed_where_a_network_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [*completed(0, 0.5), TrialTracked(trial="t0000", mlflow_run_id="0" * 32)]
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), events)
    save_network(folder, "t0000")
    uri = "http://user:secret@tracker.example"
    name_servers(folder, tracking_uri=uri)
    trust(LocalStore(tmp_path), TRACKING, uri)
    monkeypatch.setattr(registry, "_registered", lambda *_: "1")
    assert run(["export", "first", "--out", str(tmp_path / "out"), "--register", "--storage", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "smoke version 1  http://***@tracker.example" in said.out
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize(
    "uri", ["http://h:5000/x@y", "postgresql://user@h/db", "sqlite:////a@b:c/d?timeout=1", "s3://b/a"]
)
def test_an_address_without_a_password_is_no_secret(uri: str) -> None:
    assert not has_password(uri)


def test_passwords_are_hidden_wherever_an_address_is_shown() -> None:
    shown = without_passwords("http://u:p@ss@h and postgresql://h/db?user=u&password=secret&x=1, file:///a@b/c")
    assert shown == "http://***@h and postgresql://h/db?user=u&password=***&x=1, file:///a@b/c"
