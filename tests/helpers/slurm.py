"""A real Slurm of our own on one machine: every node a host with its own processes, network, name and temporary folder.

The hosts are Linux namespaces on a bridge of their own, so that nothing of the machine can be reached or ended from
them, by `ray stop` or otherwise, and the machine sees none of their ports. All of it ends with the first process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter", "setpriv", "ip")
NEW_HOST = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
START_S = 60.0
REQUEUE_AFTER_S = 5
"""What a requeued job waits before it starts again; two minutes by default."""

CONFIGURATION = """\
ClusterName=test
SlurmctldHost=control(10.77.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
GresTypes=gpu
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=2000 Gres=gpu:{gpus} State=UNKNOWN\n"
GPUS = 2
"""That Slurm believes each node to have, by files that are none."""
# Slurm follows the processes of a job as sites have it, by a control group, where the kernel has groups of version 1.
# Its plugin for version 2 refuses to start where both are mounted, and was not tried.
FREEZER = Path("/sys/fs/cgroup/freezer")

# The first process of the cluster: a network with a bridge, munge, the controller, then a host per node.
CONTROL = """\
set -eu
folder=$1; shift
hostname control
mount --bind "$folder/hosts" /etc/hosts
ip link set lo up
ip link add name bridge type bridge
ip addr add 10.77.0.1/24 dev bridge
ip link set bridge up
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
slurmctld -i
number=10
for name; do
    number=$((number + 1))
    unshare --net --mount --pid --fork --kill-child --mount-proc --uts \
        bash "$folder/node.sh" "$folder" "$name" "10.77.0.$number" > "$folder/$name.log" 2>&1 &
    until [ "$(readlink "/proc/$!/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add "$name" type veth peer name eth0 netns "$!"
    ip link set "$name" master bridge up
done
sleep infinity & wait
"""
HOST = """\
set -eu
folder=$1 name=$2 address=$3
hostname "$name"
mount --bind "$folder/tmp-$name" "$folder/tmp"
mount -t tmpfs none /dev/shm
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.01; done
ip addr add "$address/24" dev eth0
ip link set eth0 up
slurmd -D -N "$name" & wait
"""


def missing() -> str | None:
    """Why no Slurm can be had here, if so."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    tried = subprocess.run(
        [*NEW_HOST, "ip", "link", "add", "name", "bridge", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() or None


class Slurm:
    """A cluster that runs."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        """Seen by all its hosts; `tmp` in it is each host's own."""
        self._pid = pid

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints that runs on the host of the controller."""
        entered = ["nsenter", "--target", str(self._pid), "--net", "--mount", "--pid", "--uts"]
        done = subprocess.run(
            [*entered, *command],
            env=os.environ | environment(self.folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def environment(folder: Path) -> dict[str, str]:
    """What a user of the cluster has set."""
    return {"SLURM_CONF": f"{folder}/slurm.conf", "HOME": f"{folder}/home", "TMPDIR": f"{folder}/tmp"}


@contextmanager
def slurm(nodes: int = 2, cpus: int = 1) -> Iterator[Slurm]:
    """A Slurm with nodes n1, n2, ... that are idle."""
    names = [f"n{number + 1}" for number in range(nodes)]
    # Not below pytest's own folder: Ray's sockets are below this one, and their paths end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="s") as path:
        folder = Path(path)
        _configure(folder, names, cpus)
        with (folder / "control.log").open("wb") as log:
            cluster = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *NEW_HOST, "bash", str(folder / "control.sh"), path, *names],
                env=os.environ | environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield _when_idle(folder, cluster, nodes)
        finally:
            # The first process of the namespaces; the kernel ends all others with it.
            for child in psutil.Process(cluster.pid).children():
                child.kill()
            cluster.wait(30)
            for name in names:  # the groups of slurmd; one whose last process is still being reaped stays
                for group in sorted(FREEZER.glob(f"slurm_{name}/**/"), reverse=True):
                    with contextlib.suppress(OSError):
                        group.rmdir()


def _configure(folder: Path, names: list[str], cpus: int) -> None:
    for inner in (
        "munge",
        "state",
        "tmp",
        "home",
        *(f"spool-{name}" for name in names),
        *(f"tmp-{name}" for name in names),
    ):
        (folder / inner).mkdir(mode=0o700)
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o400)
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=11)}
    hosts = {"localhost": "127.0.0.1", "control": "10.77.0.1", **addresses}
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
    proctrack = "cgroup" if os.access(FREEZER, os.W_OK) else "pgid"
    text = CONFIGURATION.format(folder=folder, requeue=REQUEUE_AFTER_S, proctrack=proctrack)
    text += "".join(
        NODE.format(name=name, address=address, cpus=cpus, gpus=GPUS) for name, address in addresses.items()
    )
    (folder / "slurm.conf").write_text(text)
    for number in range(GPUS):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, Path("/dev/null").stat().st_rdev)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "control.sh").write_text(CONTROL)
    (folder / "node.sh").write_text(HOST)


def _when_idle(folder: Path, cluster: subprocess.Popen[bytes], nodes: int) -> Slurm:
    end = time.monotonic() + START_S
    while time.monotonic() < end and cluster.poll() is None:
        if inner := psutil.Process(cluster.pid).children():
            found = Slurm(folder, inner[0].pid)
            idle = found.run("sinfo", "--noheader", "--states=idle", "--format=%D", check=False)
            if idle.strip() == str(nodes):
                return found
        time.sleep(0.2)
    logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(folder.glob("*.log")))
    raise AssertionError(f"Slurm did not start\n{logs}")
