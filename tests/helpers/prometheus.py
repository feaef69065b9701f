"""A real Prometheus with our own configuration, in a temporary folder, on the loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outage import free_port
from waiting import PATIENCE_S

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


class Prometheus:
    """A server that runs."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that went."""
        found: list[dict[str, Any]] = self._get("targets", state="active")["activeTargets"]
        return found

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label among the series of a selector, as a variable of a dashboard asks for them."""
        query = urllib.parse.urlencode({"match[]": selector})
        found: list[str] = self._get(f"label/{label}/values?{query}")
        return found

    def _get(self, what: str, **arguments: str) -> Any:
        query = f"?{urllib.parse.urlencode(arguments)}" if arguments else ""
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/{what}{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what} {arguments}: {error.read().decode()}") from error


@contextmanager
def prometheus(configuration: str, folder: Path) -> Iterator[Prometheus]:
    """A server with the configuration, until the block ends."""
    assert PROMETHEUS is not None
    folder.mkdir()
    (folder / "prometheus.yml").write_text(configuration)
    port = free_port()
    command = [
        PROMETHEUS,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await_ready(port, process, folder / "log")
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()}")
