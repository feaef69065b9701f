"""What a search needs of a cluster, as files that start one: a Slurm job, Kubernetes objects, a file for `ray up`."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from orchestrator.base.errors import Exit, OrchestratorError
from orchestrator.cluster.resources import Node, allocate
from orchestrator.cluster.trusted_servers import TRACKING
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.address import is_uri
from orchestrator.stores.base import search_folder

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
CLOUD_WORD = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
IMAGE = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?(/[a-z0-9._-]+)*(:(?!latest$)[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})"
)
SLURM_TIME = re.compile(r"(?:(?P<days>\d{1,3})-)?(?P<rest>\d{1,4}(?::\d{1,2}){0,2})")
SLURM_MEMORY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGT]?)")
QUANTITY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGTP]i?)?")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)}
# KubeRay makes names of its own of a RayJob's, by which services and pods are called: RFC 1035, with room for a suffix.
KUBERNETES_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
SHARED = "/shared"
"""Where the pods see what they share."""
SPACE_FILE = "/etc/reidsearch/space.yaml"
# What a start needs on a quiet machine before it can save anything.
START_S = 60


class Machines(NamedTuple):
    """Machines of a cluster, all alike."""

    number: int
    cpus: int
    """Cores of each."""
    gpus: int
    """Of each."""
    memory: int = 0
    """Bytes of each; 0 where it is not known, and then not counted."""

    def nodes(self) -> list[Node]:
        """As the placement of trials sees them."""
        memory = self.memory or 1024**5
        return [Node("each node", self.cpus, self.gpus, memory)] * self.number


class Work(NamedTuple):
    """The search that a cluster is for."""

    space: SearchSpace
    """With the user's settings in it."""
    name: str
    """Of the search."""
    storage: str
    """Folder or URI."""
    launch: Sequence[str]
    """Arguments of `reidsearch launch` besides space, name, storage and address."""
    tracking_uri: str | None = None
    concurrent: int | None = None
    """Trials at once at most; None is what the space says."""
    resources: Resources = Resources()
    """Of a trial, where it differs from the space."""

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
        search_folder(Path(), self.name)
        resources = self.space.resources.overridden(self.resources)
        most, trials = self.concurrent or self.space.budget.concurrent, self.space.budget.trials
        allocate(machines._replace(number=1).nodes(), resources, concurrent=most, trials=trials)
        share = allocate(machines.nodes(), resources, concurrent=most, trials=trials)
        return f"{self.name}: {trials} trials, {share.reason}"


class SlurmJob(NamedTuple):
    """What Slurm is asked for."""

    machines: Machines
    time: str
    """Limit of one start of the job, as `sbatch --time` takes it."""
    environment: str
    """Python environment with reidsearch, the same on all nodes."""
    space: str
    """Name or path of the space on the cluster."""
    memory: str = "0"
    """Of each node, as `sbatch --mem` takes it; 0 is all of it."""
    save_before: int = 120
    """Seconds before the limit at which the search is told to save."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None


def slurm_script(work: Work, job: SlurmJob) -> str:
    """The job script.

    Raises:
        UnusableValue: a value cannot stand in it, or the job is too short to get anywhere.
        EnvironmentProblem: no node can hold a trial.
        SearchError: the name cannot name a search.
    """
    limit = _slurm_seconds(job.time)
    if limit < job.save_before + START_S:
        raise UnusableValue(
            f"--time {job.time}: a start takes about {START_S} s, and {job.save_before} s before the limit the search "
            "is told to save; ask for more"
        )
    machines = job.machines._replace(memory=_slurm_bytes(job.memory))
    values: dict[str, Value] = {
        "plan": work.plan(machines),
        "name": work.name,
        "storage": work.storage,
        "launch": ["--space", job.space, *work.launch],
        "resume": work.resume,
        "environment": job.environment,
        "cpus": machines.cpus,
        "gpus": machines.gpus,
    }
    directives: dict[str, str | int | None] = {
        "job-name": work.name,
        "nodes": machines.number,
        "cpus-per-task": machines.cpus,
        "gpus-per-node": machines.gpus or None,
        "mem": job.memory,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "signal": f"B:USR1@{job.save_before}",
    }
    return fill_script(template("slurm.sbatch"), values, directives)


def _slurm_seconds(text: str) -> int:
    """Seconds of a time limit of Slurm: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    meaning = "a time limit such as 90, 08:00:00 or 2-00:00:00"
    matching("--time", text, SLURM_TIME, meaning)
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
    """Bytes of a memory of Slurm, whose unit is MiB where none is given; 0 is all there is."""
    matching("--memory", text, SLURM_MEMORY, "a memory such as 64G, or 0 for all of a node")
    unit = text[-1] if text[-1].isalpha() else "M"
    return int(text.rstrip("KMGT")) * UNITS[f"{unit}i"]


