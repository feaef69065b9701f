"""cluster plan, slurm, k8s, ray-up, check: what fits on a cluster, the files that start one, whether one takes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from orchestrator.base.errors import Exit
from orchestrator.cli.declared import argument, command, command_arguments, option
from orchestrator.cli.doctor import report_findings
from orchestrator.cli.options import (
    TRIAL,
    AsJson,
    Insecure,
    LaunchOptions,
    Overrides,
    SpaceFile,
    StageData,
    TrackingUri,
    TrialResources,
    run_settings,
)

if TYPE_CHECKING:
    from orchestrator.cluster.manifests import Machines, Work


@click.group()
def cluster() -> None:
    """Say what fits on a cluster, and write the files that start one: for Slurm, Kubernetes and `ray up`."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(TrialResources):
    """A search, and a cluster that is there."""

    file: SpaceFile
    overrides: Overrides = ()
    address: Annotated[
        str, option("--address", metavar="ADDRESS", help="http://HOST:8265 from anywhere; HOST:PORT on a node.")
    ]
    insecure: Insecure = False
    as_json: AsJson = False


@command(example="reidsearch cluster plan attn_cl.yaml --address http://head:8265", group=cluster)
def plan(given: PlanOptions) -> int:
    """Say what of a search fits on a cluster, and what never can; starts nothing."""
    from orchestrator.cluster.planning import plan_document, plan_lines, plan_on
    from orchestrator.space.search_space import SearchSpace
    from orchestrator.study.description import Options

    found = plan_on(SearchSpace.load(given.file, given.overrides), Options(**run_settings(given)))
    if given.as_json:
        click.echo(json.dumps(plan_document(found), indent=1))
    else:
        for label, line in plan_lines(found):
            click.echo(f"{label:<10}{line}")
    return Exit.OK


@command(example="reidsearch cluster check rayjob.yaml", group=cluster)
def check(
    file: Annotated[Path, argument(metavar="FILE", type=click.Path(path_type=Path))],
    namespace: Annotated[str | None, option("--namespace", metavar="NAME", help="[default: the context's own]")] = None,
    as_json: AsJson = False,
) -> int:
    """Ask Kubernetes, by kubectl, whether it takes a file or kustomization and has what it names; changes nothing."""
    from orchestrator.doctor.kubernetes import examine

    return report_findings(examine(file, namespace), as_json=as_json)


Image = option("--image", metavar="IMAGE", help="Container image, such as that of cluster/Dockerfile.")
UP_TO_10_000 = click.IntRange(1, 10_000)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(TrialResources):
    """A search, and machines for it, all alike."""

    file: SpaceFile
    gpus_per_node: Annotated[
        int, option("--gpus-per-node", type=click.IntRange(0, 1_000), help="GPUs of each.", show_default=True)
    ] = 0
    cpus_per_node: Annotated[int, option("--cpus-per-node", type=UP_TO_10_000, help="CPU cores of each.")]
    name: Annotated[str | None, option("--name", help="Name of the search.  [default: the space's]")] = None
    overrides: Overrides = ()


@dataclass(frozen=True, kw_only=True)
class JobOptions(MachineOptions):
    """The same, as a job that launches the search."""

    nodes: Annotated[int, option("--nodes", type=UP_TO_10_000, help="Machines that run trials.")]
    storage: Annotated[str, option("--storage", metavar="DIR|URI", help="Storage that all machines see.")]
    data: Annotated[
        str | None, option("--data", metavar="DIR|mini-mars", help="Data set, where the machines see it.")
    ] = None
    stage_data: StageData = None
    tracking_uri: TrackingUri = None


@dataclass(frozen=True, kw_only=True)
class SlurmOptions(JobOptions):
    """The job for Slurm."""

    time: Annotated[
        str,
        option("--time", metavar="[D-]HH:MM:SS", help="Limit of one start; the search goes on in the next."),
    ]
    memory: Annotated[
        str | None,
        option(
            "--memory",
            metavar="SIZE",
            help="Memory of each node, such as 64G.  [default: the site's for a part of one node; all of several]",
        ),
    ] = None
    sbatch: Annotated[
        tuple[str, ...],
        option(
            "--sbatch",
            metavar="KEY=VALUE",
            help="What else is asked of Slurm, such as partition=gpu or account=vision/reid; repeatable.",
        ),
    ] = ()
    setup: Annotated[
        tuple[str, ...],
        option(
            "--setup", metavar="LINE", help="Line of shell before the search, such as 'module load cuda'; repeatable."
        ),
    ] = ()
    container: Annotated[
        str | None, option("--container", metavar="FILE", help="Image of Apptainer to run the search in.")
    ] = None
    save_before: Annotated[
        int,
        option(
            "--save-before",
            type=click.IntRange(30, 65_535),
            metavar="SECONDS",
            help="How long before the limit the search is told to save.",
        ),
    ] = 120
    environment: Annotated[
        str,
        option(
            "--environment",
            metavar="DIR",
            show_default=False,
            help="Python environment with reidsearch, the same on all machines.  [default: this one]",
        ),
    ] = sys.prefix


