"""Files that start a cluster for a search: a Slurm job, Kubernetes objects, a file for `ray up`.

The texts are Jinja templates in the folder `cluster`. Every value is quoted when it is written, and refused if it
cannot be quoted within a line: no value changes the structure of a file, or what a shell runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orchestrator.base.errors import Exit, OrchestratorError
from orchestrator.cluster.resources import Node, allocate
from orchestrator.cluster.trusted_servers import TRACKING
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import check_name
from orchestrator.stores.uri import is_uri

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
CLOUD_WORD = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
IMAGE = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?(/[a-z0-9._-]+)*(:(?!latest$)[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})"
)
IMAGE_MEANING = "an image with a tag other than latest, or with a digest"
SLURM_TIME = re.compile(r"(?:(?P<days>\d{1,3})-)?(?P<rest>\d{1,4}(?::\d{1,2}){0,2})")
SLURM_MEMORY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGT]?)")
# sbatch splits a directive into words; none of its values needs other characters.
SLURM_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:@%+-]*")
QUANTITY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGTP]i?)?")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)}
# KubeRay derives names of services and pods from that of a RayJob: RFC 1035, with room for a suffix.
KUBERNETES_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
SHARED = "/shared"
"""Where the volume that the pods share is mounted."""
SPACE_FILE = "/etc/reidsearch/space.yaml"
# Seconds that a start needs on a quiet machine before it can save anything.
START_S = 60


class UnusableValue(OrchestratorError):
    """A value that cannot stand in a file for a cluster; the message names it."""


class Machines(NamedTuple):
    """Machines of a cluster, all alike."""

    number: int
    cpus: int
    """Cores of each."""
    gpus: int
    """GPUs of each."""
    memory: int = 0
    """Bytes of each; 0 if it is not known, and then not counted."""

    def nodes(self) -> list[Node]:
        """As nodes that trials are allocated to."""
        memory = self.memory or 1024**5
        return [Node("each node", self.cpus, self.gpus, memory)] * self.number


class Work(NamedTuple):
    """The search that a cluster is for."""

    space: SearchSpace
    """With the user's settings applied."""
    name: str
    """Name of the search."""
    storage: str
    """Folder or URI."""
    launch: Sequence[str]
    """Arguments of `reidsearch launch` besides space, name, storage and address."""
    tracking_uri: str | None = None
    concurrent: int | None = None
    """Most trials at once; None is what the space says."""
    resources: Resources = Resources()
    """Of a trial, as far as they differ from the space's."""

    @property
    def resume(self) -> list[str]:
        """Arguments of `reidsearch resume` besides name, storage and address: a new pod trusts no server yet."""
        return [] if self.tracking_uri is None else [TRACKING, self.tracking_uri]

    def plan(self, machines: Machines) -> str:
        """One line: how many trials there are, and how they share the machines.

        Raises:
            EnvironmentProblem: no machine can hold a trial.
            SearchError: the name cannot name a search.
        """
        check_name(self.name)
        resources = self.space.resources.overridden(self.resources)
        most, trials = self.concurrent or self.space.budget.concurrent, self.space.trials_at_most
        allocate(machines._replace(number=1).nodes(), resources, concurrent=most, trials=trials)
        allocation = allocate(machines.nodes(), resources, concurrent=most, trials=trials)
        whole = "whole " * self.space.stopping.pauses
        return f"{self.name}: {self.space.budget.trials} {whole}trials, {allocation.reason}"


# --- Slurm


class SlurmJob(NamedTuple):
    """A request to Slurm."""

    machines: Machines
    time: str
    """Limit of one start of the job, as for `sbatch --time`."""
    environment: str
    """Python environment with reidsearch, the same on all nodes."""
    space: str
    """Name or path of the space on the cluster."""
    memory: str = "0"
    """Of each node, as for `sbatch --mem`; 0 is all of it."""
    save_before: int = 120
    """Seconds before the limit at which the search is told to save."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None


def slurm_script(work: Work, job: SlurmJob) -> str:
    """The job script.

    Raises:
        UnusableValue: a value cannot stand in it, or the job is too short to save anything.
        EnvironmentProblem: no node can hold a trial.
        SearchError: the name cannot name a search.
    """
    if _slurm_seconds(job.time) < job.save_before + START_S:
        raise UnusableValue(
            f"--time {job.time}: a start takes about {START_S} s, and {job.save_before} s before the limit the search "
            "is told to save; ask for more"
        )
    machines = job.machines._replace(memory=_slurm_bytes(job.memory))
    plan = work.plan(machines)
    words = {"job-name": work.name, "partition": job.partition, "account": job.account, "qos": job.qos}
    for option, word in words.items():
        if word is not None:
            matching(f"--{option}", word, SLURM_WORD, "one word of letters and digits")
    values = {
        "plan": plan,
        "name": work.name,
        "storage": work.storage,
        "launch": ["--space", job.space, *work.launch],
        "resume": work.resume,
        "nodes": machines.number,
        "cpus": machines.cpus,
        "gpus": machines.gpus,
    }
    return _rendered("slurm.sbatch.j2", job._asdict() | values, _shell_words)


def _slurm_seconds(text: str) -> int:
    """Seconds of a time limit of Slurm: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    matching("--time", text, SLURM_TIME, "a time limit such as 90, 08:00:00 or 2-00:00:00")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = ([0] * (3 - len(parts))) + parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _slurm_bytes(text: str) -> int:
    """Bytes of an amount of memory of Slurm, in MiB if no unit is given; 0 is all there is."""
    matching("--memory", text, SLURM_MEMORY, "a memory such as 64G, or 0 for all of a node")
    unit = text[-1] if text[-1].isalpha() else "M"
    return int(text.rstrip("KMGT")) * UNITS[f"{unit}i"]


