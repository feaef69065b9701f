"""The job script for Slurm: a search on a part of one node, or on several whole nodes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.errors import Exit
from orchestrator.base.hints import hint
from orchestrator.cluster.manifests import (
    UNITS,
    Machines,
    UnusableValue,
    Work,
    folder_of,
    matching,
    printable,
    rendered,
    shell_words,
)
from orchestrator.stores.uri import is_uri

SLURM_TIME = re.compile(r"(?:\d{1,3}-)?\d{1,6}(?::[0-5]?\d){0,2}")
SLURM_MEMORY = re.compile(r"(?P<number>\d{1,9})(?P<unit>[KMGT]?)")
# sbatch splits a directive into words and knows quotes, escapes and comments; it is written in single quotes.
FLAGS = (
    "contiguous|exclusive|get-user-env|hold|nice|no-kill|no-requeue|overcommit|oversubscribe|propagate|reboot|requeue|"
    "spread-job|use-min-nodes"
)
"""The options of sbatch that need no value."""
SBATCH = re.compile(rf"(?P<key>{FLAGS}|[a-z][a-z-]+(?==))(=(?P<value>[^\s'\"\\#]+))?")
# What the script says itself, and the options of ours for it.
SBATCH_TAKEN = {
    "job-name": "--name",
    "nodes": "--nodes",
    "cpus-per-task": "--cpus-per-node",
    "gpus": "--gpus-per-node",
    "gpus-per-node": "--gpus-per-node, and their type by --sbatch gres=gpu:TYPE:COUNT",
    "mem": "--memory",
    "time": "--time",
    "signal": "--save-before",
    **dict.fromkeys(("array", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "wrap")),
}
GRES_GPUS = re.compile(r"(?:^|,)(?:gres/)?gpu(?::[^:,()]+)??(?::(\d+))?(?:\([^)]*\))?(?=,|$)")
# Seconds that a start needs on a quiet machine before it can save anything.
START_S = 60


OF_ONE_MACHINE = ("/tmp", "/var/tmp", "/dev/shm", "/run")


class SlurmJob(NamedTuple):
    """A request to Slurm."""

    machines: Machines
    time: str
    """Limit of one start of the job, as for `sbatch --time`."""
    environment: str
    """Python environment with reidsearch, the same on all nodes."""
    space: str
    """Name or path of the space on the cluster."""
    memory: str | None = None
    """Of each node, as for `sbatch --mem`; None is all of each of several nodes, and of one what the site gives."""
    save_before: int = 120
    """Seconds before the limit at which the search is told to save."""
    sbatch: Sequence[str] = ()
    """More of what is asked of Slurm: KEY=VALUE, as in the directives of sbatch, without the dashes."""
    setup: Sequence[str] = ()
    """Lines of shell before the search, such as `module load cuda`."""
    container: str | None = None
    """Image of Apptainer that the search runs in."""


def slurm_script(work: Work, job: SlurmJob) -> str:
    """The job script.

    Raises:
        UnusableValue: a value cannot stand in it, or the job is too short to save anything.
        SearchError: no node can hold a trial, or the name cannot name a search.
    """
    from markupsafe import Markup

    if _slurm_seconds(job.time) < job.save_before + START_S:
        raise UnusableValue(
            f"--time {job.time}: a start takes about {START_S} s, and {job.save_before} s before the limit the search "
            "is told to save; ask for more"
        )
    if (data := work.data_folder()) is not None and is_uri(data):
        raise UnusableValue(
            f"{work.data_option} {data}: must be a folder that all nodes see; a pack in a bucket is --stage-data"
        )
    directives = _directives(job)
    shares = [f"--sbatch {key}={value}" for key, value in directives.items() if key.startswith("mem-per-")]
    if len(given := [*(["--memory"] if job.memory else []), *shares]) > 1:
        raise UnusableValue(f"{' and '.join(given)}: sbatch takes one of them; keep that which your site counts by")
    memory = job.memory or ("0" if job.machines.number > 1 and not shares else None)
    machines = job.machines._replace(memory=_slurm_bytes(memory or "0"))
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    values = {
        "plan": work.plan(machines),
        "name": work.name,
        "storage": work.storage,
        "mark": None if (folder := folder_of(work.storage)) is None else str(folder / ".reidsearch"),
        "launch": ["--space", job.space, *work.launch],
        "resume": work.resume,
        "nodes": machines.number,
        "cpus": machines.cpus,
        "gpus": machines.gpus,
        "memory": memory,
        "time": job.time,
        "save_before": job.save_before,
        "environment": job.environment,
        "directives": directives,
        "setup": [Markup(_line_of_shell(line)) for line in job.setup],
        "inside": _container_command(job),
        "invalid": int(Exit.INVALID),
        "torch_home": os.environ.get("TORCH_HOME", f"{cache}/torch"),
        "hf_home": os.environ.get("HF_HOME", f"{cache}/huggingface"),
    }
    return rendered("slurm.sbatch.j2", values, shell_words)


def require_environment(folder: str, container: str | None) -> str:
    """The folder itself: a Python environment with reidsearch, or without effect as the search runs in a container.

    Raises:
        UnusableValue: it is none.
    """
    if container is None and not Path(folder, "bin", "reidsearch").exists():
        raise UnusableValue(
            f"--environment {folder}: has no bin/reidsearch; name the environment that the jobs will use"
        )
    return folder


def warnings(work: Work, container: str | None = None) -> Iterator[str]:
    """Lines on places that the nodes may not see, and on MLflow's database."""
    for option, place in (
        ("--storage", work.storage),
        (work.data_option, work.data_folder()),
        ("--stage-data", work.stage_data),
        ("--container", container),
    ):
        if place is None or is_uri(place):
            continue
        path = Path(place).absolute()
        if any(path.is_relative_to(own) for own in OF_ONE_MACHINE):
            yield f"{option} {place}: every machine has a folder of its own there; all nodes must see the same"
        elif option != "--storage" and not path.exists():
            yield f"{option} {place}: is not on this machine; the job's nodes must see it"
    if work.tracking_uri is None and is_uri(work.storage):
        yield (
            "MLflow's database cannot lie in a bucket, and on its node ends with each start: name a server by "
            f"--tracking-uri, or have the runs written later by `{hint('sync', work.name, storage=work.storage)}`"
        )
    elif work.tracking_uri is None:
        yield (
            f"MLflow's runs are in SQLite, {work.storage}/mlflow.db, which only the driver of a search writes; several "
            "searches at once need that file system to lock files; --tracking-uri names a server instead"
        )


