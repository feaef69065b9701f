"""Under which circumstances a trial was trained, and which of them are others now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.base import provenance
from orchestrator.base.errors import SearchError
from orchestrator.stores.loading import LoadedSearch
from orchestrator.stores.trial_files import bring_trial
from orchestrator.study.study import Trial
from trainer.files import read_regular

if TYPE_CHECKING:
    from trainer import TrialConfig

UNKNOWN = "not recorded"
NONE = "none"
# Neither the name of a machine nor where its data lie changes a figure; what proposes, runs and records trials is not
# asked when one is trained again.
HARMLESS = ("host", "data folder", "ray", "ax-platform", "botorch", "mlflow")


class Circumstance(NamedTuple):
    """One thing that figures may depend on."""

    what: str
    then: str
    now: str

    @property
    def differs(self) -> bool:
        """Whether it is known to be another one."""
        return self.then not in (self.now, UNKNOWN)

    @property
    def matters(self) -> bool:
        """Whether it differs and could change a figure."""
        return self.differs and self.what not in HARMLESS


def recorded_config(loaded: LoadedSearch, trial: Trial) -> TrialConfig:
    """The configuration that the trial was trained with, as its folder holds it.

    Raises:
        SearchError: the trial was never started, or the file is not that of the journal's settings.
    """
    from pydantic import ValidationError

    from trainer import TrialConfig
    from trainer.settings import differing_settings

    bring_trial(loaded.folder, trial.key, "config.json")
    path = loaded.folder.trial(trial.key) / "config.json"
    try:
        config = TrialConfig.model_validate_json(read_regular(path))
    except FileNotFoundError as error:
        raise SearchError(f"{path}: is missing; trial {trial.key} was never started, or it was cleared away") from error
    except ValidationError as error:
        raise SearchError(f"{path}: is damaged or of another version ({error.error_count()} errors)") from error
    told = trial_config(loaded.space, trial)
    differing = differing_settings(config.model_dump(mode="json"), told.model_dump(mode="json"))
    if differing:
        raise SearchError(f"{path}: is not what the journal says of {trial.key} (differs: {', '.join(differing)})")
    return config


def circumstances(
    loaded: LoadedSearch, trial: Trial, then: TrialConfig, now: TrialConfig, threads: int
) -> list[Circumstance]:
    """All that is known of the training, beside how it would be trained here and now.

    Raises:
        DataError: the data set is missing or damaged, or the validation split was cut from another one.
    """
    return [
        *_of_the_code(loaded),
        *_of_the_machine(loaded, trial, threads),
        Circumstance("seed", str(trial.seed), str(now.seed)),
        *_of_the_data(loaded, trial, then, now),
    ]


def _of_the_code(loaded: LoadedSearch) -> Iterator[Circumstance]:
    description = loaded.description
    yield Circumstance("commit", description.commit or UNKNOWN, provenance.commit() or NONE)
    patch = loaded.folder.path / "code.diff"
    then = _digest(read_regular(patch)) if patch.is_file() else UNKNOWN
    yield Circumstance("uncommitted changes", then, _digest(provenance.uncommitted_changes().encode()))
    now = provenance.versions()
    for name, version in description.versions.items():
        yield Circumstance(name, version, now.get(name, NONE))


def _of_the_machine(loaded: LoadedSearch, trial: Trial, threads: int) -> Iterator[Circumstance]:
    import torch

    yield Circumstance("host", loaded.description.host, provenance.host())
    has_gpu = torch.cuda.is_available()
    yield Circumstance("device", "GPU" if trial.gpus else "CPU", "GPU" if trial.gpus and has_gpu else "CPU")
    yield Circumstance("CPU threads", UNKNOWN if trial.threads is None else str(trial.threads), str(threads))


def _of_the_data(loaded: LoadedSearch, trial: Trial, then: TrialConfig, now: TrialConfig) -> Iterator[Circumstance]:
    from trainer.data import read_splits
    from trainer.data.dataset import dataset_fingerprint
    from trainer.data.manifest import manifest_digest
    from trainer.data.splits import read_validation

    splits = read_splits(now.data)
    yield Circumstance("data folder", str(then.data.root), str(now.data.root))
    yield Circumstance("data lists", loaded.description.data_fingerprint, dataset_fingerprint(splits))
    yield Circumstance(
        "data files", loaded.description.data_manifest or UNKNOWN, manifest_digest(now.data.root) or NONE
    )
    split = loaded.folder.split_of(trial.fold)
    read_validation(split, splits.train)  # refuses one that was changed, or cut from other tracklets
    digest = _digest(read_regular(split))
    yield Circumstance("validation split", digest, digest)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}" if content else NONE


def rebuilding(loaded: LoadedSearch, found: list[Circumstance], checkout: Path) -> list[str]:
    """Commands that bring the code of then back beside this one, where it is another."""
    differing = {each.what for each in found if each.matters}
    if not differing & {"commit", "uncommitted changes", "python", *loaded.description.versions}:
        return []
    commit = loaded.description.commit
    if commit is None:
        return ["the commit was not recorded; take the versions from search.yaml"]
    lines = [f"git worktree add {checkout} {commit}"]
    patch = loaded.folder.path / "code.diff"
    if patch.is_file() and patch.stat().st_size:
        lines.append(f"git -C {checkout} apply {patch}")
    return [*lines, f"make -C {checkout} install"]
