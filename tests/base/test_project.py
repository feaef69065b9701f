"""Defaults from the environment and from a project file, and what `notify` of either is told."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.base import project
from orchestrator.base.errors import OrchestratorError
from orchestrator.base.notification import notify
from orchestrator.base.project import default

SECRET = "hooks/canary-7b1f"


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, one below that of a project file with every key."""
    (tmp_path / "reidsearch.yaml").write_text("storage: runs\ndata: /data/mars\nnotify: 'true'\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for name in project.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "below"


def test_the_nearest_file_above_counts_and_its_relative_paths_begin_where_it_is(below: Path) -> None:
    file = below.parent / "reidsearch.yaml"
    assert default("storage") == (str(below.parent / "runs"), str(file))
    assert default("data") == ("/data/mars", str(file))
    (below / "reidsearch.yaml").write_text("storage: s3://bucket/runs\n")
    assert default("storage") == ("s3://bucket/runs", str(below / "reidsearch.yaml"))
    assert default("data") is None
    (below / "reidsearch.yaml").write_text("storage: runs\n")
    assert default("storage") == ("runs", str(below / "reidsearch.yaml")), "as it is spelled in its own folder"


def test_the_environment_goes_before_the_file(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REIDSEARCH_DATA", "/elsewhere")
    assert default("data") == ("/elsewhere", "REIDSEARCH_DATA")


def test_a_file_that_init_writes_can_be_read(below: Path) -> None:
    (below / "reidsearch.yaml").write_text(project.TEMPLATE)
    assert default("storage") == ("runs", str(below / "reidsearch.yaml"))
    (below / "reidsearch.yaml").write_text("# nothing\n")
    assert default("storage") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("storage: runs\nstorge: x\n", "reidsearch.yaml:2: storge: unknown key, .* did you mean 'storage'"),
        ("storage: [runs\n", r"reidsearch.yaml:\d+:\d+: "),
        ("- runs\n", "must hold keys such as"),
        ('data: d\nstorage: ""\n', "reidsearch.yaml:2: storage: is empty; give it a value or remove the line"),
        (f"notify: [{SECRET}]\n", "reidsearch.yaml:1: notify: must be a text"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(below: Path, text: str, problem: str) -> None:
    (below / "reidsearch.yaml").write_text(text)
    with pytest.raises(OrchestratorError, match=problem) as caught:
        default("storage")
    assert SECRET not in str(caught.value)


def test_the_file_of_another_user_is_refused_for_it_could_have_commands_run(
    below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    os.chown(below.parent / "reidsearch.yaml", 4321, -1)
    with pytest.raises(OrchestratorError, match="belongs to another user"):
        default("storage")


# What is told


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that refuses what is sent to /no, and what it was sent."""
    told: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(404 if self.path == "/no" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


def test_a_command_gets_the_text_as_input_and_in_the_environment(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REIDSEARCH_NOTIFY", 'cat > told; printf "%s" "$REIDSEARCH_MESSAGE" > said')
    assert notify("first: finished; http://me:secret@host\n") is None
    assert Path("told").read_text() == "first: finished; http://***@host\\n\n"
    assert Path("said").read_text() == "first: finished; http://***@host\\n"


def test_a_webhook_gets_the_text_as_json(
    webhook: tuple[str, list[bytes]], below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REIDSEARCH_NOTIFY", f"{webhook[0]}/{SECRET}")
    assert notify("first: finished") is None
    assert webhook[1] == [b'{"text": "first: finished"}']


def test_a_failure_is_told_without_the_command_and_the_address(
    webhook: tuple[str, list[bytes]], below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = {
        f"{webhook[0]}/no": "notify of REIDSEARCH_NOTIFY: the webhook answered 404",
        f"http://127.0.0.1:1/{SECRET}": "notify of REIDSEARCH_NOTIFY: the webhook was not reached (URLError)",
        f"https://a b/{SECRET}": "notify of REIDSEARCH_NOTIFY: the webhook was not reached (InvalidURL)",
        f"exit 7 # {SECRET}": "notify of REIDSEARCH_NOTIFY: the command ended with 7",
    }
    for wanted, problem in problems.items():
        monkeypatch.setenv("REIDSEARCH_NOTIFY", wanted)
        assert notify("x") == problem