# --- Kubernetes


class KubernetesCluster(NamedTuple):
    """Pods, and the volume that they share."""

    machines: Machines
    """Pods that run trials."""
    image: str
    memory: str = "64Gi"
    """Of each of those pods."""
    claim: str = "reidsearch"
    """Name of the claim for the volume, which is mounted at /shared."""
    storage_class: str | None = None
    """None is the cluster's default."""
    storage_size: str = "100Gi"


def kubernetes_job(work: Work, cluster: KubernetesCluster) -> str:
    """A RayJob with all that it needs besides Ray's token.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no pod can hold a trial.
        SearchError: the name cannot name a search.
    """
    place = Path(work.storage)
    if not is_uri(work.storage) and (not place.is_relative_to(SHARED) or ".." in place.parts):
        raise UnusableValue(
            f"--storage {work.storage}: pods share only what is below {SHARED}; or name a bucket by its URI"
        )
    files = {"space.yaml": work.space.to_yaml(), "search.sh": _search_script(work)}
    values = _kubernetes_values(work, cluster) | {"job": True}
    text = _rendered("rayjob.yaml.j2", values, _yaml_value, space=files["space.yaml"], script=files["search.sh"])
    if next(yaml.safe_load_all(text))["data"] != files:
        raise UnusableValue(f"{work.space.name}: its texts have characters that cannot stand in a ConfigMap")
    return text


def kubernetes_cluster(work: Work, cluster: KubernetesCluster) -> str:
    """A RayCluster that stays, with all that it needs besides Ray's token.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no pod can hold a trial of the search.
        SearchError: the name cannot name a search.
    """
    return _rendered("raycluster.yaml.j2", _kubernetes_values(work, cluster) | {"job": False}, _yaml_value)


def _search_script(work: Work) -> str:
    """The script of the driver's container: launches at the first start, resumes at every later one."""
    values = {
        "name": work.name,
        "storage": work.storage,
        "launch": work.launch,
        "resume": work.resume,
        "space_file": SPACE_FILE,
        "some_trials_failed": int(Exit.SOME_TRIALS_FAILED),
    }
    return _rendered("search.sh.j2", values, _shell_words)


def _kubernetes_values(work: Work, cluster: KubernetesCluster) -> dict[str, Any]:
    machines = cluster.machines._replace(memory=_bytes("--memory-per-node", cluster.memory))
    _bytes("--storage-size", cluster.storage_size)
    meaning = "a name of at most 47 letters, digits and '-', which begins with a letter"
    if cluster.storage_class is not None:
        matching("--storage-class", cluster.storage_class, CLOUD_WORD, "the name of a storage class")
    return {
        "plan": work.plan(machines),
        "name": matching("--name", re.sub(r"[._]", "-", work.name.lower()), KUBERNETES_NAME, meaning),
        "image": matching("--image", cluster.image, IMAGE, IMAGE_MEANING),
        "claim": matching("--claim", cluster.claim, KUBERNETES_NAME, meaning),
        "storage_class": cluster.storage_class,
        "storage_size": cluster.storage_size,
        "ray": importlib.metadata.version("ray"),  # all machines must have the same
        "nodes": machines.number,
        "cpus": str(machines.cpus),
        "gpus": str(machines.gpus) if machines.gpus else None,
        "memory": cluster.memory,
    }


def _bytes(name: str, text: str) -> int:
    found = QUANTITY.fullmatch(matching(name, text, QUANTITY, "a quantity such as 64Gi"))
    assert found is not None
    return int(found["number"]) * UNITS[found["unit"] or ""]