class KubernetesCluster(NamedTuple):
    """What Kubernetes is asked for."""

    machines: Machines
    """Pods that trials run in."""
    image: str
    memory: str = "64Gi"
    """Of each of those pods."""
    claim: str = "reidsearch"
    """Name of the volume that all pods share, seen below /shared."""
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
    space = work.space.to_yaml()
    blocks = {"space": space, "script": _search_script(work)}
    text = fill_yaml(template("rayjob.yaml"), _kubernetes_values(work, cluster), blocks)
    if next(yaml.safe_load_all(text))["data"] != {"space.yaml": space, "search.sh": blocks["script"]}:
        raise UnusableValue(f"{work.space.name}: its texts have characters that cannot stand in a ConfigMap")
    return text


def kubernetes_cluster(work: Work, cluster: KubernetesCluster) -> str:
    """A RayCluster that stays, with all that it needs besides Ray's token.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no pod can hold a trial of the search.
        SearchError: the name cannot name a search.
    """
    return fill_yaml(template("raycluster.yaml"), _kubernetes_values(work, cluster))


def _search_script(work: Work) -> str:
    """What the driver's container runs: launch the first time, resume whenever it is started anew."""
    storage = ["--storage", printable("--storage", work.storage)]
    status = shlex.join(["reidsearch", "status", work.name, *storage])
    again = [*(printable("resume", word) for word in work.resume), "--address", "auto"]
    resume = shlex.join(["reidsearch", "resume", work.name, *storage, *again])
    words = [*work.launch, "--name", work.name, *storage, "--address", "auto"]
    launch = shlex.join(["reidsearch", "launch", "--space", SPACE_FILE, *(printable("launch", word) for word in words)])
    return f"""\
set -u
if {status} > /dev/null 2>&1; then
    # A driver whose machine is gone counts as alive until it has been silent for a minute.
    sleep 70
    {resume}
else
    {launch}
fi
code=$?
# Finished, but some trials failed for good: another start would change nothing.
if [ "$code" -eq {Exit.SOME_TRIALS_FAILED:d} ]; then code=0; fi
exit "$code"
"""


def _kubernetes_values(work: Work, cluster: KubernetesCluster) -> dict[str, Value]:
    machines = cluster.machines._replace(memory=_bytes("--memory-per-node", cluster.memory))
    _bytes("--storage-size", cluster.storage_size)
    own = re.sub(r"[._]", "-", work.name.lower())
    meaning = "a name of at most 47 letters, digits and '-', which begins with a letter"
    return {
        "plan": work.plan(machines),
        "name": matching("--name", own, KUBERNETES_NAME, meaning),
        "image": matching("--image", cluster.image, IMAGE, "an image with a tag other than latest, or with a digest"),
        "claim": matching("--claim", cluster.claim, KUBERNETES_NAME, meaning),
        "storage_class": None
        if cluster.storage_class is None
        else matching("--storage-class", cluster.storage_class, CLOUD_WORD, "the name of a storage class"),
        "storage_size": cluster.storage_size,
        "ray": ray_version(),
        "nodes": machines.number,
        "cpus": str(machines.cpus),
        "gpus": str(machines.gpus) if machines.gpus else None,
        "memory": cluster.memory,
    }


def _bytes(name: str, text: str) -> int:
    found = QUANTITY.fullmatch(matching(name, text, QUANTITY, "a quantity such as 64Gi"))
    assert found is not None
    return int(found["number"]) * UNITS[found["unit"] or ""]


def ray_version() -> str:
    """The Ray that is installed here, which all machines must have."""
    return importlib.metadata.version("ray")


class OwnMachines(NamedTuple):
    """Machines of a lab for `ray up`."""

    head: str
    workers: Sequence[str]
    user: str
    """Who logs in; all of this user's Ray is ended on every machine before the cluster's starts."""
    environment: str
    """Python environment with reidsearch, the same on all machines."""


def ray_up_own(work: Work, machines: Machines, own: OwnMachines) -> str:
    """The file for `ray up` on machines that are there.

    Raises:
        UnusableValue: a value cannot stand in it.
        EnvironmentProblem: no machine can hold a trial.
        SearchError: the name cannot name a search.
    """
    ray = f"{shlex.quote(printable('--environment', own.environment))}/bin/ray"
    start = "RAY_AUTH_MODE=token"
    stores = "--object-store-memory=209715200"
    values = {
        **_ray_up_values(work, machines),
        "head": matching("--head", own.head, HOST, "the name or address of a machine"),
        "workers": [matching("--worker", host, HOST, "the name or address of a machine") for host in own.workers],
        "user": matching("--user", own.user, USER, "the name of a user"),
        "check": f"test -x {ray.removesuffix('ray')}reidsearch",
        "stop": f"{ray} stop",
        "start_head": f"{start} {ray} start --head --port=6379 --dashboard-host=127.0.0.1 --num-cpus=0 --num-gpus=0 "
        f"{stores} --disable-usage-stats --autoscaling-config=~/ray_bootstrap_config.yaml",
        "start_worker": f"{start} RAY_CHDIR_TO_TRIAL_DIR=0 {ray} start --address=$RAY_HEAD_IP:6379 "
        f"--num-cpus={machines.cpus} --num-gpus={machines.gpus} {stores}",
    }
    return fill_yaml(template("ray-up-onprem.yaml"), values)


