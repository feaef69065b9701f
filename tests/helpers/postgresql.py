"""A PostgreSQL server of our own, in a temporary folder, on the loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outage import free_port
from waiting import PATIENCE_S

# Where Debian keeps what is not meant to be called by hand.
DEBIAN_BINARIES = "usr/lib/postgresql/*/bin"


def binaries() -> Path | None:
    """Folder of PostgreSQL's programs, if it is installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return max(Path("/").glob(DEBIAN_BINARIES), default=None)


@contextmanager
def postgresql() -> Iterator[int]:
    """The port of a server with a database and a user both called `postgres`, no password."""
    programs = binaries()
    assert programs is not None
    # Not below pytest's own folder, which only its owner may enter: as root the server runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        user = _unprivileged()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        quiet = {"stdout": subprocess.DEVNULL, "cwd": folder, **identity}
        data = f"{folder}/data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], check=True, **quiet
        )
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), *options], stderr=log, **quiet
            )
        try:
            _await_ready(programs, port, server)
            yield port
        finally:
            # Fast shutdown: ends the sessions that are still open.
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server when root may not."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _await_ready(programs: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.poll() is None:
        if (
            subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode
            == 0
        ):
            return
        time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start")
