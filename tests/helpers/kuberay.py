"""The fields of KubeRay's objects (ray.io/v1 of 1.6.2) and of Prometheus' operator, and what KubeRay refuses beyond.

No package carries their schemas. These are lists of our own, of the facts in docs.ray.io "KubeRay CRD API reference"
and prometheus-operator.dev "API reference": names, types, and choices. Of KubeRay's they lack RayService and what came
after 1.6.2, of Prometheus' most of what we do not use. Pods, services and labels are Kubernetes' own, and are held
against its schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jsonschema import Draft202012Validator

TEXTS = {str: str}
"""An object of texts."""
POD = "a pod template"
OF_KUBERNETES = "an object of Kubernetes"

AUTH_OPTIONS = {"mode": {"disabled", "token"}, "secretName": str, "enableK8sTokenAuth": bool}
AUTOSCALER = {
    "version": {"v1", "v2"},
    "idleTimeoutSeconds": int,
    "upscalingMode": {"Default", "Aggressive", "Conservative"},
    "image": str,
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "resources": OF_KUBERNETES,
    "securityContext": OF_KUBERNETES,
    "env": [OF_KUBERNETES],
    "envFrom": [OF_KUBERNETES],
    "volumeMounts": [OF_KUBERNETES],
}
CREDENTIAL = {"value": str, "valueFrom": OF_KUBERNETES}
GCS_OPTIONS = {
    "redisAddress": str,
    "redisUsername": CREDENTIAL,
    "redisPassword": CREDENTIAL,
    "externalStorageNamespace": str,
}
MANAGERS = {"ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"}
HEAD_GROUP = {
    "template": POD,
    "headService": OF_KUBERNETES,
    "enableIngress": bool,
    "resources": TEXTS,
    "labels": TEXTS,
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
    "resources": TEXTS,
    "labels": TEXTS,
    "rayStartParams": TEXTS,
    "scaleStrategy": {"workersToDelete": [str]},
    "template": POD,
}
CLUSTER = {
    "rayVersion": str,
    "suspend": bool,
    "managedBy": MANAGERS,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER,
    "headServiceAnnotations": TEXTS,
    "authOptions": AUTH_OPTIONS,
    "gcsFaultToleranceOptions": GCS_OPTIONS,
    "upgradeStrategy": {"type": {"Recreate", "None"}},
    "headGroupSpec": HEAD_GROUP,
    "workerGroupSpecs": [WORKER_GROUP],
}
DELETION = {"policy": {"DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"}}
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
    "managedBy": MANAGERS,
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "deletionStrategy": {"onSuccess": DELETION, "onFailure": DELETION},
    "suspend": bool,
    "submitterConfig": {"backoffLimit": int},
    "submitterPodTemplate": POD,
    "rayClusterSpec": CLUSTER,
}
RELABELING = {
    "sourceLabels": [str],
    "separator": str,
    "targetLabel": str,
    "regex": str,
    "replacement": str,
    "action": {"replace", "keep", "drop", "labeldrop", "labelkeep", "labelmap"},
}
ENDPOINT = {
    "port": str,
    "path": str,
    "interval": str,
    "scrapeTimeout": str,
    "relabelings": [RELABELING],
    "metricRelabelings": [RELABELING],
}
POD_MONITOR = {
    "jobLabel": str,
    "podTargetLabels": [str],
    "selector": {"matchLabels": TEXTS},
    "namespaceSelector": {"any": bool, "matchNames": [str]},
    "podMetricsEndpoints": [ENDPOINT],
}
RULE = {"alert": str, "record": str, "expr": str, "for": str, "labels": TEXTS, "annotations": TEXTS}
RULES = {"groups": [{"name": str, "interval": str, "rules": [RULE]}]}
OBJECTS = {"RayCluster": CLUSTER, "RayJob": JOB, "PodMonitor": POD_MONITOR, "PrometheusRule": RULES}
OF_RAY = ("RayCluster", "RayJob")
REQUIRED = {
    "RayCluster": ["headGroupSpec"],
    "RayJob": ["entrypoint", "rayClusterSpec"],
    "rayClusterSpec": ["headGroupSpec"],
    "headGroupSpec": ["template", "rayStartParams"],
    "workerGroupSpecs": ["groupName", "template", "rayStartParams"],
    "PodMonitor": ["selector", "podMetricsEndpoints"],
    "PrometheusRule": ["groups"],
    "groups": ["name", "rules"],
    "rules": ["expr"],
}
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
LONGEST_NAME = 47
"""Of a RayJob or a RayCluster: the operator adds to it."""


def problems(document: dict[str, Any]) -> list[str]:
    """What the API would not take of an object, would drop in silence, or KubeRay would refuse."""
    kind, spec = document["kind"], document["spec"]
    assert document["apiVersion"] == ("ray.io/v1" if kind in OF_RAY else "monitoring.coreos.com/v1")
    found = [f"{key}: is no field" for key in document.keys() - {"apiVersion", "kind", "metadata", "spec"}]
    validator = Draft202012Validator(_schema(OBJECTS[kind], REQUIRED[kind]))
    found += [f"{error.json_path}: {error.message}" for error in validator.iter_errors(spec)]
    if found or kind not in OF_RAY:
        return found
    return list(_refused(document["metadata"]["name"], spec, spec.get("rayClusterSpec", spec)))


def _refused(name: str, spec: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    """What the operator refuses of an object whose fields are right."""
    if len(name) > LONGEST_NAME:
        yield f"metadata.name: has more than {LONGEST_NAME} characters"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    if spec.get("submitterPodTemplate", {}).get("spec", {}).get("restartPolicy", "Never") == "Always":
        yield "spec.submitterPodTemplate: is restarted for ever"
    groups = cluster.get("workerGroupSpecs", [])
    if len({group["groupName"] for group in groups}) < len(groups):
        yield "workerGroupSpecs: two have one name"
    for group in groups:
        fewest, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= fewest <= group.get("replicas", fewest) <= most:
            yield f"workerGroupSpecs.{group['groupName']}: replicas are not within minReplicas and maxReplicas"
    for group in (cluster["headGroupSpec"], *groups):
        if not group["template"].get("spec", {}).get("containers"):
            yield "template: has no container"


def pod_templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All pods that a Ray object asks for."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def _schema(expected: Any, required: Iterable[str] = ()) -> dict[str, Any]:
    """The fields as a JSON schema that takes no others."""
    if isinstance(expected, str):
        return {"type": "object"}
    if expected is TEXTS:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if isinstance(expected, dict):
        fields = {key: _schema(inner, REQUIRED.get(key, ())) for key, inner in expected.items()}
        return {"type": "object", "properties": fields, "additionalProperties": False, "required": list(required)}
    if isinstance(expected, list):
        return {"type": "array", "items": _schema(expected[0], required)}
    return {"enum": sorted(expected)} if isinstance(expected, set) else {"type": JSON_TYPES[expected]}
