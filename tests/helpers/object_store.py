"""A real server of the S3 protocol on the loopback, and machines that see nothing of each other but it."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from orchestrator.stores.object_store import forget_when

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}


class ObjectStore:
    """The server, which forgets everything when it ends."""

    def __init__(self, port: int) -> None:
        self.port = port

    def bucket(self, port: int | None = None) -> str:
        """URI of a new bucket; through another port, that of a proxy, if one is given."""
        name = f"bucket-{secrets.token_hex(4)}"
        made = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")
        urllib.request.urlopen(made, timeout=PATIENCE_S).close()
        return f"s3://{name}/searches?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port or self.port}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Starts the server, and ends it."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not _answers(port):
            assert server.poll() is None and time.monotonic() < end, "the S3 server does not start"
            time.sleep(0.05)
        yield ObjectStore(port)
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        return True
    return False


class Machines:
    """Machines in one process: each has a cache of its own, and one of them at a time is this one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch

    def become(self, name: str) -> None:
        """From here on this process runs on that machine."""
        self._monkeypatch.setenv("XDG_CACHE_HOME", str(self._folder / name))
        forget_when()
