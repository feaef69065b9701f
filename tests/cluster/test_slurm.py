"""The rendered job script on a real Slurm: two nodes, a time limit that comes too early, a requeue."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import command, mlflow_runs
from slurm import Slurm, missing, slurm

from orchestrator.runner.stop_request import StopRequest
from orchestrator.stores.local import local_search
from orchestrator.study.events import Event, SessionEnded, TrialCompleted, TrialReported, TrialStarted, TrialSuggested
from orchestrator.study.journal import read_journal

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
TRIALS = 4
# Together they train for more than the half minute that Slurm may take to look at its time limits.
SETTINGS = (f"budget.trials={TRIALS}", "trainer.optim.epochs=300")
JOB_S = 1200.0


def test_a_signal_that_a_library_took_is_taken_back() -> None:
    with StopRequest() as stop:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as Tune does, in its own interest
        stop.listen_again()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.wish == "SIGUSR1"
    before = signal.getsignal(signal.SIGUSR1)
    stop.listen_again()
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with slurm() as running:
        yield running


def submit(cluster: Slurm, name: str, *arguments: str, nodes: int = 2, export: str = "ALL") -> str:
    """Number of the job that the rendered script of the space `smoke` became."""
    written = command(
        *("cluster", "slurm", "smoke.yaml", "--nodes", str(nodes), "--cpus-per-node", "1", "--name", name),
        *("--storage", str(cluster.folder / "runs"), "--environment", sys.prefix),
        *(word for setting in SETTINGS for word in ("--set", setting)),
        *arguments,
    )
    assert written.returncode == 0, written.stderr
    script = cluster.folder / f"{name}.sbatch"
    script.write_text(written.stdout)
    options = (f"--chdir={cluster.folder}", f"--export={export}")
    return cluster.run("sbatch", "--parsable", *options, str(script)).strip()


def until(cluster: Slurm, number: str, *states: str) -> dict[str, str]:
    """The job, once it is in one of the states."""
    end = time.monotonic() + JOB_S
    while time.monotonic() < end:
        job = cluster.job(number)
        if job["JobState"] in states:
            return job
        time.sleep(1)
    raise AssertionError(f"{job}\n{log(cluster)}")


def events_of(cluster: Slurm, name: str) -> list[Event]:
    """What is in the search's journal so far."""
    journal = local_search(cluster.folder / "runs" / name).journal
    return [record.event for record in read_journal(journal)] if journal.exists() else []


def await_event(cluster: Slurm, name: str, kind: type) -> None:
    """Waits for an event of this kind in the search's journal."""
    end = time.monotonic() + JOB_S
    while not any(isinstance(event, kind) for event in events_of(cluster, name)):
        assert time.monotonic() < end, log(cluster)
        time.sleep(0.5)


def log(cluster: Slurm) -> str:
    return "\n".join(path.read_text() for path in cluster.folder.glob("*-*.log") if "slurm" not in path.name)


@pytest.mark.e2e
@pytest.mark.long
def test_a_job_whose_time_is_up_saves_is_queued_again_and_finishes_with_every_trial_once(cluster: Slurm) -> None:
    number = submit(cluster, "limited", "--time", "01:00:00", "--save-before", "300")
    await_event(cluster, "limited", TrialReported)
    tokens = list(cluster.folder.glob("tmp-*/rs-*/token"))
    assert len(tokens) == 2
    for token in tokens:
        assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    (secret,) = {token.read_text().strip() for token in tokens}
    # Its time is up in three to four minutes: Slurm's own signal comes at its next look, in half a minute at most.
    hours, minutes, _ = map(int, cluster.job(number)["RunTime"].split(":"))
    cluster.run("scontrol", "update", f"JobId={number}", f"TimeLimit={60 * hours + minutes + 4}")
    await_event(cluster, "limited", SessionEnded)
    until(cluster, number, "PENDING")
    cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=60")
    job = until(cluster, number, *OVER)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("COMPLETED", "0:0", "1"), log(cluster)

    events = events_of(cluster, "limited")
    endings = [(event.state, event.reason) for event in events if isinstance(event, SessionEnded)]
    assert endings == [("interrupted", "SIGUSR1"), ("finished", f"{TRIALS} trials")]
    keys = {f"t{index:04d}" for index in range(TRIALS)}
    assert Counter(event.trial for event in events if isinstance(event, TrialSuggested)) == dict.fromkeys(keys, 1)
    assert Counter(event.trial for event in events if isinstance(event, TrialCompleted)) == dict.fromkeys(keys, 1)
    assert max(event.attempt for event in events if isinstance(event, TrialStarted)) >= 2
    assert {trial: len(runs) for trial, runs in mlflow_runs(cluster.folder / "runs").items()} == {
        "-": 1,
        **dict.fromkeys(keys, 1),
    }

    assert "the search ended with exit code 75" in log(cluster)
    assert secret not in log(cluster)
    assert left_behind(cluster) == []


