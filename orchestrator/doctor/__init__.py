"""Checks of this machine: whether it can run searches, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.doctor.findings import Finding


def examine(*, data: Path | None, address: str | None, storage: Path) -> Iterator[Finding]:
    """Runs all checks, the quick ones first; changes nothing.

    Args:
        data: data set to check, if any.
        address: Ray cluster to reach, if any.
        storage: folder of searches; it need not exist.
    """
    from orchestrator.doctor import machine, network, software

    checks: list[Callable[[], Iterable[Finding]]] = [
        software.versions,
        software.plugins,
        software.torch_pair,
        software.gpus,
        software.jpeg_decoder,
        machine.memory,
        machine.shared_memory,
        machine.temporary_folder,
        lambda: machine.storage(storage),
        lambda: machine.clock(storage),
        lambda: network.mlflow_schema(storage / "mlflow.db"),
        network.ports,
    ]
    if address is not None:
        checks.append(lambda: network.ray_address(address))
    if data is not None:
        checks.append(lambda: machine.data_set(data))
    for check in checks:
        yield from check()


def summary(findings: Iterable[Finding]) -> str:
    """The last line of the output."""
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count("problem"), levels.count("warn")
    if problems + warnings == 0:
        return "nothing is wrong"
    counts = ((problems, "problem"), (warnings, "warning"))
    return ", ".join(f"{count} {word}{'s' * (count > 1)}" for count, word in counts if count)
