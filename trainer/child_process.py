"""Children of our processes: none of them imports anything from the current folder.

Python puts the current folder before all others for `-m` and `-c`. A file `trainer.py`, `random.py` or a folder `ax`
that happens to lie there would be run in place of the module meant.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Python's own variable: no script's and no current folder is put into `sys.path`. Grandchildren have it from a child.
SAFE_PATH = "PYTHONSAFEPATH"
# The folder that holds `trainer` and, where it is installed, `orchestrator`.
HOME = Path(__file__).resolve().parents[1]
SITE_FOLDERS = ("site-packages", "dist-packages")


def python_command(*arguments: str) -> list[str]:
    """The command that starts this Python with these arguments."""
    return [sys.executable, "-P", *arguments]


def start_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **settings: Any
) -> subprocess.Popen[Any]:
    """Starts a child; a Python among its descendants imports nothing from the current folder.

    Args:
        command: see `python_command`.
        environment: of the child; ours where None.
        settings: as `subprocess.Popen` takes them.

    Raises:
        OSError: it could not be started.
    """
    environment = os.environ if environment is None else environment
    return subprocess.Popen(list(command), env=python_environment(environment), **settings)


def python_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The same environment with the current folder left out of Python's search path, and our own folder in it.

    An empty entry of PYTHONPATH means the current folder, and mostly comes from `PYTHONPATH=$PYTHONPATH:/elsewhere`.
    Entries that name a folder stay.
    """
    path = [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if entry]
    ours = checkout()
    if ours is not None and str(ours) not in path:
        path.append(str(ours))
    return {**inherited, SAFE_PATH: "1", "PYTHONPATH": os.pathsep.join(path)}


def checkout() -> Path | None:
    """The folder that our packages are imported from as an entry of `sys.path`; None where they are installed."""
    if HOME.name in SITE_FOLDERS:
        return None
    return HOME if any(Path(entry).resolve() == HOME for entry in sys.path) else None
