"""Where a result came from: versions, code, machine."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("reidsearch", "torch", "torchvision", "numpy", "scipy", "ray", "ax-platform", "botorch", "mlflow")
GIT_TIMEOUT_S = 10


def versions(plugins: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that can change a result, and of the packages `plugins`."""
    found = {"python": platform.python_version()}
    for package in dict.fromkeys((*PACKAGES, *plugins)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit of the checkout this code runs from, None if it is not one."""
    text = _git("rev-parse", "HEAD")
    return text.strip() if text else None


def uncommitted_changes() -> str:
    """The difference between that commit and the code that runs, as a patch; empty if there is none."""
    return _git("diff", "HEAD") or ""


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(  # noqa: TID251 - git
            ["git", "-C", str(here), *arguments], capture_output=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
