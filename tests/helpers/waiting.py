"""How long tests wait: for conditions, never for times to pass, and for all of them the same long while."""

from __future__ import annotations

import time
from collections.abc import Callable

# Far more than anything here takes on a busy machine: who waits that long has found a hang. Less than what pytest lets
# a test take (setup.cfg), so that the test can still say what it waited for.
PATIENCE_S = 600


def wait_until(
    condition: Callable[[], object], otherwise: Callable[[], str] = lambda: "it never came to that", pause: float = 0.02
) -> None:
    """Returns as soon as the condition holds.

    Args:
        condition: asked again and again.
        otherwise: what the failure says.
        pause: seconds between two questions.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(pause)
