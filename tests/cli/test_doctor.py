"""What the examination of a machine finds."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections import namedtuple
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from orchestrator.__main__ import run
from orchestrator.doctor import machine, network, software, summary
from orchestrator.doctor.findings import Finding
from orchestrator.doctor.machine import file_system, mount_of

Usage = namedtuple("Usage", "total used free")
MOUNTS = [("/proc", "proc"), ("/", "ext4"), ("/data", "xfs"), ("/data", "nfs4"), ("/data/with space", "xfs")]


def only(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    return finding


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/home/me", ("/", "ext4")),
        ("/data", ("/data", "nfs4")),
        ("/data/mars/bbox_train", ("/data", "nfs4")),
        ("/database", ("/", "ext4")),
        ("/data/with space/runs", ("/data/with space", "xfs")),
    ],
)
def test_a_path_lies_on_the_innermost_mount_that_holds_it(
    path: str, mount: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in MOUNTS]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    assert mount_of(Path(path)) == mount


@pytest.mark.parametrize(
    ("kind", "level", "advice"),
    [
        ("ext4", "ok", ""),
        ("nfs4", "warn", "--tracking-uri"),
        ("fuse.sshfs", "warn", "--tracking-uri"),
        ("tmpfs", "warn", "lost with the next restart"),
        ("overlay", "warn", "lost with the container"),
    ],
)
def test_the_kind_of_file_system_is_judged_by_what_a_search_needs(kind: str, level: str, advice: str) -> None:
    found = file_system("/x", kind)
    assert found.level == level
    assert advice in found.advice


@pytest.mark.parametrize(("free", "level"), [(2**40, "ok"), (5 * 2**30, "warn"), (2**20, "problem")])
def test_a_disk_is_judged_by_its_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**41, 0, free))
    disk, kind = machine.storage(tmp_path / "runs")
    assert (disk.subject, disk.level) == ("disk", level)
    assert kind.subject == "file system"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("free", "level"), [(2**34, "ok"), (2**29, "warn"), (2**26, "problem")])
def test_shared_memory_is_judged_by_what_ray_takes(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**35, 0, free))
    assert only(machine.shared_memory()).level == level


def test_a_storage_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(machine.storage(tmp_path / "file" / "runs"))
    assert (found.level, found.text) == ("problem", f"{tmp_path / 'file'} cannot be written")


@pytest.mark.parametrize(("available", "level"), [(16 * 2**30, "ok"), (2**30, "warn")])
def test_memory_is_judged_by_what_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, level: str
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available))
    monkeypatch.setattr("trainer.compute.CONTAINER_LIMIT", tmp_path / "none")
    assert only(machine.memory()).level == level


def test_a_containers_limit_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limit").write_text(f"{2**30}\n")
    monkeypatch.setattr("trainer.compute.CONTAINER_LIMIT", tmp_path / "limit")
    found = only(machine.memory())
    assert found.level == "warn"
    assert "1.0 GiB for this container" in found.text


def test_a_storage_whose_clock_is_off_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    there = time.time()
    monkeypatch.setattr("time.time", lambda: there + 30)
    found = only(machine.clock(tmp_path))
    assert (found.level, found.text) == ("problem", "the storage's is -30 s off")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("unsynchronised", "level"), [(True, "warn"), (False, "ok")])
def test_a_clock_that_nothing_keeps_right_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynchronised: bool, level: str
) -> None:
    monkeypatch.setattr(machine, "is_unsynchronised", lambda: unsynchronised)
    assert only(machine.clock(tmp_path)).level == level


def test_a_data_set_is_named_and_a_folder_that_is_none_is_a_problem(mini_mars: Path, tmp_path: Path) -> None:
    assert only(machine.data_set(mini_mars)) == ("ok", "data", f"{mini_mars}: mars (SYNTHETIC)", "")
    assert only(machine.data_set(tmp_path)).level == "problem"
    below = only(machine.data_set(mini_mars / "bbox_train"))
    assert (below.level, f"; {mini_mars} holds MARS: name that folder" in below.text) == ("problem", True)
    assert only(machine.data_set(tmp_path / "gone")).text == f"{tmp_path / 'gone'} is no folder"


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_warned_of(monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    monkeypatch.setattr(network, "PORTS", {listening: ("Somebody's page", "take another"), 1: ("x", "y")})
    taken, free = network.ports()
    assert taken == ("warn", "ports", f"{listening} (Somebody's page) is taken", "take another")
    assert free == ("ok", "ports", "1 free on 127.0.0.1", "")


def test_a_head_that_does_not_answer_is_a_problem_with_the_way_out() -> None:
    found = only(network.ray_address("127.0.0.1:1"))
    assert (found.level, found.text) == ("problem", "no Ray head answers at 127.0.0.1:1 (Connection refused)")
    assert "ray start --head" in found.advice


@pytest.mark.parametrize("address", ["ftp://host:1", "host:port", "", "host:99999"])
def test_what_is_no_address_is_answered_with_the_form_of_one(address: str) -> None:
    found = only(network.ray_address(address))
    assert found.level == "problem"
    assert "HOST:PORT" in found.advice


@contextmanager
def dashboard(code: int, body: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("code", "body", "level", "text"),
    [
        (401, "", "problem", "token"),
        (200, json.dumps({"ray_version": version("ray")}), "problem", "no token asked for"),
        (200, json.dumps({"ray_version": "2.9.0"}), "problem", "Ray 2.9.0, here "),
        (404, "", "problem", "HTTP 404"),
        (200, "<html>", "problem", "Expecting value"),
    ],
)
def test_a_dashboard_is_asked_for_its_version(code: int, body: str, level: str, text: str) -> None:
    with dashboard(code, body) as address:
        found = only(network.ray_address(address))
    assert found.level == level
    assert text in found.text


def database(path: Path, revision: str) -> Path:
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE TABLE alembic_version (version_num TEXT)")
        opened.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        opened.commit()
    return path


def test_mlflows_schema_is_compared_with_the_installed_one(tmp_path: Path) -> None:
    heads, known = network.schemas()
    (head,) = heads
    old = next(revision for revision in known if revision != head)
    levels = {
        "current": only(network.mlflow_schema(database(tmp_path / "current.db", head))),
        "older": only(network.mlflow_schema(database(tmp_path / "older.db", old))),
        "unknown": only(network.mlflow_schema(database(tmp_path / "unknown.db", "of the future"))),
    }
    assert {name: found.level for name, found in levels.items()} == {
        **{"current": "ok", "older": "problem", "unknown": "problem"}
    }
    assert f"mlflow db upgrade sqlite:///{tmp_path / 'older.db'}" in levels["older"].advice


def test_a_file_that_is_no_database_is_a_problem_and_none_is_fine(tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_text("garbage" * 1000)
    assert only(network.mlflow_schema(tmp_path / "garbage.db")).level == "problem"
    assert only(network.mlflow_schema(tmp_path / "none.db")).level == "ok"
    assert not (tmp_path / "none.db").exists()


def test_a_requirement_that_is_not_met_is_a_problem_that_names_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "not-a-package-of-anybody>=1", "click>=8", "ray>=999; extra == 'never'"]
    monkeypatch.setattr(software, "requires", lambda _: wanted)
    numpy, missing = software.versions()
    assert numpy[:3] == ("problem", "versions", f"numpy {version('numpy')}, needed is numpy >=999")
    assert missing.text == "not-a-package-of-anybody not installed, needed is not-a-package-of-anybody >=1"


def test_a_pair_of_torch_and_torchvision_that_does_not_work_together_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision

    assert only(software.torch_pair()).level == "ok"

    def without_operator(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", without_operator)
    found = only(software.torch_pair())
    assert found.level == "problem"
    assert "do not work together (operator torchvision::nms does not exist)" in found.text


def test_a_gpu_that_the_driver_knows_and_torch_does_not_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(software, "NVIDIA_GPUS", tmp_path)
    assert only(software.gpus()).level == "warn"
    (tmp_path / "0000:00:00.0").mkdir()
    assert only(software.gpus()).level == "problem"
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n")
    monkeypatch.setattr(software, "NVIDIA_DRIVER", version)
    monkeypatch.setattr("torch.version.cuda", "13.2")
    found = only(software.gpus())
    assert "the driver 570.86.15 lists" in found.text
    assert "driver 580 or later" in found.advice


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda number: ((number * 40 + 1) * 2**30, 80 * 2**30))
    busy, free = software.gpus()
    assert (busy.level, busy.text) == ("warn", "0: GPU 0, 1.0 of 80.0 GiB free")
    assert (free.level, free.text) == ("ok", "1: GPU 1, 41.0 of 80.0 GiB free")


def test_the_summary_counts_what_is_wrong() -> None:
    ok, warn, problem = (Finding(level, "s", "t") for level in ("ok", "warn", "problem"))
    assert summary([ok]) == "nothing is wrong"
    assert summary([ok, warn]) == "1 warning"
    assert summary([problem, warn, warn]) == "1 problem, 2 warnings"


def test_the_command_exits_with_5_where_something_is_wrong_and_changes_nothing(
    tmp_path: Path, mini_mars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    command = ["doctor", "--storage", str(storage), "--json"]
    assert run([*command, "--data", str(mini_mars)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fit"] is True
    subjects = {finding["subject"] for finding in document["findings"]}
    assert subjects >= {
        "versions",
        "torch",
        "gpu",
        "jpeg",
        "memory",
        "shared memory",
        "disk",
        "clock",
        "mlflow",
        "data",
    }
    assert "ray" not in subjects
    assert run([*command[:-1], "--data", str(tmp_path / "gone"), "--address", "127.0.0.1:1"]) == 5
    printed = capsys.readouterr().out
    assert "problem data" in printed and "problem ray" in printed
    assert printed.splitlines()[-1].startswith("2 problems")
    assert list(tmp_path.iterdir()) == []