def _directives(job: SlurmJob) -> dict[str, str | None]:
    """What else is asked of Slurm, by sbatch's long options."""
    found: dict[str, str | None] = {}
    for text in job.sbatch:
        meaning = "KEY=VALUE for a long option of sbatch without dashes, such as partition=gpu"
        parts = SBATCH.fullmatch(matching("--sbatch", printable("--sbatch", text), SBATCH, meaning))
        assert parts is not None
        key, value = parts["key"], parts["value"]
        if key in SBATCH_TAKEN or (key in ("exclusive", "oversubscribe") and job.machines.number > 1):
            ours = SBATCH_TAKEN.get(key)
            raise UnusableValue(
                f"--sbatch {text}: the script decides on {key} itself" + (f"; give {ours}" if ours else "")
            )
        if key in found:
            raise UnusableValue(f"--sbatch {text}: {key} is given twice")
        if key == "gres" and (gpus := _gpus_of(value or "")) != job.machines.gpus:
            raise UnusableValue(f"--sbatch {text}: these are {gpus} GPUs; --gpus-per-node says {job.machines.gpus}")
        found[key] = value
    return found


def _gpus_of(gres: str) -> int:
    """GPUs in a request such as `gpu:a100:2,nvme:1`."""
    return sum(int(number or 1) for number in GRES_GPUS.findall(gres))


def _line_of_shell(line: str) -> str:
    """The line itself, if it ends with its last character and is no directive: Slurm reads none there."""
    checked = subprocess.run(  # noqa: TID251 - bash
        ["bash", "-n"], input=printable("--setup", line), capture_output=True, text=True, check=False
    )
    if checked.stderr or line.endswith("\\") or line.startswith("#SBATCH"):
        raise UnusableValue(f"--setup: must be one whole line of shell, such as 'module load cuda' (is {line!r})")
    return line


def _container_command(job: SlurmJob) -> list[str]:
    """What stands before a command that runs in the container."""
    if job.container is None:
        return []
    return ["apptainer", "exec", *(["--nv"] if job.machines.gpus else []), job.container]


def _slurm_seconds(text: str) -> int:
    """Seconds of a time limit of Slurm: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    matching("--time", text, SLURM_TIME, "a time limit such as 90, 08:00:00 or 2-00:00:00")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = ([0] * (3 - len(parts))) + parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _slurm_bytes(text: str) -> int:
    """Bytes of an amount of memory of Slurm, in MiB if no unit is given; 0 is all there is."""
    matching("--memory", text, SLURM_MEMORY, "a memory such as 64G, or 0 for all of a node")
    unit = text[-1] if text[-1].isalpha() else "M"
    return int(text.rstrip("KMGT")) * UNITS[f"{unit}i"]
