"""The record of every use of the test set: trained weights evaluated on it, or its tracklets embedded by them.

Metrics on the test set are fair for what was chosen without them. So that nobody has to remember what was looked at,
each use is a line of the file `test-set.jsonl` beside the weights, written before the network sees a test tracklet.
Trials of a search are refused here: their uses are events of the search's journal, which the search writes itself.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.config import TrialConfig
from trainer.errors import ConfigError
from trainer.files import open_regular, sync_folder
from trainer.model.weights import NAMED_WEIGHTS
from trainer.result import DataRecord
from trainer.settings import FrozenConfig

log = logging.getLogger(__name__)

RECORD_FILE = "test-set.jsonl"
# What a search's folder is recognised by; in a storage with a URI the journal is a folder of parts.
JOURNALS, TRIALS_FOLDER = ("journal.jsonl", "journal"), "trials"

Use = Literal["evaluate", "embed"]
RecordUse = Callable[[Path, Use, DataRecord], None]
"""Called with the weights and the data set before they are used on its test set; raises where that may not be."""


class RecordedUse(FrozenConfig):
    """A line of the record."""

    time: str
    """ISO 8601, UTC."""
    by: str
    """User and host."""
    use: Use
    weights: str
    """Name of the file."""
    sha256: str
    """Of the file."""
    data: DataRecord | None = None
    """Whose test set it was; None in lines of earlier versions: that of the training."""


class TrialPlace(NamedTuple):
    """Where in a search's folder a file lies."""

    search: Path
    trial: str
    """Key of the trial."""


def judged_weights(config: TrialConfig, checkpoint: Path | None) -> Path | None:
    """The file that the network's weights come from; None for weights that nobody has trained on people.

    Without a checkpoint `model.weights` may name a trained network all the same.
    """
    if checkpoint is not None:
        return checkpoint
    return None if config.model.weights in NAMED_WEIGHTS else Path(config.model.weights)


def place_in_search(weights: Path) -> TrialPlace | None:
    """The trial that a file belongs to, links followed; None where it lies in no search's folder."""
    path = weights.resolve()
    for folder in path.parents:
        if any((folder / name).exists() for name in JOURNALS):
            inner = path.relative_to(folder).parts[:-1]
            keys = [key for name, key in pairwise(inner) if name == TRIALS_FOLDER]
            if keys:
                return TrialPlace(folder, keys[-1])
    return None


def record_use(weights: Path, use: Use, data: DataRecord) -> None:
    """Adds a line to the record beside the weights, durably.

    Raises:
        ConfigError: the weights are a search's, or the record cannot be written; then nothing may be evaluated.
    """
    place = place_in_search(weights)
    if place is not None:
        raise ConfigError(
            f"{weights}: belongs to the search {place.search.name}, whose journal records every use of the test set; "
            "judge it with `reidsearch evaluate --part test --open-test-set`, or judge what `reidsearch export` writes"
        )
    record = record_beside(weights)
    line = RecordedUse(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        use=use,
        weights=weights.resolve().name,
        sha256=_sha256(weights),
        data=data,
    )
    try:
        # A FIFO or a device in its place would hang or swallow the line.
        if record.exists() and not record.is_file():
            raise OSError(errno.EEXIST, "it is no regular file")
        with record.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(record.parent)
    except OSError as error:
        raise ConfigError(
            f"{record}: cannot be written ({error.strerror}), so that this use of the test set would leave no record; "
            "copy the weights into a folder of your own"
        ) from error
    log.warning("%s: used on the test set of %s, which is recorded in %s", weights, data.name, record)


def record_beside(weights: Path) -> Path:
    """The file that records the uses of the weights, links followed."""
    return weights.resolve().parent / RECORD_FILE


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
