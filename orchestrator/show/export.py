"""A trial's network written as files with a model card, and registered in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.replicates import find_trial
from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.runner.attempt import BEST_CHECKPOINT
from orchestrator.show.card import write_card
from orchestrator.stores.loading import LoadedSearch
from orchestrator.stores.trial_files import bring_trial
from orchestrator.study.study import Trial

if TYPE_CHECKING:
    from trainer import ExportedNetwork
    from trainer.export import ExportFormat


class Export(NamedTuple):
    """What was written."""

    trial: Trial
    folder: Path
    networks: tuple[ExportedNetwork, ...]
    card: Path


def export_trial(loaded: LoadedSearch, key: str, formats: Sequence[ExportFormat], out: Path) -> Export:
    """Writes the network of a trial (`best` is the best one) in each format, its configuration and its card.

    Args:
        loaded: the search, which may be running.
        key: of the trial.
        formats: one at least.
        out: a folder that is not there yet, or empty; only its owner can read it.

    Raises:
        SearchError: there is no such trial, it has saved no network yet, or the folder holds something.
        EnvironmentProblem: a package that a format needs is not installed.
        CheckpointError: the checkpoint is damaged.
    """
    trial = find_trial(loaded, key)
    bring_trial(loaded.folder, trial.key, BEST_CHECKPOINT, "config.json")
    checkpoint = loaded.folder.trial(trial.key) / BEST_CHECKPOINT
    if not checkpoint.is_file():
        raise SearchError(f"{checkpoint}: trial {trial.key} ({trial.status}) has saved no network; export another one")
    require_packages(formats)
    if out.exists() and any(out.iterdir()):
        raise SearchError(f"{out}: holds something already; choose another --out")
    from trainer import export_network

    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    networks = tuple(export_network(checkpoint, out, each) for each in dict.fromkeys(formats))
    return Export(trial, out, networks, write_card(out, loaded, trial, networks))


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
