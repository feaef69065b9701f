"""cluster plan, cluster slurm, cluster k8s, cluster ray-up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.base.errors import Exit
from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.cluster.manifests import Machines, Work

MINI_MARS = "mini-mars"

nodes = click.option("--nodes", type=click.IntRange(min=1, max=10_000), required=True, help="Machines that run trials.")
cpus = click.option("--cpus-per-node", type=click.IntRange(min=1), required=True, help="CPU cores of each.")
gpus = click.option("--gpus-per-node", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs of each.")
name = click.option("--name", help="Name of the search.  [default: the space's]")
storage = click.option("--storage", metavar="DIR|URI", required=True, help="Storage that all machines see.")
data = click.option("--data", metavar="DIR|mini-mars", help="Data set, where the machines see it.")
image = click.option("--image", metavar="IMAGE", help="Container image, such as that of cluster/Dockerfile.")
environment = click.option(
    "--environment",
    metavar="DIR",
    default=sys.prefix,
    help="Python environment with reidsearch, the same on all machines.  [default: this one]",
)


@click.group()
def cluster() -> None:
    """Say what fits on a cluster, and write the files that start one: for Slurm, Kubernetes and `ray up`."""


@cluster.command(
    epilog="Example: reidsearch cluster slurm attn_cl.yaml --nodes 2 --gpus-per-node 4 --cpus-per-node 32 "
    "--time 08:00:00 --storage /shared/runs --data /shared/mars > job.sbatch"
)
@options.space_file
@nodes
@gpus
@cpus
@click.option(
    "--time", required=True, metavar="[D-]HH:MM:SS", help="Limit of one start; the search goes on in the next."
)
@click.option("--memory", default="0", show_default="all", metavar="SIZE", help="Memory of each node, such as 64G.")
@click.option("--partition", help="Partition of the cluster.")
@click.option("--account", help="Account to charge.")
@click.option("--qos", help="Quality of service.")
@click.option(
    "--save-before",
    type=click.IntRange(min=30),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="How long before the limit the search is told to save.",
)
@name
@storage
@data
@options.stage_data
@environment
@options.overrides
@options.tracking_uri
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
def slurm(file: str, time: str, memory: str, environment: str, save_before: int, **given: Any) -> int:
    """Write a job script for Slurm, which runs a search on whole nodes and queues itself again until it is done."""
    from orchestrator.cluster.manifests import SlurmJob, slurm_script

    job = SlurmJob(
        _machines(given),
        time,
        environment,
        str(Path(file).absolute()) if Path(file).is_file() else file,
        memory,
        save_before,
        given["partition"],
        given["account"],
        given["qos"],
    )
    click.echo(slurm_script(_work(file, given, beside=("overrides",)), job), nl=False)
    return Exit.OK


@cluster.command(
    epilog="Example: reidsearch cluster k8s attn_cl.yaml --nodes 2 --gpus-per-node 4 --cpus-per-node 32 "
    "--image registry.example.org/reidsearch:0.1.0 --storage /shared/runs --data /shared/mars > rayjob.yaml"
)
@options.space_file
@click.option(
    "--kind",
    type=click.Choice(["job", "cluster"]),
    default="job",
    show_default=True,
    help="A RayJob for this search, or a RayCluster that stays.",
)
@nodes
@gpus
@cpus
@click.option("--memory-per-node", default="64Gi", show_default=True, metavar="SIZE", help="Memory of each pod.")
@image
@click.option("--claim", default="reidsearch", show_default=True, help="Volume claim that the pods share as /shared.")
@click.option(
    "--storage-class", help="Storage class of that claim; must let many nodes write.  [default: the cluster's]"
)
@click.option("--storage-size", default="100Gi", show_default=True, metavar="SIZE", help="Size of that claim.")
@name
@storage
@data
@options.stage_data
@options.overrides
@options.tracking_uri
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
def k8s(file: str, kind: str, memory_per_node: str, image: str | None, **given: Any) -> int:
    """Write manifests for KubeRay: a search as a RayJob with its volume claim, or a RayCluster for several."""
    from orchestrator.cluster import manifests

    if image is None:
        raise click.UsageError("Missing option '--image'.")
    asked = manifests.KubernetesCluster(
        _machines(given), image, memory_per_node, given["claim"], given["storage_class"], given["storage_size"]
    )
    work = _work(file, given)
    write = manifests.kubernetes_job if kind == "job" else manifests.kubernetes_cluster
    click.echo(write(work, asked), nl=False)
    return Exit.OK


@cluster.command(
    "ray-up",
    epilog="Example: reidsearch cluster ray-up attn_cl.yaml --provider onprem --head a.lab --worker b.lab "
    "--worker c.lab --user reid --gpus-per-node 4 --cpus-per-node 32 > ray-up.yaml",
)
@options.space_file
@click.option("--provider", type=click.Choice(["onprem", "aws", "gcp"]), required=True, help="Whose machines they are.")
@click.option("--nodes", type=click.IntRange(min=1, max=10_000), help="aws, gcp: machines that run trials, at most.")
@gpus
@cpus
@name
@click.option("--user", metavar="USER", help="Who logs in.  [default: ubuntu; needed for onprem]")
@click.option("--head", metavar="HOST", help="onprem: machine of Ray's servers and the driver.")
@click.option(
    "--worker", "workers", multiple=True, metavar="HOST", help="onprem: machine that runs trials; repeatable."
)
@click.option("--environment", metavar="DIR", help="onprem: Python environment with reidsearch.  [default: this one]")
@click.option("--region", help="aws, gcp: where the machines are.")
@click.option("--zone", help="gcp: where in the region.")
@click.option("--project", help="gcp: project to charge.")
@click.option("--machine", metavar="TYPE", help="aws, gcp: type of the machines that run trials, such as g6.4xlarge.")
@click.option("--head-machine", metavar="TYPE", help="aws, gcp: type of the head.")
@image
@options.overrides
@options.concurrent
@options.cpus_per_trial
@options.gpus_per_trial
@options.memory_per_trial
def ray_up(file: str, provider: str, **given: Any) -> int:
    """Write the file that `ray up` starts a cluster from, on machines of your own or on rented ones."""
    from orchestrator.cluster import manifests

    needed = {"onprem": ("head", "workers", "user"), "gcp": (*RENTED, "zone", "project"), "aws": RENTED}[provider]
    _exactly(provider, given, needed, optional=("environment",) if provider == "onprem" else ("user",))
    if provider == "onprem":
        own = manifests.OwnMachines(given["head"], given["workers"], given["user"], given["environment"] or sys.prefix)
        text = manifests.ray_up_own(_work(file, given), _machines(given | {"nodes": len(own.workers)}), own)
    else:
        rented = {key: given[key] for key in ("region", "machine", "head_machine", "image", "project", "zone")}
        machines = manifests.CloudMachines(provider=provider, user=given["user"] or "ubuntu", **rented)
        text = manifests.ray_up_cloud(_work(file, given), _machines(given), machines)
    click.echo(text, nl=False)
    return Exit.OK


RENTED = ("nodes", "region", "machine", "head_machine", "image")
OF_A_PROVIDER = ("head", "workers", "user", *RENTED, "environment", "zone", "project")


def _exactly(provider: str, given: dict[str, Any], needed: tuple[str, ...], *, optional: tuple[str, ...]) -> None:
    """Refuses options that a provider lacks, and those that would have no effect."""
    for key in OF_A_PROVIDER:
        option = "--worker" if key == "workers" else f"--{key.replace('_', '-')}"
        if key in needed and not given[key]:
            raise click.UsageError(f"--provider {provider} needs {option}")
        if given[key] and key not in (*needed, *optional):
            raise click.UsageError(f"{option} means nothing to --provider {provider}")


def _machines(given: dict[str, Any]) -> Machines:
    from orchestrator.cluster.manifests import Machines

    return Machines(given["nodes"], given["cpus_per_node"], given["gpus_per_node"])


def _work(file: str, given: dict[str, Any], *, beside: tuple[str, ...] = ()) -> Work:
    """The search that the machines are for.

    Args:
        file: of the space.
        given: the command's options.
        beside: `("overrides",)` where the space is read from its file again, without what `--set` changes.
    """
    from orchestrator.cluster.manifests import Work
    from orchestrator.space.options import Resources
    from orchestrator.space.search_space import SearchSpace

    space = SearchSpace.load(file, overrides=given["overrides"])
    of_a_trial = {key: given[key] for key in ("cpus_per_trial", "gpus_per_trial", "memory_per_trial")}
    words = {key: _absolute(given.get(key)) for key in ("data", "stage_data")}
    words |= {"tracking_uri": given.get("tracking_uri")}
    words |= {"concurrent": given["concurrent"], **of_a_trial}
    launch = [word for key, value in words.items() if value is not None for word in _option(key, value)]
    launch += [word for override in given["overrides"] if beside for word in ("--set", override)]
    storage = _absolute(given.get("storage")) or ""
    return Work(
        space, given["name"] or space.name, storage, launch, given["concurrent"], Resources.model_validate(of_a_trial)
    )


def _option(key: str, value: Any) -> tuple[str, str]:
    return f"--{key.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)


def _absolute(place: str | None) -> str | None:
    """A folder as it is called from anywhere; a URI, and the word for generated data, as they are."""
    from orchestrator.stores.address import is_uri

    return place if place is None or is_uri(place) or place == MINI_MARS else str(Path(place).absolute())


@cluster.command(epilog="Example: reidsearch cluster plan attn_cl.yaml --address http://head:8265")
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
    found = plan_on(SearchSpace.load(file, overrides=overrides), asked)
    if as_json:
        click.echo(json.dumps(plan_document(found), indent=1))
    else:
        for label, line in plan_lines(found):
            click.echo(f"{label:<10}{line}")
    return Exit.OK
