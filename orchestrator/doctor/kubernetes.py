"""Checks of a Kubernetes cluster, by kubectl: whether it takes the files of a search, and has what they name."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")  # no option of kubectl
NUMBER = re.compile(r"(\d+)(k?)")
SERVER = re.compile(rf"{TRACKING}[ =]['\"]?(https?)://([A-Za-z0-9.-]+)(?::(\d+))?")
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
        text = _kubectl("kustomize", str(given)) if given.is_dir() else given.read_text("utf-8", "replace")
        objects = [each for each in yaml.safe_load_all(text) if each is not None]
        made = {(_at(each, str, "kind").lower(), _at(each, str, "metadata", "name")) for each in objects}
        reason = "" if made and all(map(all, made)) else "holds no objects of Kubernetes"
    except (yaml.YAMLError, ValueError):  # a date that is none, too
        reason = "holds no objects of Kubernetes"
    except (OSError, NoAnswer) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
    if reason:
        raise OrchestratorError(f"{given}: {reason}; give what `{command_line('cluster', 'k8s')}` wrote")
    where = () if namespace is None else ("--namespace", namespace)
    try:
        version = _at(_get("version"), str, "serverVersion", "gitVersion")
        if not version:
            raise NoAnswer("it names no version")
        yield Finding("ok", "kubernetes", f"{version} answers")
    except NoAnswer as error:
        advice = "kubectl config get-contexts"
        yield Finding("problem", "kubernetes", f"the cluster does not answer ({first_line(error)})", advice)
        return
    for kind in sorted(CRDS.keys() & {each["kind"] for each in objects}):
        yield _operator(CRDS[kind])
    yield _dry_run(given, where)
    if asked := max(map(_number, _values(objects, GPU, (int, str))), default=0):
        yield from _gpus(asked, grows=any(_values(objects, "enableInTreeAutoscaling", bool)))
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
        done = subprocess.run(  # noqa: TID251 - kubectl
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError as error:
        raise EnvironmentProblem("kubectl is not on the PATH; install it, or ask from a machine that has it") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"nothing in {PATIENCE_S} s") from error
    if done.returncode != 0:
        raise NoAnswer(done.stderr.strip() or f"kubectl ended with {done.returncode}")
    return done.stdout


def _get(*arguments: str) -> dict[str, Any]:
    text = _kubectl(*arguments, "--output", "json")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NoAnswer(f"kubectl {' '.join(arguments)}: answers {text.strip()[:40]!r}, which is no object")
    return answer


T = TypeVar("T")


def _at(place: Any, kind: type[T], *path: str) -> T:
    """The value at a path of keys; an empty one of its kind if none of that kind is there."""
    for key in path:
        place = place.get(key) if isinstance(place, dict) else None
    return place if isinstance(place, kind) else kind()


def _number(text: object) -> int:
    """How many a quantity of whole things is."""
    found = NUMBER.match(str(text))
    return int(found[1]) * 1000 ** len(found[2]) if found else 0


def _unanswered(subject: str, error: NoAnswer, advice: str) -> Finding:
    """A warning of what may be there, but may not be read."""
    forbidden = "forbidden" in str(error).lower()
    return Finding("warn" if forbidden else "problem", subject, first_line(error), "" if forbidden else advice)


def _operator(crd: str) -> Finding:
    try:
        versions = _at(_get("get", "crd", crd), list, "spec", "versions")
    except NoAnswer as error:
        return _unanswered("kuberay", error, INSTALL)
    # Its version is in no object that everyone may read; this field came with 1.6.
    schemas = [each for each in versions if _at(each, str, "name") == "v1"]
    if any(_values(schemas, "enableK8sTokenAuth", dict)):
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
        nodes = _at(_get("get", "nodes"), list, "items")
    except NoAnswer as error:
        yield Finding("warn", "gpus", first_line(error), "ask who runs the cluster for the GPUs of its nodes")
        return
    there = [_number(_at(node, str, "status", "allocatable", GPU)) for node in nodes]
    if max(there, default=0) < asked:
        text = f"a pod asks for {asked} {GPU}, no node has as many; the {len(nodes)} nodes have {sum(there)}"
        advice = "NVIDIA's device plugin makes them known; nodes that come later may have them"
        yield Finding("warn" if grows else "problem", "gpus", text, advice)
    else:
        yield Finding("ok", "gpus", f"{sum(there)} on {sum(map(bool, there))} of {len(nodes)} nodes")
    drivers = [*filter(None, map(_number, _values(nodes, DRIVER, str)))]
    if min(drivers, default=OLDEST_DRIVER) < OLDEST_DRIVER:
        text = f"nodes with NVIDIA's driver {min(drivers)}: torch needs {OLDEST_DRIVER} or later"
        yield Finding("problem", "driver", text, "choose others by nodeSelector, see cluster/kustomization.yaml")


def _named(objects: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Kind, name and key (or nothing) of the objects that others name."""
    found = [(kind, name, "") for field, kind in NAMING.items() for name in _values(objects, field, str)]
    for field in ("secretKeyRef", "secretRef"):
        found += [("secret", _at(each, str, "name"), _at(each, str, "key")) for each in _values(objects, field, dict)]
    pulls = _values(objects, "imagePullSecrets", list)
    found += [("secret", _at(each, str, "name"), "") for some in pulls for each in some]
    tokens = _values(objects, "authOptions", dict)
    found += [("secret", _at(each, str, "secretName"), "auth_token") for each in tokens]
    return {each for each in found if NAME.fullmatch(each[1])}  # the dry run names the others


def _values(place: Any, key: str, kind: type[T] | tuple[type[T], ...]) -> Iterator[T]:
    """Every value of a field that is of a kind, wherever it is."""
    inner = place.items() if isinstance(place, dict) else enumerate(place) if isinstance(place, list) else ()
    for name, value in inner:
        if name == key and isinstance(value, kind):
            yield value
        yield from _values(value, key, kind)


def _there(kind: str, name: str, key: str, where: Sequence[str]) -> Finding:
    try:
        found = _get("get", kind, name, *where)
    except NoAnswer as error:
        return _unanswered(kind, error, "see the file that names it")
    if key:
        value = b""
        with contextlib.suppress(ValueError):
            value = base64.b64decode(_at(found, str, "data", key))
        if not value or value != value.strip():
            return Finding("problem", kind, f"{name}: {key} is missing, empty, or ends with a line break", ANEW)
    if kind == NAMING["claimName"]:
        if "ReadWriteMany" not in _at(found, list, "spec", "accessModes"):
            return Finding(
                "problem", kind, f"{name}: is not ReadWriteMany, but several nodes write", "see storage.yaml"
            )
        if (phase := _at(found, str, "status", "phase")) != "Bound":
            text = f"{name}: {phase or 'no phase'}; some classes bind a claim to its first pod"
            return Finding("warn", kind, text, f"kubectl describe pvc {name}")
    return Finding("ok", kind, f"{name} is there{f', with {key}' if key else ''}")


def _service(name: str, where: Sequence[str]) -> Finding:
    try:
        slices = _get("get", "endpointslices", "--selector", f"kubernetes.io/service-name={name}", *where)
    except NoAnswer as error:
        return Finding("warn", "mlflow", first_line(error))
    if ready := sum(map(bool, _values(slices, "ready", bool))):
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
