"""A Ray cluster of several nodes on this machine, each with a raylet and resources of its own.

It lives in a process of its own (this file, run as a command): Ray reads a token once in a process's life.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from running import is_attempt

from orchestrator.cluster.ray import ENVIRONMENT

OBJECTS = 100 * 2**20


class Node(NamedTuple):
    """A node; its name is what `remove` knows it by."""

    name: str
    raylet: int

    def attempts(self) -> list[psutil.Process]:
        """The processes of attempts that run on it."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.raylet).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if is_attempt(process):
                        found.append(process)
        return found


class Nodes:
    """The cluster; every command that is to join it needs `environment`, which holds its token."""

    def __init__(self, folder: Path, *, head_cpus: int = 0, dashboard: bool = False) -> None:
        self.token = folder / "token"
        if not self.token.exists():
            self.token.touch(mode=0o600)
            self.token.write_text(secrets.token_hex(32))
        # A job is started with whatever `python` is there.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, **ENVIRONMENT, "PATH": path, "RAY_AUTH_TOKEN_PATH": str(self.token)}
        settings = {"num_cpus": head_cpus, "object_store_memory": OBJECTS, "include_dashboard": dashboard}
        self.log = (folder / "nodes.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.environment,
            text=True,
        )
        answer = self._answer()
        self.address: str = answer["address"]
        self.dashboard: str = answer["dashboard"]
        self.head = Node("head", answer["raylet"])

    def add(self, **resources: Any) -> Node:
        """A node with `num_cpus`, `num_gpus`, `memory`, and `env_vars` of its raylet."""
        answer = self._ask("add", {"num_cpus": 1, "object_store_memory": OBJECTS, **resources})
        return Node(answer["name"], answer["raylet"])

    def remove(self, node: Node) -> None:
        """Kills all processes of a node, without a word to the others."""
        self._ask("remove", node.name)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.log.close()

    def _ask(self, what: str, argument: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, argument]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # Ray prints there, too
                return json.loads(line)
        raise AssertionError(f"the cluster's process has ended; see {self.log.name}")


@contextmanager
def several_nodes(folder: Path, **head: Any) -> Iterator[Nodes]:
    """A cluster with a head that takes no trials, unless `head_cpus` says so."""
    nodes = Nodes(folder, **head)
    try:
        yield nodes
    finally:
        nodes.close()


def main() -> None:
    """Keeps a cluster until standard input ends."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args=json.loads(sys.argv[1]))
    nodes = {"head": cluster.head_node}

    def tell(name: str, **others: Any) -> None:
        raylet = nodes[name].all_processes["raylet"][0].process.pid if name in nodes else None
        print(json.dumps({"name": name, "raylet": raylet, **others}), flush=True)

    tell("head", address=cluster.address, dashboard=cluster.head_node.webui_url)
    for line in sys.stdin:
        what, argument = json.loads(line)
        if what == "add":
            name = f"n{len(nodes)}-{secrets.token_hex(2)}"
            nodes[name] = cluster.add_node(**argument)
            tell(name)
        else:
            cluster.remove_node(nodes.pop(argument), allow_graceful=False)
            tell(argument)
    cluster.shutdown()


if __name__ == "__main__":
    main()
