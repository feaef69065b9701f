"""`reidsearch export`: a trial's network written as files with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.runner.trial_spec import BEST_CHECKPOINT
from orchestrator.show.card import write_card
from orchestrator.study.study import Trial
from orchestrator.summary import Summary

if TYPE_CHECKING:
    from trainer import ExportedNetwork
    from trainer.export import ExportFormat


class Export(NamedTuple):
    """What was written."""

    networks: tuple[ExportedNetwork, ...]
    card: Path


def export_trial(search: Summary, trial: Trial, formats: Sequence[ExportFormat], out: Path) -> Export:
    """Writes the network of a trial in each format, its configuration and its card.

    Args:
        search: that the trial is of; it may be running.
        trial: with a network.
        formats: one at least.
        out: a folder that is not there yet, or empty; only its owner can read it.

    Raises:
        SearchError: the trial has saved no network yet, or the folder is not empty.
        EnvironmentProblem: a package that a format needs is not installed.
        CheckpointError: the checkpoint is damaged.
    """
    search.folder.store.pull_trial(search.folder, trial.key, BEST_CHECKPOINT, "config.json")
    checkpoint = search.folder.trial(trial.key) / BEST_CHECKPOINT
    if not checkpoint.is_file():
        raise SearchError(f"{checkpoint}: trial {trial.key} ({trial.status}) has saved no network; export another one")
    require_packages(formats)
    if out.exists() and any(out.iterdir()):
        raise SearchError(f"{out}: is not empty; choose another --out")
    from trainer import export_network

    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    networks = tuple(export_network(checkpoint, out, each) for each in dict.fromkeys(formats))
    return Export(networks, write_card(out, search, trial, networks))


def require_packages(formats: Sequence[ExportFormat]) -> None:
    """Whether all formats can be written here.

    Raises:
        EnvironmentProblem: names what to install.
    """
    from trainer import missing_packages

    for each in formats:
        if missing := missing_packages(each):
            raise EnvironmentProblem(
                f"--to {each} needs {', '.join(missing)}: pip install 'reidsearch[export]', or use --to checkpoint"
            )
