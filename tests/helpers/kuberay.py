"""What KubeRay's API reference (ray.io/v1 of KubeRay 1.6.2, docs.ray.io "KubeRay CRD API reference") says of fields.

Pods, services and labels are Kubernetes' own, and are held against its schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TEXTS = {str: str}
"""An object of texts."""
POD = "a pod template"
SERVICE = "a service"

AUTH_OPTIONS = {"mode": {"disabled", "token"}, "secretName": str, "enableK8sTokenAuth": bool}
HEAD_GROUP = {
    "template": POD,
    "headService": SERVICE,
    "enableIngress": bool,
    "rayStartParams": TEXTS,
    "serviceType": {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
}
WORKER_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "numOfHosts": int,
    "idleTimeoutSeconds": int,
    "suspend": bool,
    "rayStartParams": TEXTS,
    "template": POD,
}
CLUSTER = {
    "rayVersion": str,
    "suspend": bool,
    "managedBy": str,
    "enableInTreeAutoscaling": bool,
    "headServiceAnnotations": TEXTS,
    "authOptions": AUTH_OPTIONS,
    "headGroupSpec": HEAD_GROUP,
    "workerGroupSpecs": [WORKER_GROUP],
}
JOB = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "metadata": TEXTS,
    "clusterSelector": TEXTS,
    "managedBy": str,
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
    "submitterConfig": {"backoffLimit": int},
    "submitterPodTemplate": POD,
    "rayClusterSpec": CLUSTER,
}
OBJECTS = {"RayCluster": CLUSTER, "RayJob": JOB}
REQUIRED = {"RayCluster": {"headGroupSpec"}, "RayJob": {"rayClusterSpec"}}


def problems(document: dict[str, Any]) -> list[str]:
    """What the API would not take of a Ray object, or would drop in silence."""
    kind = document["kind"]
    assert document["apiVersion"] == "ray.io/v1"
    found = [f"{key}: is no field" for key in document.keys() - {"apiVersion", "kind", "metadata", "spec"}]
    found += [f"spec.{key}: is missing" for key in REQUIRED[kind] - document["spec"].keys()]
    return found + list(_checked("spec", document["spec"], OBJECTS[kind]))


def pod_templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All pods that a Ray object asks for."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def _checked(place: str, value: Any, expected: Any) -> Iterator[str]:
    if isinstance(expected, str):
        if not isinstance(value, dict):
            yield f"{place}: must be {expected}"
    elif expected is TEXTS:
        for key, text in value.items():
            if not isinstance(text, str):
                yield f"{place}.{key}: must be a text"
    elif isinstance(expected, dict):
        for key, inner in value.items():
            if key in expected:
                yield from _checked(f"{place}.{key}", inner, expected[key])
            else:
                yield f"{place}.{key}: is no field"
    elif isinstance(expected, list):
        for index, inner in enumerate(value):
            yield from _checked(f"{place}[{index}]", inner, expected[0])
    elif isinstance(expected, set):
        if value not in expected:
            yield f"{place}: must be one of {sorted(expected)}"
    elif type(value) is not expected:
        yield f"{place}: must be of the type {expected.__name__}"
