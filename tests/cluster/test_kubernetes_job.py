"""What KubeRay and Ray make of the rendered RayJob: a stub of their decisions runs its entrypoint and its hooks.

The decisions are those of KubeRay's `rayjob_controller.go` (1.6: `checkBackoffLimitAndUpdateStatusIfNeeded`, retries on
new clusters, `StopJob` at deletion) and of Ray's `job_supervisor.py` (2.60). `reidsearch` and `ray` are stubs, too.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from waiting import wait_until

from orchestrator.cluster import kubernetes, manifests
from orchestrator.space.search_space import SearchSpace

CLUSTER = kubernetes.KubernetesCluster(manifests.Machines(2, 8, 1), "registry.example.org/reidsearch:0.1.0")
WORK = manifests.Work(SearchSpace.load("demo.yaml"), "first", "/shared/runs", ["--data", "mini-mars"], data="mini-mars")
STOP = "job stop --no-wait --address http://127.0.0.1:8265 first-x7"
# Notes in the journal what it was asked. Its ends come from a file, one after another: an exit code, or `train`, which
# saves at the first SIGTERM, in half a second, and ends at a second one, unless that follows at once.
REIDSEARCH = """#!/bin/bash
cd "$(dirname "$0")"
if [ "$1" = status ]; then test -s journal || exit 3; exit 0; fi
end=$(head -n 1 ends)
sed -i '$!{1d}' ends
save() {
    trap '' TERM
    /bin/sleep 0.1
    trap 'echo killed >> journal; exit 143' TERM
    /bin/sleep 0.4
    echo saved >> journal
    exit 75
}
trap save TERM
echo "$1" >> journal
while [ "$end" = train ]; do /bin/sleep 0.02; done
exit "$end"
"""


class Kubernetes:
    """A cluster with KubeRay, to which one rendered RayJob is applied."""

    def __init__(self, folder: Path, *ends: str) -> None:
        self.folder = folder
        (folder / "ends").write_text("".join(f"{end}\n" for end in ends))
        self.stub("reidsearch", REIDSEARCH)
        self.stub("ray", f'#!/bin/bash\n[ "$*" = "{STOP}" ] && touch stop\n')
        self.stub("sleep", "#!/bin/bash\nexec /bin/sleep 0.05\n")
        # No pattern of a hook may find a process of somebody else.
        text = kubernetes.kubernetes_job(WORK, CLUSTER)
        text = text.replace("/etc/reidsearch", str(folder)).replace("^reid:", f"^reid-of-{folder}:")
        self.objects = {document["kind"]: document for document in yaml.safe_load_all(text)}
        for name, content in self.objects["ConfigMap"]["data"].items():
            (folder / name).write_text(content)
        self.job = self.objects["RayJob"]["spec"]
        self.clusters = 0
        self.driver: subprocess.Popen[bytes] | None = None

    def stub(self, name: str, script: str) -> None:
        (self.folder / name).write_text(script)
        (self.folder / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    def journal(self) -> list[str]:
        return (self.folder / "journal").read_text().split()

    def apply(self) -> tuple[str, str]:
        """Status of the job and of its deployment, once KubeRay does nothing more."""
        for _ in range(1 + self.job["backoffLimit"]):
            self.start()
            if (status := self.ended()) != "FAILED":
                return status, "Complete"
        return status, "Failed"

    def start(self) -> None:
        """A new cluster, and the job submitted to it: a shell expands the entrypoint, then another one runs it."""
        self.clusters += 1
        expand = ["bash", "-c", f'printf %s "{self.job["entrypoint"]}"']
        submitter = {**self.environment, "RAY_JOB_SUBMISSION_ID": "first-x7"}
        entrypoint = subprocess.run(expand, env=submitter, capture_output=True, text=True, check=True).stdout
        # Ray's supervisor does not give the driver the variables of the submitter.
        self.driver = subprocess.Popen(
            ["/bin/sh", "-c", entrypoint], cwd=self.folder, env=self.environment, start_new_session=True
        )

    def ended(self) -> str:
        """Waits for the driver, as Ray's supervisor does, and for a request to stop it."""
        driver, stop = self.driver, self.folder / "stop"
        assert driver is not None
        wait_until(lambda: stop.exists() or driver.poll() is not None)
        if stop.exists():
            self.stop_job()
            stop.unlink()
            return "STOPPED"
        return "SUCCEEDED" if driver.wait() == 0 else "FAILED"

    def stop_job(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """SIGTERM to all processes of the driver; they end in the time that the variable of the head gives them."""
        assert self.driver is not None
        processes = []
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.driver.pid)
            processes = [first, *first.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        meanwhile()
        variables = {each["name"]: each.get("value") for each in self.container("headGroupSpec")["env"]}
        _, left = psutil.wait_procs(processes, timeout=float(variables["RAY_JOB_STOP_WAIT_TIME_S"]))
        assert left == []

    def container(self, group: str) -> dict[str, Any]:
        found = self.job["rayClusterSpec"][group]
        (container,) = (found[0] if isinstance(found, list) else found)["template"]["spec"]["containers"]
        return dict(container)

    def end_pod(self, group: str) -> subprocess.Popen[bytes]:
        """Starts the hook of a pod that is to end; Ray's processes in it get SIGTERM when the hook has ended."""
        command = self.container(group)["lifecycle"]["preStop"]["exec"]["command"]
        return subprocess.Popen(command, env=self.environment)


def until_training(kubernetes: Kubernetes) -> None:
    journal = kubernetes.folder / "journal"
    wait_until(lambda: journal.exists() and len(kubernetes.journal()) > 0)


@pytest.mark.parametrize("code", [0, 4])
def test_a_search_that_is_finished_ends_the_job_in_success(code: int, tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, str(code))
    assert kubernetes.apply() == ("SUCCEEDED", "Complete")
    assert kubernetes.clusters == 1
    assert kubernetes.job["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("code", [130, 1, 2, 3])
def test_a_search_that_is_stopped_or_refused_is_not_started_again(code: int, tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, str(code))
    assert kubernetes.apply() == ("STOPPED", "Complete")
    assert kubernetes.clusters == 1


def test_a_search_that_was_interrupted_goes_on_on_a_new_cluster(tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, "75", "137", "5", "0")
    assert kubernetes.apply() == ("SUCCEEDED", "Complete")
    assert kubernetes.journal() == ["launch", "resume", "resume", "resume"]
    assert kubernetes.clusters == 4


def test_a_search_that_is_interrupted_for_ever_ends(tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, "75")
    assert kubernetes.apply() == ("FAILED", "Failed")
    assert kubernetes.clusters == 11


def test_a_head_that_is_preempted_saves_first_and_the_search_goes_on(tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, "train", "0")
    kubernetes.start()
    until_training(kubernetes)
    before = time.monotonic()
    assert kubernetes.end_pod("headGroupSpec").wait() == 0
    assert time.monotonic() - before < 180
    assert kubernetes.journal() == ["launch", "saved"]
    assert kubernetes.ended() == "FAILED"
    assert kubernetes.apply() == ("SUCCEEDED", "Complete")
    assert kubernetes.journal() == ["launch", "saved", "resume"]


def test_a_job_that_is_deleted_saves_keeps_the_claim_and_goes_on_when_it_is_applied_again(tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, "train", "0")
    kubernetes.start()
    until_training(kubernetes)
    hooks = []

    def end_pod() -> None:
        time.sleep(0.2)  # it saves already
        hooks.append(kubernetes.end_pod("headGroupSpec"))

    kubernetes.stop_job(meanwhile=end_pod)  # KubeRay's finalizer asks for it, and the owner's deletion ends the pods
    assert [hook.wait() for hook in hooks] == [0]
    assert kubernetes.journal() == ["launch", "saved"]
    assert kubernetes.objects.keys() == {"ConfigMap", "NetworkPolicy", "RayJob"}
    assert kubernetes.apply() == ("SUCCEEDED", "Complete")
    assert kubernetes.journal() == ["launch", "saved", "resume"]


def test_a_worker_waits_for_its_trials_and_asks_those_to_save_that_the_driver_does_not_stop(tmp_path: Path) -> None:
    kubernetes = Kubernetes(tmp_path, "train")
    title = f"reid-of-{tmp_path}:first/t0001"
    save = (
        f"trap 'echo saved > {shlex.quote(str(tmp_path / 'saved'))}; exit' TERM; while true; do /bin/sleep 0.02; done"
    )
    trial = subprocess.Popen(["bash", "-c", f"exec -a {title} bash -c {shlex.quote(save)}"])
    # [:1], for a process has no command line at all while it becomes another program.
    wait_until(lambda: psutil.Process(trial.pid).cmdline()[:1] == [title])
    hook = kubernetes.end_pod("workerGroupSpecs")
    wait_until(lambda: trial.poll() is not None)
    assert hook.wait() == 0
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert kubernetes.end_pod("workerGroupSpecs").wait() == 0
