"""A current folder whose modules have the names of others, and leave a trace where they are run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

OURS = ("trainer", "orchestrator", "search_spaces", "cluster")
LIBRARIES = ("ax", "mlflow", "ray", "torch", "numpy", "click", "pydantic", "yaml", "PIL", "matplotlib", "setuptools")
EVERY_NAME = (*OURS, *LIBRARIES, *sorted(sys.stdlib_module_names))
MODULE = "open({mark!r}, 'a').write(__name__ + ' ')\nraise SystemExit('from the current folder')\n"


def plant(folder: Path, names: Sequence[str] = EVERY_NAME) -> Path:
    """Puts a module of each name into the folder, every second one as a package; the file that tells which were run."""
    mark = folder / "executed"
    for number, name in enumerate(names):
        path = folder / f"{name}.py" if number % 2 == 0 else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(MODULE.format(mark=str(mark)))
    return mark
