"""Children: how they answer and end, and that none imports anything from the current folder, whatever lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from current_folder import EVERY_NAME, plant
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_until

from orchestrator.algorithms import ax_process
from orchestrator.runner import smoke_test, worker
from orchestrator.show.report import model
from orchestrator.tracking import server
from trainer import child
from trainer.child import (
    BadReply,
    Child,
    ChildEnded,
    ChildTimeout,
    checkout,
    child_command,
    python_command,
    python_environment,
    start_child,
)

HOME = child.HOME
ANY_NAME = st.sampled_from(EVERY_NAME) | st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
# Python itself imports these, and private ones with them, before the first line of a module that `-m` names: out of the
# current folder. The command `reidsearch` is not started so.
BEFORE_US = {
    *("types", "warnings", "contextlib", "functools", "operator", "keyword", "reprlib", "collections", "importlib"),
    *("runpy", "pkgutil", "enum", "re", "copyreg", "typing", "sitecustomize", "usercustomize"),
}
# Whether each module would be taken from the folder that the child runs in.
FOUND_HERE = (
    "import importlib.util, json, os, sys\n"
    "def here(name):\n"
    "    found = importlib.util.find_spec(name)\n"
    "    places = [] if found is None else [found.origin, *(found.submodule_search_locations or [])]\n"
    "    return any(str(place).startswith(os.getcwd()) for place in places)\n"
    "print(json.dumps([name for name in json.loads(sys.argv[1]) if here(name)]))\n"
)


def said_by(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    with start_child(command, environment, cwd=folder, stdout=subprocess.PIPE, text=True) as child:
        said, _ = child.communicate()
    assert child.returncode == 0
    return str(said)


@settings(max_examples=8, deadline=None)
@given(st.lists(ANY_NAME, min_size=1, max_size=60, unique=True))
def test_a_child_finds_no_module_in_the_current_folder_whatever_its_name(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mark = plant(Path(folder), names)
        assert said_by(python_command("-c", FOUND_HERE, json.dumps(names)), Path(folder)) == "[]\n"
        assert not mark.exists()


def test_neither_does_a_child_of_a_child_that_somebody_else_starts(tmp_path: Path) -> None:
    mark = plant(tmp_path, ["trainer", "random", "ax", "types"])
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random, trainer, types'], check=True)"
    )
    said_by(python_command("-c", program), tmp_path)
    said_by([sys.executable, "-c", "import random, trainer, types"], tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "command",
    [
        smoke_test.CHILD,
        worker.SERVER,
        model.WORKER,
        ax_process.WORKER,
        server.server_command(1, Path("files"))[: len(python_command())],
    ],
    ids=lambda command: command[-1],
)
def test_every_command_of_a_child_is_made_in_one_place(command: list[str]) -> None:
    # That none is made elsewhere is what ruff holds: names that pyproject.toml bans.
    assert list(command[: len(python_command())]) == python_command()


def test_a_real_child_answers_in_a_folder_full_of_modules(tmp_path: Path) -> None:
    names = EVERY_NAME
    mark = plant(tmp_path, names)
    child = start_child(smoke_test.CHILD, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, errors = child.communicate("no order\n")
    assert "JSONDecodeError" in errors
    assert not mark.exists()


@pytest.mark.parametrize(("package", "arguments"), [("orchestrator", ["--version"]), ("trainer", ["--help"])])
def test_python_m_leaves_out_the_current_folder_before_it_imports_anything_else(
    tmp_path: Path, package: str, arguments: list[str]
) -> None:
    names = {*EVERY_NAME} - {package} - BEFORE_US
    mark = plant(tmp_path, sorted(name for name in names if not name.startswith("_")))
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    command = [sys.executable, "-m", package, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()


def test_a_folder_of_pythonpath_is_searched_and_an_empty_entry_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "own_readers.py").write_text("print('own')\n")
    mark = plant(tmp_path, ["random"])
    for path in (f":{tmp_path / 'named'}", f"{tmp_path / 'named'}:", f"::{tmp_path / 'named'}"):
        environment = {**os.environ, "PYTHONPATH": path}
        assert said_by(python_command("-c", "import own_readers, random"), tmp_path, environment) == "own\n"
    assert not mark.exists()


def test_a_child_finds_our_packages_where_only_the_current_folder_of_its_parent_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, sys; from trainer.child import *; print(python_environment({})['PYTHONPATH'])"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout == f"{HOME}\n"


def test_installed_packages_are_not_put_before_those_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    monkeypatch.setattr(child, "HOME", installed)
    monkeypatch.syspath_prepend(installed)
    assert checkout() is None
    assert python_environment({})["PYTHONPATH"] == ""


# Messages

LOOP = """
import logging, os, signal, sys, threading, time
from trainer.child import Parent