# --- `ray up`


class OwnMachines(NamedTuple):
    """Machines of a lab."""

    head: str
    workers: Sequence[str]
    user: str
    """Name for the login; every Ray of this user is stopped on every machine before the cluster starts."""
    environment: str
    """Python environment with reidsearch, the same on all machines."""


def ray_up_own(work: Work, machines: Machines, own: OwnMachines) -> str:
    """The file for `ray up` on machines that are there.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no machine can hold a trial.
        SearchError: the name cannot name a search.
    """
    meaning = "the name or address of a machine"
    values = {
        **_ray_up_values(work, machines),
        "head": matching("--head", own.head, HOST, meaning),
        "workers": [matching("--worker", host, HOST, meaning) for host in own.workers],
        "user": matching("--user", own.user, USER, "the name of a user"),
        "bin": f"{shlex.quote(printable('--environment', own.environment))}/bin",
        "gpus": machines.gpus,
    }
    return _rendered("ray-up-onprem.yaml.j2", values, _yaml_value)


class CloudMachines(NamedTuple):
    """Machines of a cloud."""

    provider: str
    """`aws` or `gcp`."""
    region: str
    machine: str
    """Type of the machines that trials run on."""
    head_machine: str
    image: str
    user: str
    project: str | None = None
    """GCP only."""
    zone: str | None = None
    """GCP only."""


def ray_up_cloud(work: Work, machines: Machines, cloud: CloudMachines) -> str:
    """The file for `ray up` on rented machines.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no machine can hold a trial.
        SearchError: the name cannot name a search.
    """
    meanings = {"region": "a region", "machine": "a type of machines", "head_machine": "a type of machines"}
    if cloud.provider == "gcp":
        meanings |= {"project": "a project", "zone": "a zone"}
    asked = cloud._asdict()
    values = {
        name: matching(f"--{name.replace('_', '-')}", asked[name] or "", CLOUD_WORD, meaning)
        for name, meaning in meanings.items()
    }
    values |= {
        "image": matching("--image", cloud.image, IMAGE, IMAGE_MEANING),
        "user": matching("--user", cloud.user, USER, "the name of a user"),
    }
    return _rendered(f"ray-up-{cloud.provider}.yaml.j2", _ray_up_values(work, machines) | values, _yaml_value)


def _ray_up_values(work: Work, machines: Machines) -> dict[str, Any]:
    return {
        "plan": work.plan(machines),
        "name": work.name,
        "nodes": machines.number,
        "cpus": machines.cpus,
        "gpus": machines.gpus or None,
    }


# --- templates


def _rendered(template: str, values: Mapping[str, Any], quoted: Callable[[Any], str], **verbatim: str) -> str:
    """A template of the folder `cluster` with every value quoted.

    Args:
        template: name of the file.
        values: texts, numbers and lists of texts, by their names in the template. `plan` stands in a comment.
        quoted: spells a value in the language of the file.
        verbatim: texts that are written as they are, for literal blocks.

    Raises:
        UnusableValue: a text has characters that do not print.
    """
    import jinja2
    from markupsafe import Markup

    for name, value in values.items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            printable(name, text)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(importlib.resources.files("cluster"))),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # this is no HTML; `finalize` quotes
        finalize=lambda value: value if isinstance(value, Markup) else quoted(value),
    )
    raw = {name: Markup(text.removesuffix("\n")) for name, text in verbatim.items()}
    if "plan" in values:
        raw["plan"] = Markup(values["plan"])
    return environment.get_template(template).render({**values, **raw})


def _yaml_value(value: Any) -> str:
    """Text and lists as JSON, which is YAML; numbers as they are."""
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


def _shell_words(value: Any) -> str:
    """A text as one word, a list as an array; numbers as they are."""
    if isinstance(value, int):
        return str(value)
    return shlex.quote(value) if isinstance(value, str) else f"({shlex.join(value)})"


def printable(name: str, text: str) -> str:
    """The text itself.

    Raises:
        UnusableValue: it has characters that do not print, such as a line's end.
    """
    if not text.isprintable():
        raise UnusableValue(f"{name}: {text!r} has characters that do not print; choose another one")
    return text


def matching(name: str, text: str, pattern: re.Pattern[str], meaning: str) -> str:
    """The text itself.

    Args:
        name: of the value, for the message.
        text: what has to match.
        pattern: of the whole text.
        meaning: what it has to be, for the message.

    Raises:
        UnusableValue: it does not match.
    """
    if pattern.fullmatch(text) is None:
        raise UnusableValue(f"{name}: must be {meaning} (is {text!r})")
    return text
