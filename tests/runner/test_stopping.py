"""A stop that is asked for: told at once, whatever the main thread is doing, and a second signal does not wait."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from searches import completed, write_search
from waiting import PATIENCE_S

from orchestrator.base.errors import EnvironmentProblem, Exit
from orchestrator.cli.run_search import drive_and_show
from orchestrator.runner.session import SessionResult
from orchestrator.runner.stop_request import HANDLED, StopRequest
from orchestrator.show.live import Display, stopping_line
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.description import Options, read_description
from orchestrator.study.events import SessionEnded
from orchestrator.study.journal import Journal, read_journal
from orchestrator.study.recorder import Recorder
from orchestrator.study.study import Study

# A main thread that is in C for ever, where no handler of Python's runs: it waits for a mutex that it holds already.
LOCKED = (
    "mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None); [libc.pthread_mutex_lock(mutex) for _ in '12']"
)
BLOCKED = f"""
import ctypes
from orchestrator.runner.stop_request import StopRequest
with StopRequest(lambda wish: print(wish, flush=True)):
    print("listening", flush=True)
    {LOCKED}
"""


class Told:
    """What was told of a stop."""

    def __init__(self) -> None:
        self.wishes: list[str | None] = []
        self.heard = threading.Event()

    def __call__(self, wish: str | None) -> None:
        self.wishes.append(wish)
        self.heard.set()


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_is_told_at_once_by_its_name_and_asks_for_a_stop(number: signal.Signals) -> None:
    told = Told()
    with StopRequest(told) as stop:
        os.kill(os.getpid(), number)
        assert told.heard.wait(PATIENCE_S)
    assert (stop.signal, stop.wish, stop.requested) == (number, number.name, True)
    assert told.wishes == [number.name]


def test_a_request_without_a_signal_is_told_too_and_only_the_first_one() -> None:
    told = Told()
    with StopRequest(told) as stop:
        stop.request("reidsearch stop")
        assert told.heard.wait(PATIENCE_S)
        stop.request("another")
    assert told.wishes == ["reidsearch stop"]
    assert stop.signal is None


def test_what_was_there_before_is_there_again() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with StopRequest():
        pass
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not any(thread.name == "signals" for thread in threading.enumerate())


def test_one_signal_that_arrives_twice_is_one() -> None:
    with StopRequest() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_main_thread_that_does_not_answer_delays_neither_the_word_nor_the_second_signal(
    number: signal.Signals,
) -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        while process.poll() is None:
            time.sleep(0.2)
            process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number


@pytest.mark.parametrize(
    ("wish", "running", "line"),
    [
        ("SIGINT", 2, "stopping: saving 2 trials …  Ctrl-C again ends at once"),
        ("SIGINT", 0, "stopping: no trial runs …  Ctrl-C again ends at once"),
        ("SIGTERM", 1, "stopping (SIGTERM): saving 1 trial …"),
        (None, 3, "stopping: saving 3 trials …"),
    ],
)
def test_what_is_said_names_who_asked_and_how_many_trials_are_saved(wish: str | None, running: int, line: str) -> None:
    assert stopping_line(wish, running) == line


# A session that is told to stop while Ray starts, which it does in C: only the process itself can end that.
STARTING = f"""
import ctypes, sys
from pathlib import Path
from types import SimpleNamespace
from orchestrator.cli.run_search import drive_and_show
from orchestrator.runner import session
from orchestrator.study.description import Options
from orchestrator.stores.local import local_search

def connect(address, **others):
    print("connecting", flush=True)
    {LOCKED}

session.connect = connect
session.tracker_of = lambda *_: SimpleNamespace(start=lambda: None, close=lambda seconds: 0)
sys.exit(drive_and_show(local_search(Path(sys.argv[1])), Options(), strict=False))
"""


def test_a_signal_while_ray_starts_ends_the_process_at_once_in_good_order(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), [])
    program = [sys.executable, "-c", STARTING, str(folder.path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "connecting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        lines = process.stderr.read().splitlines()
    stopping, last = next(line for line in lines if line.startswith("stopping")), lines[-1]
    assert "no trial runs" in stopping
    assert last.startswith("first: stopped; ") and last.endswith(" continues it")
    end = read_journal(folder.journal)[-1].event
    assert end == SessionEnded(state="interrupted", reason="SIGINT")


class Screen:
    """What a terminal shows of what was written to it: the few codes that rich uses to redraw."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        for code, argument, kind, plain in re.findall(r"(\x1b\[\??(\d*)([A-Za-z]))|([^\x1b])", text):
            if kind == "A":
                self.row -= int(argument or 1)
            elif kind == "K":
                self.lines[self.row] = ""
            elif plain == "\r":
                self.column = 0
            elif plain == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row >= len(self.lines))
            elif not code:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + plain + line[self.column + 1 :]
                self.column += 1

    def shown(self) -> list[str]:
        return [line for line in self.lines if line.strip()]


