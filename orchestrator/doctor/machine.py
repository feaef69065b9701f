"""Checks of memory, disk and file system, clock, and data set."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.base.hints import command_line
from orchestrator.cluster.ray import OBJECT_STORE_BYTES, temporary_folder_problem
from orchestrator.doctor.findings import Finding
from orchestrator.study.lease import STALE_AFTER_S

GIB = 2**30
LITTLE_MEMORY = 4 * GIB
LITTLE_SHARED_MEMORY = 1 * GIB
LITTLE_DISK, HARDLY_ANY_DISK = 10 * GIB, 1 * GIB
SHARED_MEMORY = Path("/dev/shm")
# A file server's clock may be slightly off; a lease goes stale after a minute.
TOLERATED_SKEW_S = STALE_AFTER_S / 6
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 512  # more than struct timex has on any 64-bit Linux
NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "fuse.")
VOLATILE = {"tmpfs": "the next restart", "ramfs": "the next restart", "overlay": "the container"}
ELSEWHERE = "give another --storage"


def memory() -> Iterator[Finding]:
    """Memory that is available to new processes."""
    from trainer import container_memory

    available, limit = psutil.virtual_memory().available, container_memory()
    text = f"{available / GIB:.1f} GiB available"
    if limit is not None:
        available = min(available, limit)
        text += f", {limit / GIB:.1f} GiB for this container"
    if available < LITTLE_MEMORY:
        yield Finding(
            "warn", "memory", text, "fewer trials at once: --concurrent 1; `launch --dry-run` says what one needs"
        )
    else:
        yield Finding("ok", "memory", text)


def shared_memory() -> Iterator[Finding]:
    """Shared memory, which Ray uses for objects, and decoding processes for frames."""
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
    """The folder for temporary files: Ray's sockets lie there, and their paths must be short."""
    problem = temporary_folder_problem()
    if problem is None:
        yield Finding("ok", "temporary", f"{tempfile.gettempdir()}: short enough for Ray's sockets")
    else:
        text, _, advice = problem.partition("; ")
        yield Finding("problem", "temporary", text, advice)


def mount_of(path: Path) -> tuple[str, str]:
    """Where the mount is that holds a path, and the type of its file system; the last of several at one place."""
    found = ("/", "unknown")
    for mount in psutil.disk_partitions(all=True):
        if path.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= len(found[0]):
            found = (mount.mountpoint, mount.fstype)
    return found


def storage(path: Path) -> Iterator[Finding]:
    """Whether searches can be stored there: it is writable, has room, and is neither volatile nor remote."""
    there = _existing(path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("problem", "storage", f"{there} cannot be written", ELSEWHERE)
        return
    free = shutil.disk_usage(there).free
    text = f"{path.absolute()}: {free / GIB:.1f} GiB free"
    needs = "a trial keeps up to four times its network; `launch --dry-run` says how much a search takes"
    if free < HARDLY_ANY_DISK:
        yield Finding("problem", "disk", text, f"make room, or {ELSEWHERE}; {needs}")
    else:
        yield Finding("warn" if free < LITTLE_DISK else "ok", "disk", text, needs if free < LITTLE_DISK else "")
    yield file_system(*mount_of(there.resolve()))


def file_system(point: str, kind: str) -> Finding:
    """The finding for the type of a file system that is mounted there."""
    text = f"{kind} at {point}"
    if kind in VOLATILE:
        return Finding("warn", "file system", text, f"its content is lost with {VOLATILE[kind]}; {ELSEWHERE}")
    if kind.startswith(NETWORK):
        advice = (
            "journal and checkpoints are made for it, MLflow's SQLite is not: run a server and give "
            "--tracking-uri http://HOST:PORT"
        )
        return Finding("warn", "file system", f"{text}, over a network", advice)
    return Finding("ok", "file system", text)


def clock(path: Path) -> Iterator[Finding]:
    """Whether the clocks of this machine and of the storage agree, and whether this one is synchronised."""
    there = _existing(path)
    if os.access(there, os.W_OK | os.X_OK):
        with tempfile.NamedTemporaryFile(dir=there, prefix=".reidsearch-clock-") as file:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
        if abs(skew) > TOLERATED_SKEW_S:
            advice = (
                "set both by NTP: with different clocks a running search is taken for dead, or a dead one for running"
            )
            yield Finding("problem", "clock", f"the storage's is {skew:+.0f} s off", advice)
            return
    if is_unsynchronised():
        yield Finding("warn", "clock", "not synchronised", "start an NTP client if several machines take part")
    else:
        yield Finding("ok", "clock", "synchronised, and the storage's agrees")


def is_unsynchronised() -> bool:
    """What the kernel says; changes nothing."""
    answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return answer == TIME_ERROR


def data_set(root: Path) -> Iterator[Finding]:
    """Whether the data set exists and is recognised; `data check` reads it."""
    if not root.is_dir():
        yield Finding("problem", "data", f"{root} is no folder", "name the data set's folder with --data")
        return
    from trainer.data import instead, recognised
    from trainer.data.manifest import manifest_digest
    from trainer.data.synthetic.dataset import is_synthetic

    name = recognised(root)
    if name is None:
        text = f"{root} has the layout of no known data set{instead(root)}"
        yield Finding("problem", "data", text, "docs/data.md lists them")
        return
    text = f"{root}: {name}" + (" (SYNTHETIC)" if is_synthetic(root) else "")
    _, kind = mount_of(root.resolve())
    if kind.startswith(NETWORK):
        advice = f"{command_line('data', 'pack', root, 'DIR')} packs it into a few large files, for a local disk"
        yield Finding("warn", "data", f"{text}, over a network ({kind})", advice)
    elif manifest_digest(root) is None and not is_synthetic(root):
        yield Finding("warn", "data", f"{text}, not checked yet", command_line("data", "check", root))
    else:
        yield Finding("ok", "data", text)


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
