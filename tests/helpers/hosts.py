"""Hosts of a cluster as network namespaces of this machine, joined by a link that can be cut and slowed down.

The link is a thread of the test that passes Ethernet frames from one virtual device to the other: it needs root and
/dev/net/tun, but neither `tc` nor iptables.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.ray import ENVIRONMENT

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME = 65536
GCS_PORT = 6379
OBJECTS = str(100 * 2**20)
START_PATIENCE_S = 90


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces and virtual devices."""
    return os.geteuid() == 0 and os.access("/dev/net/tun", os.W_OK)


class Link(threading.Thread):
    """Passes frames between two devices, later or not at all."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="link", daemon=True)
        self.cut = False
        self.delay_s = 0.0
        self.bytes_per_s = float("inf")
        self._ends = [_tap(name) for name in names]
        self._over = threading.Event()

    def run(self) -> None:
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        queues: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in self._ends}
        free_at = dict.fromkeys(self._ends, 0.0)
        while not self._over.is_set():
            now = time.monotonic()
            due = [queue[0][0] for queue in queues.values() if queue]
            readable, _, _ = select.select(self._ends, [], [], max(0.0, min([0.2, *(moment - now for moment in due)])))
            now = time.monotonic()
            for end in readable:
                try:
                    frame = os.read(end, FRAME)
                except BlockingIOError:
                    continue
                except OSError:
                    return  # the device went with its host
                free_at[end] = max(free_at[end], now) + len(frame) / self.bytes_per_s
                queues[other[end]].append((free_at[end] + self.delay_s, frame))
            for end, queue in queues.items():
                while queue and queue[0][0] <= now:
                    _, frame = queue.popleft()
                    if not self.cut:
                        with contextlib.suppress(OSError):  # the device is not up yet, or not any more
                            os.write(end, frame)

    def close(self) -> None:
        self._over.set()
        self.join()
        for end in self._ends:
            os.close(end)


class Host:
    """A network namespace with one address."""

    def __init__(self, name: str, address: str, device: str, environment: Mapping[str, str], log: Path) -> None:
        self.name, self.address, self.environment, self.log = name, address, dict(environment), log
        self.processes: list[subprocess.Popen[str]] = []
        _ip("netns", "add", name)
        _ip("link", "set", device, "netns", name)
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def command(self, *words: str) -> list[str]:
        """The command, as it runs on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def start_node(
        self, *arguments: str, environment: Mapping[str, str] | None = None, hidden: Path | None = None
    ) -> None:
        """A node of Ray with all its processes below one of ours; `hidden` is an empty folder to them."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        node = ["--node-ip-address", self.address, "--object-store-memory", OBJECTS]
        # `ip netns exec` gives the command mounts of its own.
        cover = 'mount -t tmpfs none "$0" && exec "$@"'
        covered = [] if hidden is None else ["sh", "-c", cover, str(hidden)]
        with self.log.open("a") as log:
            process = subprocess.Popen(
                self.command(*covered, *ray, *node, *arguments),
                stdout=log,
                stderr=log,
                env={**self.environment, **(environment or {})},
                start_new_session=True,
                text=True,
            )
        self.processes.append(process)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()  # `ray start --block` ends its node's processes
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in _pids_in(self.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        _ip("netns", "del", self.name)


class TwoHosts:
    """A head, which takes trials, and a worker; `link` is what joins them."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {**os.environ, **ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token)}
        tag = secrets.token_hex(2)
        devices = [f"rh{tag}", f"rw{tag}"]
        self.link = Link(devices)
        self.head = Host(f"head-{tag}", "10.77.0.1", devices[0], self.environment, folder / "head.log")
        self.worker = Host(f"worker-{tag}", "10.77.0.2", devices[1], self.environment, folder / "worker.log")
        self.link.start()
        self.address = f"{self.head.address}:{GCS_PORT}"

    def start(self, worker: Mapping[str, str] | None = None, hidden: Path | None = None) -> None:
        """Starts Ray on both; the worker's in this environment besides, and without that folder."""
        self.head.start_node("--head", "--port", str(GCS_PORT), "--num-cpus", "1", "--include-dashboard", "false")
        self._await_head()
        self.worker.start_node("--address", self.address, "--num-cpus", "1", environment=worker, hidden=hidden)

    def await_nodes(self, number: int) -> None:
        """Waits until the head knows of so many."""
        code = (
            f"import ray, time; ray.init({self.address!r}, log_to_driver=False); end = time.time() + 90\n"
            f"while sum(n['Alive'] for n in ray.nodes()) < {number}: assert time.time() < end; time.sleep(0.5)"
        )
        subprocess.run(self.head.command(sys.executable, "-c", code), check=True, env=self.environment)

    def _await_head(self) -> None:
        end = time.monotonic() + START_PATIENCE_S
        look = f"import socket; socket.create_connection(({self.head.address!r}, {GCS_PORT}), 1)"
        while subprocess.run(self.head.command(sys.executable, "-c", look), stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < end, self.head.log.read_text()
            time.sleep(0.5)


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two hosts without Ray yet."""
    hosts = TwoHosts(folder)
    try:
        yield hosts
    finally:
        hosts.link.cut = False
        hosts.worker.close()
        hosts.head.close()
        hosts.link.close()


def _tap(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _pids_in(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]
