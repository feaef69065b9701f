"""Whether the nodes of a cluster can run the trials of a search: one task on each looks, before anything starts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.base import provenance
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.ray import LiveNode
from orchestrator.stores.address import is_uri
from orchestrator.stores.cache import storage_name
from orchestrator.stores.storage_probe import check_token, leave_token
from trainer.child import HOME
from trainer.data import DataConfig, read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.errors import DataError
from trainer.formatting import first_line

# Reading the lists of a large data set over a network file system takes tens of seconds.
PATIENCE_S = 120.0
# The lease of a search lives by a heartbeat of ten seconds, and times of results come from the nodes.
MAX_CLOCK_OFFSET_S = 10.0
PINGS = 3
# Versions that change what a trial computes, or whether it can be talked to.
CHECKED = ("python", "ray", "torch", "torchvision", "numpy", "scipy", "reidsearch")
CODE = ("trainer", "orchestrator")
SHORT_HASH = 12
STORAGE = "storage"


class Expected(NamedTuple):
    """What a node must be like; plain data, as it is sent there."""

    versions: dict[str, str]
    code: str
    """SHA-256 of the project's code."""
    storage: str
    """Folder or URI that holds the search."""
    token: str
    """What this process has left there."""
    data: str | None
    """The data set's settings in JSON; None where the node need not have it."""
    fingerprint: str


class Facts(NamedTuple):
    """What a node is like."""

    versions: dict[str, str]
    code: str
    storage: str | None
    """Why the storage cannot be used there; None where it can."""
    data: str | None
    """The same of the data set."""


class Difference(NamedTuple):
    """Something that keeps a node from running trials."""

    what: str
    there: str
    needed: str


def expected_here(storage: Path, data: DataConfig | None, fingerprint: str) -> Expected:
    """What this process is like, which every node must be, too."""
    return Expected(
        versions={name: version for name, version in provenance.versions().items() if name in CHECKED},
        code=code_hash(),
        storage=storage_name(storage),
        token=leave_token(storage),
        data=None if data is None else data.model_dump_json(),
        fingerprint=fingerprint,
    )


def check_nodes(nodes: Sequence[LiveNode], expected: Expected) -> None:
    """Looks at all nodes that may run trials, at the same time.

    Raises:
        EnvironmentProblem: some are unfit; a table says which and why.
    """
    looked_at = [node for node in nodes if node.all.cpus]
    with ThreadPoolExecutor(max_workers=max(1, len(looked_at))) as pool:
        found = list(pool.map(lambda node: examine(node, expected), looked_at))
    unfit = {node.name: differences for node, differences in zip(looked_at, found, strict=True) if differences}
    if unfit:
        raise EnvironmentProblem(table(unfit, of=len(looked_at), storage=expected.storage))


def why_unfit(node: LiveNode, expected: Expected) -> str | None:
    """Why a node that has joined cannot run trials, in one line; None where it can."""
    found = examine(node, expected)
    return "; ".join(f"{what}: {there}, needed: {needed}" for what, there, needed in found) or None


def examine(node: LiveNode, expected: Expected) -> list[Difference]:
    """What keeps a node from running trials, found by tasks that run there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
    look, ping = ray.remote(facts).options(**options), ray.remote(read_clock).options(**options)
    try:
        seen = Facts(*ray.get(look.remote(expected), timeout=PATIENCE_S))
        offset = clock_offset(lambda: float(ray.get(ping.remote(), timeout=PATIENCE_S)))
    except Exception as error:  # noqa: BLE001  # whatever Ray makes of a node where our code cannot even be imported
        return [Difference("a task", first_line(error), "one that looks at the node ends well")]
    return differences(seen, offset, expected)


def facts(expected: Expected) -> Facts:
    """What the node is like that this runs on."""
    expected = Expected(*expected)
    versions = provenance.versions()
    return Facts(
        versions={name: versions[name] for name in expected.versions},
        code=code_hash(),
        storage=check_token(expected.storage, expected.token),
        data=None if expected.data is None else _data_problem(expected.data, expected.fingerprint),
    )


def read_clock() -> float:
    """Seconds since 1970 on the node that this runs on."""
    return time.time()


def _data_problem(settings: str, fingerprint: str) -> str | None:
    data = DataConfig.model_validate_json(settings)
    if not data.root.is_dir():
        return f"{data.root} is not there"
    try:
        found = dataset_fingerprint(read_splits(data))
    except DataError as error:
        return first_line(error)
    return None if found == fingerprint else f"{data.root} is another data set (fingerprint {found[:SHORT_HASH]})"


def clock_offset(ask: Any, *, clock: Any = time.time) -> float:
    """Seconds by which the clock that `ask` reads is ahead of ours, from the fastest of a few answers.

    An answer was read at some moment between question and reply; their middle is taken. What then remains of error is
    half the time that the answer took.
    """
    best: tuple[float, float] | None = None
    for _ in range(PINGS):
        asked = clock()
        read = ask()
        answered = clock()
        offset = read - (asked + answered) / 2
        if best is None or answered - asked < best[0]:
            best = (answered - asked, offset)
    assert best is not None
    took, offset = best
    # What the error alone could explain is no offset.
    return 0.0 if abs(offset) <= took / 2 else offset


def differences(seen: Facts, offset: float, expected: Expected) -> list[Difference]:
    """What keeps a node with these facts from running trials."""
    found = [
        Difference(name, seen.versions.get(name, "not installed"), version)
        for name, version in expected.versions.items()
        if seen.versions.get(name) != version
    ]
    if seen.code != expected.code:
        found.append(Difference("code", seen.code[:SHORT_HASH], expected.code[:SHORT_HASH]))
    if abs(offset) > MAX_CLOCK_OFFSET_S:
        where = f"{abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}"
        found.append(Difference("clock", where, f"at most {MAX_CLOCK_OFFSET_S:g} s off"))
    if seen.storage is not None:
        found.append(Difference(STORAGE, seen.storage, "what the driver sees there"))
    if seen.data is not None:
        found.append(Difference("data set", seen.data, f"fingerprint {expected.fingerprint[:SHORT_HASH]}"))
    return found


def table(unfit: Mapping[str, Sequence[Difference]], *, of: int, storage: str) -> str:
    """The differences of all unfit nodes, aligned; below them what to do about a storage that they do not see."""
    rows = [("node", "what", "there", "needed")]
    rows += [(name, *difference) for name, found in unfit.items() for difference in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)) for row in rows]
    some = "the node cannot" if of == 1 else f"{len(unfit)} of {of} nodes cannot"
    head = f"{some} run trials of this search; nothing was started"
    if any(difference.what == STORAGE for found in unfit.values() for difference in found) and not is_uri(storage):
        lines.append(f"the storage {storage} must be a folder that all nodes share, or a URI (--storage s3://...)")
    return "\n  ".join([head, *lines])


def code_hash() -> str:
    """SHA-256 of the project's own Python code, the same wherever it is installed."""
    digest = hashlib.sha256()
    above = HOME
    for package in CODE:
        for file in sorted((above / package).rglob("*.py")):
            digest.update(f"{file.relative_to(above).as_posix()}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
