"""`launch --dry-run`: everything is checked, one step of the largest configuration tried, and nothing written."""

from __future__ import annotations

import time
from pathlib import Path

import click

from orchestrator.algorithms.warm_start import WarmStart
from orchestrator.base.formatting import duration
from orchestrator.base.progress import step_progress
from orchestrator.cluster.resources import Allocation, allocate, this_machine
from orchestrator.runner.launch import check_search
from orchestrator.runner.preparation import check_storage, plan, smoke_test_space
from orchestrator.runner.smoke_test import run_smoke_test
from orchestrator.show.forecast import forecast, forecast_text
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.space.worst_case import worst_case
from orchestrator.study.description import Options
from trainer.files import existing_folder


def dry_run_of(
    space: SearchSpace,
    *,
    storage: Path,
    name: str | None,
    seed: int,
    options: Options,
    warm_start: WarmStart | None,
) -> None:
    """Checks the search, prints its plan, tries a step, and prints the forecast; arguments as in `create_search`.

    Raises:
        SearchError, DataError: as `create_search`.
        SpaceError: the trainer refuses a corner or a random point of the space.
        ConfigError: data or machine cannot follow the largest configuration.
        EnvironmentProblem: it does not fit into the memory, or more GPUs are asked for than there are.
    """
    began = time.monotonic()
    check_storage(storage)
    share = share_of_this_machine(space, options)
    with smoke_test_space(space) as there:
        check_search(there, storage=storage, name=name, seed=seed, options=options, warm_start=warm_start)
        click.echo(plan(space, storage))
        found = worst_case(there)
        click.echo("trying the largest configuration; this takes a few steps", err=True)
        with step_progress() as progress:
            cost = run_smoke_test(found.config, threads=share.cpus, disk=existing_folder(storage), progress=progress)
    click.echo(forecast_text(forecast(space, cost, found, share), cost, found, space, share))
    if options.address is not None:
        click.echo(f"          for this machine; what the cluster at {options.address} has was not looked at")
    click.echo(f"nothing was started or written; checked in {duration(time.monotonic() - began)}")


def share_of_this_machine(space: SearchSpace, options: Options) -> Allocation:
    """How trials would share this machine, were it all there is.

    Raises:
        EnvironmentProblem: GPUs are asked for that it does not have.
    """
    import torch

    # A cluster may have what this machine lacks.
    resources = Resources() if options.address is not None else options.resources(space)
    return allocate(
        [this_machine(gpus=torch.cuda.device_count())],
        resources,
        concurrent=options.concurrent or space.budget.concurrent,
        trials=space.budget.trials,
    )