@command(
    example="reidsearch cluster slurm attn_cl.yaml --nodes 2 --gpus-per-node 4 --cpus-per-node 32 "
    "--time 08:00:00 --storage /shared/runs --data /shared/mars > job.sbatch",
    group=cluster,
)
def slurm(given: SlurmOptions) -> int:
    """Write a job script for Slurm: a search on one node or several, queued again until it is done."""
    from orchestrator.cluster.slurm import SlurmJob, require_environment, slurm_script, warnings

    job = SlurmJob(
        machines=_machines(given, given.nodes),
        time=given.time,
        environment=require_environment(given.environment, given.container),
        space=str(Path(given.file).absolute()) if Path(given.file).is_file() else given.file,
        memory=given.memory,
        save_before=given.save_before,
        sbatch=given.sbatch,
        setup=given.setup,
        container=None if given.container is None else _absolute(given.container),
    )
    # The job reads the space from its file, without what `--set` changes.
    work = _work(given, overrides=given.overrides)
    return _written(slurm_script(work, job), warnings(work, job.container))


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions(JobOptions):
    """The objects for KubeRay."""

    image: Annotated[str, Image]
    kind: Annotated[
        str,
        option(
            "--kind",
            type=click.Choice(["job", "cluster"]),
            help="A RayJob for this search, or a RayCluster that stays.",
        ),
    ] = "job"
    memory_per_node: Annotated[str, option("--memory-per-node", metavar="SIZE", help="Memory of each pod.")] = "64Gi"
    claim: Annotated[str, option("--claim", help="Volume claim that the pods share as /shared.")] = "reidsearch"
    service_account: Annotated[
        str | None, option("--service-account", metavar="NAME", help="Service account of the pods, for a bucket.")
    ] = None
    env_from: Annotated[
        str | None,
        option("--env-from", metavar="SECRET", help="Secret whose entries become environment variables of the pods."),
    ] = None


@command(
    example="reidsearch cluster k8s attn_cl.yaml --nodes 2 --gpus-per-node 4 --cpus-per-node 32 "
    "--image registry.example.org/reidsearch:0.1.0 --storage /shared/runs --data /shared/mars > rayjob.yaml",
    group=cluster,
)
def k8s(given: KubernetesOptions) -> int:
    """Write manifests for KubeRay: a search as a RayJob, or a RayCluster for several."""
    from orchestrator.cluster.kubernetes import KubernetesCluster, kubernetes_cluster, kubernetes_job

    if given.kind == "cluster":
        for flag in ("--data", "--stage-data", "--tracking-uri"):
            if vars(given)[flag.strip("-").replace("-", "_")] is not None:
                raise click.UsageError(f"{flag} means nothing to --kind cluster: give it where a search is submitted")
    pods = KubernetesCluster(
        machines=_machines(given, given.nodes),
        image=given.image,
        memory=given.memory_per_node,
        claim=given.claim,
        service_account=given.service_account,
        secret=given.env_from,
    )
    write = kubernetes_job if given.kind == "job" else kubernetes_cluster
    return _written(write(_work(given), pods))


@dataclass(frozen=True, kw_only=True)
class RayUpOptions(MachineOptions):
    """Machines for `ray up`: those of a lab, or rented ones."""

    provider: Annotated[
        str, option("--provider", type=click.Choice(["onprem", "aws", "gcp"]), help="Whose machines they are.")
    ]
    nodes: Annotated[
        int | None, option("--nodes", type=UP_TO_10_000, help="aws, gcp: machines that run trials, at most.")
    ] = None
    user: Annotated[
        str | None,
        option("--user", metavar="USER", help="Name for the login.  [default: ubuntu; needed for onprem]"),
    ] = None
    head: Annotated[
        str | None, option("--head", metavar="HOST", help="onprem: machine of Ray's servers and the driver.")
    ] = None
    workers: Annotated[
        tuple[str, ...], option("--worker", metavar="HOST", help="onprem: machine that runs trials; repeatable.")
    ] = ()
    environment: Annotated[
        str | None,
        option("--environment", metavar="DIR", help="onprem: Python environment with reidsearch.  [default: this one]"),
    ] = None
    region: Annotated[str | None, option("--region", help="aws, gcp: where the machines are.")] = None
    zone: Annotated[str | None, option("--zone", help="gcp: where in the region.")] = None
    project: Annotated[str | None, option("--project", help="gcp: project to charge.")] = None
    machine: Annotated[
        str | None,
        option("--machine", metavar="TYPE", help="aws, gcp: type of the machines that run trials, such as g6.4xlarge."),
    ] = None
    head_machine: Annotated[
        str | None, option("--head-machine", metavar="TYPE", help="aws, gcp: type of the head.")
    ] = None
    image: Annotated[str | None, Image] = None
    instance_profile: Annotated[
        str | None,
        option("--instance-profile", metavar="NAME", help="aws: instance profile of the machines that run trials."),
    ] = None
    service_account: Annotated[
        str | None,
        option("--service-account", metavar="EMAIL", help="gcp: service account of the machines that run trials."),
    ] = None


