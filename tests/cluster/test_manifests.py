"""The files that start clusters, as shipped and as filled in: what their readers demand; no value breaks them."""

from __future__ import annotations

import configparser
import copy
import functools
import importlib.util
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import kuberay
import kubernetes_validate
import pytest
import yaml
from canaries import SECRETS, told
from checkout import ROOT
from documented import block_commands
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.autoscaler._private import util as autoscaler

from orchestrator.__main__ import run
from orchestrator.base.errors import OrchestratorError
from orchestrator.cluster import kubernetes, manifests, slurm
from orchestrator.cluster.ray import ENVIRONMENT
from orchestrator.space.search_space import SearchSpace

FOLDER = ROOT / "cluster"
MANIFESTS = (
    *("rayjob.yaml", "raycluster.yaml", "mlflow.yaml", "storage.yaml", "shell.yaml", "disruption-budget.yaml"),
    "prometheus-operator.yaml",
)
RAY_UP = ("ray-up-onprem.yaml", "ray-up-aws.yaml", "ray-up-gcp.yaml")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
KUBERNETES = "1.31"
"""The oldest of the versions that Kubernetes still mended when KubeRay 1.6 came."""

# Of 2 MB; it would be read for each object.
kubernetes_validate.utils.schema_contents = functools.lru_cache(kubernetes_validate.utils.schema_contents)

DIGEST = f"sha256:{'a' * 64}"
MACHINES = manifests.Machines(3, 8, 2)
CLUSTER = kubernetes.KubernetesCluster(MACHINES, "registry.example.org/lab/reidsearch:0.1.0")
OWN = manifests.OwnMachines("head.lab", ["a.lab", "10.0.0.7"], "reid", "/shared/env")
SPACE = SearchSpace.load("attn_cl.yaml")


def work(**changed: Any) -> manifests.Work:
    of_data = {"launch": ["--data", "/shared/mars"], "data": "/shared/mars"}
    return manifests.Work(SPACE, "attn_cl-1", "/shared/runs", **of_data)._replace(**changed)


def job(**changed: Any) -> slurm.SlurmJob:
    return slurm.SlurmJob(MACHINES, "08:00:00", "/shared/env", "attn_cl.yaml")._replace(**changed)


def cloud(provider: str) -> manifests.CloudMachines:
    more = {"instance_profile": "reidsearch"}
    if provider == "gcp":
        account = "reid@lab-1.iam.gserviceaccount.com"
        more = {"project": "lab-1", "zone": "europe-west4-a", "service_account": account}
    image = "registry.example.org/reidsearch:0.1.0"
    return manifests.CloudMachines(provider, "eu-central-1", "g6.4xlarge", "m7i.xlarge", image, "ubuntu", **more)


FILLED = {
    "slurm.sbatch": slurm.slurm_script(work(), job()),
    "rayjob.yaml": kubernetes.kubernetes_job(work(), CLUSTER),
    "raycluster.yaml": kubernetes.kubernetes_cluster(work(), CLUSTER),
    "ray-up-onprem.yaml": manifests.ray_up_own(work(), MACHINES, OWN),
    "ray-up-aws.yaml": manifests.ray_up_cloud(work(), MACHINES, cloud("aws")),
    "ray-up-gcp.yaml": manifests.ray_up_cloud(work(), MACHINES, cloud("gcp")),
}


def loaded(text: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


SITE = (FOLDER / "kustomization.yaml").read_text()


def patched(text: str, patches: list[dict[str, Any]]) -> str:
    """Objects with patches of kustomization.yaml, as kustomize makes them (RFC 6902)."""
    objects = loaded(text)
    for patch in patches:
        (target,) = (each for each in objects if each["kind"] == patch["target"]["kind"])
        for change in loaded(patch["patch"])[0]:
            *place, key = [part.replace("~1", "/") for part in change["path"].split("/")[1:]]
            parent = target
            for part in place:
                parent = parent[int(part) if isinstance(parent, list) else part]
            if key == "-":
                parent.append(change["value"])
            else:
                assert change["op"] == "add" or key in parent
                parent[key] = change["value"]
    return yaml.safe_dump_all(objects)


TEXTS = {
    **{f"{path.name} as shipped": path.read_text() for path in FOLDER.glob("*.yaml") if path.name in MANIFESTS},
    **{f"{name} filled in": text for name, text in FILLED.items()},
    "rayjob.yaml without GPUs": kubernetes.kubernetes_job(
        work(), CLUSTER._replace(machines=manifests.Machines(1, 4, 0))
    ),
    "rayjob.yaml in a bucket": kubernetes.kubernetes_job(
        work(storage="s3://bucket/runs", data="mini-mars"), CLUSTER._replace(service_account="reid", secret="keys")
    ),
    "raycluster.yaml in a bucket": kubernetes.kubernetes_cluster(
        work(storage="s3://bucket/runs"), CLUSTER._replace(service_account="reid", secret="keys")
    ),
    "rayjob.yaml with the patches of a site": patched(FILLED["rayjob.yaml"], loaded(SITE)[0]["patches"]),
    "slurm.sbatch with all options": slurm.slurm_script(
        work(storage="/a 'b'/$(date)/`id`"),
        job(
            sbatch=("partition=gpu", "account=vision/reid", "constraint=a100|[b&c]", "gres=gpu:a100:2", "overcommit"),
            setup=("module load cuda", "export APPTAINER_BIND='/shared'"),
            container="/images/a b.sif",
            memory="64G",
            time="2-00:00:00",
        ),
    ),
    "slurm.sbatch for a part of a node": slurm.slurm_script(work(), job(machines=manifests.Machines(1, 8, 2))),
}


def of(*names: str) -> list[str]:
    return [title for title in TEXTS if title.startswith(names)]


@functools.cache
def documents(title: str) -> list[dict[str, Any]]:
    return loaded(TEXTS[title])


def only(title: str, kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents(title) if each["kind"] == kind)
    return found


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document["kind"] in kuberay.OF_RAY:
        yield from kuberay.pod_templates(document)
    elif document["kind"] in ("Deployment", "StatefulSet"):
        yield document["spec"]["template"]
    elif document["kind"] == "CronJob":
        yield document["spec"]["jobTemplate"]["spec"]["template"]
    elif document["kind"] == "Pod":
        yield document


# What ships


def test_all_files_of_the_folder_ship() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [pattern.strip() for pattern in setup["options.package_data"]["cluster"].split(",")]
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in there if not any(fnmatch(name, pattern) for pattern in patterns)} == {"__init__.py"}
    assert "cluster" in setup["options"]["packages"].split()


