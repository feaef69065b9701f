"""The trainer's configuration of each trial of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.study.study import Trial

if TYPE_CHECKING:
    from orchestrator.space.search_space import SearchSpace
    from trainer.config import TrialConfig


def trial_config(space: SearchSpace, trial: Trial) -> TrialConfig:
    """The trainer's configuration of a trial, with its seed, its validation identities and its number of epochs."""
    config = space.config(trial.params, seed=trial.seed)
    if trial.finalization:
        return without_validation_split(config, trial.epochs, trial.evaluation)
    return config if trial.fold is None else on_fold(config, trial.fold)


def on_fold(config: TrialConfig, fold: int) -> TrialConfig:
    """The configuration with another validation fold."""
    validation = config.data.validation.model_copy(update={"fold": fold})
    return config.model_copy(update={"data": config.data.model_copy(update={"validation": validation})})


def without_validation_split(config: TrialConfig, epochs: int | None, evaluation: Sequence[str]) -> TrialConfig:
    """The configuration of a training for the test set, without a validation split.

    Args:
        config: the configuration that the validation split chose.
        epochs: of the training; None for those of the configuration. The schedule of the learning rate, given in shares
            of the epochs, stretches with them.
        evaluation: settings of the evaluation laid over the configuration's, as `path=value`.

    Raises:
        ConfigError: the settings are not valid.
    """
    from trainer.config_file import overridden  # imports torch

    validation = config.data.validation.model_copy(update={"share": 0.0, "folds": None, "fold": 0})
    data = config.data.model_copy(update={"validation": validation})
    optim = config.optim.model_copy(update={} if epochs is None else {"epochs": epochs})
    return overridden(config.model_copy(update={"data": data, "optim": optim}), evaluation)