RENTED = ("nodes", "region", "machine", "head_machine", "image")
NEEDED = {
    "onprem": ("head", "workers", "user"),
    "gcp": (*RENTED, "zone", "project", "service_account"),
    "aws": (*RENTED, "instance_profile"),
}
OPTIONAL = {"onprem": ("environment",), "gcp": ("user",), "aws": ("user",)}
OF_A_PROVIDER = ("environment", *dict.fromkeys(key for keys in NEEDED.values() for key in keys))


@command(
    name="ray-up",
    example="reidsearch cluster ray-up attn_cl.yaml --provider onprem --head a.lab --worker b.lab "
    "--worker c.lab --user reid --gpus-per-node 4 --cpus-per-node 32 > ray-up.yaml",
    group=cluster,
)
def ray_up(given: RayUpOptions) -> int:
    """Write the file that `ray up` starts a cluster from, on machines of your own or on rented ones."""
    from orchestrator.cluster import manifests

    asked = vars(given)
    _require_options_of(given.provider, asked)
    work = _work(given)
    if given.provider == "onprem":
        own = manifests.OwnMachines(asked["head"], given.workers, asked["user"], given.environment or sys.prefix)
        text = manifests.ray_up_own(work, _machines(given, len(own.workers)), own)
    else:
        rented = {key: asked[key] for key in manifests.CloudMachines._fields}
        machines = manifests.CloudMachines(**rented | {"user": given.user or "ubuntu"})
        text = manifests.ray_up_cloud(work, _machines(given, asked["nodes"]), machines)
    return _written(text)


def _require_options_of(provider: str, given: dict[str, Any]) -> None:
    """Refuses a command without what the provider needs, or with options that have no effect on it."""
    needed, optional = NEEDED[provider], OPTIONAL[provider]
    flags = {key: "--worker" if key == "workers" else f"--{key.replace('_', '-')}" for key in OF_A_PROVIDER}
    if missing := [flags[key] for key in needed if not given[key]]:
        raise click.UsageError(f"--provider {provider} needs {', '.join(missing)}")
    if others := [flag for key, flag in flags.items() if given[key] and key not in (*needed, *optional)]:
        raise click.UsageError(f"--provider {provider} does not take {', '.join(others)}")


def _written(text: str, warnings: Iterable[str] = ()) -> int:
    """Writes the file to the standard output, and to the other one what its user should know."""
    click.echo(text, nl=False)
    for line in warnings:
        click.echo(line, err=True)
    return Exit.OK


def _machines(given: MachineOptions, number: int) -> Machines:
    from orchestrator.cluster.manifests import Machines

    return Machines(number, given.cpus_per_node, given.gpus_per_node)


def _work(given: MachineOptions, *, overrides: tuple[str, ...] = ()) -> Work:
    """The search that the machines are for; `overrides` are those that its launch is to repeat."""
    from orchestrator.cluster.manifests import Work
    from orchestrator.space.options import Resources
    from orchestrator.space.search_space import SearchSpace

    click.echo(f"{given.file}: checking the space", err=True)
    space = SearchSpace.load(given.file, given.overrides)
    asked = vars(given)
    places: dict[str, Any] = {name: _absolute(asked.get(name)) for name in ("data", "stage_data")}
    trial = {name: asked[name] for name in TRIAL}
    tracking_uri = asked.get("tracking_uri")
    launch = LaunchOptions(**places, **trial, tracking_uri=tracking_uri, overrides=overrides)
    return Work(
        space=space,
        name=given.name or space.name,
        storage=_absolute(asked.get("storage")) or "",
        launch=command_arguments(launch),
        **places,
        tracking_uri=tracking_uri,
        concurrent=trial.pop("concurrent"),
        resources=Resources.model_validate(trial),
    )


def _absolute(place: str | None) -> str | None:
    """A folder by its absolute path; a URI, and the word for generated data, unchanged."""
    from orchestrator.cluster.manifests import MINI_MARS
    from orchestrator.stores.uri import is_uri

    return place if place is None or is_uri(place) or place == MINI_MARS else str(Path(place).absolute())
