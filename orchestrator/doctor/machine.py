"""What the machine has: memory, disk and its file system, the clock, the data set."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.hints import command_line
from orchestrator.cluster.ray import OBJECT_STORE_BYTES, temporary_folder_problem
from orchestrator.doctor.findings import Finding
from orchestrator.study.lease import STALE_AFTER_S

GIB = 2**30
LITTLE_MEMORY = 4 * GIB
LITTLE_SHARED_MEMORY = 1 * GIB
LITTLE_DISK, HARDLY_ANY_DISK = 10 * GIB, 1 * GIB
SHARED_MEMORY = Path("/dev/shm")
MOUNTS = Path("/proc/self/mountinfo")
MEMORY = Path("/proc/meminfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# A file server's clock may be a moment off; a lease goes stale after a minute.
TOLERATED_SKEW_S = STALE_AFTER_S / 6
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 512  # more than struct timex has on any 64-bit Linux
NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "fuse.")
VOLATILE = {"tmpfs": "the next restart", "ramfs": "the next restart", "overlay": "the container"}
ELSEWHERE = "give another --storage"


def memory() -> Iterator[Finding]:
    """What processes can still get."""
    lines = dict(line.split(":", 1) for line in MEMORY.read_text(encoding="ascii").splitlines())
    available = 1024 * int(lines["MemAvailable"].split()[0])
    limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip() if CONTAINER_LIMIT.is_file() else "max"
    text = f"{available / GIB:.1f} GiB available"
    if limit != "max":
        available = min(available, int(limit))
        text += f", {int(limit) / GIB:.1f} GiB for this container"
    if available < LITTLE_MEMORY:
        yield Finding(
            "warn", "memory", text, "fewer trials at once: --concurrent 1; `launch --dry-run` tells what one needs"
        )
    else:
        yield Finding("ok", "memory", text)


def shared_memory() -> Iterator[Finding]:
    """Ray keeps its objects there, and the processes that decode frames pass them on there."""
    if not SHARED_MEMORY.is_dir():
        yield Finding("problem", "shared memory", f"{SHARED_MEMORY} is missing", "mount it; Docker: --shm-size 2g")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{SHARED_MEMORY}: {free / GIB:.1f} GiB free"
    if free < OBJECT_STORE_BYTES:
        yield Finding(
            "problem", "shared memory", f"{text}; Ray needs {OBJECT_STORE_BYTES / GIB:.1f}", "Docker: --shm-size 2g"
        )
    elif free < LITTLE_SHARED_MEMORY:
        yield Finding("warn", "shared memory", text, "clips.workers above 0 may fail there; Docker: --shm-size 2g")
    else:
        yield Finding("ok", "shared memory", text)


def temporary_folder() -> Iterator[Finding]:
    """Ray keeps its sockets there, whose paths must be short."""
    problem = temporary_folder_problem()
    if problem is None:
        yield Finding("ok", "temporary", f"{tempfile.gettempdir()}: short enough for Ray's sockets")
    else:
        text, _, advice = problem.partition("; ")
        yield Finding("problem", "temporary", text, advice)


class Mount(NamedTuple):
    """Where a folder lies."""

    point: str
    kind: str
    """Of the file system, as the kernel calls it."""


def mount_of(path: Path, mounts: str) -> Mount:
    """The mount that holds a path, from the text of `/proc/self/mountinfo`; of several at one place the last one."""
    found = Mount("/", "unknown")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        if path.is_relative_to(point) and len(point) >= len(found.point):
            found = Mount(point, after.split()[0])
    return found


def storage(path: Path) -> Iterator[Finding]:
    """Whether searches can be kept there: writable, with room, on a file system that keeps them."""
    there = _existing(path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("problem", "storage", f"{there} cannot be written", ELSEWHERE)
        return
    free = shutil.disk_usage(there).free
    text = f"{path.absolute()}: {free / GIB:.1f} GiB free"
    needs = "a trial keeps up to four times its network; `launch --dry-run` tells how much a search takes"
    if free < HARDLY_ANY_DISK:
        yield Finding("problem", "disk", text, f"make room, or {ELSEWHERE}; {needs}")
    else:
        yield Finding("warn" if free < LITTLE_DISK else "ok", "disk", text, needs if free < LITTLE_DISK else "")
    yield file_system(mount_of(there.resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace")))


def file_system(mount: Mount) -> Finding:
    """What its kind means for a search."""
    text = f"{mount.kind} at {mount.point}"
    if mount.kind in VOLATILE:
        advice = f"what is there is gone with {VOLATILE[mount.kind]}; {ELSEWHERE}"
        return Finding("warn", "file system", text, advice)
    if mount.kind.startswith(NETWORK):
        advice = (
            "journal and checkpoints are made for it, MLflow's SQLite is not: run a server and give "
            "--tracking-uri http://HOST:PORT"
        )
        return Finding("warn", "file system", f"{text}, over a network", advice)
    return Finding("ok", "file system", text)


def clock(path: Path) -> Iterator[Finding]:
    """Whether the clocks of this machine and of the storage agree, and whether anything keeps ours right."""
    there = _existing(path)
    if os.access(there, os.W_OK | os.X_OK):
        with tempfile.NamedTemporaryFile(dir=there, prefix=".reidsearch-clock-") as file:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
        if abs(skew) > TOLERATED_SKEW_S:
            advice = "set both by NTP: by their difference a search is taken for dead, or a dead one for alive"
            yield Finding("problem", "clock", f"the storage's is {skew:+.0f} s off", advice)
            return
    if _is_unsynchronised():
        yield Finding("warn", "clock", "nothing keeps it right", "start an NTP client where several machines take part")
    else:
        yield Finding("ok", "clock", "synchronised, and the storage's agrees")


def _is_unsynchronised() -> bool:
    """As the kernel says, which is asked and not changed."""
    answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return answer == TIME_ERROR


def data_set(root: Path) -> Iterator[Finding]:
    """Whether it is there and known; `data check` looks into it."""
    if not root.is_dir():
        yield Finding("problem", "data", f"{root} is no folder", "name the data set's folder with --data")
        return
    from trainer.data import instead, recognised
    from trainer.data.manifest import manifest_digest
    from trainer.data.pack import packed_data_set
    from trainer.data.synthetic.dataset import is_synthetic

    name = packed_data_set(root) or recognised(root)
    if name is None:
        text = f"{root} has the layout of no known data set{instead(root)}"
        yield Finding("problem", "data", text, "docs/data.md shows them")
        return
    text = f"{root}: {name}" + (" (SYNTHETIC)" if is_synthetic(root) else "")
    mount = mount_of(root.resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))
    if mount.kind.startswith(NETWORK):
        advice = f"{command_line('data', 'pack', root, 'DIR')} makes a few large files of it for a disk of this machine"
        yield Finding("warn", "data", f"{text}, over a network ({mount.kind})", advice)
    elif manifest_digest(root) is None and not is_synthetic(root):
        yield Finding("warn", "data", f"{text}, never checked", command_line("data", "check", root))
    else:
        yield Finding("ok", "data", text)


def _existing(path: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
