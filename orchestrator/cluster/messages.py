"""What Ray's daemons have to say to a driver: kept in a file rather than on people's screens."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep_messages(log: Path) -> None:
    """Appends from here on to `log` what Ray would print: pages of state for every node that is lost.

    Ray has no setting for it: `log_to_driver=False` is for what workers print.
    """
    from ray._private import worker

    lock = threading.Lock()
    log.parent.mkdir(parents=True, exist_ok=True)

    def append(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        with lock, log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    worker.print_to_stdstream = append
