"""simulate."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options

RULES = ("none", "asha", "percentile")
ALGORITHMS = ("journaled", "random", "sobol", "grid", "ax")


@click.command(
    epilog="Example: reidsearch simulate attn_cl-7f3a --stopping asha --algorithm random --set stopping.grace=2"
)
@options.search
@click.option(
    "--stopping", "rules", type=click.Choice(RULES), multiple=True, help="Rule; may be repeated.  [default: all]"
)
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(ALGORITHMS),
    multiple=True,
    help="Order of the trials; may be repeated.  [default: journaled]",
)
@click.option("--slots", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at once.")
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Replays of each algorithm.")
@click.option("--set", "overrides", multiple=True, metavar="stopping.KEY=VALUE", help="Change a setting of the rules.")
@options.storage
@options.as_json
def simulate(
    name: str,
    rules: tuple[str, ...],
    algorithms: tuple[str, ...],
    slots: int,
    seeds: int,
    overrides: tuple[str, ...],
    storage: Path,
    as_json: bool,
) -> int:
    """Replay a finished search's curves under other stopping rules and orders; nothing is trained."""
    from orchestrator.study.folder import existing_search

    existing_search(storage, name)  # before the import of torch
    from orchestrator.show.simulate_view import Asked, show_simulation

    asked = Asked(rules or RULES, algorithms or ("journaled",), overrides, slots, seeds)
    show_simulation(storage, name, asked, as_json=as_json)
    return Exit.OK
