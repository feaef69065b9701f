"""Packed data sets on the disks of nodes: fetched once per node, verified, and used by every later trial there."""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from orchestrator.base.errors import EnvironmentProblem, SearchError
from orchestrator.base.process import exclusive
from orchestrator.stores.objects import objects_at
from orchestrator.stores.uri import cache_folder, is_uri, parsed
from trainer.errors import DataError
from trainer.files import sync_folder
from trainer.settings import FrozenConfig

if TYPE_CHECKING:
    from trainer.data.pack import PackHeader

log = logging.getLogger(__name__)

SHA_256 = r"^[0-9a-f]{64}$"
STAGED = "data"
"""Folder of staged data sets in the cache."""
INDEX = "index.json"
TABLE = "index.npz"
MAX_INDEX_BYTES = 64 * 2**20
# Another trial of this node may be fetching the same data set; it says that it lives so often.
LOCK_TURN_S = 5.0


class DataSource(FrozenConfig):
    """Where a node gets a data set from; neither is where the trial's configuration says."""

    pack: str | None = None
    """Folder, or URI, of a packed data set."""
    sha256: str | None = Field(None, pattern=SHA_256)
    """Digest of the pack's index.json, which names the digest of everything else in it."""
    generated: str | None = None
    """Size of a generated data set, which every node draws for itself."""
    root: str | None = None
    """Folder of the data set, the same on all nodes, of a search that was moved."""


class _Source(NamedTuple):
    """A packed data set, wherever it is."""

    name: str
    read: Callable[[str], bytes]
    """Raises FileNotFoundError."""
    copy: Callable[[str, Path], str]
    """Puts a file into another; returns its SHA-256. Raises FileNotFoundError."""


def nothing() -> None:
    """The default of `alive`; does nothing."""


def data_here(source: DataSource, root: Path, storage: Path, alive: Callable[[], None] = nothing) -> Path:
    """The folder of the data set on this node; fetched or drawn first if need be.

    Args:
        source: where it comes from.
        root: where the trial's configuration says it is.
        storage: the search's storage on this machine, which holds generated data.
        alive: called now and then while that lasts.

    Raises:
        DataError: it cannot be fetched, or what is there is damaged.
        StorageProblem: its storage cannot be reached.
    """
    if source.root is not None:
        return Path(source.root)
    if source.pack is not None:
        assert source.sha256 is not None
        return staged(source.pack, source.sha256, cache_folder(), alive)
    if source.generated is None or root.is_dir():
        return root
    return _drawn(source.generated, storage / root.name, alive)


def data_at_hand(source: DataSource, root: Path, storage: Path) -> Path | None:
    """As `data_here`, unchecked; None where the data set still has to be fetched or drawn."""
    if source.root is not None:
        return Path(source.root)
    if source.pack is not None:
        place = cache_folder() / STAGED / str(source.sha256)
    else:
        place = root if source.generated is None or root.is_dir() else storage / root.name
    return place if place.is_dir() else None


def staged(source: str, sha256: str, cache: Path, alive: Callable[[], None] = nothing) -> Path:
    """The folder of this node's copy of a packed data set.

    Of several trials that ask at once one fetches it; the others wait. It takes its place when every byte has been
    verified. One that is there is taken if its index and the sizes of its files are right.

    Args:
        source: folder, or URI, of the pack.
        sha256: digest of the pack's index.json.
        cache: where this machine keeps what can be fetched again.
        alive: called now and then.

    Raises:
        DataError: the pack is missing, another one, or damaged also when fetched a second time; names the file.
        StorageProblem: its storage cannot be reached.
    """
    folder = cache / STAGED / sha256
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        alive()
        try:
            with exclusive(folder.with_name(f"{sha256}.lock"), LOCK_TURN_S):
                if not _is_whole(folder, sha256):
                    _fetch(_opened(source), sha256, folder, alive)
                return folder
        except TimeoutError:
            log.info("%s: another trial of this node is fetching it", source)


def index_digest(source: str) -> str:
    """SHA-256 of the index of a packed data set, by which it is asked for.

    Raises:
        DataError: there is no packed data set.
        StorageProblem: its storage cannot be reached.
    """
    return hashlib.sha256(_index(_opened(source))).hexdigest()


def check_pack_of(source: str, sha256: str, data_set: str, fold: int, fingerprint: str) -> None:
    """Whether a packed data set is the one that a search is launched on.

    Args:
        source: folder, or URI, of the pack.
        sha256: digest of its index.json.
        data_set: key of the reader.
        fold: partition of the data set.
        fingerprint: of this partition.

    Raises:
        DataError: it is not there, is another one, or has changed since its digest was taken.
        StorageProblem: its storage cannot be reached.
    """
    header = _header(_opened(source), sha256)
    if header.data_set != data_set:
        raise DataError(f"{source}: holds the packed data set {header.data_set}, the search is on {data_set}")
    if fold >= len(header.folds) or header.folds[fold].fingerprint != fingerprint:
        raise DataError(f"{source}: was packed from other tracklets than those in data.root; pack that folder again")


