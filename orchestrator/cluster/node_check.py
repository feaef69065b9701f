"""Whether the nodes of a cluster can run the trials of a search, checked by a task on each before anything starts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pydantic import ValidationError

from orchestrator.base import provenance
from orchestrator.base.errors import EnvironmentProblem
from orchestrator.cluster.ray import LiveNode
from orchestrator.stores.base import Store
from orchestrator.stores.storage_probe import check_token, leave_token
from orchestrator.stores.uri import is_uri
from trainer.child import HOME
from trainer.data import DataConfig, read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.errors import DataError
from trainer.formatting import first_line, plain_words

# Reading the lists of a large data set over a network file system takes tens of seconds.
PATIENCE_S = 120.0
# The lease of a search is renewed every ten seconds, and nodes stamp the times of results.
MAX_CLOCK_OFFSET_S = 10.0
PINGS = 3
# Packages whose version changes what a trial computes, or how Ray communicates.
CHECKED = ("python", "ray", "torch", "torchvision", "numpy", "scipy", "reidsearch")
CODE = ("trainer", "orchestrator")
SHORT_HASH = 12
STORAGE = "storage"


class Expected(NamedTuple):
    """What a node must have; plain data, as it is sent to the node."""

    versions: dict[str, str]
    code: str
    """SHA-256 of the project's code."""
    storage: str
    """Folder or URI that holds the search."""
    token: str
    """Token that this process has left in the storage."""
    data: str | None
    """The data set's settings in JSON; None if the node does not need it."""
    fingerprint: str


class Facts(NamedTuple):
    """What a node has."""

    versions: dict[str, str]
    code: str
    storage: str | None
    """Why the storage cannot be used there, or None."""
    data: str | None
    """Why the data set cannot be used there, or None."""


class NodeMismatch(NamedTuple):
    """A reason why a node cannot run trials."""

    what: str
    there: str
    needed: str


def expected_here(storage: Store, data: DataConfig | None, fingerprint: str, plugins: Sequence[str] = ()) -> Expected:
    """What this process has, and every node must have; the packages `plugins` too."""
    checked = {*CHECKED, *plugins}
    return Expected(
        versions={name: version for name, version in provenance.versions(plugins).items() if name in checked},
        code=code_hash(),
        storage=storage.uri or str(storage.path.absolute()),
        token=leave_token(storage),
        data=None if data is None else data.model_dump_json(),
        fingerprint=fingerprint,
    )


def check_nodes(nodes: Sequence[LiveNode], expected: Expected) -> None:
    """Checks all nodes that can run trials, at the same time.

    Raises:
        EnvironmentProblem: some cannot run trials; a table lists them with the reasons.
    """
    looked_at = [node for node in nodes if node.all.cpus]
    with ThreadPoolExecutor(max_workers=max(1, len(looked_at))) as pool:
        found = list(pool.map(lambda node: examine(node, expected), looked_at))
    unfit = {node.name: reasons for node, reasons in zip(looked_at, found, strict=True) if reasons}
    if unfit:
        raise EnvironmentProblem(table(unfit, of=len(looked_at), storage=expected.storage))


def why_unfit(node: LiveNode, expected: Expected) -> str | None:
    """Why a node that has joined cannot run trials, in one line, or None."""
    found = examine(node, expected)
    return "; ".join(f"{what}: {there}, needed: {needed}" for what, there, needed in found) or None


def examine(node: LiveNode, expected: Expected) -> list[NodeMismatch]:
    """Why a node cannot run trials, found by tasks that run there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
    look, ping = ray.remote(facts).options(**options), ray.remote(read_clock).options(**options)
    try:
        seen = Facts(*ray.get(look.remote(expected), timeout=PATIENCE_S))
        offset = clock_offset(lambda: float(ray.get(ping.remote(), timeout=PATIENCE_S)))
    except Exception as error:  # noqa: BLE001  # Ray's errors for a node where our code cannot be imported
        return [NodeMismatch("a task", first_line(error), "one that looks at the node ends well")]
    return mismatches(seen, offset, expected)


def facts(expected: Expected) -> Facts:
    """What the node has that this runs on."""
    expected = Expected(*expected)
    versions = provenance.versions(name for name in expected.versions if name != "python")
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
    try:
        data = DataConfig.model_validate_json(settings)
    except ValidationError as error:  # the data set is of a plug-in that the node lacks
        return plain_words(error.errors()[0])
    if not data.root.is_dir():
        return f"{data.root} is not there"
    try:
        found = dataset_fingerprint(read_splits(data))
    except DataError as error:
        return first_line(error)
    return None if found == fingerprint else f"{data.root} is another data set (fingerprint {found[:SHORT_HASH]})"


def clock_offset(ask: Any, *, clock: Any = time.time) -> float:
    """Seconds by which the clock that `ask` reads is ahead of ours, from the fastest of `PINGS` answers.

    The clock was read between request and reply; their middle is assumed. The error is at most half the time that the
    answer took.
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
    # An offset within the error counts as none.
    return 0.0 if abs(offset) <= took / 2 else offset


def mismatches(seen: Facts, offset: float, expected: Expected) -> list[NodeMismatch]:
    """Why a node with these facts cannot run trials."""
    found = [
        NodeMismatch(name, seen.versions.get(name, "not installed"), version)
        for name, version in expected.versions.items()
        if seen.versions.get(name) != version
    ]
    if seen.code != expected.code:
        found.append(NodeMismatch("code", seen.code[:SHORT_HASH], expected.code[:SHORT_HASH]))
    if abs(offset) > MAX_CLOCK_OFFSET_S:
        where = f"{abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}"
        found.append(NodeMismatch("clock", where, f"at most {MAX_CLOCK_OFFSET_S:g} s off"))
    if seen.storage is not None:
        found.append(NodeMismatch(STORAGE, seen.storage, "what the driver sees there"))
    if seen.data is not None:
        found.append(NodeMismatch("data set", seen.data, f"fingerprint {expected.fingerprint[:SHORT_HASH]}"))
    return found


def table(unfit: Mapping[str, Sequence[NodeMismatch]], *, of: int, storage: str) -> str:
    """The mismatches of all unfit nodes as an aligned table, with advice about a storage that they do not share."""
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