@pytest.mark.e2e
@pytest.mark.long
def test_a_search_on_a_part_of_a_node_needs_no_home_goes_on_after_a_requeue_and_has_every_trial_once(
    cluster: Slurm,
) -> None:
    settings = ("--set", "budget.trials=2", "--set", "trainer.optim.epochs=60", "--gpus-per-node", "1")
    number = submit(cluster, "part", "--time", "01:00:00", *settings, nodes=1, export="HOME=/dev/null,TMPDIR=/dev/null")
    await_event(cluster, "part", TrialReported)
    assert cluster.job(number)["TresPerNode"] == "gres:gpu:1"
    cluster.run("scancel", "--batch", "--signal=USR1", number)  # as --signal=B:USR1 does
    job = until(cluster, number, *OVER)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("COMPLETED", "0:0", "1"), log(cluster)
    events = events_of(cluster, "part")
    endings = [(event.state, event.reason) for event in events if isinstance(event, SessionEnded)]
    assert endings == [("interrupted", "SIGUSR1"), ("finished", "2 trials")]
    completed = Counter(event.trial for event in events if isinstance(event, TrialCompleted))
    assert completed == {"t0000": 1, "t0001": 1}
    assert list(Path("/tmp").glob(f"rs-{number}-*")) == left_behind(cluster) == []


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_that_its_user_cancels_saves_and_is_not_queued_again(cluster: Slurm, nodes: int) -> None:
    # As after `--export=NONE`, with a home that cannot be written, and a TMPDIR that the second node lacks:
    # /tmp is shared by these hosts, /dev/shm is not.
    name = f"cancelled-{nodes}"
    (cluster.folder / "tmp-n1/j").mkdir(exist_ok=True)
    (cluster.folder / "tmp-n2/j").touch()
    export = f"HOME=/dev/null,TMPDIR={cluster.folder}/tmp/j"
    number = submit(cluster, name, "--time", "01:00:00", nodes=nodes, export=export)
    await_event(cluster, name, TrialReported)
    cluster.run("scancel", number)
    assert until(cluster, number, *OVER)["JobState"] == "CANCELLED"
    await_event(cluster, name, SessionEnded)
    end = time.monotonic() + JOB_S
    while cluster.run("squeue", "--noheader").strip():
        assert time.monotonic() < end, log(cluster)
        time.sleep(1)
    assert cluster.job(number)["Restarts"] == "0"
    last = events_of(cluster, name)[-1]
    assert isinstance(last, SessionEnded)
    assert (last.state, last.reason) == ("interrupted", "SIGTERM")
    assert left_behind(cluster) == []


def left_behind(cluster: Slurm) -> list[Path]:
    """Tokens, what Ray keeps on the nodes, counts of starts, and anything in the home."""
    folder = cluster.folder
    return [*(folder / "home").iterdir(), *folder.glob("tmp-*/**/rs-*"), *folder.glob(".reidsearch-*")]