def _fetch(source: _Source, sha256: str, folder: Path, alive: Callable[[], None]) -> None:
    part = folder.with_name(f".{sha256}-{uuid.uuid4().hex[:8]}.part")
    for leftover in folder.parent.glob(f".{sha256}-*.part"):
        shutil.rmtree(leftover)  # of one that died; we hold the lock
    log.info("%s: is fetched to %s", source.name, folder)
    try:
        header = _header(source, sha256)
        _check_space(header, folder)
        part.mkdir()
        for name, digest in ((TABLE, header.table_sha256), *((file.name, file.sha256) for file in header.files)):
            alive()
            _copy(source, name, digest, part)
        _copy_truth(source, part)
        (part / INDEX).write_bytes(_index(source))
        if not _is_whole(part, sha256):
            raise DataError(f"{source.name}: changed while it was fetched; try again")
        if folder.exists():
            shutil.rmtree(folder)  # damaged
        part.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy(source: _Source, name: str, digest: str, part: Path) -> None:
    """Fetches a file, and once more if it arrives damaged."""
    try:
        if source.copy(name, part / name) == digest:
            return
        log.warning("%s/%s: arrived damaged; it is fetched again", source.name, name)
        if source.copy(name, part / name) == digest:
            return
    except FileNotFoundError as error:
        raise DataError(f"{source.name}/{name}: is missing; copy the packed data set again") from error
    raise DataError(f"{source.name}/{name}: damaged, its SHA-256 is not that of the index; copy the data set again")


def _copy_truth(source: _Source, part: Path) -> None:
    """What marks generated data as such goes with it."""
    from trainer.data.dataset import TRUTH  # comes with scipy

    try:
        text = source.read(f"info/{TRUTH}")
    except FileNotFoundError:
        return
    (part / "info").mkdir()
    (part / "info" / TRUTH).write_bytes(text)


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether the folder holds this pack, by its index and the sizes of its files; not every byte is read."""
    from trainer.data.pack import read_header, read_table

    try:
        if hashlib.sha256((folder / INDEX).read_bytes()).hexdigest() != sha256:
            return False
        read_table(folder, read_header(folder))
    except (FileNotFoundError, DataError):
        return False
    return True


def _header(source: _Source, sha256: str) -> PackHeader:
    from pydantic import ValidationError

    from trainer.data.pack import PackHeader

    index = _index(source)
    if hashlib.sha256(index).hexdigest() != sha256:
        raise DataError(f"{source.name}/{INDEX}: is not the one that the search was launched with; put that one back")
    try:
        return PackHeader.model_validate_json(index, strict=True)
    except ValidationError as error:
        raise DataError(
            f"{source.name}/{INDEX}: not the index of a packed data set; pack the data set again"
        ) from error


def _index(source: _Source) -> bytes:
    try:
        index = source.read(INDEX)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{source.name}: no packed data set is there ({INDEX} is missing); see data pack") from error
    if len(index) > MAX_INDEX_BYTES:
        raise DataError(f"{source.name}/{INDEX}: {len(index)} bytes; this is not the index of a packed data set")
    return index


def _opened(source: str) -> _Source:
    folder = Path(source)
    if is_uri(source):
        try:
            address = parsed(source)
            if address.scheme != "file":
                store = objects_at(address.uri)
                return _Source(store.uri, store.read, store.fetch)
        except SearchError as error:
            raise DataError(str(error)) from error
        folder = Path(address.path)

    def copy(name: str, target: Path) -> str:
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file, target.open("wb") as out:
            while block := file.read(2**20):
                digest.update(block)
                out.write(block)
        return digest.hexdigest()

    return _Source(source, lambda name: (folder / name).read_bytes(), copy)


def _check_space(header: PackHeader, folder: Path) -> None:
    needed, free = sum(file.bytes for file in header.files), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise EnvironmentProblem(
            f"{folder.parent}: {needed / 2**30:.1f} GiB of frames, {free / 2**30:.1f} GiB free on this node; make "
            "room, or set XDG_CACHE_HOME to another disk"
        )


def _drawn(size: str, root: Path, alive: Callable[[], None]) -> Path:
    from trainer.data.synthetic.dataset import is_synthetic, write_synthetic

    lock = root.with_name(f".{root.name}.lock")
    while True:
        alive()
        try:
            with exclusive(lock, LOCK_TURN_S):
                if not is_synthetic(root):
                    log.info("%s: is drawn", root)
                    write_synthetic(root, size=size, seed=0, progress=lambda done, total: alive())  # type: ignore[arg-type]
                return root
        except TimeoutError:
            log.info("%s: another trial of this node is drawing it", root)
