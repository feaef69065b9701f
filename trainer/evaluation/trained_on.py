"""Trained on one data set, judged on another: how they are told apart, and what a network may not be judged on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.config_file import checked, lay_over, read_trial_config
from trainer.data import DataConfig, Splits, find_data_set, read_splits
from trainer.data.dataset import dataset_fingerprint, fingerprint
from trainer.data.folder import DataFolder, data_record, find_data
from trainer.errors import CheckpointError, ConfigError
from trainer.result import DataRecord

UNKNOWN = "unknown data"

log = logging.getLogger(__name__)


class TrainedOn(NamedTuple):
    """What a checkpoint says of the data set that its network was trained on."""

    checkpoint: Path
    settings: DataConfig
    record: DataRecord | None
    """None in checkpoints of earlier versions, of which the settings have to tell."""
    held_out: frozenset[int] | None
    """Identities of the data set's training part that it was not trained on; None in those of earlier versions."""

    def includes(self, judged: DataConfig, record: DataRecord) -> bool:
        """Whether the judged data set is the one trained on, in this or another partition, wherever its folder is."""
        if self.record is None:
            return self.settings.name == judged.name
        if self.record.fingerprint == record.fingerprint:
            return True
        if self.settings.name != judged.name or self.settings.fold == judged.fold:
            return False
        same_partition = judged.model_copy(update={"fold": self.settings.fold})
        return self.record.fingerprint == dataset_fingerprint(read_splits(same_partition))


def trained_on(checkpoint: Path, state: Mapping[str, Any]) -> TrainedOn:
    """What the state in a checkpoint says of its training's data set.

    Raises:
        CheckpointError: it does not say.
    """
    try:
        settings = DataConfig.model_validate(state["config"]["data"])
        record = None if state.get("data") is None else DataRecord.model_validate(state["data"])
        held_out = None if state.get("held_out") is None else frozenset(map(int, state["held_out"]))
    except (LookupError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{checkpoint}: does not say what it was trained on; it is of another version") from error
    return TrainedOn(checkpoint, settings, record, held_out)


def other_data(trained: TrainedOn, judged: DataConfig, record: DataRecord) -> dict[str, str]:
    """`trained_on` and `tested_on` of an evaluation; empty where both are one data set.

    Of two data sets of one name each is named with the beginning of its fingerprint.
    """
    if trained.record is None:
        if (trained.settings.name, trained.settings.root) == (judged.name, judged.root):
            return {}
        log.warning(
            "%s: an earlier version wrote it, without a fingerprint of the data that it was trained on; its settings "
            "name %s in %s",
            *(trained.checkpoint, trained.settings.name, trained.settings.root),
        )
        before = UNKNOWN if trained.settings.name == judged.name else trained.settings.name
        return {"trained_on": before, "tested_on": record.name}
    if trained.includes(judged, record):
        return {}
    if trained.record.name != record.name:
        if trained.record.joined:
            log.warning(
                "%s: was trained on joined data sets; identities that one of them shares with %s are not recognised",
                *(trained.checkpoint, judged.root),
            )
        return {"trained_on": trained.record.name, "tested_on": record.name}
    log.warning(
        "%s: was trained on another %s than the one in %s; identities that both hold are not recognised",
        *(trained.checkpoint, record.name, judged.root),
    )
    return {"trained_on": _named(trained.record), "tested_on": _named(record)}


def _named(record: DataRecord) -> str:
    return f"{record.name} {record.fingerprint[:8]}"


def check_not_trained_on(
    trained: TrainedOn, judged: DataConfig, record: DataRecord, identities: Set[int] | None, *, advice: str = ""
) -> None:
    """Checks that the network was not trained on identities that it is judged on; another data set has none of them.

    Args:
        trained: what the checkpoint says.
        judged: the data set to be judged.
        record: which it is.
        identities: those of its training part that are judged; None where its test part is.
        advice: what to do about another partition.

    Raises:
        ConfigError: it was trained on another partition of the same data set, or on identities that are judged.
    """
    before = trained.settings
    is_other_partition, is_other_split = before.fold != judged.fold, before.validation != judged.validation
    people = {identity for identity in identities or () if identity > 0}
    seen = people - trained.held_out if trained.held_out is not None else people if is_other_split else set()
    if not (is_other_partition or seen) or not trained.includes(judged, record):
        return
    if is_other_partition:
        raise ConfigError(
            f"{trained.checkpoint}: was trained on partition {before.fold} of {before.name}, which holds identities "
            f"that partition {judged.fold} judges; {advice or f'set data.fold to {before.fold}'}"
        )
    other = f", with another data.validation ({_listed(before)}) than ({_listed(judged)})" if is_other_split else ""
    raise ConfigError(
        f"{trained.checkpoint}: was trained on {len(seen)} of the {len(people)} identities to be judged{other}; "
        "take the configuration of its training, or name its split with --split; after a training on all identities "
        "only the test part is left"
    )


def check_not_joined(trained: TrainedOn, judged: DataConfig, splits: Splits, *, validation: bool) -> None:
    """Checks that the training did not join what is judged with other data sets; the test part of one may be judged.

    Raises:
        ConfigError: it was trained on another partition of the data set, or its validation part is judged.
    """
    joined = trained.record.joined if trained.record else ()
    for fold in range(find_data_set(judged.name).folds) if joined else ():
        is_judged = fold == judged.fold
        partition = splits if is_judged else read_splits(judged.model_copy(update={"fold": fold}))
        if fingerprint(partition.train) not in joined or (is_judged and not validation):
            continue
        raise ConfigError(
            f"{trained.checkpoint}: was trained on partition {fold} of {judged.name}, joined with others, and so on "
            + (
                "the identities of its validation part; judge its test part, or the joined data set's validation part"
                if is_judged
                else f"identities that partition {judged.fold} judges; set data.fold to {fold}"
            )
        )


def _listed(data: DataConfig) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.validation if value is not None)


