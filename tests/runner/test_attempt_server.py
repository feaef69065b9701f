"""The fork server and our end of it: attempts are stopped, killed or crash, and the server serves the next one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from miniatures import write_miniature
from waiting import wait_until

from orchestrator.runner.trial_spec import TrialSpec, WorkerMessage
from orchestrator.runner.watchdog import HeartbeatTimeout, hung
from orchestrator.runner.worker import AttemptServer, attempt_messages

# A server like the real one, whose attempts do what their trial's name says and leave their process id behind.
FAKE = """
import os, pathlib, signal, sys, time
import trainer
from trainer.data import kept
from trainer.child import Parent
from orchestrator.runner import attempt_server
from orchestrator.runner.trial_spec import WorkerMessage, AttemptResult

trainer.prepare_process = lambda: None
replies = os.dup(1)

def wait():
    # A signal between Python's look for one and the sleep itself is answered at the end of the sleep.
    for _ in range(36000): time.sleep(0.1)

class Recorder:
    def __init__(self, *arguments, **settings): self.tick = 0.01
    def heard(self): pathlib.Path("heard").touch()
    def passed(self): return False

def graceful(out):
    def save(number, frame):
        (out / "saved").touch()
        os._exit(0)
    signal.signal(signal.SIGTERM, save)

def fake(spec, send, alive):
    out = spec.search / "trials" / spec.trial
    (out / "pid").write_text(str(os.getpid()))
    kind = spec.trial
    if kind == "kept": kind = str(kept._kept and kept._kept.place)
    if kind == "stubborn": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "graceful": graceful(out)
    send(WorkerMessage(attempt_result=AttemptResult(state="failed", reason=kind)))
    if kind in ("stubborn", "graceful", "plain"): wait()
    if kind == "halted":
        alive()
        os.kill(os.getpid(), signal.SIGSTOP)
    while kind == "lively" and not pathlib.Path("heard").exists():
        alive()
    if kind == "crash": os._exit(7)
    if kind == "fatal":
        print("2026-11-29T19:00:00Z 42 demo/t0001 epoch 2", file=sys.stderr)
        print("Fatal Python error: Segmentation fault", file=sys.stderr)
        print("2026-11-29T19:00:01Z 42 demo/t0001 epoch 3", file=sys.stderr)
        sys.stderr.flush()
        os._exit(7)
    if kind == "half":
        os.write(replies, b'{"message": "hal')
        os.kill(os.getpid(), signal.SIGKILL)

