"""What the job script for one node does with each answer of `reidsearch` and Slurm, which are stubs here."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from waiting import wait_until

from orchestrator.cluster.manifests import Machines, Work
from orchestrator.cluster.slurm import SlurmJob, slurm_script
from orchestrator.space.search_space import SearchSpace

WORK = Work(SearchSpace.load("demo.yaml"), "first", "/shared/runs", ["--data", "mini-mars"], data="mini-mars")
# Notes what it was asked; its exit codes are in files, or `train`: until a signal comes, after which it saves.
REIDSEARCH = """#!/bin/bash
cd "$(dirname "$0")"
echo "$1 in ${IMAGE:-no image} with $(ulimit -Sn) files at most" >> asked
if [ "$1" = status ]; then echo "status says so"; exit "$(cat status)"; fi
cp "$RAY_AUTH_TOKEN_PATH" token
echo "$RAY_OVERRIDE_RESOURCES $TMPDIR ${XDG_CACHE_HOME%/*} ${RAY_AUTH_TOKEN_PATH%/*}" > environment
echo "${TORCH_HOME:-none}" > torch_home
end=$(cat end)
trap 'sleep 0.2; exit 75' USR1 TERM
[ "$end" != train ] || touch training
while [ "$end" = train ]; do sleep 0.02; done
exit "$end"
"""
STUBS = {
    "reidsearch": REIDSEARCH,
    "scontrol": '#!/bin/bash\necho "$*" >> "$(dirname "$0")/asked"\n',
    "apptainer": '#!/bin/bash\n[ "$1 $2" = "exec --nv" ] || exit 9\nexport IMAGE=$3; shift 3; exec "$@"\n',
}


class Job:
    """The script, and the stubs beside it."""

    def __init__(self, folder: Path, *, status: int, end: int | str = 0, container: str | None = None) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in STUBS.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        (self.bin / "status").write_text(str(status))
        (self.bin / "end").write_text(str(end))
        job = SlurmJob(Machines(1, 3, 1), "1:00:00", str(folder), "demo.yaml", container=container)
        (folder / "job.sbatch").write_text(slurm_script(WORK._replace(storage=str(folder / "runs")), job))

    def run(self, **environment: str) -> tuple[int, list[str], str]:
        """Exit code, what was asked of `reidsearch` and Slurm, and what the job printed."""
        started = self.start(**environment)
        said, _ = started.communicate(timeout=60)
        return started.returncode, self.asked(), said

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "job.sbatch"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": f"test{os.getpid()}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def asked(self) -> list[str]:
        return (self.bin / "asked").read_text().splitlines()


@pytest.mark.parametrize(("status", "expected"), [(0, "resume"), (3, "launch")])
def test_a_search_that_is_there_is_resumed_and_one_that_is_not_is_launched(
    status: int, expected: str, tmp_path: Path
) -> None:
    code, asked, said = Job(tmp_path, status=status).run()
    assert code == 0, said
    assert [line.split()[0] for line in asked] == ["status", expected]


def test_a_storage_that_does_not_answer_is_waited_for_in_the_queue_and_five_times_at_most(tmp_path: Path) -> None:
    job = Job(tmp_path, status=5)
    for _ in range(5):
        code, asked, said = job.run()
        assert code == 75
        assert "status says so" in said
    assert "not requeued: five starts in a row saved nothing" in said
    assert [line.split()[0] for line in asked] == [*(["status", "requeue"] * 4), "status"]


@pytest.mark.parametrize("damage", ["a folder", "an empty file", "a text"])
def test_starts_that_cannot_be_counted_are_taken_to_have_saved_nothing(damage: str, tmp_path: Path) -> None:
    job = Job(tmp_path, status=5)
    count = tmp_path / f".reidsearch-test{os.getpid()}"
    for restarts in (0, 3, 4):
        if damage == "a folder":
            count.mkdir(exist_ok=True)
        else:
            count.write_text({"an empty file": "", "a text": "garbage\n"}[damage])
        code, asked, said = job.run(SLURM_RESTART_COUNT=str(restarts))
        assert code == 75, said
    assert "not requeued: five starts in a row saved nothing" in said
    assert [line.split()[0] for line in asked] == [*(["status", "requeue"] * 2), "status"]


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_no_later_start_launches_the_search_where_its_storage_is_not_mounted(left: str, tmp_path: Path) -> None:
    job = Job(tmp_path, status=3, end=75)
    assert job.run()[0] == 75
    shutil.rmtree(tmp_path / "runs")
    if left != "nothing":
        (tmp_path / "runs").mkdir()
    code, asked, said = job.run(SLURM_RESTART_COUNT="1")
    assert code == 75
    assert f"is {tmp_path}/runs mounted?" in said
    assert [line.split()[0] for line in asked] == ["status", "launch", "requeue", "status", "requeue"]


def test_a_search_that_the_first_start_could_not_launch_is_launched_by_a_later_one(tmp_path: Path) -> None:
    job = Job(tmp_path, status=5)
    assert job.run()[0] == 75
    (job.bin / "status").write_text("3")
    code, asked, said = job.run(SLURM_RESTART_COUNT="1")
    assert code == 0, said
    assert [line.split()[0] for line in asked] == ["status", "requeue", "status", "launch"]


@pytest.mark.parametrize(("end", "expected"), [(0, []), (4, []), (130, []), (75, ["requeue"])])
def test_only_a_search_that_was_interrupted_is_queued_again(end: int, expected: list[str], tmp_path: Path) -> None:
    code, asked, _ = Job(tmp_path, status=0, end=end).run()
    assert code == end
    assert [line.split()[0] for line in asked] == ["status", "resume", *expected]


@pytest.mark.parametrize(
    ("number", "to_all", "expected"),
    [
        (signal.SIGUSR1, False, ["requeue"]),
        (signal.SIGTERM, True, []),  # as scancel does
        (signal.SIGTERM, False, []),  # as it does where Slurm follows processes by a control group
    ],
)
def test_a_search_saves_when_its_time_is_nearly_up_and_when_it_is_cancelled(
    number: signal.Signals, to_all: bool, expected: list[str], tmp_path: Path
) -> None:
    job = Job(tmp_path, status=0, end="train")
    started = job.start()
    wait_until((job.bin / "training").exists)
    if to_all:
        os.killpg(started.pid, number)
    else:
        started.send_signal(number)
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 75, said
    assert [line.split()[0] for line in job.asked()] == ["status", "resume", *expected]
    assert not list(tmp_path.glob(".reidsearch-*"))  # it counts starts that saved nothing


def test_a_job_needs_no_home_and_no_folder_that_its_tmpdir_names_and_leaves_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, status=3)
    code, _, said = job.run(HOME="/dev/null", TMPDIR=str(tmp_path / "absent"))
    assert code == 0, said
    own = f"/tmp/rs-test{os.getpid()}-0"
    assert (job.bin / "environment").read_text() == f'{{"CPU": 3}} /tmp {own} {own}\n'
    assert len((job.bin / "token").read_text().strip()) == 64
    assert not Path(own).exists()
    assert not list(tmp_path.glob(".reidsearch-*"))


@pytest.mark.parametrize(
    ("there", "given", "expected"), [(True, "", "fetched"), (True, "own", "own"), (False, "", "none")]
)
def test_weights_are_read_where_they_were_fetched_whatever_the_home_of_the_node(
    there: bool, given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "fetched"))
    job = Job(tmp_path, status=3)
    if there:
        (tmp_path / "fetched").mkdir()
    code, _, said = job.run(HOME="/dev/null", **({"TORCH_HOME": given} if given else {}))
    assert code == 0, said
    assert Path((job.bin / "torch_home").read_text().strip()).name == expected


def test_every_command_of_ours_runs_in_the_container_and_may_open_many_files(tmp_path: Path) -> None:
    code, asked, said = Job(tmp_path, status=3, container="/images/a b.sif").run()
    assert code == 0, said
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    many = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    place = f"in /images/a b.sif with {many} files at most"
    assert asked == [f"status {place}", f"launch {place}"]
