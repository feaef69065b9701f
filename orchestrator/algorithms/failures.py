"""When failures say that going on is pointless, as a pure function of the history."""

from __future__ import annotations

from orchestrator.base.errors import Exit, OrchestratorError
from orchestrator.base.hints import hint
from orchestrator.stores.base import SearchFolder
from orchestrator.study.study import Study

# One may be chance and two a coincidence.
EQUAL_FAILURES = 3
# What a configuration does to itself says nothing about the next one.
OF_THE_CONFIGURATION = ("diverged", "out_of_memory")


class DiskFull(OrchestratorError):
    """An attempt had no room for its checkpoint. No trial is lost; the message says where room is to be made."""

    exit_code = Exit.ENVIRONMENT

    def __init__(self, folder: SearchFolder, reason: str) -> None:
        super().__init__(f"{reason}; make room there, then `{hint('resume', folder.name, storage=folder.path.parent)}`")


class CircuitBroken(OrchestratorError):
    """Trials fail one after another in the same way; the message says how, and what to do."""

    exit_code = Exit.SEARCH_FAILED


def broken_circuit(study: Study, folder: SearchFolder) -> CircuitBroken | None:
    """Why the search should end: its last three trials failed for good in the same way and none completed meanwhile.

    Trials that diverged or needed too much memory do not count. A resumed search starts to count anew.
    """
    latest = study.failed[-EQUAL_FAILURES:]
    ways = {(event.failure, event.reason.partition("\n")[0]) for event in latest}
    if len(latest) < EQUAL_FAILURES or len(ways) > 1 or latest[0].failure in OF_THE_CONFIGURATION:
        return None
    last, storage = latest[-1], folder.path.parent
    return CircuitBroken(
        f"{folder.name}: {EQUAL_FAILURES} trials in a row failed in the same way ({last.failure}: {last.reason}); mend "
        f"that (`{hint('logs', f'{folder.name}/{last.trial}', storage=storage)}`), then "
        f"`{hint('resume', folder.name, '--errored', 'retry', storage=storage)}`"
    )
