"""The head of a Ray cluster alone: its server of addresses and names, which starts in a tenth of a second."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import PATIENCE_S

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.authentication import head_accepts


@contextmanager
def head(folder: Path, token: str | None, *, address: str = "127.0.0.1") -> Iterator[int]:
    """The port of a head that demands this token, or none; with another address it listens everywhere."""
    package = importlib.util.find_spec("ray")
    assert package is not None and package.submodule_search_locations
    with socket.create_server(("", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN": token or ""}
    arguments = {
        **{"log_dir": folder, "session-dir": folder, "session-name": "alone", "config_list": "e30="},
        **{"gcs_server_port": port, "metrics-agent-port": 0, "node-ip-address": address, "node-id": "00" * 28},
    }
    process = subprocess.Popen(
        [
            Path(package.submodule_search_locations[0]) / "core/src/ray/gcs/gcs_server",
            *(f"--{name}={value}" for name, value in arguments.items()),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                head_accepts(f"127.0.0.1:{port}", None)
                break
            except EnvironmentProblem:
                assert process.poll() is None and time.monotonic() < end, "it did not start"
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()
