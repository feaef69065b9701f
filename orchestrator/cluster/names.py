"""What searches and trials are called where Ray, a process list or a log shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.base.formatting import number

LEADING = 3
"""Parameters that a title names: the first ones of the space."""
LONGEST_TITLE = 120
JOB_NAME = "job_name"  # ray.dashboard.modules.job.common.JOB_NAME_METADATA_KEY: what the list of jobs shows as the name
PROCESS_PREFIX = "reid:"


def short_names(paths: list[str]) -> dict[str, str]:
    """Last parts of dotted paths where that tells them apart."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def leading_parameters(params: Mapping[str, Any]) -> str:
    """The first parameters of a trial and their values, such as `learning_rate=0.0003742 identities=4`."""
    names = short_names(list(params))
    return " ".join(f"{names[path]}={number(params[path])}" for path in list(params)[:LEADING])


def trial_title(search: str, trial: str, params: Mapping[str, Any]) -> str:
    """`SEARCH/TRIAL` and what leads of its parameters, in one line of printable ASCII."""
    text = f"{search}/{trial} {leading_parameters(params)}".strip()
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:LONGEST_TITLE]


def marked(data: str, *, synthetic: bool) -> str:
    """Name of a data set; that of generated data says that figures on it say nothing about published ones."""
    return f"SYNTHETIC {data}" if synthetic else data


def process_title(title: str) -> str:
    """What `ps` and `nvidia-smi` show for the process that trains a trial."""
    return f"{PROCESS_PREFIX}{title}"


def tune_name(assignment: Mapping[str, Any]) -> str:
    """What Tune calls an attempt, in its messages and as its folder: trial and attempt, which occur once."""
    return f"{assignment['trial']}-{assignment['attempt']}"


def job_metadata(search: str, *, space: str, data: str, storage: str, tracking: str) -> dict[str, str]:
    """What Ray's list of jobs tells of a search. Passwords must have been taken out of the addresses.

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
    """The function under the name of the search: Tune calls the actors that run it by its name."""

    @functools.wraps(function)
    def trainable(config: dict[str, Any]) -> None:
        function(config)

    trainable.__name__ = trainable.__qualname__ = search
    return trainable
