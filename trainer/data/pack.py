"""Packed data sets: the frames of all partitions in a few large files, and an index of them.

A packed frame is an address (`trainer.data.frames`) that stands wherever the path of a frame does: it ends in the
frame's base name, so that a packed data set has the fingerprint of the one it was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.atomic import sync_folder
from trainer.data.damage import DamageTally
from trainer.data.frames import bytes_address, pixels_address, stored_bytes
from trainer.data.pack_index import (
    HEADER,
    TABLE,
    FrameTable,
    PackedFold,
    PackHeader,
    is_frame_size,
    read_header,
    read_table,
    write_header,
    write_table,
)
from trainer.data.packing import PackWriter, payloads_of
from trainer.data.tracklets import Splits, Tracklet, dataset_fingerprint
from trainer.errors import ConfigError, DataError

BLOCK = 2**20

Counter = Callable[[int, int], None]
"""Hears how much is done, and how much there is in all."""


class PackSummary(NamedTuple):
    """What was packed."""

    tracklets: int
    frames: int
    files: int
    bytes: int
    """Of all frames together."""
    seconds: float
    damaged: int
    """Frames that could not be decoded; nobody looks for them where image files are packed as they are."""


def pack_data_set(
    name: str,
    root: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    progress: Counter = lambda done, total: None,
) -> PackSummary:
    """Packs the data set `name` (a key of `READERS`) below `root` into the folder `out`.

    `out` appears when everything is in it, or not at all. Its frames are in the order of the tracklets. `root` may be
    a pack of image files itself.

    Args:
        name: the data set's layout.
        root: its folder.
        out: a folder that is empty or not there yet.
        size: height and width to which frames are decoded and resized; None packs the image files as they are.
        progress: hears the frames packed and all frames.

    Raises:
        ConfigError: no frame can have this size.
        DataError: the data set cannot be read, more of its frames are damaged than a run bears, or `out` is occupied,
            has too little space or cannot be written.
    """
    start = time.perf_counter()
    if size is not None and not is_frame_size(size):
        raise ConfigError(f"size: no frame has {size[0]}x{size[1]} pixels (height x width); 256x128 is usual")
    root, out = root.resolve(), out.resolve()
    folds = _all_folds(name, root)
    tracklets = list(dict.fromkeys(itertools.chain.from_iterable(itertools.chain(*fold) for fold in folds)))
    frames = [frame for tracklet in tracklets for frame in tracklet.frames]
    damage = DamageTally(len(frames))
    with _appearing(out) as part:
        _check_space(part, out, sum(_expected_bytes(frames, size)))
        writer = PackWriter(part)
        with contextlib.closing(payloads_of(frames, size, damage)) as payloads, contextlib.closing(writer):
            for done, payload in enumerate(payloads, start=1):
                writer.add(payload)
                progress(done, len(frames))
        digest = write_table(part, _table(tracklets, writer.extents))
        packed = _packed_folds(folds, tracklets)
        header = PackHeader(data_set=name, size=size, files=tuple(writer.files), folds=packed, table_sha256=digest)
        _copy_truth(root, part)
        write_header(part, header)
    return PackSummary(
        tracklets=len(tracklets),
        frames=len(frames),
        files=len(writer.files),
        bytes=sum(file.bytes for file in writer.files),
        seconds=time.perf_counter() - start,
        damaged=damage.count,
    )


def packed_data_set(root: Path) -> str | None:
    """Name (a key of `READERS`) of the data set that is packed in the folder; None if it is no packed data set.

    Raises:
        DataError: the folder is a packed data set, but its index is damaged or the data set unknown.
    """
    from trainer.data import READERS  # that module reads packed data sets, too

    if not (root / HEADER).is_file() or not ((root / TABLE).is_file() or any(root.glob("frames-*.pack"))):
        return None
    name = read_header(root).data_set
    if name not in READERS:
        raise DataError(f"{root / HEADER}: a pack of {name}; known data sets are {', '.join(READERS)}")
    return name


def read_packed(root: Path, name: str, fold: int = 0) -> Splits:
    """Partition `fold` of the data set `name` that is packed in the folder; the same but for the frames' paths.

    Raises:
        DataError: the index is damaged, files are missing or truncated, or another data set is packed there.
    """
    header = read_header(root)
    if header.data_set != name:
        raise DataError(f"{root}: holds the packed data set {header.data_set}, not {name}; set data.name")
    if fold >= len(header.folds):
        raise DataError(f"{root / HEADER}: has {len(header.folds)} partitions; there is no data.fold {fold}")
    return _checked_splits(root, header, read_table(root, header), header.folds[fold])


def check_pack(root: Path, progress: Counter = lambda done, total: None) -> None:
    """Compares every byte of the pack with what was written, by SHA-256; `progress` hears bytes done and in all.

    Raises:
        DataError: a file is missing, truncated or changed; names the first one.
    """
    header = read_header(root)
    table = read_table(root, header)
    for fold in header.folds:
        _checked_splits(root, header, table, fold)
    total, done = sum(file.bytes for file in header.files), 0
    for file in header.files:
        digest = hashlib.sha256()
        for block in _blocks(root / file.name):
            digest.update(block)
            done += len(block)
            progress(done, total)
        if digest.hexdigest() != file.sha256:
            raise DataError(f"{root / file.name}: changed since it was packed; copy the packed data set again")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _checked_splits(root: Path, header: PackHeader, table: FrameTable, fold: PackedFold) -> Splits:
    splits = _splits(root, header, table, fold)
    if dataset_fingerprint(splits) != fold.fingerprint:
        raise DataError(f"{root / HEADER}: does not list the tracklets that were packed; pack the data set again")
    return splits


def _splits(root: Path, header: PackHeader, table: FrameTable, fold: PackedFold) -> Splits:
    last = table.frames.cumsum()
    first = (last - table.frames).tolist()
    names = table.name_list()
    packs = [f"{root / file.name}" for file in header.files]

    def tracklet(index: int) -> Tracklet:
        span = slice(first[index], int(last[index]))
        places = zip(
            *(row[span].tolist() for row in (table.pack, table.offset, table.length)), names[span], strict=True
        )
        addresses = tuple([_address(packs[file], at, length, name, header.size) for file, at, length, name in places])
        return Tracklet(addresses, int(table.identity[index]), int(table.camera[index]))

    return Splits(*(tuple([tracklet(index) for index in part]) for part in (fold.train, fold.query, fold.gallery)))


def _address(pack: str, offset: int, length: int, name: str, size: tuple[int, int] | None) -> str:
    if size is None:
        return bytes_address(pack, offset, length, name)
    return pixels_address(pack, offset, size if length else (0, 0), name)


def _all_folds(name: str, root: Path) -> list[Splits]:
    from trainer.data import READERS

    if packed_data_set(root) is not None:
        return [read_packed(root, name, fold) for fold in range(READERS[name].folds)]
    return [READERS[name](root, fold) for fold in range(READERS[name].folds)]


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` if all goes well, and is removed otherwise."""
    part = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: is there and not empty; name another folder, or remove this one")
        part.mkdir(parents=True)
        yield part
        part.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _expected_bytes(frames: Sequence[str], size: tuple[int, int] | None) -> Iterator[int]:
    return (stored_bytes(frame) if size is None else size[0] * size[1] * 3 for frame in frames)


