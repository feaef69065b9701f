"""Clusters that begin without nodes for trials, and get some when they are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hosts import can_make_hosts
from running import COMMAND

from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster import growth
from orchestrator.cluster.ray import LiveNode
from orchestrator.cluster.resources import Node

HEAD = LiveNode("a", "head", Node("head", 0, 0, 1), Node("head", 0, 0, 1))
WORKER = LiveNode("b", "worker", Node("worker", 4, 0, 1), Node("worker", 4, 0, 1))


def looks(monkeypatch: pytest.MonkeyPatch, *seen: list[LiveNode]) -> list[str]:
    """Lets the looks at a cluster find these nodes, the last ones for ever; returns what will have been said."""
    found, said = list(seen), list[str]()
    monkeypatch.setattr(growth, "live_nodes", lambda: found.pop(0) if len(found) > 1 else found[0])
    monkeypatch.setattr(growth, "POLL_S", 0)
    return said


def test_a_cluster_without_nodes_for_trials_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = looks(monkeypatch, [HEAD], [HEAD], [HEAD, WORKER])
    assert growth.await_nodes(lambda: False, lambda label, text: said.append(text)) == [HEAD, WORKER]
    assert said == ["the cluster has none for trials; waiting for one, 15 minutes at most"]


def test_a_cluster_that_has_nodes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = looks(monkeypatch, [HEAD, WORKER])
    assert growth.await_nodes(lambda: False, lambda label, text: said.append(text)) == [HEAD, WORKER]
    assert said == []


def test_a_wait_for_nodes_ends_with_a_stop_or_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, [HEAD])
    assert growth.await_nodes(lambda: True, lambda *_: None) == [HEAD]
    monkeypatch.setattr(growth, "NODES_PATIENCE_S", 0)
    with pytest.raises(EnvironmentProblem, match="no node for trials has joined the cluster"):
        growth.await_nodes(lambda: False, lambda *_: None)


def test_a_request_names_what_each_trial_needs_and_none_withdraws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler import sdk

    asked: list[Any] = []
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: asked.append(bundles))
    growth.request_slots(2, 8, 0.5)
    growth.request_slots(0, 0, 0)
    assert asked == [[{"CPU": 8, "GPU": 0.5}] * 2, []]


# Ray's own provider of nodes that are processes of this machine; it wants the usual port, in a network of its own.
GROWING: dict[str, Any] = {
    "cluster_name": "growing",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 10,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "auth": {"ssh_user": "nobody"},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 10**8},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
}
LISTS = (
    *("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude", "rsync_filter"),
)
START = """set -eu
mount -t tmpfs none /dev/shm
ip link set lo up
(umask 077; mkdir -p "$HOME/.ray"; echo 0123456789abcdef0123456789abcdef > "$HOME/.ray/auth_token")
export RAY_AUTH_MODE=token RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_enable_autoscaler_v2=0
"$PYTHON" -m ray.scripts.scripts start --head --port=6379 --num-cpus=0 --num-gpus=0 --object-store-memory=100000000 \\
    --disable-usage-stats --autoscaling-config="$HOME/growing.json"
cd "$HOME"
exec "$@"
"""


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root")
def test_a_search_on_a_cluster_without_nodes_gets_as_many_as_its_trials_want() -> None:
    host = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", START)
    settings = ("budget.concurrent=2", "replicates=0", "algorithm.name=random")
    words = ("launch", "--space", "smoke.yaml", "--trials", "4", "--name", "grown", "--address", "auto")
    # Ray's sockets need a short path, and no Ray of the machine may be found.
    with tempfile.TemporaryDirectory(prefix="g-") as home:
        Path(home, "growing.json").write_text(json.dumps({**GROWING, **{name: [] for name in LISTS}}))
        own = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), home)
        launched = subprocess.run(
            [*host, "bash", *COMMAND, *words, "--storage", "runs", *(f"--set={each}" for each in settings)],
            env={**own, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
    assert launched.returncode == 0, launched.stdout
    assert "the cluster has none for trials; waiting for one" in launched.stdout
    assert launched.stdout.count("4/4 trials completed") == 1
