"""cluster plan."""

from __future__ import annotations

import json

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options


@click.command(epilog="Example: reidsearch cluster plan attn_cl.yaml --address http://head:8265")
@options.space_file
@options.overrides
@click.option(
    "--address", metavar="ADDRESS", required=True, help="http://HOST:8265 from anywhere; HOST:PORT on a node."
)
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
@options.insecure
@options.as_json
def plan(
    file: str,
    overrides: tuple[str, ...],
    address: str,
    concurrent: int | None,
    cpus_per_trial: int | None,
    gpus_per_trial: float | None,
    memory_per_trial: str | None,
    insecure: bool,
    as_json: bool,
) -> int:
    """Say what of a search fits on a cluster, and what never can; starts nothing."""
    from orchestrator.cluster.planning import plan_document, plan_lines, plan_on
    from orchestrator.space.search_space import SearchSpace
    from orchestrator.study.description import Options

    asked = Options(
        concurrent=concurrent,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        memory_per_trial=memory_per_trial,
        address=address,
        insecure=insecure,
    )
    found = plan_on(SearchSpace.from_yaml(file, overrides=overrides), asked)
    if as_json:
        click.echo(json.dumps(plan_document(found), indent=1))
    else:
        for label, line in plan_lines(found):
            click.echo(f"{label:<10}{line}")
    return Exit.OK
