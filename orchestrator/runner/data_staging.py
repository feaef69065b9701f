"""From where the nodes of a cluster get the data set of a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.base.errors import SearchError
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.staging import DataSource, check_pack_of, data_here, index_digest
from orchestrator.stores.uri import is_uri, parsed
from orchestrator.study.description import Options, read_description
from trainer.errors import DataError

# They import torch and scipy, for which commands that only read a search should not wait.
if TYPE_CHECKING:
    from trainer import TrialConfig
    from trainer.data import DataConfig


def named_pack(given: str | None) -> dict[str, str]:
    """The options that name a packed data set: its absolute place and its digest; none if None is given.

    Raises:
        SearchError: the URI is not valid.
        DataError: there is no packed data set.
        StorageProblem: its storage cannot be reached.
    """
    if given is None:
        return {}
    source = parsed(given).uri if is_uri(given) else str(Path(given).absolute())
    return {"stage_data": source, "stage_sha256": index_digest(source)}


def pack_of(folder: SearchFolder, given: str | None) -> dict[str, str]:
    """As `named_pack`, for an existing search; the pack must be of its data set.

    Raises:
        SearchError: the URI is not valid, or `search.yaml` is damaged.
        DataError: there is no packed data set, or another one.
        StorageProblem: its storage cannot be reached.
    """
    named = named_pack(given)
    if named:
        description = read_description(folder.description)
        data = _data_of(description.space)
        check_pack_of(named["stage_data"], named["stage_sha256"], data.name, data.fold, description.data_fingerprint)
    return named


def moved_data(folder: SearchFolder, given: str | None) -> str | None:
    """The folder to which the data set of an existing search has moved; None if None is given.

    Raises:
        DataError: there is no data set, or another one.
        SearchError: `search.yaml` is damaged.
    """
    if given is None:
        return None
    from trainer.data import read_splits
    from trainer.data.dataset import dataset_fingerprint

    description = read_description(folder.description)
    data = _data_of(description.space).model_copy(update={"root": Path(given).absolute()})
    if not data.root.is_dir():
        raise DataError(f"no data set at {data.root}; say where it is with --data DIR")
    if dataset_fingerprint(read_splits(data)) != description.data_fingerprint:
        raise DataError(f"{data.root}: is not the data set of {folder.name}; --data DIR names another")
    return str(data.root)


def check_pack(options: Options, data: DataConfig, fingerprint: str) -> None:
    """Checks that the pack for nodes is of the data set of the search.

    Raises:
        DataError: it is of another one, or damaged.
        StorageProblem: its storage cannot be reached.
    """
    if options.stage_data is not None:
        if options.stage_sha256 is None:
            raise SearchError("stage_data: stage_sha256 is missing; give --stage-data again")
        check_pack_of(options.stage_data, options.stage_sha256, data.name, data.fold, fingerprint)


def with_data_here(config: TrialConfig, folder: SearchFolder) -> TrialConfig:
    """The configuration of a trial, with the data set where this machine has it.

    Raises:
        SearchError: `search.yaml` is damaged.
        DataError: the data set cannot be fetched.
        StorageProblem: its storage cannot be reached.
    """
    description = read_description(folder.description)
    source = data_source(description.options, description.space, folder)
    root = data_here(source, config.data.root, folder.path.parent)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def data_source(options: Options, space: SearchSpace, folder: SearchFolder) -> DataSource:
    """From where a node gets the data: from a pack, from the folder that a resume named, or, if a storage with a URI
    holds a search on generated data, by generating them. Generated data move with their storage."""
    if options.stage_data is not None:
        return DataSource(pack=options.stage_data, sha256=options.stage_sha256)
    if options.data is not None:
        return DataSource(root=options.data)
    if space.synthetic is not None and folder.store.uri is not None:
        return DataSource(generated=space.synthetic)
    from trainer.data.synthetic.dataset import is_synthetic

    root = _data_of(space).root
    if not root.is_dir() and is_synthetic(folder.path.parent / root.name):
        return DataSource(root=str(folder.path.parent / root.name))
    return DataSource()


def _data_of(space: SearchSpace) -> DataConfig:
    return space.config(space.any_sample()).data
