"""doctor: is this machine fit for searches?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from orchestrator.base.errors import Exit
from orchestrator.base.hints import DEFAULT_STORAGE
from orchestrator.cli.declared import command, option
from orchestrator.cli.options import AsJson, Storage

if TYPE_CHECKING:
    from orchestrator.doctor.findings import Finding


@command(example="reidsearch doctor --data /data/mars --address head:6379")
def doctor(
    data: Annotated[Path | None, option("--data", metavar="DIR", help="Data set to look at.")] = None,
    address: Annotated[
        str | None,
        option("--address", metavar="ADDRESS", help="Ray cluster to reach: HOST:PORT, auto, or http://HOST:8265."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Look at versions, GPUs, memory, disk, clock, ports and MLflow; exit code 5 when something is wrong."""
    from orchestrator.doctor import examine
    from orchestrator.stores import open_store

    return report_findings(examine(data=data, address=address, storage=open_store(storage).path), as_json=as_json)


def report_findings(found: Iterable[Finding], *, as_json: bool) -> int:
    """Prints findings as they come, or all in one document; the exit code says whether something is wrong."""
    from orchestrator.doctor import summary

    findings = []
    for finding in found:
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.level:<8}{finding.subject:<13} {finding.text}")
            if finding.advice:
                click.echo(f"{'':<22}-> {finding.advice}")
    wrong = any(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps({"fit": not wrong, "findings": [finding._asdict() for finding in findings]}))
    else:
        click.echo(summary(findings))
    return Exit.ENVIRONMENT if wrong else Exit.OK
