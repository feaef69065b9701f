"""Objects of Kubernetes for a search: a RayJob, or a RayCluster that stays."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orchestrator.base.errors import Exit
from orchestrator.cluster.manifests import (
    CLOUD_WORD,
    IMAGE,
    IMAGE_MEANING,
    UNITS,
    Machines,
    UnusableValue,
    Work,
    cloud_name,
    folder_of,
    matching,
    rendered,
    shell_words,
    yaml_value,
)
from orchestrator.stores.uri import is_uri

QUANTITY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGTP]i?)?")
SHARED = "/shared"
"""Where the volume that the pods share is mounted."""
SPACE_FILE = "/etc/reidsearch/space.yaml"
# How `pgrep -f` finds the drivers on the head: the script of a RayJob, which passes a signal on, or submitted searches.
JOB_DRIVER, SUBMITTED_DRIVER = "^bash /etc/reidsearch/search", "^python -m orchestrator "


class KubernetesCluster(NamedTuple):
    """Pods, and the volume that they share."""

    machines: Machines
    """Pods that run trials."""
    image: str
    memory: str = "64Gi"
    """Of each of those pods."""
    claim: str = "reidsearch"
    """Name of the claim for the volume, which is mounted at /shared if a path there is used."""
    service_account: str | None = None
    """Of the pods: who they are to a bucket."""
    secret: str | None = None
    """Secret whose entries become environment variables of the pods."""


def kubernetes_job(work: Work, cluster: KubernetesCluster) -> str:
    """A RayJob with all that it needs besides Ray's token.

    Raises:
        UnusableValue: a value cannot stand in it.
        SearchError: no pod can hold a trial, or the name cannot name a search.
    """
    places = [_seen_by_pods("--storage", work.storage)]
    if work.stage_data is not None:
        places.append(_seen_by_pods("--stage-data", work.stage_data))
    if (data := work.data_folder()) is not None:
        if is_uri(data):
            raise UnusableValue(f"{work.data_option} {data}: must be a folder below {SHARED}")
        places.append(_seen_by_pods(work.data_option, data))
    files = {"space.yaml": work.space.to_yaml(), "search.sh": _search_script(work)}
    values = _kubernetes_values(work, cluster, places) | {"job": True, "driver": JOB_DRIVER}
    text = rendered("rayjob.yaml.j2", values, yaml_value, space=files["space.yaml"], script=files["search.sh"])
    if next(yaml.safe_load_all(text))["data"] != files:
        raise UnusableValue(f"{work.space.name}: its texts have characters that cannot stand in a ConfigMap")
    return text


def kubernetes_cluster(work: Work, cluster: KubernetesCluster) -> str:
    """A RayCluster that stays, with all that it needs besides Ray's token.

    Raises:
        UnusableValue: a value cannot stand in it.
        SearchError: no pod can hold a trial of the search, or the name cannot name one.
    """
    values = _kubernetes_values(work, cluster, [_seen_by_pods("--storage", work.storage)])
    return rendered("raycluster.yaml.j2", values | {"job": False, "driver": SUBMITTED_DRIVER}, yaml_value)


def _seen_by_pods(option: str, place: str) -> Path | None:
    """The folder, or None for a bucket.

    Raises:
        UnusableValue: pods do not share it.
    """
    path = folder_of(place)
    if path is not None and (not path.is_relative_to(SHARED) or ".." in path.parts):
        raise UnusableValue(f"{option} {place}: pods share only what is below {SHARED}; or name a bucket by its URI")
    return path


def _search_script(work: Work) -> str:
    """The script of the driver's container: launches at the first start, resumes at every later one."""
    values = {
        "name": work.name,
        "storage": work.storage,
        "launch": work.launch,
        "resume": work.resume,
        "space_file": SPACE_FILE,
        **{code.name.lower(): int(code) for code in Exit},
    }
    return rendered("search.sh.j2", values, shell_words)


def _kubernetes_values(work: Work, cluster: KubernetesCluster, places: Sequence[Path | None]) -> dict[str, Any]:
    machines = cluster.machines._replace(memory=_bytes("--memory-per-node", cluster.memory))
    named = {"--claim": cluster.claim, "--service-account": cluster.service_account, "--env-from": cluster.secret}
    for option, name in named.items():
        if name is not None:
            matching(option, name, CLOUD_WORD, "the name of an object of Kubernetes")
    return {
        "plan": work.plan(machines),
        "name": cloud_name(work.name),
        "image": matching("--image", cluster.image, IMAGE, IMAGE_MEANING),
        "claim": cluster.claim if any(places) else None,
        "service_account": cluster.service_account,
        "secret": cluster.secret,
        "ray": importlib.metadata.version("ray"),  # all machines must have the same
        "nodes": machines.number,
        "cpus": str(machines.cpus),
        "gpus": str(machines.gpus) if machines.gpus else None,
        "memory": cluster.memory,
    }


def _bytes(name: str, text: str) -> int:
    found = QUANTITY.fullmatch(matching(name, text, QUANTITY, "a quantity such as 64Gi"))
    assert found is not None
    if (size := int(found["number"]) * UNITS[found["unit"] or ""]) == 0:
        raise UnusableValue(f"{name}: must be more than {text}")
    return size
