"""Names of searches and trials in Ray, process lists and logs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.base.formatting import number

LEADING = 3
"""Number of parameters in a title: the first ones of the space."""
LONGEST_TITLE = 120
JOB_NAME = "job_name"  # ray.dashboard.modules.job.common.JOB_NAME_METADATA_KEY: what the list of jobs shows as the name
PROCESS_PREFIX = "reid:"


def short_names(paths: list[str]) -> dict[str, str]:
    """Dotted paths by their last parts, unless several share one."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def leading_parameters(params: Mapping[str, Any]) -> str:
    """The first parameters of a trial and their values, such as `learning_rate=0.0003742 identities=4`."""
    names = short_names(list(params))
    return " ".join(f"{names[path]}={number(params[path])}" for path in list(params)[:LEADING])


def trial_title(search: str, trial: str, params: Mapping[str, Any]) -> str:
    """`SEARCH/TRIAL` and the leading parameters, in one line of printable ASCII."""
    text = f"{search}/{trial} {leading_parameters(params)}".strip()
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:LONGEST_TITLE]


def marked(data: str, *, synthetic: bool) -> str:
    """Name of a data set; that of generated data is marked, as results on it cannot be compared with published ones."""
    return f"SYNTHETIC {data}" if synthetic else data


def process_title(title: str) -> str:
    """Title of the process that trains a trial, for `ps` and `nvidia-smi`."""
    return f"{PROCESS_PREFIX}{title}"


def tune_name(assignment: Mapping[str, Any]) -> str:
    """Tune's name for an attempt, in its messages and for its folder: trial and number of the attempt."""
    return f"{assignment['trial']}-{assignment['attempt']}"


def job_metadata(search: str, *, space: str, data: str, storage: str, tracking: str) -> dict[str, str]:
    """Metadata of a search in Ray's list of jobs; the addresses must not contain passwords.

    Args:
        search: its name.
        space: name of the space.
        data: name of the data set, with the mark of synthetic data.
        storage: folder or address that holds it.
        tracking: where MLflow keeps its runs.
    """
    return {
        JOB_NAME: f"reidsearch {search}",
        "search": search,
        "space": space,
        "data": data,
        "storage": storage,
        "mlflow": tracking,
    }


def named_after(search: str, function: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """The function, renamed to the search: Tune names actors after the function that they run."""

    @functools.wraps(function)
    def trainable(config: dict[str, Any]) -> None:
        function(config)

    trainable.__name__ = trainable.__qualname__ = search
    return trainable