def main(parent):
    for message in parent:
        answer(parent, message)

def answer(parent, message):
    {answer}
"""
WAIT_S = 60.0  # for a reply that is sure to come


def module(folder: Path, answer: str = "parent.send(message)", **settings: bool) -> tuple[list[str], dict[str, str]]:
    """The command of a child that does this for each message, and its environment."""
    (folder / "answering.py").write_text(LOOP.format(answer=answer.replace("\n", "\n    ")))
    return child_command("answering", **settings), {**os.environ, "PYTHONPATH": str(folder)}


def child_of(folder: Path, answer: str = "parent.send(message)", log: Path | None = None) -> Child:
    command, environment = module(folder, answer)
    return Child(command, name="the model", environment=environment, log=log)


def test_messages_of_any_size_come_back_in_order(tmp_path: Path) -> None:
    messages = [{"a": [1, None, "\u00e4\n"]}, 3, "x" * 3_000_000, []]
    with child_of(tmp_path) as child:
        for message in messages:
            child.send(message)
        assert [child.receive(WAIT_S) for _ in messages] == messages


def test_a_child_ends_when_its_input_does(tmp_path: Path) -> None:
    with child_of(tmp_path) as child:
        child.send("last")
        child.end_input()
        assert child.receive(WAIT_S) == "last"
        for _ in range(2):  # it stays so
            with pytest.raises(ChildEnded, match=r"^the model ended with exit code 0$") as ended:
                child.receive(WAIT_S)
        assert (ended.value.code, ended.value.reason) == (0, "")


def test_sending_waits_for_no_child_and_receiving_only_as_long_as_it_is_told(tmp_path: Path) -> None:
    with child_of(tmp_path, "time.sleep(3600)") as child:
        for _ in range(3):
            child.send("x" * 1_000_000)
        with pytest.raises(ChildTimeout, match=r"^the model gave no reply within 0\.05 s$"):
            child.receive(0.05)
        assert child.is_running()
    assert not child.is_running()


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ("raise KeyError('no such thing')", 1, "the model ended with exit code 1: KeyError: 'no such thing'"),
        ("logging.warning('2 s'); print('Fatal', file=sys.stderr); logging.warning('3'); os._exit(7)", 7, "7: Fatal"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "the model was killed by SIGKILL"),
        ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_child_that_dies_says_why(tmp_path: Path, answer: str, code: int, message: str) -> None:
    with child_of(
        tmp_path, answer.replace("logging.", "logging.basicConfig(format='%(levelname)s'); logging.")
    ) as child:
        child.send({})
        with pytest.raises(ChildEnded) as ended:
            child.receive(WAIT_S)
    assert ended.value.code == code
    assert str(ended.value).endswith(message)


def test_a_child_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    with (
        Child(child_command("no_such_module"), name="it") as child,
        pytest.raises(ChildEnded, match="ModuleNotFoundError: No module named 'no_such_module'"),
    ):
        child.receive(WAIT_S)


def test_what_was_printed_before_an_earlier_reply_is_no_reason(tmp_path: Path) -> None:
    answer = "if message: os._exit(3)\nprint('all is well', file=sys.stderr, flush=True)\nparent.send(1)"
    with child_of(tmp_path, answer) as child:
        for message in (0, 1):
            child.send(message)
            if message == 0:
                assert child.receive(WAIT_S) == 1
        with pytest.raises(ChildEnded, match=r"^the model ended with exit code 3$"):
            child.receive(WAIT_S)


def test_what_libraries_print_goes_to_the_log_and_is_no_reply(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    answer = "os.write(1, b'{\"noise\": 1}\\n'); print('more', file=sys.stderr, flush=True); parent.send('reply')"
    for _ in range(2):
        with child_of(tmp_path, answer, log) as child:
            child.send({})
            assert child.receive(WAIT_S) == "reply"
    assert log.read_text() == 2 * '{"noise": 1}\nmore\n'


def test_a_log_that_cannot_be_written_does_not_keep_the_child_from_answering(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with child_of(tmp_path, log=tmp_path / "file" / "child.log") as child:
        child.send(1)
        assert child.receive(WAIT_S) == 1


@pytest.mark.parametrize(
    "line",
    [b"Segmentation fault", b'{"half": ', b"[1, NaN]", b"-Infinity", b"\xff", 100_000 * b"["],
    ids=lambda line: line[:9],
)
def test_an_unreadable_reply_is_an_error_and_the_next_one_is_not(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "printed").write_bytes(line + b"\n\n7\n")
    with Child(["cat", str(tmp_path / "printed")], name="it") as child:
        with pytest.raises(BadReply, match=r"^it gave an unreadable reply: ") as error:
            child.receive(WAIT_S)
        assert "\n" not in str(error.value)
        assert child.receive(WAIT_S) == 7


@pytest.mark.parametrize("message", [float("nan"), {"a": [float("inf")]}, {"a": Path()}])
def test_what_is_no_json_is_not_sent(tmp_path: Path, message: object) -> None:
    with child_of(tmp_path) as child:
        with pytest.raises((ValueError, TypeError)):
            child.send(message)
        child.send("next")
        assert child.receive(WAIT_S) == "next"


def test_a_child_sees_that_a_message_waits_behind_the_one_it_received(tmp_path: Path) -> None:
    program = (
        "import os; from trainer.child import Parent; parent = Parent(); read, write = os.pipe(); os.dup2(read, 0)\n"
        "os.write(write, b'1\\n2\\n'); first = parent.receive(); parent.send([first, parent.is_waiting()])\n"
        "parent.send([parent.receive(), parent.is_waiting()])"
    )
    with Child(python_command("-c", program), name="it") as child:
        assert [child.receive(WAIT_S), child.receive(WAIT_S)] == [[1, True], [2, False]]


# The end


@pytest.mark.parametrize(
    ("handler", "grace", "saved"),
    [("signal.SIG_IGN", 0.05, False), ("lambda *_: (open('saved', 'w'), os._exit(0))", WAIT_S, True)],
)
def test_a_child_gets_sigterm_and_after_a_grace_sigkill(
    tmp_path: Path, handler: str, grace: float, saved: bool
) -> None:
    answer = f"os.chdir(message); signal.signal(signal.SIGTERM, {handler}); parent.send(1); time.sleep(3600)"
    child = child_of(tmp_path, answer)
    child.send(str(tmp_path))
    child.receive(WAIT_S)
    child.close(grace)
    assert not child.is_running()
    assert (tmp_path / "saved").exists() == saved


@pytest.mark.parametrize("keeps_running", [False, True])
def test_a_child_does_not_outlive_its_parent(tmp_path: Path, keeps_running: bool) -> None:
    # One that keeps running sees the end of its input; the other is killed whatever it does.
    command, environment = module(
        tmp_path, "parent.send(os.getpid()); message and time.sleep(3600)", keeps_running=keeps_running
    )
    program = (
        f"import time; from trainer.child import Child; child = Child({command!r}, name='it')\n"
        f"child.send({int(not keeps_running)}); print(child.receive(), flush=True); time.sleep(3600)"
    )
    with start_child(python_command("-c", program), environment, stdout=subprocess.PIPE, text=True) as parent:
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_a_child_that_keeps_running_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    command, environment = module(tmp_path, keeps_running=True)
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(Child(command, name="it", environment=environment)))
    thread.start()
    thread.join()
    with children[0] as child:
        child.send("there")
        assert child.receive(WAIT_S) == "there"
