"""Checks of ports, of a Ray cluster, and of MLflow's database."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.base.hints import hint
from orchestrator.base.uris import database_uri, file_uri
from orchestrator.cluster.authentication import Admission, admit_dashboard, answers, dashboard_json, existing_token
from orchestrator.cluster.ray import admit_to
from orchestrator.doctor.findings import Finding
from trainer.formatting import first_line

PORTS = {
    8265: ("Ray's dashboard", "Ray takes the next free one; `launch` prints its address"),
    5000: ("MLflow's page", "give the server another --port"),
}
REVISION = re.compile(r"""^revision\s*(?::.*)?=\s*["'](\w+)["']""", re.MULTILINE)
FOLLOWED = re.compile(r"""^down_revision\s*(?::.*)?=\s*["'](\w+)["']""", re.MULTILINE)


def ports() -> Iterator[Finding]:
    """Whether the ports of the dashboards are free on 127.0.0.1."""
    taken = [port for port in PORTS if answers("127.0.0.1", port)]
    for port in taken:
        service, advice = PORTS[port]
        yield Finding("warn", "ports", f"{port} ({service}) is taken", advice)
    free = [str(port) for port in PORTS if port not in taken]
    if free:
        yield Finding("ok", "ports", f"{', '.join(free)} free on 127.0.0.1")


def ray_address(address: str) -> Iterator[Finding]:
    """Whether a cluster answers, demands a token, accepts ours, and, for a dashboard, has the same version of Ray."""
    is_dashboard = address.startswith("http")
    try:
        found = admit_dashboard(address, insecure=True) if is_dashboard else admit_to(address, insecure=True)
    except EnvironmentProblem as error:
        text, _, advice = str(error).partition("; " if "; " in str(error) else ": ")
        yield Finding("problem", "ray", text, advice)
        return
    if is_dashboard and (wrong := _other_version(found)):
        yield wrong
    elif found.mode == "token":
        yield Finding("ok", "ray", f"{address} answers, demands a token and accepts ours")
    elif found.only_here:
        advice = "other users of this machine can run code on it: set RAY_AUTH_MODE=token for all its nodes"
        yield Finding("warn", "ray", f"{address} answers this machine only, no token asked for", advice)
    else:
        advice = (
            "anyone who can reach the port can run code on it: set RAY_AUTH_MODE=token on all machines "
            "(docs/security.md); `launch` joins it only with --insecure"
        )
        yield Finding("problem", "ray", f"{address} answers, no token asked for", advice)


def _other_version(dashboard: Admission) -> Finding | None:
    """The finding for a dashboard of another version of Ray, or of something else."""
    address, ours = dashboard.address, version("ray")
    token = existing_token() if dashboard.mode == "token" else None
    try:
        theirs = str(dashboard_json(address, "/api/version", token)["ray_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding("problem", "ray", f"{address}: {first_line(error)}", "is it a Ray dashboard?")
    if theirs == ours:
        return None
    return Finding(
        "problem", "ray", f"{address}: Ray {theirs}, here {ours}", "install the same version on all machines"
    )


def mlflow_schema(database: Path) -> Iterator[Finding]:
    """Whether the installed MLflow can use the storage's database."""
    if not database.is_file():
        yield Finding("ok", "mlflow", f"{database} does not exist yet; the first search creates it")
        return
    sync = hint("sync", "NAME", storage=str(database.parent))
    try:
        found = schema_of(database)
    except sqlite3.Error as error:
        advice = f"move it away; `{sync}` writes a search to a new one"
        yield Finding("problem", "mlflow", f"{database}: not a database of MLflow ({first_line(error)})", advice)
        return
    newest, known = schemas()
    ours = f"MLflow {version('mlflow')}"
    if found in newest:
        yield Finding("ok", "mlflow", f"{database}: has the schema of {ours}")
    elif found in known:
        advice = f"copy the file, then: mlflow db upgrade {shlex.quote(database_uri(database))}"
        yield Finding("problem", "mlflow", f"{database}: has an older schema than {ours}", advice)
    else:
        advice = f"install the MLflow that wrote it, or move it away and `{sync}`"
        yield Finding("problem", "mlflow", f"{database}: has a schema that {ours} does not know", advice)


def schema_of(database: Path) -> str:
    """The revision of a database's schema.

    Raises:
        sqlite3.Error: it is not a database, or not one of MLflow.
    """
    with closing(sqlite3.connect(f"{file_uri(database)}?mode=ro", uri=True)) as opened:
        rows = opened.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(rows[0][0]) if rows else ""


def schemas() -> tuple[set[str], set[str]]:
    """The newest schemas that MLflow knows (one, unless its history is forked), and all of them.

    Read from the text of its migrations: importing them imports MLflow, which takes seconds.
    """
    package = importlib.util.find_spec("mlflow")
    assert package is not None and package.submodule_search_locations
    versions = Path(package.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    texts = [path.read_text(encoding="utf-8") for path in versions.glob("*.py")]
    known = {found[1] for text in texts if (found := REVISION.search(text))}
    followed = {found[1] for text in texts if (found := FOLLOWED.search(text))}
    return known - followed, known
