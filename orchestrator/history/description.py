"""`search.yaml`: what was launched, with everything a resume needs besides the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from orchestrator.engine.hang import HANG_AFTER_S
from orchestrator.errors import SearchError
from orchestrator.space import SearchSpace
from trainer.atomic import write_atomically
from trainer.frozen import FrozenConfig
from trainer.yamlfile import YamlError, dump_yaml, read_yaml


class Options(FrozenConfig):
    """How a search runs; none of it changes what a trial computes."""

    concurrent: int | None = None
    """Trials that run at once; None fills the machine."""
    gpus_per_trial: float | None = None
    """GPUs of one trial, fractions allowed; None is one where there are any."""
    tracking_uri: str | None = None
    """Where MLflow keeps runs; None is `mlflow.db` in the storage."""
    address: str | None = None
    """Ray cluster to join; None starts one on this machine."""
    hang_after: float = HANG_AFTER_S
    """Seconds without a step after which an attempt counts as hung."""


class SearchDescription(FrozenConfig):
    """A search before its first trial."""

    format: Literal[1] = 1
    search: str
    uid: str
    """Tells this search from others of the same name, in MLflow."""
    created: str
    """ISO 8601, UTC."""
    seed: int
    synthetic: bool
    """Whether the data is generated; figures then say nothing about any published ones."""
    data_fingerprint: str
    """SHA-256 over the lists of training, query and gallery tracklets."""
    data_manifest: str | None = None
    """SHA-256 of what `reidsearch data check` noted of every file's size; None where it was never run."""
    options: Options
    command: list[str]
    host: str
    commit: str | None
    versions: dict[str, str]
    space: SearchSpace
    """The resolved space."""


def write_description(path: Path, description: SearchDescription) -> None:
    """Writes the file atomically."""
    fields = description.model_dump(mode="json", exclude={"space"})
    write_atomically(path, dump_yaml({**fields, "space": description.space.resolved()}))


def read_description(path: Path) -> SearchDescription:
    """Reads the file.

    Raises:
        SearchError: it is missing, damaged, or of another version; names the file.
    """
    try:
        return SearchDescription.model_validate(read_yaml(path).data)
    except YamlError as error:
        raise SearchError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SearchError(f"{path}: {where}: {first['msg']}; the file is damaged or of another version") from error
