"""What `cluster check` makes of the answers of a cluster, which a stub of kubectl gives."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT

from orchestrator.__main__ import run
from orchestrator.base.errors import OrchestratorError
from orchestrator.doctor import kubernetes as doctor
from orchestrator.stores.base import StorageProblem
from orchestrator.stores.objects import Objects

# Answers from a file, by the words that follow `get`; what is not there is NotFound.
KUBECTL = f"""#!{sys.executable} -IS
import json, pathlib, sys
words = sys.argv[1:]
sys.stdout.reconfigure(encoding="latin-1", errors="replace")
answers = json.loads(pathlib.Path(__file__).with_name("answers.json").read_text())
if words[0] == "kustomize":
    print(pathlib.Path(words[1], "rayjob.yaml").read_text())
    sys.exit()
key = " ".join(word for word in words[words[0] == "get":] if word[0] != "-" and word not in ("json", "lab"))
answer = answers.get("apply" if words[0] == "apply" else key)
if answer is None or isinstance(answer, str) and answer.startswith("Error"):
    sys.exit(answer or f'Error from server (NotFound): "{{key}}" not found')
print(answer if isinstance(answer, str) else json.dumps(answer))
"""
JOB = [
    *("cluster", "k8s", "attn_cl", "--nodes", "2", "--gpus-per-node", "4", "--cpus-per-node", "8", "--name", "first"),
    *("--image", "r.example.org/x:1", "--storage", "/shared/runs", "--data", "/shared/mars"),
    *("--tracking-uri", "http://mlflow:5000", "--service-account", "reid", "--env-from", "keys"),
]


def crd(**fields: Any) -> dict[str, Any]:
    return {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": fields}}}]}}


def node(gpus: int, driver: str = "580") -> dict[str, Any]:
    labels = {"nvidia.com/cuda.driver-version.major": driver} if gpus else {}
    return {"metadata": {"labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {}}}


def claim(mode: str = "ReadWriteMany", phase: str = "Bound") -> dict[str, Any]:
    return {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}


def token(text: str) -> dict[str, Any]:
    return {"data": {"auth_token": base64.b64encode(text.encode()).decode()}}


FIT = {
    "version": {"serverVersion": {"gitVersion": "v1.33.1"}},
    "crd rayjobs.ray.io": crd(authOptions={"properties": {"enableK8sTokenAuth": {"type": "boolean"}}}),
    "apply": "a created\nb created\nc created",
    "nodes": {"items": [node(0), node(4), node(8)]},
    "persistentvolumeclaim reidsearch": claim(),
    "secret keys": {"data": {}},
    "secret reidsearch-token": token("abc"),
    "serviceaccount reid": {},
    "endpointslices kubernetes.io/service-name=mlflow": {"items": [{"endpoints": [{"conditions": {"ready": True}}]}]},
}
FOUND = ["kubernetes", "kuberay", "dry run", "gpus", "persistentvolumeclaim", "secret", "secret", "serviceaccount"]


@functools.cache
def rendered(*more: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert run([*JOB, *more]) == 0
    return said.getvalue()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rendered job, with the stub on the PATH."""
    file = tmp_path / "rayjob.yaml"
    file.write_text(rendered())
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return file