def test_a_stop_clears_the_table_before_it_is_told_and_nothing_draws_it_again(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), completed(0, 0.5))
    written = io.StringIO()
    display = Display(folder, Console(file=written, force_terminal=True, width=80, height=24, legacy_windows=False))
    recorder = Recorder(Journal(folder.journal))
    with display.showing() as live:
        display.watch().started(recorder, read_description(folder.description))
        assert live is not None
        live.refresh()
        before = Screen()
        before.write(written.getvalue())
        assert any(line.startswith("t0000") for line in before.shown())
        telling = threading.Thread(target=display.watch().stopping, args=("SIGINT", 1))
        telling.start()
        telling.join()
        assert not live.is_started
    after = Screen()
    after.write(written.getvalue())
    assert [line.split()[0] for line in after.shown()] == ["search", "data", "budget", "stopping:"]
    assert written.getvalue().rindex("\x1b[?25h") > written.getvalue().rindex("\x1b[?25l"), "the cursor is back"


KEPT = """
import os, subprocess, sys
from pathlib import Path
from orchestrator.cluster.ray import stderr_kept
for _ in range(2):
    with stderr_kept(Path(sys.argv[1])):
        os.write(2, b"from C\\n")
        subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
        print("ours", file=sys.stderr)
    os.write(2, b"after\\n")
    print("after all", file=sys.stderr)
"""


def test_what_c_writes_to_standard_error_is_kept_in_a_file_and_what_we_write_is_seen(tmp_path: Path) -> None:
    log = tmp_path / "logs/ray.log"
    done = subprocess.run(
        [sys.executable, "-c", KEPT, str(log)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stderr == "ours\nafter\nafter all\n" * 2
    assert log.read_text() == "from C\nfrom a child\n" * 2


def test_a_closed_standard_error_stays_closed(tmp_path: Path) -> None:
    program = "from pathlib import Path; from orchestrator.cluster.ray import stderr_kept\n"
    program += f"with stderr_kept(Path({str(tmp_path / 'log')!r})): print('went on')"
    command = ["sh", "-c", f'{sys.executable} -c "$0" 2>&-', program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == "went on\n"


def test_an_interruption_before_the_session_listens_names_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), [])
    monkeypatch.setattr("orchestrator.runner.session.run_search", interrupted)
    assert drive_and_show(folder, Options(), strict=False) == 130
    assert capfd.readouterr().err.endswith(f"reidsearch resume first --storage {tmp_path}` continues it\n")


def test_the_failure_of_a_search_is_told_and_its_end_unless_somebody_stopped_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: object, **__: object) -> SessionResult:
        if isinstance(outcome, Exception):
            raise outcome
        return SessionResult(Study(), read_description(folder.description), outcome, 0)

    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), [])
    monkeypatch.setattr("orchestrator.runner.session.run_search", ended)
    monkeypatch.setenv("REIDSEARCH_NOTIFY", f"cat >> {tmp_path}/told; false")
    outcome: Exception | Exit = EnvironmentProblem("Ray is gone")
    with pytest.raises(EnvironmentProblem):
        drive_and_show(folder, Options(), strict=False)
    for outcome in (Exit.INTERRUPTED, Exit.PREEMPTED, Exit.SEARCH_FAILED):
        assert drive_and_show(folder, Options(), strict=False) == outcome
    failed, over = (tmp_path / "told").read_text().splitlines()
    assert failed == "first: failed: Ray is gone"
    assert over.startswith("first: interrupted; 0/4 trials completed")
    assert "notify of REIDSEARCH_NOTIFY: the command ended with 1" in capfd.readouterr().err
