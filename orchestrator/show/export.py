"""`reidsearch export`: a trial's network written as files with a model card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.runner.trial_spec import BEST_CHECKPOINT
from orchestrator.show.card import CARD, card_text
from orchestrator.study.study import Trial
from orchestrator.summary import Summary

if TYPE_CHECKING:
    from trainer import ExportedNetwork
    from trainer.export import ExportFormat
    from trainer.result import VerificationMetrics

log = logging.getLogger(__name__)

SAME_MAP = 1e-4  # what an evaluation made again may differ by


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
    checkpoint = best_checkpoint(search, trial)
    require_packages(formats)
    if out.exists() and any(out.iterdir()):
        raise SearchError(f"{out}: is not empty; choose another --out")
    from trainer import export_network
    from trainer.exported import THRESHOLD_FILE
    from trainer.files import write_atomically

    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    networks = tuple(export_network(checkpoint, out, each) for each in dict.fromkeys(formats))
    verification = _verification(search, trial, networks[0].epoch)
    if verification is not None and verification.threshold is not None:
        write_atomically(out / THRESHOLD_FILE, verification.threshold.model_dump_json(indent=2) + "\n")
    write_atomically(out / CARD, card_text(search, trial, networks, verification))
    return Export(networks, out / CARD)


def best_checkpoint(search: Summary, trial: Trial) -> Path:
    """The file with the network that a trial keeps.

    Raises:
        SearchError: it has saved none yet.
    """
    search.folder.store.pull_trial(search.folder, trial.key, BEST_CHECKPOINT, "config.json")
    checkpoint = search.folder.trial(trial.key) / BEST_CHECKPOINT
    if not checkpoint.is_file():
        raise SearchError(f"{checkpoint}: trial {trial.key} ({trial.status}) has saved no network; export another one")
    return checkpoint


def _verification(search: Summary, trial: Trial, epoch: int) -> VerificationMetrics | None:
    """Measured on the validation split of the weights after `epoch`; None where the trial has left none of them."""
    from trainer.evaluation.folder import FOLDER
    from trainer.files import loads_checked, read_regular
    from trainer.result import VerificationMetrics

    file = FOLDER / "evaluation.json"
    search.folder.store.pull_trial(search.folder, trial.key, str(file))
    place = search.folder.trial(trial.key) / file
    validation = next((result.validation for result in trial.results if result.epoch == epoch), None)
    if validation is None or not place.is_file():
        return None
    try:
        found = loads_checked(read_regular(place))
        # A trial that was trained on since has left an evaluation of earlier weights.
        if found.get("verification") is None or abs(found["mAP"] - validation.mAP) > SAME_MAP:
            return None
        return VerificationMetrics.model_validate(found["verification"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        log.warning("%s: damaged; no threshold is exported", place)
        return None


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