attempt_server.PRELOADED = ()
attempt_server.STOP_GRACE_S = float(os.environ["GRACE"])
if "RECORD" in os.environ: attempt_server.HeartbeatTimeout = Recorder
attempt_server.run_attempt = fake
attempt_server.main(Parent())
"""


CONFIG = '{"model": {"backbone": "tiny"}}'


@contextmanager
def serving(folder: Path, *, grace: float, **environment: str) -> Iterator[AttemptServer]:
    """A server whose attempts get `grace` seconds to end."""
    variables = {**os.environ, "GRACE": str(grace), **environment}
    server = AttemptServer(folder / "logs/attempts.log", variables, [sys.executable, "-c", FAKE])
    yield server
    server.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AttemptServer]:
    with serving(tmp_path, grace=3600) as server:
        yield server


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], TrialSpec]:
    def made(kind: str) -> TrialSpec:
        out = tmp_path / "trials" / kind
        out.mkdir(parents=True, exist_ok=True)
        return TrialSpec(search=tmp_path, trial=kind, attempt=1, config=CONFIG, threads=1, hang_after=0.4)

    return made


def reasons(server: AttemptServer, spec: TrialSpec) -> list[str]:
    outcomes = [WorkerMessage.model_validate_json(line).attempt_result for line in server.messages(spec)]
    return [attempt_result.reason for attempt_result in outcomes if attempt_result]


def stopped(server: AttemptServer, spec: TrialSpec) -> int:
    """Stops the attempt after its first message, as Tune's SystemExit does; the attempt's process id."""
    with pytest.raises(SystemExit), closing(server.messages(spec)) as messages:
        for _ in messages:
            raise SystemExit(0)
    return int((spec.search / "trials" / spec.trial / "pid").read_text())


@pytest.mark.parametrize(("kind", "grace"), [("plain", 3600.0), ("stubborn", 0.1), ("graceful", 3600.0)])
def test_a_stopped_attempt_ends_and_the_same_server_runs_the_next(
    tmp_path: Path, spec: Callable[[str], TrialSpec], kind: str, grace: float
) -> None:
    with serving(tmp_path, grace=grace) as server:
        pid = stopped(server, spec(kind))
        assert server.is_ready()
        assert not psutil.pid_exists(pid), "the next attempt has the memory and the GPU to itself"
        assert reasons(server, spec("next")) == ["next"]


def test_a_stopped_attempt_can_save_its_state(server: AttemptServer, spec: Callable[[str], TrialSpec]) -> None:
    wanted = spec("graceful")
    stopped(server, wanted)
    assert server.is_ready()
    assert (wanted.search / "trials/graceful/saved").exists()


def test_stopping_does_not_wait_for_the_attempt(server: AttemptServer, spec: Callable[[str], TrialSpec]) -> None:
    wanted = spec("stubborn")
    with closing(server.messages(wanted)) as messages:
        next(messages)
    os.kill(int((wanted.search / "trials/stubborn/pid").read_text()), signal.SIGKILL)  # it lives


def test_an_order_to_stop_an_attempt_that_has_just_ended_hits_nobody_else(
    server: AttemptServer, spec: Callable[[str], TrialSpec]
) -> None:
    pid = stopped(server, spec("over"))  # its message and its end come together
    assert server.is_ready()
    assert not psutil.pid_exists(pid)
    assert reasons(server, spec("next")) == ["next"]


@pytest.mark.parametrize(("kind", "code"), [("crash", 7), ("half", -9)])
def test_an_attempt_that_dies_says_how_and_the_server_lives_on(
    server: AttemptServer, spec: Callable[[str], TrialSpec], kind: str, code: int
) -> None:
    with pytest.raises(ChildProcessError, match=f"exit code {code}$"):
        list(server.messages(spec(kind)))
    assert server.is_ready()
    assert reasons(server, spec("next")) == ["next"]


def test_an_attempt_that_dies_says_why_as_far_as_it_was_printed(
    server: AttemptServer, spec: Callable[[str], TrialSpec]
) -> None:
    reason = "exit code 7: Fatal Python error: Segmentation fault$"
    with pytest.raises(ChildProcessError, match=reason):
        list(server.messages(spec("fatal")))
    assert reasons(server, spec("next")) == ["next"]
    with pytest.raises(ChildProcessError, match=r"exit code 7$"):
        list(server.messages(spec("crash")))


def test_a_log_that_somebody_deletes_fails_no_attempt(
    server: AttemptServer, spec: Callable[[str], TrialSpec], tmp_path: Path
) -> None:
    (tmp_path / "logs/attempts.log").unlink()
    assert reasons(server, spec("first")) == ["first"]
    with pytest.raises(ChildProcessError, match=r"exit code 7$"):
        list(server.messages(spec("crash")))


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_a_server_that_cannot_start_says_why(tmp_path: Path, spec: Callable[[str], TrialSpec], moment: str) -> None:
    log = tmp_path / "logs/attempts.log"
    log.parent.mkdir()
    log.write_text("SyntaxError: of an earlier one\n")
    server = AttemptServer(log, os.environ, [sys.executable, "-c", "import a_module_that_is_not_there"])
    if moment == "later":
        wait_until(lambda: not server.is_ready())
    reason = "^the process that runs attempts ended with exit code 1: ModuleNotFoundError: No module named 'a_module_"
    with pytest.raises(ChildProcessError, match=reason):
        list(server.messages(spec("plain")))
    assert not server.is_ready()
    server.close()


def test_an_attempt_that_is_halted_as_a_whole_is_killed_as_hung_and_the_server_lives_on(
    server: AttemptServer, spec: Callable[[str], TrialSpec]
) -> None:
    wanted = spec("halted")
    with pytest.raises(ChildProcessError, match=r"exit code -9$"):
        list(server.messages(wanted))
    file = wanted.search / "trials/halted/hang.txt"
    assert hung(file)
    assert "its state was: T (stopped)" in file.read_text()
    assert not psutil.pid_exists(int((wanted.search / "trials/halted/pid").read_text()))
    assert reasons(server, spec("next")) == ["next"]


def test_an_attempt_that_says_it_is_alive_may_take_longer_than_a_hang(
    tmp_path: Path, spec: Callable[[str], TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, grace=3600, RECORD="1") as server:
        assert reasons(server, spec("lively")) == ["lively"], "it ends once the server has taken note"


def test_attempts_find_their_data_set_in_memory_and_read_a_damaged_one_themselves(
    server: AttemptServer, spec: Callable[[str], TrialSpec], tmp_path: Path
) -> None:
    def on(root: Path) -> TrialSpec:
        data = {"name": "mars", "root": str(root)}
        return spec("kept").model_copy(update={"config": json.dumps({**json.loads(CONFIG), "data": data})})

    for root in (tmp_path / "mars", tmp_path / "other"):
        write_miniature("mars", root)
        assert reasons(server, on(root)) == [str(("mars", root, 0))]
    (root / "info/train_name.txt").write_text("damaged")
    assert reasons(server, on(root)) == ["None"]
    assert reasons(server, spec("kept")) == ["None"], "a configuration that the server cannot follow"


def test_patience_is_counted_in_ticks_and_begins_anew_with_every_sign() -> None:
    patience = HeartbeatTimeout(100.0, before_first=10.0)
    assert patience.tick == 5.0
    assert [patience.passed() for _ in range(27)] == [False] * 26 + [True]
    patience.heard()
    assert [patience.passed() for _ in range(25)] == [False] * 24 + [True]


def test_a_worker_that_goes_away_ends_the_attempt_which_saves_first(
    server: AttemptServer, spec: Callable[[str], TrialSpec]
) -> None:
    wanted = spec("graceful")
    with closing(server.messages(wanted)) as messages:
        next(messages)
        pid = int((wanted.search / "trials/graceful/pid").read_text())
        server.close()
        assert not psutil.pid_exists(pid)
    assert (wanted.search / "trials/graceful/saved").exists()
    assert not server.is_ready()


@pytest.mark.parametrize(
    ("number", "name", "said"),
    [(signal.SIGTERM, "graceful", "ended with exit code 0"), (signal.SIGKILL, "stubborn", "was killed by SIGKILL")],
)
def test_a_server_that_is_ended_takes_its_attempt_along_which_saves_if_there_is_time(
    server: AttemptServer, spec: Callable[[str], TrialSpec], number: signal.Signals, name: str, said: str
) -> None:
    wanted = spec(name)
    with closing(server.messages(wanted)) as messages:
        next(messages)
        attempt = psutil.Process(int((wanted.search / f"trials/{name}/pid").read_text()))
        os.kill(attempt.ppid(), number)
        with pytest.raises(ChildProcessError, match=f"that runs attempts {said}"):
            next(messages)
    wait_until(lambda: not attempt.is_running())
    assert (wanted.search / f"trials/{name}/saved").exists() == (name == "graceful")
    assert not server.is_ready()


def test_a_worker_tells_the_search_why_its_attempt_died_and_where_to_read_on(
    tmp_path: Path, spec: Callable[[str], TrialSpec]
) -> None:
    log = tmp_path / "logs/attempts.log"
    server = AttemptServer(log, os.environ, [sys.executable, "-c", "raise SystemExit('no torch here')"])
    (message,) = attempt_messages(spec("plain"), lambda _: server)
    result = WorkerMessage.model_validate_json(message).attempt_result
    assert result is not None and result.failure is None
    assert result.reason == (
        "the process that runs attempts ended with exit code 1: no torch here; see logs/attempts.log"
    )
    assert log.read_text() == "no torch here\n"
    server.close()
