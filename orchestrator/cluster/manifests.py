"""Files that start a cluster for a search: those for `ray up`; others are in `slurm` and `kubernetes`.

The texts are Jinja templates in the folder `cluster`. Every value is quoted when it is written, and refused if it
cannot be quoted within a line: no value changes the structure of a file, or what a shell runs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.base.errors import OrchestratorError
from orchestrator.cluster.resources import Node, allocate
from orchestrator.cluster.trusted_servers import TRACKING
from orchestrator.space.options import Resources
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import check_name
from orchestrator.stores.uri import is_uri, parsed

if TYPE_CHECKING:
    from jinja2 import Environment

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")  # a port follows it
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
CLOUD_WORD = re.compile(r"(?!.*(\.[.-]|-\.))[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
IMAGE = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?(/[a-z0-9._-]+)*"
    r"(:(?!latest$)\w[\w.-]{0,127}|(:\w[\w.-]{0,127})?@sha256:[0-9a-f]{64})"
)
IMAGE_MEANING = "an image with a tag other than latest, or with a digest"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)}
# RFC 1035, with room for the suffixes by which KubeRay and Ray name services, pods and machines.
CLOUD_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
SERVICE_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}@[a-z0-9.-]{1,100}\.gserviceaccount\.com")
INSTANCE_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
log = logging.getLogger(__name__)

MINI_MARS = "mini-mars"


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
    data: str | None = None
    """Folder of the data set, or the word for generated data."""
    stage_data: str | None = None
    tracking_uri: str | None = None
    concurrent: int | None = None
    """Most trials at once; None is what the space says."""
    resources: Resources = Resources()
    """Of a trial, as far as they differ from the space's."""

    @property
    def resume(self) -> list[str]:
        """Arguments of `reidsearch resume` besides name, storage and address: a new pod trusts no server yet."""
        return [] if self.tracking_uri is None else [TRACKING, self.tracking_uri]

    @property
    def data_option(self) -> str:
        """What names the data set."""
        return "data.root" if self.data is None else "--data"

    def data_folder(self) -> str | None:
        """Where the data set is; None for generated data.

        Raises:
            UnusableValue: neither the options nor the space say it.
        """
        if self.data == MINI_MARS or (self.data is None and self.space.synthetic is not None):
            return None
        settings = self.space.trainer.get("data")
        root = settings.get("root") if self.data is None and isinstance(settings, dict) else self.data
        if not isinstance(root, str):
            raise UnusableValue(f"{self.space.name} names no data set; say where the machines see it: --data DIR")
        return root

    def plan(self, machines: Machines) -> str:
        """One line: how many trials there are, and how they share the machines.

        Raises:
            SearchError: no machine can hold a trial, the name cannot name a search, or a URI is none of a storage.
            UnusableValue: the storage is the memory of a process.
        """
        check_name(self.name)
        for option, place in (("--storage", self.storage), ("--stage-data", self.stage_data)):
            if place is not None and is_uri(place) and parsed(place).scheme == "memory":
                raise UnusableValue(f"{option} {place}: no machine sees the memory of another one; name a bucket")
        resources = self.space.resources.overridden(self.resources)
        most, trials = self.concurrent or self.space.budget.concurrent, self.space.trials_at_most
        allocate(machines._replace(number=1).nodes(), resources, concurrent=most, trials=trials)
        allocation = allocate(machines.nodes(), resources, concurrent=most, trials=trials)
        if self.concurrent is not None and self.concurrent > allocation.concurrent:
            log.warning("--concurrent %d: %d trials at most run at once", self.concurrent, allocation.concurrent)
        whole = "whole " * self.space.stopping.pauses
        return f"{self.name}: {self.space.budget.trials} {whole}trials, {allocation.reason}"


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
        SearchError: no machine can hold a trial, or the name cannot name a search.
    """
    meaning = "the name or IPv4 address of a machine"
    hosts = [own.head, *own.workers]
    for host in hosts:
        if hosts.count(host) > 1:
            raise UnusableValue(f"--worker {host}: given twice, or the head as well; each machine has one part")
    values = {
        **_ray_up_values(work, machines),
        "head": matching("--head", own.head, HOST, meaning),
        "workers": [matching("--worker", host, HOST, meaning) for host in own.workers],
        "user": matching("--user", own.user, USER, "the name of a user"),
        "bin": f"{shlex.quote(printable('--environment', own.environment))}/bin",
        "gpus": machines.gpus,
    }
    return rendered("ray-up-onprem.yaml.j2", values, yaml_value)


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
    instance_profile: str | None = None
    """AWS only: who the machines that run trials are to the bucket."""
    service_account: str | None = None
    """GCP only: the same."""
    project: str | None = None
    """GCP only."""
    zone: str | None = None
    """GCP only."""


def ray_up_cloud(work: Work, machines: Machines, cloud: CloudMachines) -> str:
    """The file for `ray up` on rented machines.

    Raises:
        UnusableValue: a value cannot stand in it.
        SearchError: no machine can hold a trial, or the name cannot name a search.
    """
    checks = {
        **{"region": (CLOUD_WORD, "a region"), "user": (USER, "the name of a user"), "image": (IMAGE, IMAGE_MEANING)},
        **dict.fromkeys(("machine", "head_machine"), (CLOUD_WORD, "a type of machines")),
    }
    if cloud.provider == "gcp":
        checks |= {"project": (CLOUD_WORD, "a project"), "zone": (CLOUD_WORD, "a zone")}
        checks["service_account"] = (SERVICE_ACCOUNT, "the address of a service account")
    else:
        checks["instance_profile"] = (INSTANCE_PROFILE, "the name of an instance profile")
    values = cloud._asdict()
    for name, (pattern, meaning) in checks.items():
        matching(f"--{name.replace('_', '-')}", values[name] or "", pattern, meaning)
    return rendered("ray-up-cloud.yaml.j2", _ray_up_values(work, machines) | values, yaml_value)


def _ray_up_values(work: Work, machines: Machines) -> dict[str, Any]:
    return {
        "plan": work.plan(machines),
        "name": cloud_name(work.name),
        "nodes": machines.number,
        "cpus": machines.cpus,
        "gpus": machines.gpus or None,
    }


# --- names


def cloud_name(name: str) -> str:
    """The name of a search as Kubernetes and clouds take one; names that differ remain different.

    A name that they take stays as it is. Any other gets a digest: `a_b` must not become `a-b`, another search.
    """
    if CLOUD_NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not readable[0].isalpha():
        readable = f"search-{readable}"
    return f"{readable[:40].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def folder_of(place: str) -> Path | None:
    """The folder that a path or a file:// URI names; None for a bucket."""
    if not is_uri(place):
        return Path(place)
    address = parsed(place)
    return Path(address.path) if address.scheme == "file" else None


# --- templates


def rendered(template: str, values: Mapping[str, Any], quoted: Callable[[Any], str], **verbatim: str) -> str:
    """A template of the folder `cluster` with every value quoted.

    Args:
        template: name of the file.
        values: texts, numbers and lists of texts, by their names in the template. `plan` stands in a comment.
        quoted: spells a value in the language of the file.
        verbatim: texts that are written as they are, for literal blocks.

    Raises:
        UnusableValue: a text has characters that do not print.
    """
    from markupsafe import Markup

    for name, value in values.items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            printable(name, text)
    raw = {name: Markup(text.removesuffix("\n")) for name, text in verbatim.items()}
    if "plan" in values:
        raw["plan"] = Markup(values["plan"])
    return str(_templates(quoted).get_template(template).render({**values, **raw}))


@functools.cache
def _templates(quoted: Callable[[Any], str]) -> Environment:
    import jinja2
    from markupsafe import Markup

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(importlib.resources.files("cluster"))),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # this is no HTML; `finalize` quotes
        finalize=lambda value: value if isinstance(value, Markup) else quoted(value),
    )


def yaml_value(value: Any) -> str:
    """Text and lists as JSON, which is YAML; numbers as they are."""
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


def shell_words(value: Any) -> str:
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