def check_of(file: Path, capsys: pytest.CaptureFixture[str], **changed: Any) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings with some answers changed; None takes an answer away."""
    answers = FIT | changed
    (file.parent / "answers.json").write_text(json.dumps(answers))
    code = run(["cluster", "check", str(file), "--namespace", "lab", "--json"])
    return code, json.loads(capsys.readouterr().out)["findings"]


def test_a_cluster_that_has_everything_is_fit(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check_of(job, capsys)
    assert (code, {each["level"] for each in found}) == (0, {"ok"}), found
    assert [each["subject"] for each in found] == [*FOUND, "mlflow"]
    (job.parent / "kustomization.yaml").touch()
    assert run(["cluster", "check", str(job.parent)]) == 0
    assert capsys.readouterr().out.endswith("nothing is wrong\n")


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("version", "Error: connection refused", "connection refused"),
        ("version", "<html>Zugriff für", "kubectl version: answers '<html>Zugriff f\ufffdr', which is no object"),
        ("version", {"serverVersion": None}, "it names no version"),
        ("crd rayjobs.ray.io", None, '"crd rayjobs.ray.io" not found'),
        ("crd rayjobs.ray.io", crd(rayClusterSpec={}), "older than 1.6"),
        ("apply", "Error from server (BadRequest): unknown field", "unknown field"),
        ("nodes", {"items": [node(0), node(2)]}, "a pod asks for 4 nvidia.com/gpu, no node has as many"),
        ("nodes", {"items": [node(8, "550")]}, "driver 550: torch needs 580"),
        ("persistentvolumeclaim reidsearch", None, "not found"),
        ("persistentvolumeclaim reidsearch", claim("ReadWriteOnce"), "is not ReadWriteMany"),
        ("secret reidsearch-token", None, "not found"),
        ("secret reidsearch-token", token("abc\n"), "ends with a line break"),
        ("secret reidsearch-token", {"data": {"token": "YWJj"}}, "auth_token is missing"),
        ("secret reidsearch-token", {"data": None}, "auth_token is missing"),
        ("serviceaccount reid", None, "not found"),
        ("endpointslices kubernetes.io/service-name=mlflow", {"items": []}, "no pod of the service mlflow is ready"),
    ],
)
def test_what_a_search_would_fail_for_is_a_problem(
    question: str, answer: Any, expected: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = check_of(job, capsys, **{question: answer})
    problems = [each["text"] for each in found if each["level"] == "problem"]
    assert code == 5
    assert len(problems) == 1 and expected in problems[0]
    assert "abc" not in str(found)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("secret keys", "Error from server (Forbidden): secrets is forbidden"),
        ("crd rayjobs.ray.io", "Error from server (Forbidden): customresourcedefinitions is forbidden"),
        ("nodes", "Error from server (Forbidden): nodes is forbidden"),
        ("persistentvolumeclaim reidsearch", claim(phase="Pending")),
    ],
)
def test_what_may_not_be_asked_or_may_still_come_is_a_warning(
    question: str, answer: Any, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = check_of(job, capsys, **{question: answer})
    assert (code, [each["level"] for each in found].count("warn")) == (0, 1)


@pytest.mark.parametrize("answers", [True, False])
def test_a_bucket_and_a_server_outside_are_asked_from_this_machine(
    answers: bool, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check(objects: Objects) -> None:
        asked.append(objects.uri)
        if not answers:
            raise StorageProblem("s3://b/runs: refuses")

    monkeypatch.setattr(Objects, "check", check)
    monkeypatch.setattr(doctor, "answers", lambda *server: asked.append(server) or answers)
    job.write_text(rendered("--storage", "s3://b/runs", "--tracking-uri", "https://mlflow.example.org/~reid"))
    code, found = check_of(job, capsys)
    assert asked == [("mlflow.example.org", 443), "s3://b/runs"]
    level = "ok" if answers else "warn"
    assert (code, [(each["subject"], each["level"]) for each in found[-2:]]) == (
        0,
        [("mlflow", level), ("bucket", level)],
    )


OBJECTS: dict[str, Any] = {
    "kind": "RayJob",
    "metadata": {"name": "first"},
    "nvidia.com/gpu": "1k",
    "claimName": "reidsearch",
    "secretRef": {"name": "keys"},
    "secretKeyRef": {"name": "reidsearch-token", "key": "auth_token"},
    "imagePullSecrets": [{"name": "keys"}],
    "authOptions": {"mode": "token", "secretName": "reidsearch-token"},
    "command": "reidsearch launch --tracking-uri http://mlflow:5000 --tracking-uri http://a..b",
}


def odd_forms(value: Any) -> Iterator[Any]:
    """The value with each of its parts in turn replaced by others."""
    yield from (None, 5, "580.12", [5], {"a": 5})
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        for odd in odd_forms(part):
            changed = value.copy()
            changed[key] = odd
            yield changed


def test_no_odd_answer_and_no_odd_file_ends_a_check_without_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = dict(FIT)

    def kubectl(*words: str) -> str:
        key = " ".join(word for word in words[words[0] == "get" :] if word[0] != "-" and word != "json")
        answer = answers.get("apply" if words[0] == "apply" else key, {})
        return answer if isinstance(answer, str) else json.dumps(answer)

    monkeypatch.setattr(doctor, "_kubectl", kubectl)
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(OBJECTS))
    for key in FIT.keys() - {"apply"}:
        for odd in odd_forms(FIT[key]):
            answers[key] = odd
            assert list(doctor.examine(file, None))
        answers[key] = FIT[key]
    for odd in odd_forms(OBJECTS):
        file.write_text(json.dumps(odd))
        with contextlib.suppress(OrchestratorError):  # refused
            assert list(doctor.examine(file, None))


@pytest.mark.parametrize("text", ["a: [", "- 1", "hello", "", "kind: 5\nmetadata: {name: a}", "a: 2026-99-99"])
def test_a_file_without_objects_is_refused(text: str, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_text(text)
    assert run(["cluster", "check", str(job)]) == 3
    assert "holds no objects of Kubernetes" in capsys.readouterr().err
    assert run(["cluster", "check", "absent.yaml"]) == 3
    assert "absent.yaml: No such file" in capsys.readouterr().err


def test_a_machine_without_kubectl_says_so(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job.parent / "kubectl").unlink()
    assert run(["cluster", "check", str(job)]) == 5
    assert "kubectl is not on the PATH" in capsys.readouterr().err


def test_the_files_that_are_used_as_they_are_name_nothing_unknown(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_text((ROOT / "cluster" / "mlflow.yaml").read_text())
    _, found = check_of(job, capsys)
    missing = {each["text"].split('"')[1] for each in found if each["level"] == "problem"}
    assert missing == {"secret mlflow-database", "secret mlflow-login"}
