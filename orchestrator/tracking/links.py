"""Addresses of pages of an MLflow server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.tracking.rest import call, without_password

PATIENCE_S = 3.0


def comparison_page(uri: str, runs: Sequence[str], experiment: str) -> str:
    """The page of the server that compares the runs."""
    listed, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(runs), [experiment]))
    return f"{without_password(uri).rstrip('/')}/#/compare-runs?runs={listed}&experiments={experiments}"


def experiment_of(uri: str, run: str) -> str | None:
    """The experiment that a run of the server belongs to; None where the server does not say."""
    try:
        found = call(uri, f"runs/get?run_id={quote(run)}", patience=PATIENCE_S)
        return str(found["run"]["info"]["experiment_id"])
    except (EnvironmentProblem, KeyError, TypeError):
        return None