def test_the_versions_named_are_those_in_use() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    for name in ("rayjob.yaml", "raycluster.yaml"):
        assert f'rayVersion: "{pinned[1]}"' in FILLED[name]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for path in FOLDER.glob("*.yaml"):
        images = re.findall(r"registry\.example\.org/reidsearch(?:-mlflow)?:(\S+)", path.read_text())
        assert set(images) <= {setup["metadata"]["version"]}, path


# Shell


def test_every_script_is_shell_without_a_fault(tmp_path: Path) -> None:
    for number, title in enumerate(of("slurm.sbatch")):
        (tmp_path / f"{number}.sbatch").write_text(TEXTS[title])
        subprocess.run(["bash", "-n", str(tmp_path / f"{number}.sbatch")], check=True)
    for number, title in enumerate(of("rayjob.yaml")):
        (tmp_path / f"{number}.sh").write_text("#!/bin/bash\n" + documents(title)[0]["data"]["search.sh"])
    # Of values in quotes it remarks that nothing in them is expanded, which is what the quotes are for.
    for pattern, severity in (("*.sbatch", "warning"), ("*.sh", "style")):
        arguments = [SHELLCHECK, f"--severity={severity}", *tmp_path.glob(pattern)]
        checked = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def asked_of_slurm(title: str) -> set[str]:
    return set(re.findall(r"^#SBATCH --(.*)$", TEXTS[title], re.MULTILINE))


def test_the_job_script_asks_slurm_for_what_was_said() -> None:
    usual, asked = asked_of_slurm("slurm.sbatch filled in"), asked_of_slurm("slurm.sbatch with all options")
    assert usual - asked == {"mem=0", "time=08:00:00", "gpus-per-node=2"}
    assert {"nodes=3", "cpus-per-task=8", "exclusive", "requeue", "signal=B:USR1@120", "job-name=attn_cl-1"} <= asked
    assert asked - usual == {
        *("mem=64G", "time=2-00:00:00", "partition=gpu", "account=vision/reid", "constraint='a100|[b&c]'"),
        *("gres=gpu:a100:2", "overcommit"),
    }
    lines = TEXTS["slurm.sbatch with all options"].splitlines()
    start = lines.index("set -eo pipefail")
    assert lines[start + 1 : start + 4] == ["module load cuda", "export APPTAINER_BIND='/shared'", "set -u"]
    assert "inside=(apptainer exec --nv '/images/a b.sif')" in lines


def test_a_search_on_one_node_asks_for_a_part_of_it_and_starts_no_cluster() -> None:
    title = "slurm.sbatch for a part of a node"
    assert asked_of_slurm("slurm.sbatch filled in") - asked_of_slurm(title) == {"exclusive", "mem=0", "nodes=3"}
    assert not re.search("srun --|symmetric-run|--address", TEXTS[title])
    exclusive = slurm.slurm_script(work(), job(machines=manifests.Machines(1, 8, 2), sbatch=("exclusive",)))
    assert "\n#SBATCH --exclusive\n" in exclusive


def test_memory_by_core_or_gpu_takes_the_place_of_all_memory_and_a_time_may_be_minutes_of_a_week() -> None:
    text = slurm.slurm_script(work(), job(sbatch=("mem-per-cpu=4G",), time="10080"))
    assert "--mem-per-cpu=4G\n" in text and "\n#SBATCH --time=10080\n" in text
    assert "#SBATCH --mem=" not in text


def test_what_the_job_script_tells_ray_is_what_the_driver_tells_it() -> None:
    told = dict(re.findall(r"(RAY_[A-Z_]+)=(\w+)", re.sub(r'"[^"]*"', "", FILLED["slurm.sbatch"])))
    shared = told.keys() & ENVIRONMENT.keys()
    assert {"RAY_AUTH_MODE", "RAY_CHDIR_TO_TRIAL_DIR", "RAY_USAGE_STATS_ENABLED"} <= shared
    assert {name: told[name] for name in shared} == {name: ENVIRONMENT[name] for name in shared}


# Kubernetes


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_itself_makes_the_same_of_the_patches_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "rayjob.yaml").write_text(FILLED["rayjob.yaml"])
    shutil.copy(FOLDER / "kustomization.yaml", tmp_path)
    made = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=True).stdout
    ours = {each["kind"]: each for each in documents("rayjob.yaml with the patches of a site")}
    assert {each["kind"]: each for each in loaded(made)} == ours


