"""Checks of a Kubernetes cluster, by kubectl: whether it takes the files of a search, and has what they name."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.base.errors import EnvironmentProblem, OrchestratorError
from orchestrator.base.hints import command_line
from orchestrator.cluster.authentication import answers
from orchestrator.cluster.trusted_servers import TRACKING
from orchestrator.doctor.findings import Finding
from orchestrator.doctor.software import OLDEST_DRIVERS
from orchestrator.stores.objects import objects_at
from trainer.formatting import first_line

PATIENCE_S = 60
GPU = "nvidia.com/gpu"
OLDEST_DRIVER = OLDEST_DRIVERS["13"]  # what the image's torch is built for
DRIVER = "nvidia.com/cuda.driver-version.major"  # label of a node, by NVIDIA's GPU feature discovery
CRDS = {"RayJob": "rayjobs.ray.io", "RayCluster": "rayclusters.ray.io"}
INSTALL = "install KubeRay 1.6.2 or later, or ask who runs the cluster"
ANEW = "make it anew, as the first lines of the file that names it say"
# Fields that name other objects.
NAMING = {
    "serviceAccountName": "serviceaccount",
    "priorityClassName": "priorityclass",
    "runtimeClassName": "runtimeclass",
    "storageClassName": "storageclass",
    "claimName": "persistentvolumeclaim",
}
SERVER = re.compile(rf"{TRACKING} (https?)://([A-Za-z0-9.-]+)(?::(\d+))?")
BUCKET = re.compile(r"--(?:storage|stage-data) '?((?:s3|gs|gcs|az)://[^\s']+)")


class NoAnswer(EnvironmentProblem):
    """What kubectl says where it answers nothing."""


def examine(given: Path, namespace: str | None) -> Iterator[Finding]:
    """Asks the cluster of the current context; creates nothing.

    Args:
        given: a file of objects, or a folder with a kustomization.
        namespace: where they will be; None is the context's own.

    Raises:
        OrchestratorError: the file cannot be read, or holds no objects.
        EnvironmentProblem: there is no kubectl.
    """
    try:
        text = _kubectl("kustomize", str(given)) if given.is_dir() else given.read_text("utf-8")
        objects = [each for each in yaml.safe_load_all(text) if each is not None]
        kinds = {each["kind"] for each in objects}
        made = {(each["kind"].lower(), each["metadata"]["name"]) for each in objects}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, NoAnswer) as error:
        reason = "holds no objects of Kubernetes"
        if isinstance(error, (OSError, NoAnswer)):
            reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        raise OrchestratorError(f"{given}: {reason}; give what `{command_line('cluster', 'k8s')}` wrote") from error
    where = () if namespace is None else ("--namespace", namespace)
    try:
        yield Finding("ok", "kubernetes", f"{_get('version')['serverVersion']['gitVersion']} answers")
    except (NoAnswer, KeyError) as error:
        advice = "kubectl config get-contexts"
        yield Finding("problem", "kubernetes", f"the cluster does not answer ({first_line(error)})", advice)
        return
    for kind in sorted(kinds & CRDS.keys()):
        yield _operator(CRDS[kind])
    yield _dry_run(given, where)
    if asked := max((int(count) for count in _values(objects, GPU)), default=0):
        yield from _gpus(asked, grows=any(_values(objects, "enableInTreeAutoscaling")))
    for kind, name, key in sorted(_named(objects)):
        if (kind, name) not in made:
            yield _there(kind, name, key, where)
    for scheme, host, port in sorted(set(SERVER.findall(text))):
        if "." in host:
            yield _server(host, int(port or (443 if scheme == "https" else 80)))
        else:
            yield _service(host, where)
    yield from map(_bucket, sorted(set(BUCKET.findall(text))))


def _kubectl(*arguments: str) -> str:
    command = ["kubectl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: TID251 - kubectl
    except FileNotFoundError as error:
        raise EnvironmentProblem("kubectl is not on the PATH; install it, or ask from a machine that has it") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"nothing in {PATIENCE_S} s") from error
    if done.returncode != 0:
        raise NoAnswer(done.stderr.strip() or f"kubectl ended with {done.returncode}")
    return done.stdout


def _get(*arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_kubectl(*arguments, "--output", "json"))
    return answer


def _operator(crd: str) -> Finding:
    try:
        schemas = [each.get("schema") for each in _get("get", "crd", crd)["spec"]["versions"] if each["name"] == "v1"]
    except NoAnswer as error:
        return Finding("problem", "kuberay", first_line(error), INSTALL)
    # Its version is in no object that everyone may read; this field came with 1.6.
    if any(_values(schemas, "enableK8sTokenAuth")):
        return Finding("ok", "kuberay", f"{crd} is that of 1.6 or later")
    return Finding("problem", "kuberay", f"{crd} has no enableK8sTokenAuth: it is older than 1.6", INSTALL)


def _dry_run(given: Path, where: Sequence[str]) -> Finding:
    command = ("apply", "--dry-run=server", "--kustomize" if given.is_dir() else "--filename", str(given), *where)
    try:
        taken = _kubectl(*command, "--validate=strict")
    except NoAnswer as error:
        return Finding("problem", "dry run", first_line(error), f"kubectl {' '.join(command)}")
    return Finding("ok", "dry run", f"all {len(taken.splitlines())} objects of {given} would be taken")


def _gpus(asked: int, *, grows: bool) -> Iterator[Finding]:
    try:
        nodes = _get("get", "nodes")["items"]
    except NoAnswer as error:
        yield Finding("warn", "gpus", first_line(error), "ask who runs the cluster for the GPUs of its nodes")
        return
    there = [int(node["status"]["allocatable"].get(GPU, 0)) for node in nodes]
    if max(there, default=0) < asked:
        text = f"a pod asks for {asked} {GPU}, no node has as many; the {len(nodes)} nodes have {sum(there)}"
        advice = "NVIDIA's device plugin makes them known; nodes that come later may have them"
        yield Finding("warn" if grows else "problem", "gpus", text, advice)
    else:
        yield Finding("ok", "gpus", f"{sum(there)} on {sum(map(bool, there))} of {len(nodes)} nodes")
    drivers = [int(each) for each in _values(nodes, DRIVER)]
    if min(drivers, default=OLDEST_DRIVER) < OLDEST_DRIVER:
        text = f"nodes with NVIDIA's driver {min(drivers)}: torch needs {OLDEST_DRIVER} or later"
        yield Finding("problem", "driver", text, "choose others by nodeSelector, see cluster/kustomization.yaml")


def _named(objects: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Kind, name and key (or nothing) of the objects that others name."""
    found = {(kind, name, "") for field, kind in NAMING.items() for name in _values(objects, field)}
    found |= {("secret", each["name"], each["key"]) for each in _values(objects, "secretKeyRef")}
    found |= {("secret", each["name"], "") for each in _values(objects, "secretRef")}
    found |= {("secret", each["name"], "") for some in _values(objects, "imagePullSecrets") for each in some}
    return found | {("secret", each["secretName"], "auth_token") for each in _values(objects, "authOptions")}


