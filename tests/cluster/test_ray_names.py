"""Each private name of Ray that is used: the test fails when a new version of Ray lacks it, or does something else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import ray
from ray import _raylet
from ray._common.utils import get_ray_address_file
from ray._private import node, ray_constants, services, state, worker
from ray.job_config import JobConfig
from ray.tune.execution import class_cache

from orchestrator.cluster import ray as cluster_ray


def test_available_resources_per_node_takes_nothing() -> None:
    assert not inspect.signature(state.available_resources_per_node).parameters


def test_actors_can_be_asked_for_by_job_and_state() -> None:
    assert {"job_id", "actor_state_name"} <= set(inspect.signature(state.actors).parameters)


def test_errors_of_the_cluster_are_printed_by_the_function_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    cluster_ray.keep_messages(tmp_path / "logs" / "ray.log")
    worker.print_to_stdstream({"lines": ["a node is lost"]}, ignore_prefix=False)
    assert (tmp_path / "logs" / "ray.log").read_text() == "a node is lost\n"


@pytest.mark.parametrize(("checkout", "told"), [(None, []), (Path("/checkout"), ["/checkout"])])
def test_no_worker_is_told_to_import_from_the_current_folder_or_the_drivers_script(
    checkout: Path | None, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "_py_driver_sys_path.extend(" in inspect.getsource(worker.connect)
    monkeypatch.setattr(cluster_ray, "checkout", lambda: checkout)
    given: dict[str, JobConfig] = {}
    monkeypatch.setattr(ray, "init", lambda **settings: given.update(settings))
    monkeypatch.setattr(cluster_ray, "own_token", lambda: "")
    with pytest.raises(AttributeError):  # of the context that this `init` does not return
        cluster_ray.connect(None, metadata={"search": "n"})
    job = given["job_config"]
    job._py_driver_sys_path.extend(["/where/the/script/is", "/where/it/was/called"])  # as `ray.init` does
    said = job._get_proto_job_config()
    assert list(said.py_driver_sys_path) == told
    assert dict(said.metadata) == {"search": "n"}


def test_the_variable_that_keeps_a_node_on_loopback_has_its_name() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == cluster_ray.CLUSTERS


def test_a_node_that_starts_asks_by_the_functions_that_are_replaced() -> None:
    start = inspect.getsource(node)
    for call in ("ray._private.services.start_raylet(", "ray._private.services.get_node(", "wait_for_persisted_port("):
        assert call in start
    settings = inspect.signature(services.start_raylet).parameters
    assert {"session_dir", "node_id", *cluster_ray.AGENT_PORTS} <= set(settings)
    names = {value for name, value in vars(_raylet).items() if name.endswith("_PORT_NAME")}
    assert names - {_raylet.GCS_SERVER_PORT_NAME} == set(cluster_ray.AGENT_PORTS)


def test_ray_start_leaves_its_address_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv(variable, str(tmp_path))
        assert Path(get_ray_address_file(None)) == tmp_path / "ray" / "ray_current_cluster"


def test_tune_passes_on_the_variables_of_a_set_that_can_be_reduced() -> None:
    assert {"AWS_SECRET_ACCESS_KEY"} <= class_cache.ENV_VARS_TO_PROPAGATE


def test_ray_takes_the_folder_for_its_sockets_and_the_memory_that_it_counts_as_arguments() -> None:
    assert {"_temp_dir", "_memory"} <= set(re.findall(r'kwargs\.pop\(\s*"(\w+)"', inspect.getsource(ray.init)))