def config_on(file: Path, overrides: Sequence[str], root: Path, checkpoint: Path | None) -> TrialConfig:
    """The configuration in a file, for judging the data set in another folder.

    Which data set it is shows in the folder, unless an override of `data.name` says it. The one that was trained on,
    moved, keeps its settings. Of another one partition and validation split are the defaults and the protocol is the
    usual one, where neither the overrides nor, for a protocol unusual for the training's data set, the file names one.

    Raises:
        ConfigError: the file or an override is wrong.
        DataError: there is no data set in the folder, or another one than named.
        CheckpointError: the checkpoint is damaged or does not say what it was trained on.
    """
    config = read_trial_config(file)
    given: dict[str, Any] = {}
    for override in overrides:
        lay_over(given, override)
    named = given.get("data", {})
    if "root" in named:
        raise ConfigError("--set data.root: --data names the folder already; leave one of them out")
    found = find_data(root, named.get("name"))
    moved = config.data.model_copy(update={"root": root})
    if found.name == config.data.name and (checkpoint is None or _is_moved(checkpoint, moved)):
        return checked(config.model_copy(update={"data": moved}).model_dump(mode="json"), overrides)
    return for_data_set(config, found, overrides)


def for_data_set(config: TrialConfig, found: DataFolder, overrides: Sequence[str] = ()) -> TrialConfig:
    """The configuration of a network, for judging another data set than its own; see `config_on`.

    Raises:
        ConfigError: an override is wrong.
    """
    tree = config.model_dump(mode="json")
    tree["data"] = {"name": found.name, "root": str(found.root)}
    if config.evaluation.protocol == find_data_set(config.data.name).protocol:
        del tree["evaluation"]["protocol"]
    return checked(tree, overrides)


def _is_moved(checkpoint: Path, data: DataConfig) -> bool:
    trained = trained_on(checkpoint, load_checkpoint(checkpoint))
    return trained.includes(data, data_record(data, read_splits(data)))
