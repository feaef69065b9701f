"""A process that draws a share of a synthetic data set; see `trainer.data.synthetic.dataset`.

Run by path with ROOT SIZE SEED FIRST STEP: draws the walks FIRST, FIRST + STEP, ... of the plan below ROOT
and prints "frames bytes" for each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Draw what the arguments say."""
    root, size, seed, first, step = sys.argv[1:]
    _leave_out_torch()
    from trainer.data.synthetic.render import write_walk
    from trainer.data.synthetic.scene import SIZES, plan

    drawn = plan(next(name for name in SIZES if name == size), int(seed))
    for planned in (*drawn.train, *drawn.test)[int(first) :: int(step)]:
        line = f"{len(planned.walk.hidden)} {write_walk(Path(root), planned.walk)}\n"
        os.write(1, line.encode())  # one write per line, so that the lines of several processes do not mix


def _leave_out_torch() -> None:
    """Make the drawing modules importable without running `trainer/__init__.py`, which takes seconds."""
    synthetic = Path(__file__).resolve().parent
    for name, folder in (
        ("trainer", synthetic.parents[1]),
        ("trainer.data", synthetic.parent),
        ("trainer.data.synthetic", synthetic),
    ):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


if __name__ == "__main__":
    main()
