"""`import reidsearch as rs`: searches from notebooks and programs, as `orchestrator` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import __all__ as __all__
from orchestrator import __getattr__ as __getattr__

if TYPE_CHECKING:
    from orchestrator import CheckpointError as CheckpointError
    from orchestrator import EnvironmentProblem as EnvironmentProblem
    from orchestrator import JournalError as JournalError
    from orchestrator import LeaseError as LeaseError
    from orchestrator import OrchestratorError as OrchestratorError
    from orchestrator import Search as Search
    from orchestrator import SearchError as SearchError
    from orchestrator import SpaceError as SpaceError
    from orchestrator import launch as launch
    from orchestrator import load as load
    from orchestrator import resume as resume
    from orchestrator import searches as searches


def __dir__() -> list[str]:
    return list(__all__)