@pytest.mark.parametrize("kind", ["rayjob.yaml", "raycluster.yaml"])
def test_every_patch_of_a_site_works_without_the_others(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "kustomization.yaml"
    file.write_text(SITE)
    if kind == "raycluster.yaml":
        (line,) = (line.removeprefix("#") for line in SITE.splitlines() if "sed -i" in line)
        subprocess.run(shlex.split(line), cwd=tmp_path, check=True)
    (site,) = loaded(file.read_text())
    assert site["resources"] == [kind]
    for patch in site["patches"]:
        for document in loaded(patched(FILLED[kind], [patch])):
            check(document)


def test_the_autoscaler_that_kuberay_adds_is_as_restricted_as_the_other_containers() -> None:
    cluster = documents("rayjob.yaml with the patches of a site")[-1]["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    assert cluster["autoscalerOptions"]["volumeMounts"] == head["volumeMounts"][:2]


def check(document: dict[str, Any], version: str = KUBERNETES) -> None:
    """Raises what Kubernetes and KubeRay would refuse of an object, or would drop in silence."""
    if document["kind"] in kuberay.OBJECTS:
        assert kuberay.problems(document) == []
    else:
        kubernetes_validate.validate(document, version, strict=True)
    for pod in pods(document):
        metadata = {"name": "pod", **pod["metadata"]}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
        kubernetes_validate.validate(whole, version, strict=True)
        mounts = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        assert mounts == claims | {volume["name"] for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize("title", of(*MANIFESTS))
@pytest.mark.parametrize("version", [KUBERNETES, kubernetes_validate.latest_version()])
def test_every_object_is_one_that_kubernetes_and_kuberay_take(title: str, version: str) -> None:
    for document in documents(title):
        check(document, version)


@pytest.mark.parametrize("number", range(20))
def test_whatever_options_are_chosen_the_objects_are_taken(number: int) -> None:
    chance = random.Random(number)
    storage, data = chance.choice([("/shared/runs", "/shared/mars"), ("s3://bucket/runs", "mini-mars")])
    machines = manifests.Machines(chance.choice([1, 3, 40]), chance.choice([1, 8, 96]), chance.choice([0, 1, 8]))
    cluster = CLUSTER._replace(
        machines=machines,
        image=chance.choice(["r.example.org/x:1", f"r.example.org/x:1@{DIGEST}", f"localhost:5000/lab/x@{DIGEST}"]),
        memory=chance.choice(["64Gi", "900M", "2T"]),
        claim=chance.choice(["reidsearch", "team-a.data"]),
        service_account=chance.choice([None, "reid"]),
        secret=chance.choice([None, "keys"]),
    )
    given = work(
        name=chance.choice(["a", "7-days", "x" * 64, "A.b_c"]),
        storage=storage,
        data=data,
        launch=["--data", data],
        stage_data=chance.choice([None, "/shared/packs"]),
        tracking_uri=chance.choice([None, "http://mlflow:5000"]),
    )
    for text in (kubernetes.kubernetes_job(given, cluster), kubernetes.kubernetes_cluster(given, cluster)):
        for document in loaded(text):
            check(document)


# A value that Kubernetes or KubeRay would refuse or drop, and where in a RayJob with a site's patches.
PLANTED: dict[str, Any] = {
    "apiVersion": "ray.io/v1beta1",
    "status": {},
    "metadata.name": "x" * 48,
    "spec.backOffLimit": 3,
    "spec.backoffLimit": "3",
    "spec.submissionMode": "Job",
    "spec.shutdownAfterJobFinishes": False,
    "spec.rayClusterSpec": [],
    "spec.submitterPodTemplate.spec.restartPolicy": "Always",
    "spec.submitterPodTemplate.spec.containers.0.resource": {},
    "spec.rayClusterSpec.authOptions.mode": "none",
    "spec.rayClusterSpec.autoscalerOptions.idleTimeout": 300,
    "spec.rayClusterSpec.autoscalerOptions.version": 2,
    "spec.rayClusterSpec.headGroupSpec.replicas": 1,
    "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus": 0,
    "spec.rayClusterSpec.headGroupSpec.template.spec.nodeSelector": [],
    "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.envFrom": {"secretRef": {"name": "keys"}},
    "spec.rayClusterSpec.workerGroupSpecs.0.replicas": "2",
    "spec.rayClusterSpec.workerGroupSpecs.0.minReplicas": 4,
    "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.toleration": [],
    "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers": [],
    "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.securityContext.readOnlyRootFileSystem": True,
    "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.volumeMounts.0.name": "temp",
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_fault_in_an_object_is_found(place: str) -> None:
    broken = copy.deepcopy(documents("rayjob.yaml with the patches of a site")[-1])
    check(broken)
    *parents, key = place.split(".")
    parent: Any = broken
    for part in parents:
        parent = parent[int(part) if isinstance(parent, list) else part]
    parent[key] = PLANTED[place]
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check(broken)


@pytest.mark.parametrize("title", of(*MANIFESTS))
def test_no_container_runs_as_root_or_without_limits_or_writes_to_its_image(title: str) -> None:
    for document in documents(title):
        for pod in pods(document):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            # Ray's autoscaler, beside the head, asks Kubernetes for workers.
            grows = "enableInTreeAutoscaling" in str(document) and pod is list(pods(document))[1]
            assert pod["spec"]["automountServiceAccountToken"] is grows
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                for kind in ("requests", "limits"):
                    assert {"cpu", "memory"} <= container["resources"][kind].keys()


@pytest.mark.parametrize("title", of(*MANIFESTS))
def test_secrets_are_referred_to_nothing_is_reached_from_outside_and_no_trial_is_on_a_head(title: str) -> None:
    kinds = {document["kind"] for document in documents(title)}
    assert "NetworkPolicy" in kinds or kinds <= {
        "PersistentVolumeClaim",
        "Pod",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
    }
    assert not kinds & {"Secret", "Ingress"}
    for document in documents(title):
        assert document["spec"].get("type") in (None, "ClusterIP") if "spec" in document else True
        if document["kind"] in kuberay.OF_RAY:
            cluster = document["spec"].get("rayClusterSpec", document["spec"])
            assert cluster["authOptions"] == {"mode": "token", "secretName": "reidsearch-token"}
            assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
            assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for pod in pods(document):
            for variable in (each for container in pod["spec"]["containers"] for each in container.get("env", [])):
                is_secret = re.search("TOKEN|PASSWORD$|SECRET_KEY$", variable["name"]) is not None
                assert not is_secret or "secretKeyRef" in variable["valueFrom"]


def test_a_ray_job_has_the_numbers_of_the_search() -> None:
    config, _, ray = documents("rayjob.yaml filled in")
    assert SearchSpace.model_validate(yaml.safe_load(config["data"]["space.yaml"])) == SPACE
    workers = ray["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container["image"] == CLUSTER.image
    assert ray["metadata"]["name"] == config["metadata"]["name"] == manifests.cloud_name("attn_cl-1")
    assert "reidsearch resume attn_cl-1 " in config["data"]["search.sh"]
    assert "nvidia" not in TEXTS["rayjob.yaml without GPUs"]


@pytest.mark.parametrize("title", of("rayjob.yaml", "raycluster.yaml"))
def test_no_file_that_is_deleted_with_a_search_holds_the_claim_that_all_searches_share(title: str) -> None:
    assert {document["kind"] for document in documents(title)} <= {"ConfigMap", "NetworkPolicy", *kuberay.OF_RAY}
    (claim,) = documents("storage.yaml as shipped")
    assert claim["metadata"]["name"] == CLUSTER.claim
    assert ("persistentVolumeClaim" in TEXTS[title]) == ("bucket" not in title)


@pytest.mark.parametrize("title", ["rayjob.yaml in a bucket", "raycluster.yaml in a bucket"])
def test_head_and_workers_have_the_keys_and_the_account_for_a_bucket(title: str) -> None:
    *submitter, head, workers = pods(documents(title)[-1])
    for pod in (head, workers):
        assert pod["spec"]["serviceAccountName"] == "reid"
        assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert all("envFrom" not in pod["spec"]["containers"][0] for pod in submitter)


@pytest.mark.parametrize("title", of("rayjob.yaml", "raycluster.yaml"))
def test_pods_have_time_to_save(title: str) -> None:
    *_, head, workers = pods(documents(title)[-1])
    for pod in (head, workers):
        assert pod["spec"]["terminationGracePeriodSeconds"] == 180
        assert pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][:2] == ["bash", "-c"]


@pytest.mark.parametrize("title", of("rayjob.yaml", "raycluster.yaml"))
def test_pods_of_a_search_are_reached_by_each_other_and_at_the_dashboard_by_both_forms_of_the_operator(
    title: str,
) -> None:
    policy = only(title, "NetworkPolicy")
    own, operator, prometheus = policy["spec"]["ingress"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    assert labels["app.kubernetes.io/instance"] == policy["metadata"]["name"]
    assert all(labels.items() <= pod["metadata"]["labels"].items() for pod in pods(documents(title)[-1]))
    assert own == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert operator["ports"] == [{"port": 8265}]
    # The labels of its pods, in the operator's Helm chart and in its kustomize files.
    for name in ("kuberay-operator", "kuberay"):
        pod = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "kuberay-operator"}
        assert operator["from"][0]["podSelector"]["matchLabels"].items() <= pod.items()
    assert {each["port"] for each in prometheus["ports"]} == {8080, 44217, 44227}


@settings(deadline=None)
@given(names=st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"), min_size=2, max_size=2, unique=True))
def test_every_search_has_a_name_in_a_cloud_and_no_two_have_the_same(names: list[str]) -> None:
    found = [manifests.cloud_name(name) for name in names]
    assert all(manifests.CLOUD_NAME.fullmatch(name) for name in found)
    assert found[0] != found[1]


def test_a_name_that_clouds_take_stays_and_its_like_differ() -> None:
    assert manifests.cloud_name("attn-cl") == "attn-cl"
    assert len({manifests.cloud_name(name) for name in ("attn_cl", "attn.cl", "Attn-cl", "attn-cl")}) == 4
    assert manifests.cloud_name("7-days").startswith("search-7-days-")


# ray up


@pytest.mark.parametrize("title", of(*RAY_UP))
def test_every_file_for_ray_up_is_one_to_ray(title: str) -> None:
    config = autoscaler.prepare_config(copy.deepcopy(documents(title)[0]))
    autoscaler.validate_config(config)


@pytest.mark.parametrize("title", of(*RAY_UP))
def test_every_ray_of_ray_up_demands_the_token_and_shows_its_dashboard_to_its_machine_only(title: str) -> None:
    (config,) = documents(title)
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token " in line for line in starts)
    assert "--dashboard-host=127.0.0.1 --num-cpus=0 " in starts[0]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


def test_a_file_for_ray_up_has_the_numbers_of_the_search() -> None:
    own, aws, gcp = (documents(title)[0] for title in of(*RAY_UP))
    assert own["provider"] == {"type": "local", "head_ip": "head.lab", "worker_ips": ["a.lab", "10.0.0.7"]}
    assert "--num-cpus=8 --num-gpus=2 " in own["worker_start_ray_commands"][1]
    assert aws["available_node_types"]["worker"]["resources"] == {"CPU": 8, "GPU": 2}
    machines = {kind: each["node_config"] for kind, each in aws["available_node_types"].items()}
    assert machines["worker"]["IamInstanceProfile"] == {"Name": "reidsearch"}
    assert "IamInstanceProfile" not in machines["head"]  # Ray makes one, which may rent machines
    for machine in machines.values():
        assert machine["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")  # Ray's own is Ubuntu 18.04
    (account,) = gcp["available_node_types"]["worker"]["node_config"]["serviceAccounts"]
    assert account["email"] == "reid@lab-1.iam.gserviceaccount.com"
    for config in (aws, gcp):
        assert config["docker"]["worker_run_options"][0] == "--gpus=all"
    assert gcp["cluster_name"] == aws["cluster_name"] == manifests.cloud_name("attn_cl-1")
    assert aws["max_workers"] == aws["available_node_types"]["worker"]["max_workers"] == 3


def test_a_search_that_is_submitted_finds_the_python_of_the_environment_on_the_head(tmp_path: Path) -> None:
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    for name, line in (("ray", "command -v python"), ("python", "")):
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    (config,) = loaded(manifests.ray_up_own(work(), MACHINES, OWN._replace(environment=str(folder.parent))))
    for kind in ("head", "worker"):
        start = ["bash", "-c", config[f"{kind}_start_ray_commands"][1]]
        found = subprocess.run(start, capture_output=True, text=True, check=True).stdout
        assert found == f"{folder}/python\n"


# Containers


def instructions() -> list[list[str]]:
    """Those of the Dockerfile: word and arguments."""
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]


def test_the_images_are_pinned_and_do_not_run_as_root() -> None:
    stages = [value.split(" AS ") for word, value in instructions() if word == "FROM"]
    assert stages == [["${PYTHON}", "base"], ["base", "mlflow"], ["base", "reidsearch"]]
    assert re.fullmatch(r"PYTHON=python:\d[\w.-]+", dict(instructions())["ARG"])
    users = [value for word, value in instructions() if word == "USER"]
    assert users == ["1000:1000"] * 2
    copied = {word for kind, value in instructions() if kind == "COPY" for word in value.split()[:-1]}
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    settings = [value for word, value in instructions() if word in ("ARG", "ENV")]
    assert not [value for value in settings if re.search("PASSWORD|TOKEN=", value)]


def test_a_change_of_our_code_installs_no_dependency_anew() -> None:
    *_, lists, code = (value for word, value in instructions() if word == "RUN")
    before = [value.split()[:-1] for word, value in instructions() if word == "COPY"][:2]
    assert before == [["constraints.txt"], ["setup.cfg", "pyproject.toml"]]
    assert "--constraint constraints.txt --requirement requirements.txt" in lists
    assert code == "pip install --no-deps ."
    command = re.search("python (-c .*?) >", lists)
    assert command is not None
    listed = subprocess.run(
        [sys.executable, *shlex.split(command[1])], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = {re.split(r"[\[<>=]", line)[0].lower() for line in listed if line}
    assert {"torch", "ray", "mlflow", "pydantic"} <= found
    assert not any("#" in line for line in listed)


(COMPOSE,) = loaded((FOLDER / "mlflow-compose.yaml").read_text())


def mlflow_on_kubernetes() -> dict[str, Any]:
    """The container of the server."""
    (container,) = only("mlflow.yaml as shipped", "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_servers_of_mlflow_are_pinned_keep_their_passwords_elsewhere_and_listen_to_this_machine() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"database", "mlflow"}
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", service["image"])
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        secrets = [value for key, value in service["environment"].items() if re.search("PASSWORD|KEY", key)]
        assert secrets and all(re.fullmatch(r"\$\{MLFLOW_\w+:\?write it into \.env\}", value) for value in secrets)
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    # Compose copies its configs into containers, which a root file system that is read only would refuse.
    assert [name for name, service in services.items() if not service.get("read_only")] == ["mlflow"]
    for name in ("mlflow-compose.yaml", "mlflow.yaml"):  # a user, no password
        assert set(re.findall(r"postgresql\+psycopg://(\S+)@", (FOLDER / name).read_text())) == {"mlflow"}


def test_mlflow_asks_for_a_login_and_users_cannot_change_the_searches_of_others() -> None:
    login = COMPOSE["configs"]["login"]["content"]
    on_kubernetes = only("mlflow.yaml as shipped", "ConfigMap")["data"]
    assert {"login.ini": login.replace("@database:", "@mlflow-database:")} == on_kubernetes
    config = configparser.ConfigParser()
    config.read_string(login)
    shipped = configparser.ConfigParser()
    (package,) = importlib.util.find_spec("mlflow").submodule_search_locations
    shipped.read(Path(package) / "server" / "auth" / "basic_auth.ini")
    assert dict(config["mlflow"]) | {"grant_default_workspace_access": "false"} == {
        **shipped["mlflow"],
        "database_uri": config["mlflow"]["database_uri"],
    }
    for command, environment in (
        (COMPOSE["services"]["mlflow"]["command"], COMPOSE["services"]["mlflow"]["environment"].keys()),
        (mlflow_on_kubernetes()["command"], {variable["name"] for variable in mlflow_on_kubernetes()["env"]}),
    ):
        assert "--app-name=basic-auth" in command
        assert {
            "MLFLOW_AUTH_CONFIG_PATH",
            "MLFLOW_AUTH_ADMIN_PASSWORD",
            "MLFLOW_FLASK_SERVER_SECRET_KEY",
        } <= environment


def test_mlflow_answers_probes_searches_and_port_forwards_but_no_other_name() -> None:
    (package,) = importlib.util.find_spec("mlflow").submodule_search_locations
    alone = ModuleType("mlflow")  # the package takes seconds to import
    alone.__path__ = [package]
    with mock.patch.dict(sys.modules, {"mlflow": alone}):
        names = runpy.run_path(f"{package}/server/security_utils.py")
    (allowed,) = (
        word.partition("=")[2].split(",")
        for word in mlflow_on_kubernetes()["command"]
        if word.startswith("--allowed-hosts=")
    )
    for host in ("mlflow:5000", "localhost:5000", "127.0.0.1:5001"):
        assert names["is_allowed_host_header"](allowed, host)
    assert not names["is_allowed_host_header"](allowed, "mlflow.evil.example:5000")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = mlflow_on_kubernetes()[probe]["httpGet"]["path"]
        # The node calls it by the pod's address, and has no login.
        assert path in names["HEALTH_ENDPOINTS"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_backup_of_the_database_of_mlflow_is_whole_or_not_there_and_kept_for_two_weeks(
    fails: bool, tmp_path: Path
) -> None:
    job = only("mlflow.yaml as shipped", "CronJob")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    dump = tmp_path / "pg_dump"
    dump.write_text(f'#!/bin/bash\nfor word; do :; done\necho whole > "${{word#--file=}}"\nexit {int(fails)}\n')
    dump.chmod(0o755)
    for name, days in (("mlflow-old.dump", 15), ("mlflow-new.dump", 13), ("mine", 15)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 86_400 * days,) * 2)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BACKUP": str(tmp_path)}
    assert subprocess.run(container["command"], env=environment, check=False).returncode == int(fails)
    left = {re.sub(r"\d{4}-\d\d-\d\d", "DAY", path.name) for path in tmp_path.iterdir()}
    left -= {"pg_dump", "mine", "mlflow-new.dump"}
    assert left == ({"mlflow-old.dump", "mlflow-DAY.dump.part"} if fails else {"mlflow-DAY.dump"})


def test_a_backup_of_the_database_of_mlflow_is_restored_by_a_job_of_the_same_pod(tmp_path: Path) -> None:
    job = only("mlflow.yaml as shipped", "CronJob")["spec"]["jobTemplate"]
    line = next(line for line in TEXTS["mlflow.yaml as shipped"].splitlines() if "--from=cronjob/" in line)
    change = shlex.split(line.split("|")[1])
    assert change[:4] == ["kubectl", "set", "env", "--local"] and change[-1].startswith("RESTORE=mlflow-")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    restore = tmp_path / "pg_restore"
    restore.write_text('#!/bin/bash\necho "$@"\n')
    restore.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BACKUP": "/backup", "PGDATABASE": "mlflow"}
    environment |= dict([change[-1].split("=")])
    said = subprocess.run(container["command"], env=environment, check=True, capture_output=True, text=True).stdout
    assert said == f"--clean --if-exists --single-transaction --dbname=mlflow /backup/{environment['RESTORE']}\n"


def test_no_search_can_replace_an_object_that_searches_share() -> None:
    kinds = {"ConfigMap", "NetworkPolicy", *kuberay.OF_RAY}  # of a search
    for title in of(*(f"{path.name} as shipped" for path in FOLDER.glob("*.yaml"))):
        names = [document["metadata"]["name"] for document in documents(title) if document["kind"] in kinds]
        assert not [name for name in names if manifests.CLOUD_NAME.fullmatch(name)], title


def test_no_command_in_a_file_has_a_secret_among_its_arguments() -> None:
    for path in (*FOLDER.glob("*.yaml"), *(ROOT / "docs").glob("howto-*.md")):
        assert not re.search(r"--from-literal|--(json|data) '", path.read_text()), path


# Values


HOSTILE = st.text(
    st.one_of(st.sampled_from(list("'\"`$\\;&|<>(){}[]*?!#%:~ =-\n\r\t\0\u2028\x85,")), st.characters()), max_size=30
)
ASSIGNMENTS = ("name", "storage", "launch", "environment", "cpus", "gpus")


@settings(max_examples=40, deadline=None)
@given(storage=HOSTILE, data=HOSTILE, environment=HOSTILE, name=HOSTILE)
def test_no_text_changes_what_the_job_script_runs(storage: str, data: str, environment: str, name: str) -> None:
    try:
        text = slurm.slurm_script(
            work(storage=storage, launch=["--data", data], name=name or "n"), job(environment=environment)
        )
    except OrchestratorError as error:
        assert len(str(error).splitlines()) == 1
        text = slurm.slurm_script(work(storage=_usable(storage), launch=["--data", _usable(data)]), job())
        storage, data, environment, name = _usable(storage), _usable(data), "/shared/env", "attn_cl-1"
    ours, plain = text.split("\n"), FILLED["slurm.sbatch"].split("\n")
    changed = [index for index, (a, b) in enumerate(zip(ours, plain, strict=True)) if a != b]
    assert all(
        ours[index].startswith(("# ", "#SBATCH --job-name=", *(f"{n}=" for n in ("mark", *ASSIGNMENTS))))
        for index in changed
    )
    assignments = [line for line in ours if line.split("=")[0] in ASSIGNMENTS][: len(ASSIGNMENTS)]
    show = 'printf "%s\\0" "$storage" "$environment" "$name" "${launch[@]}"'
    shown = subprocess.run(["bash", "-c", "\n".join([*assignments, show])], capture_output=True, check=True)
    values = [storage, environment, name or "n", "--space", "attn_cl.yaml", "--data", data]
    assert shown.stdout.decode().split("\0")[:-1] == values
    assert shown.stderr == b""


def _usable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


@settings(max_examples=40, deadline=None)
@given(storage=HOSTILE, data=HOSTILE, name=HOSTILE, image=HOSTILE, environment=HOSTILE, user=HOSTILE)
def test_no_text_changes_the_structure_of_a_manifest(**texts: str) -> None:
    def structure(text: str) -> list[Any]:
        return [sorted(_paths(document)) for document in loaded(text)]

    plain = work(launch=["--data", "d"])
    attempts = {
        "rayjob.yaml": lambda: kubernetes.kubernetes_job(
            work(storage=f"/shared/{texts['storage']}", launch=["--data", texts["data"]]), CLUSTER
        ),
        "raycluster.yaml": lambda: kubernetes.kubernetes_cluster(
            work(name=texts["name"]), CLUSTER._replace(image=texts["image"])
        ),
        "ray-up-onprem.yaml": lambda: manifests.ray_up_own(
            plain, MACHINES, OWN._replace(environment=texts["environment"], user=texts["user"] or "reid")
        ),
        "ray-up-aws.yaml": lambda: manifests.ray_up_cloud(plain, MACHINES, cloud("aws")._replace(image=texts["image"])),
    }
    for name, attempt in attempts.items():
        try:
            text = attempt()
        except OrchestratorError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert structure(text) == structure(FILLED[name])
        if name == "rayjob.yaml":
            script, plain_script = (loaded(each)[0]["data"]["search.sh"].split("\n") for each in (text, FILLED[name]))
            assert len(script) == len(plain_script)
            words = shlex.split(next(line for line in script if "reidsearch launch" in line))[2:]
            assert words[:4] == ["reidsearch", "launch", "--space", "/etc/reidsearch/space.yaml"]
            assert words[4:6] == ["--data", texts["data"]]
            assert words[-4:] == ["--storage", f"/shared/{texts['storage']}", "--address", "auto"]


def _paths(value: Any, place: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, f"{place}[{index}]")
    else:
        yield f"{place}: {type(value).__name__}"


SLURM = [
    *("cluster", "slurm", "attn_cl", "--nodes", "2", "--gpus-per-node", "4", "--cpus-per-node", "8", "--time", "8:0:0")
]
OF_SLURM = [*SLURM, "--storage", "/s"]
K8S = [
    *("cluster", "k8s", "attn_cl", "--nodes", "2", "--gpus-per-node", "1", "--cpus-per-node", "8"),
    *("--data", "mini-mars"),
]
UP = ["cluster", "ray-up", "attn_cl", "--cpus-per-node", "8"]
IMAGE = ["--image", "r.example.org/x:1"]
OF_A_JOB = [*K8S, *IMAGE, "--storage", "/shared/runs"]
ONPREM = [*UP, "--provider", "onprem", "--head", "a", "--worker", "b", "--user", "u"]
REFUSED = {
    "a partition with a space": ([*OF_SLURM, "--sbatch", "partition=a b"], 3, "--sbatch: must be KEY=VALUE"),
    "a partition with a newline": ([*OF_SLURM, "--sbatch", "partition=a\n#SBATCH --uid=0"], 3, "--sbatch: 'part"),
    "a quote for Slurm": ([*OF_SLURM, "--sbatch", "comment='"], 3, "--sbatch: must be KEY=VALUE"),
    "dashes for Slurm": ([*OF_SLURM, "--sbatch", "--qos=long"], 3, "--sbatch: must be KEY=VALUE"),
    "no option of sbatch": ([*OF_SLURM, "--sbatch", "nonsense"], 3, "--sbatch: must be KEY=VALUE"),
    "what the script sets": ([*OF_SLURM, "--sbatch", "mem=4G"], 3, "decides on mem itself; give --memory"),
    "memory twice": (
        [*OF_SLURM, "--memory", "48G", "--sbatch", "mem-per-gpu=4G"], 3, "--memory and --sbatch mem-per-gpu=4G: sbatch"
    ),
    "shared nodes that are whole": ([*OF_SLURM, "--sbatch", "oversubscribe"], 3, "decides on oversubscribe itself"),
    "more seconds than sbatch takes": ([*OF_SLURM, "--save-before", "70000"], 2, "30<=x<=65535"),
    "more cores than a machine has": ([*OF_SLURM, "--cpus-per-node", "9999999999"], 2, "1<=x<=10000"),
    "more GPUs than a machine has": ([*OF_SLURM, "--gpus-per-node", "1001"], 2, "0<=x<=1000"),
    "what the script cannot do": ([*OF_SLURM, "--sbatch", "array=1-9"], 3, "decides on array itself"),
    "a key twice": ([*OF_SLURM, "--sbatch", "qos=a", "--sbatch", "qos=b"], 3, "qos is given twice"),
    "other GPUs": ([*OF_SLURM, "--sbatch", "gres=gpu:a100:2"], 3, "these are 2 GPUs; --gpus-per-node says 4"),
    "data in a bucket for Slurm": ([*OF_SLURM, "--data", "s3://b/mars"], 3, "must be a folder that all nodes see"),
    "half a line": ([*OF_SLURM, "--setup", "if true; then"], 3, "--setup: must be one whole line"),
    "an open quote": ([*OF_SLURM, "--setup", "echo 'a"], 3, "--setup: must be one whole line"),
    "a line that goes on": ([*OF_SLURM, "--setup", "echo \\"], 3, "--setup: must be one whole line"),
    "a text that goes on": ([*OF_SLURM, "--setup", "cat << E"], 3, "--setup: must be one whole line"),
    "two lines": ([*OF_SLURM, "--setup", "a\nb"], 3, "do not print"),
    "a directive among the lines": ([*OF_SLURM, "--setup", "#SBATCH --qos=a"], 3, "--setup: must be one whole line"),
    "a variable of the shell that is not set": ([*SLURM, "--storage", ""], 2, "'--storage': is empty"),
    "no time": ([*SLURM[:-2], "--storage", "/s", "--time", "soon"], 3, "--time: must be a time limit"),
    "99 minutes": ([*SLURM[:-2], "--storage", "/s", "--time", "08:99:00"], 3, "--time: must be a time limit"),
    "too little time": ([*SLURM[:-2], "--storage", "/s", "--time", "00:02:00"], 3, "ask for more"),
    "a line's end in a path": ([*SLURM, "--storage", "/s\n/t"], 3, "do not print"),
    "a name that is a path": ([*SLURM, "--storage", "/s", "--name", "../x"], 3, "cannot name a search"),
    "a trial too large": ([*SLURM, "--storage", "/s", "--cpus-per-trial", "99"], 3, "no node can hold a trial"),
    "two GPUs for a trial": ([*SLURM, "--storage", "/s", "--gpus-per-trial", "2"], 2, "at most 1, for a trial trains"),
    "an odd memory": ([*SLURM, "--storage", "/s", "--memory", "lots"], 3, "--memory: must be a memory"),
    "no environment": ([*OF_SLURM, "--environment", "/nope"], 3, "--environment /nope: has no bin/reidsearch"),
    "no image": ([*K8S, "--storage", "/shared/runs"], 2, "--image"),
    "the latest image": ([*K8S, "--storage", "/shared/runs", "--image", "x:latest"], 3, "other than latest"),
    "an image without a tag": ([*K8S, "--storage", "/shared/runs", "--image", "x"], 3, "--image"),
    "storage that ends with its pod": ([*K8S, *IMAGE, "--storage", "/tmp/runs"], 3, "below /shared"),
    "storage that leaves": ([*K8S, *IMAGE, "--storage", "/shared/../tmp"], 3, "below /shared"),
    "a machine too small": ([*K8S, *IMAGE, "--storage", "s3://b/r", "--memory-per-trial", "65 GiB",
                             "--memory-per-node", "64Gi"], 3, "no node can hold a trial"),
    "storage that is a folder of the pod": ([*K8S, *IMAGE, "--storage", "file:///tmp"], 3, "below /shared"),
    "storage in the memory of a process": ([*K8S, *IMAGE, "--storage", "memory://runs"], 3, "name a bucket"),
    "a key in the storage": ([*K8S, *IMAGE, "--storage", "s3://b/r?access_key=k"], 3, "'access_key' is no setting"),
    "credentials in the storage": ([*SLURM, "--storage", "s3://key:secret@b/r"], 3, "no credentials in the URI"),
    "credentials in an endpoint": (
        [*SLURM, "--storage", "s3://b/r?endpoint_override=http%3A%2F%2Fk%3As%40h"], 3, "no credentials in the URI"
    ),
    "a password of MLflow": ([*OF_A_JOB, "--tracking-uri", "http://u:p@mlflow:5000"], 2, "MLFLOW_TRACKING_PASSWORD"),
    "data that no pod sees": ([*OF_A_JOB, "--data", "/data/mars"], 3, "--data /data/mars: pods share only"),
    "a key in the address of data": ([*OF_SLURM, "--data", "s3://AKIA:hidden@b/x"], 3, "--data s3://***@b/x: must be"),
    "a token in the address of MLflow": (
        [*OF_SLURM, "--tracking-uri", "http://h:5000/?token=hidden"], 2, "ends before the '?'"
    ),
    "a password in the address of Ray": (
        ["cluster", "plan", "attn_cl", "--address", "http://u:hidden@127.0.0.1:1"], 5, "answers at http://***@127.0.0.1:1"
    ),
    "a claim that is no name": ([*OF_A_JOB, "--claim", "a..b"], 3, "--claim: must be the name of an object"),
    "an address with colons": ([*UP, "--provider", "onprem", "--head", "fe80::1", "--worker", "b", "--user", "u"], 3,
                               "--head: must be the name or IPv4 address"),
    "data in a bucket": ([*OF_A_JOB, "--data", "s3://b/mars"], 3, "must be a folder below /shared"),
    "a pack that no pod sees": ([*OF_A_JOB, "--stage-data", "/data/mars"], 3, "--stage-data /data/mars: pods share"),
    "no data": (
        [*K8S[:-2], *IMAGE, "--storage", "/shared/runs"], 3, "data.root data/mars: pods share only what is below"
    ),
    "no memory": ([*OF_A_JOB, "--memory-per-node", "0Gi"], 3, "--memory-per-node: must be more than 0Gi"),
    "an option that a cluster ignores": ([*OF_A_JOB, "--kind", "cluster"], 2, "--data means nothing to --kind cluster"),
    "a machine twice": ([*ONPREM, "--worker", "b"], 3, "--worker b: given twice"),
    "the head as a worker": ([*ONPREM, "--worker", "a"], 3, "--worker a: given twice, or the head"),
    "no machine": ([*UP, "--provider", "onprem"], 2, "--provider onprem needs --head, --worker, --user"),
    "a host that is a command": (
        [*UP, "--provider", "onprem", "--head", "a;id", "--worker", "b", "--user", "u"], 3, "--head: must be"
    ),
    "an option of another provider": ([*ONPREM, "--region", "x"], 2, "does not take --region"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_refused_in_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, expected = REFUSED[case]
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    busy = ("Usage:", "Try ", "attn_cl: checking the space")
    lines = [line for line in printed.err.splitlines() if line and not line.startswith(busy)]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "hidden" not in lines[0]


def test_a_file_of_a_space_is_named_by_its_whole_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my space.yaml").write_text("version: 1\nextends: attn_cl.yaml\nname: mine\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--set", "budget.trials=7", "--storage", "runs", "--concurrent", "2"]
    assert run([*SLURM[:2], "my space.yaml", *SLURM[3:], *arguments]) == 0
    text = capsys.readouterr().out
    assert f"storage={tmp_path}/runs\n" in text
    assert f"launch=(--space '{tmp_path}/my space.yaml' --concurrent 2 --set budget.trials=7)\n" in text
    assert "\n# mine: 7 trials, 2 at once on 2 nodes, 1 of 8 GPUs and 8 CPU cores each\n" in text


def test_places_that_nodes_may_not_see_a_database_on_a_shared_file_system_and_trials_that_do_not_fit_are_warned_of(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = ["--storage", "/tmp/runs", "--data", "/no/mars", "--container", "/no/x.sif", "--concurrent", "500"]
    assert run([*SLURM, *place]) == 0
    busy, local, missing, image, mlflow = capsys.readouterr().err.splitlines()
    assert busy == "attn_cl: checking the space"
    assert caplog.messages == ["--concurrent 500: 8 trials at most run at once"]
    assert local.startswith("--storage /tmp/runs: every machine has a folder of its own")
    assert missing.startswith("--data /no/mars: is not on this machine")
    assert image.startswith("--container /no/x.sif: is not on this machine")
    assert mlflow.startswith("MLflow's runs are in SQLite, /tmp/runs/mlflow.db, ")
    assert run([*SLURM, "--storage", "s3://b/runs", "--data", "mini-mars"]) == 0
    assert capsys.readouterr().err.splitlines()[1].startswith("MLflow's database cannot lie in a bucket")
    assert run([*SLURM, "--storage", "/s", "--data", "mini-mars", "--tracking-uri", "http://mlflow:5000"]) == 0
    assert capsys.readouterr().err.splitlines() == [busy]


def test_the_commands_that_are_documented_write_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "howto-cluster.md"
    commands = [list(command.words) for command in block_commands(page)]
    writing = [words for words in commands if words[:2] == ["reidsearch", "cluster"] and words[2] != "plan"]
    assert len(writing) == 6
    said = []
    for words in writing:
        assert run(words[1 : words.index(">")]) == 0
        said += capsys.readouterr().out.splitlines()
    shown = {line for line in page.read_text().splitlines() if line.startswith("# first:")}
    assert shown and shown <= set(said)


def test_no_secret_of_the_environment_is_in_a_file_that_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    shared = ["--storage", "/shared/runs", "--data", "mini-mars"]
    for arguments in ([*SLURM, *shared], [*K8S, *IMAGE, *shared], ONPREM):
        assert run(arguments) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        assert len(printed.out) > 1000
        assert told(printed.out + printed.err) == []


def test_the_line_break_at_the_end_of_a_secret_made_from_a_file_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "abc\n")
    assert run(["--version"]) == 0
    assert os.environ["RAY_AUTH_TOKEN"] == os.environ["MLFLOW_TRACKING_PASSWORD"] == "abc"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "abc"


def test_no_python_of_the_job_script_imports_from_the_folder_that_it_was_submitted_in() -> None:
    text = FILLED["slurm.sbatch"]
    assert text.index("export PYTHONSAFEPATH=1") < text.index(" python - ")


def test_a_start_after_the_first_names_the_mlflow_server_again(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be in a new container, where nobody has confirmed a server that only search.yaml names."""
    server = ["--storage", "/shared/runs", "--tracking-uri", "http://tracker:5000"]
    for command in (SLURM, [*K8S, *IMAGE]):
        assert run([*command, *server]) == 0
        text = capsys.readouterr().out
        assert [line for line in text.splitlines() if "resume" in line and "http://tracker:5000" in line], text