def _values(place: Any, key: str) -> Iterator[Any]:
    """Every value of a field, wherever it is."""
    inner = place.items() if isinstance(place, dict) else enumerate(place) if isinstance(place, list) else ()
    for name, value in inner:
        if name == key:
            yield value
        yield from _values(value, key)


def _there(kind: str, name: str, key: str, where: Sequence[str]) -> Finding:
    try:
        found = _get("get", kind, name, *where)
    except NoAnswer as error:
        if "forbidden" in str(error).lower():  # it may be there
            return Finding("warn", kind, first_line(error))
        return Finding("problem", kind, first_line(error), "see the file that names it")
    if key:
        value = base64.b64decode(found.get("data", {}).get(key, ""))
        if not value or value != value.strip():
            return Finding("problem", kind, f"{name}: {key} is missing, empty, or ends with a line break", ANEW)
    if kind == NAMING["claimName"]:
        if "ReadWriteMany" not in found["spec"]["accessModes"]:
            return Finding(
                "problem", kind, f"{name}: is not ReadWriteMany, but several nodes write", "see storage.yaml"
            )
        if found["status"]["phase"] != "Bound":
            text = f"{name}: {found['status']['phase']}; some classes bind a claim to its first pod"
            return Finding("warn", kind, text, f"kubectl describe pvc {name}")
    return Finding("ok", kind, f"{name} is there{f', with {key}' if key else ''}")


def _service(name: str, where: Sequence[str]) -> Finding:
    try:
        slices = _get("get", "endpointslices", "--selector", f"kubernetes.io/service-name={name}", *where)
    except NoAnswer as error:
        return Finding("warn", "mlflow", first_line(error))
    if ready := sum(map(bool, _values(slices, "ready"))):
        return Finding("ok", "mlflow", f"{ready} pods of the service {name} are ready")
    return Finding(
        "problem", "mlflow", f"no pod of the service {name} is ready", "see --tracking-uri, cluster/mlflow.yaml"
    )


def _server(host: str, port: int) -> Finding:
    if answers(host, port):
        return Finding("ok", "mlflow", f"{host}:{port} answers this machine")
    text = f"{host}:{port} does not answer this machine"
    return Finding("warn", "mlflow", text, "pods may reach it all the same; otherwise see --tracking-uri")


def _bucket(uri: str) -> Finding:
    try:
        objects_at(uri).check()
    except OrchestratorError as error:
        advice = "pods have their own access: --service-account, --env-from"
        return Finding("warn", "bucket", f"from this machine: {first_line(error)}", advice)
    return Finding("ok", "bucket", f"{uri} can be listed from this machine; pods have their own access")