def _check_space(folder: Path, out: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB of frames, {free / 2**30:.1f} GiB free"
        raise DataError(f"{out}: too little space on this disk ({sizes}); free some or pack to another one")


def _table(tracklets: Sequence[Tracklet], extents: Sequence[tuple[int, int, int]]) -> FrameTable:
    names = "".join(f"{os.path.basename(frame)}\n" for tracklet in tracklets for frame in tracklet.frames)  # noqa: PTH119
    numbers = np.array([(identity, camera, len(frames)) for frames, identity, camera in tracklets], dtype=np.int64)
    places = np.array(extents, dtype=np.int64)
    return FrameTable(
        identity=numbers[:, 0],
        camera=numbers[:, 1],
        frames=numbers[:, 2],
        pack=places[:, 0],
        offset=places[:, 1],
        length=places[:, 2],
        names=np.frombuffer(names.encode(errors="surrogateescape"), dtype=np.uint8),
    )


def _packed_folds(folds: Sequence[Splits], tracklets: Sequence[Tracklet]) -> tuple[PackedFold, ...]:
    index = {tracklet: number for number, tracklet in enumerate(tracklets)}

    def part(tracklets: Sequence[Tracklet]) -> tuple[int, ...]:
        return tuple(index[tracklet] for tracklet in tracklets)

    return tuple(
        PackedFold(fingerprint=dataset_fingerprint(fold), **{name: part(own) for name, own in fold._asdict().items()})
        for fold in folds
    )


def _copy_truth(root: Path, out: Path) -> None:
    """What marks generated data as such goes with it."""
    from trainer.data.synthetic.dataset import TRUTH  # comes with scipy, which reading a pack needs not wait for

    truth = root / "info" / TRUTH
    if truth.is_file():
        (out / "info").mkdir()
        shutil.copyfile(truth, out / "info" / TRUTH)
