"""Creates a search: checks its data, cuts its validation splits and writes its folder, before anything trains."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.algorithms.warm_start import WarmStart, observations
from orchestrator.base import provenance
from orchestrator.base.errors import OrchestratorError, SearchError
from orchestrator.base.hints import command_line
from orchestrator.cluster.planning import share_of_this_machine
from orchestrator.cluster.trusted_servers import ADDRESS, TRACKING, trust
from orchestrator.runner.data_staging import check_pack
from orchestrator.runner.prepare_space import any_config, check_weights
from orchestrator.runner.splits import Splits as CutSplits
from orchestrator.runner.splits import check_batches, cut_splits, write_splits
from orchestrator.space.plugins import plugins_of
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder, Store, new_search
from orchestrator.study.description import Options, SearchDescription, write_description
from orchestrator.study.events import ObservationsAttached, SearchCreated
from orchestrator.study.journal import Journal
from trainer.data import Splits, Tracklet, read_splits
from trainer.data.dataset import dataset_fingerprint
from trainer.data.frames import stored_bytes
from trainer.data.manifest import manifest_digest
from trainer.data.synthetic.dataset import is_synthetic
from trainer.errors import DataError
from trainer.files import write_atomically
from trainer.formatting import counted

if TYPE_CHECKING:
    from trainer.config import TrialConfig


log = logging.getLogger(__name__)

# Settings that decide whether a machine can compute a trial's products.
COMPUTED = ("compute.precision", "model.backbone", "model.height", "model.width")


class CheckedSearch(NamedTuple):
    """A new search before anything of it is written."""

    folder: SearchFolder
    description: SearchDescription
    train: Sequence[Tracklet]
    cut: CutSplits
    attached: ObservationsAttached | None


def check_search(
    space: SearchSpace,
    *,
    storage: Store,
    name: str | None,
    seed: int,
    options: Options,
    warm_start: WarmStart | None = None,
) -> CheckedSearch:
    """Checks all of a new search except the storage; writes nothing.

    Raises:
        SearchError: the name is taken, the earlier search does not fit, or this machine can never hold a trial.
        DataError: the data set is damaged or too small.
        ConfigError: the network's weights are not available or do not fit, or this machine lacks the precision.
    """
    _require_utf8(storage.path)
    share = share_of_this_machine(space, options)
    config = any_config(space)
    if options.address is None:  # the machines of a cluster may have what this one lacks
        _require_computable(space, config, on_gpu=share.gpus > 0)
        if config.clips.workers != "auto" and config.clips.workers > share.cpus:
            cores = f"the {counted(share.cpus, 'core', 'cores')} of a trial"
            log.warning("clips.workers: %d processes that decode frames share %s", config.clips.workers, cores)
    folder = new_search(storage, f"{space.name}-{secrets.token_hex(2)}" if name is None else name)
    splits = read_splits(config.data)
    if options.stage_data is None:  # otherwise the frames may be elsewhere
        _check_first_frame(config.data.root, splits)
    cut = cut_splits(space, splits.train)
    check_batches(space, splits.train, cut)
    description = _described(folder.name, space, config.data.root, splits, seed=seed, options=options)
    check_pack(options, config.data, description.data_fingerprint)
    if space.synthetic is None:  # `prepare_space` has checked them otherwise
        check_weights(space)
    attached = None if warm_start is None else observations(warm_start, description)
    return CheckedSearch(folder, description, splits.train, cut, attached)


def _require_utf8(storage: Path) -> None:
    """Raises SearchError if URIs cannot name the storage: what is escaped in them is read as UTF-8."""
    try:
        str(storage.absolute()).encode()
    except UnicodeEncodeError as error:
        raise SearchError(
            f"{storage.absolute()}: the path is not UTF-8, as MLflow's addresses must be; choose another --storage"
        ) from error


def _require_computable(space: SearchSpace, config: TrialConfig, *, on_gpu: bool) -> None:
    """Raises ConfigError where this machine cannot compute as every trial is told to."""
    import torch

    from trainer import require_precision
    from trainer.automatic import resolved, this_machine

    if not any(map(space.is_searched, COMPUTED)):
        device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
        require_precision(resolved(config, this_machine(device)).compute, device)


def _check_first_frame(root: Path, splits: Splits) -> None:
    """Reads one frame: the lists of a data set are read without its frames, which may be missing or elsewhere."""
    try:
        for tracklet in splits.train[:1]:
            stored_bytes(tracklet.frames[0])
    except DataError as error:
        raise DataError(f"{error}; `{command_line('data', 'check', root)}` tells what is missing") from error


def create_search(
    space: SearchSpace,
    *,
    storage: Store,
    name: str | None,
    seed: int,
    options: Options,
    warm_start: WarmStart | None = None,
) -> SearchFolder:
    """Writes the folder of a new search: description, validation splits, journal with its first event.

    The folder appears whole or not at all; of two processes that create the same name one wins.

    Raises:
        SearchError: the name is taken, the storage cannot be written, or the earlier search does not fit.
        DataError: the data set is damaged or too small.
        ConfigError: the network's weights are not available or do not fit.
    """
    checked = check_search(space, storage=storage, name=name, seed=seed, options=options, warm_start=warm_start)
    trust(storage, TRACKING, options.tracking_uri)
    trust(storage, ADDRESS, options.address)
    folder = checked.folder
    draft = SearchFolder(storage.path.absolute() / f".{folder.name}.{os.getpid()}", storage)
    try:
        storage.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.path.mkdir(mode=0o700)
        write_description(draft.description, checked.description)
        write_splits(draft, checked.cut, checked.train)
        write_atomically(draft.path / "code.diff", provenance.uncommitted_changes())
        journal = Journal(draft.journal)
        journal.append(SearchCreated(search=folder.name, space=space.fingerprint(), seed=seed))
        if checked.attached is not None:
            journal.append(checked.attached)
        journal.close()
        draft.path.rename(folder.path)
        _publish(folder)
    except OSError as error:
        shutil.rmtree(draft.path, ignore_errors=True)
        if folder.path.exists():
            raise SearchError(f"{folder.name}: another process has just created this search") from error
        raise SearchError(
            f"{storage.path}: cannot hold a search ({error.strerror}); choose another --storage"
        ) from error
    return folder


def _publish(folder: SearchFolder) -> None:
    try:
        folder.store.publish(folder)
    except OrchestratorError:
        shutil.rmtree(folder.path)
        raise


def _described(
    name: str, space: SearchSpace, root: Path, splits: Splits, *, seed: int, options: Options
) -> SearchDescription:
    """The description: what is launched, on which data, from which code."""
    return SearchDescription(
        search=name,
        uid=f"{name}-{secrets.token_hex(8)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        synthetic=is_synthetic(root),
        data_fingerprint=dataset_fingerprint(splits),
        tracklets={"train": len(splits.train), "query": len(splits.query), "gallery": len(splits.gallery)},
        data_manifest=manifest_digest(root),
        options=options,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        host=provenance.host(),
        commit=provenance.commit(),
        versions=provenance.versions(plugin.package for plugin in plugins_of(space)),
        space=space,
    )