class CloudMachines(NamedTuple):
    """Machines of a cloud for `ray up`."""

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
    values = {
        **_ray_up_values(work, machines),
        "region": matching("--region", cloud.region, CLOUD_WORD, "a region"),
        "machine": matching("--machine", cloud.machine, CLOUD_WORD, "a type of machines"),
        "head_machine": matching("--head-machine", cloud.head_machine, CLOUD_WORD, "a type of machines"),
        "image": matching("--image", cloud.image, IMAGE, "an image with a tag other than latest, or with a digest"),
        "user": matching("--user", cloud.user, USER, "the name of a user"),
        "cpus": machines.cpus,
        "gpus": machines.gpus or None,
    }
    if cloud.provider == "gcp":
        values["project"] = matching("--project", cloud.project or "", CLOUD_WORD, "a project")
        values["zone"] = matching("--zone", cloud.zone or "", CLOUD_WORD, "a zone")
    return fill_yaml(template(f"ray-up-{cloud.provider}.yaml"), values)


def _ray_up_values(work: Work, machines: Machines) -> dict[str, Value]:
    return {"plan": work.plan(machines), "name": work.name, "nodes": machines.number}


Value = str | int | Sequence[str] | None

MARKED = re.compile(r"(?P<lead>.*?)  # <- (?P<name>\w+)")
YAML_KEY = re.compile(r" *(?:- )?(?:[\w./~-]+: |- )")
SHELL_NAME = re.compile(r"\w+=")
DIRECTIVE = re.compile(r"#{1,2}SBATCH --(?P<name>[\w-]+)=.*")
# A directive is words to sbatch; none of its values needs a character that would end one.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:@%+-]*")


class UnusableValue(OrchestratorError):
    """A value that cannot stand in a file for a cluster; the message names it."""


def template(name: str) -> str:
    """The shipped file of that name."""
    return Path(str(importlib.resources.files("cluster"))).joinpath(name).read_text("utf-8")


def fill_yaml(text: str, values: Mapping[str, Value], blocks: Mapping[str, str] | None = None) -> str:
    """A YAML file with the values in the place of those that are marked.

    Args:
        text: the shipped file.
        values: by the name in the mark; None removes the line.
        blocks: texts of several lines that replace a literal block (`key: |`), by the name in the mark.

    Raises:
        UnusableValue: a text has characters that do not print.
    """
    blocks = blocks or {}
    lines: list[str] = []
    inside = None  # the indentation of a block that is replaced
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if inside is not None and (not line.strip() or depth > inside):
            continue
        inside = None
        found = MARKED.fullmatch(line)
        if found is None:
            lines.append(line)
        elif found["name"] in blocks:
            inside = depth
            lines.append(found["lead"])
            block = blocks[found["name"]].removesuffix("\n").split("\n")
            lines += [" " * (depth + 2) + each if each else "" for each in block]
        else:
            lines += _replaced(found, values, YAML_KEY, _yaml_scalar)
    return "\n".join(lines) + "\n"


def fill_script(text: str, values: Mapping[str, Value], directives: Mapping[str, str | int | None]) -> str:
    """A job script for Slurm with the values in the place of those that are marked, and its `#SBATCH` lines set.

    Args:
        text: the shipped file.
        values: of variables, by the name in the mark; a sequence of words becomes an array.
        directives: by the option of `sbatch`; None makes a comment of the line.

    Raises:
        UnusableValue: a text has characters that do not print, or a directive has more than letters and digits.
    """
    lines: list[str] = []
    for line in text.splitlines():
        found, directive = MARKED.fullmatch(line), DIRECTIVE.fullmatch(line)
        if directive is not None and directive["name"] in directives:
            value = directives[directive["name"]]
            lines.append(f"##{line.lstrip('#')}" if value is None else _directive(directive["name"], value))
        elif found is not None:
            lines += _replaced(found, values, SHELL_NAME, _shell_word)
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _replaced(
    found: re.Match[str], values: Mapping[str, Value], start: re.Pattern[str], spelled: Callable[[str, Value], str]
) -> list[str]:
    name = found["name"]
    value = values[name]
    if value is None:
        return []
    if found["lead"].startswith("# "):
        return [f"# {printable(name, str(value))}"]
    lead = start.match(found["lead"])
    assert lead is not None, found["lead"]
    return [lead.group() + spelled(name, value)]


def _yaml_scalar(name: str, value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(printable(name, value), ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    assert value is not None
    return json.dumps([printable(name, each) for each in value], ensure_ascii=False)


def _shell_word(name: str, value: Value) -> str:
    if isinstance(value, str):
        return shlex.quote(printable(name, value))
    if isinstance(value, int):
        return str(value)
    assert value is not None
    return f"({shlex.join(printable(name, each) for each in value)})"


def _directive(name: str, value: str | int) -> str:
    return f"#SBATCH --{name}={matching(f'--{name}', str(value), WORD, 'one word of letters and digits')}"


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
        pattern: all of it.
        meaning: what it has to be, in words.

    Raises:
        UnusableValue: it does not match.
    """
    if pattern.fullmatch(text) is None:
        raise UnusableValue(f"{name}: must be {meaning} (is {text!r})")
    return text
