"""weights fetch: what machines without internet need of pretrained networks."""

from __future__ import annotations

from typing import Annotated

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import shell_complete
from orchestrator.cli.declared import argument, command
from orchestrator.cli.options import Overrides


@click.group()
def weights() -> None:
    """Pretrained weights of networks."""


@command(example="reidsearch weights fetch attn_cl.yaml", group=weights)
def fetch(
    files: Annotated[tuple[str, ...], argument(metavar="FILE...", nargs=-1, shell_complete=shell_complete.space_names)],
    overrides: Overrides = (),
) -> int:
    """Download the weights of every network of search spaces, unless they are there; for nodes without internet.

    They go where torch and timm look for them: TORCH_HOME (~/.cache/torch) and HF_HOME (~/.cache/huggingface).
    """
    import torch

    from orchestrator.runner.prepare_space import check_weights
    from orchestrator.space.search_space import SearchSpace

    for file in files:
        space = SearchSpace.load(file, overrides)
        for source, backbone in sorted(check_weights(space)):
            if source == "none":
                click.echo(f"{space.name}: {backbone} has random weights, there is nothing to fetch")
            else:
                click.echo(
                    f"{space.name}: {backbone} has its weights ({source}); torch keeps them in {torch.hub.get_dir()}"
                )
    return Exit.OK
