"""The code, machine and data that a trial was trained with, beside those of today."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.trial_configs import trial_config
from orchestrator.base import provenance
from orchestrator.base.errors import SearchError
from orchestrator.study.study import Trial
from orchestrator.summary import Summary
from trainer.files import read_regular

if TYPE_CHECKING:
    from trainer import TrialConfig

UNKNOWN = "not recorded"
NONE = "none"
# Change no number: the name of a machine, where its data lie, and the packages that propose, run and record trials.
HARMLESS = ("host", "data folder", "ray", "ax-platform", "botorch", "mlflow")


class Condition(NamedTuple):
    """One thing that the numbers of a training may depend on."""

    what: str
    then: str
    now: str

    @property
    def differs(self) -> bool:
        """Whether it is known to have changed."""
        return self.then not in (self.now, UNKNOWN)

    @property
    def matters(self) -> bool:
        """Whether it differs and could change a number."""
        return self.differs and self.what not in HARMLESS


def recorded_config(search: Summary, trial: Trial) -> TrialConfig:
    """The configuration that the trial was trained with, as its folder holds it.

    Raises:
        SearchError: the trial was never started, or the file is not that of the journal's settings.
    """
    from pydantic import ValidationError

    from trainer import TrialConfig
    from trainer.automatic import Machine, resolved
    from trainer.settings import differing_settings

    search.folder.store.pull_trial(search.folder, trial.key, "config.json")
    path = search.folder.trial(trial.key) / "config.json"
    try:
        config = TrialConfig.model_validate_json(read_regular(path))
    except FileNotFoundError as error:
        raise SearchError(f"{path}: is missing; trial {trial.key} was never started, or it was deleted") from error
    except ValidationError as error:
        raise SearchError(f"{path}: is damaged or of another version ({error.error_count()} errors)") from error
    then = config.model_dump(mode="json")
    told = resolved(trial_config(search.space, trial), Machine(), recorded=then)
    differing = differing_settings(then, told.model_dump(mode="json"))
    if differing:
        raise SearchError(f"{path}: is not what the journal says of {trial.key} (differs: {', '.join(differing)})")
    return config


def environment_diff(
    search: Summary, trial: Trial, then: TrialConfig, now: TrialConfig, threads: int
) -> list[Condition]:
    """The recorded conditions of a training beside those that it would have here and now.

    Raises:
        DataError: the data set is missing or damaged, or the validation split was cut from another one.
    """
    return [
        *_of_the_code(search),
        *_of_the_machine(search, trial, threads),
        Condition("seed", str(trial.seed), str(now.seed)),
        *_of_the_data(search, trial, then, now),
    ]


def _of_the_code(search: Summary) -> Iterator[Condition]:
    description = search.description
    yield Condition("commit", description.commit or UNKNOWN, provenance.commit() or NONE)
    patch = search.folder.path / "code.diff"
    then = _digest(read_regular(patch)) if patch.is_file() else UNKNOWN
    yield Condition("uncommitted changes", then, _digest(provenance.uncommitted_changes().encode()))
    now = provenance.versions(name for name in description.versions if name != "python")
    for name, version in description.versions.items():
        yield Condition(name, version, now.get(name, NONE))


def _of_the_machine(search: Summary, trial: Trial, threads: int) -> Iterator[Condition]:
    import torch

    yield Condition("host", search.description.host, provenance.host())
    has_gpu = torch.cuda.is_available()
    yield Condition("device", "GPU" if trial.gpus else "CPU", "GPU" if trial.gpus and has_gpu else "CPU")
    yield Condition("CPU threads", UNKNOWN if trial.threads is None else str(trial.threads), str(threads))


def _of_the_data(search: Summary, trial: Trial, then: TrialConfig, now: TrialConfig) -> Iterator[Condition]:
    from trainer.data import read_splits
    from trainer.data.dataset import dataset_fingerprint
    from trainer.data.manifest import manifest_digest
    from trainer.data.splits import read_validation

    splits = read_splits(now.data)
    yield Condition("data folder", str(then.data.root), str(now.data.root))
    yield Condition("data lists", search.description.data_fingerprint, dataset_fingerprint(splits))
    yield Condition("manifest", search.description.data_manifest or UNKNOWN, manifest_digest(now.data.root) or NONE)
    split = search.folder.split_of(trial.fold)
    read_validation(split, splits.train)  # refuses one that was changed, or cut from other tracklets
    digest = _digest(read_regular(split))
    yield Condition("validation split", digest, digest)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}" if content else NONE


def restoring_commands(search: Summary, conditions: Sequence[Condition], checkout: Path) -> list[str]:
    """Commands that restore the code of the launch in a folder of its own; none where it is the same."""
    differing = {each.what for each in conditions if each.matters}
    if not differing & {"commit", "uncommitted changes", "python", *search.description.versions}:
        return []
    commit = search.description.commit
    if commit is None:
        return ["the commit was not recorded; take the versions from search.yaml"]
    lines = [f"git worktree add {checkout} {commit}"]
    patch = search.folder.path / "code.diff"
    if patch.is_file() and patch.stat().st_size:
        lines.append(f"git -C {checkout} apply {patch}")
    return [*lines, f"make -C {checkout} install"]
