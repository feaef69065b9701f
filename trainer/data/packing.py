"""Writes packed data sets: the frames in files of a few hundred megabytes, several processes at once, and an index."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.child import Child, ChildError, cores
from trainer.data.dataset import TRUTH, Pair, Splits, Tracklet, dataset_fingerprint, names_of
from trainer.data.folder import DataFolder
from trainer.data.frames import DamagedFrames, in_threads, stored_bytes
from trainer.data.pack import (
    ARRAYS,
    HEADER,
    TABLE,
    FrameTable,
    OnProgress,
    PackedFile,
    PackedFold,
    PackHeader,
    is_frame_size,
    name_fault,
    packed_data_set,
)
from trainer.data.pack_file import WRITER, OnFrames, WrittenFile, write_pack_file
from trainer.data.synthetic.dataset import truth_file
from trainer.errors import ConfigError, DataError
from trainer.files import check_apart, new_folder

MAX_FILE_BYTES = 2**28  # as a file is one process's work, all cores have some where there are 0.5 GB
# Sizes of files on a slow disk are waited for by several threads.
SIZES_AT_ONCE = 256
SIZE_THREADS = 16


class PackPlan(NamedTuple):
    """What is going to be written."""

    tracklets: int
    frames: int
    bytes: int
    """Of all frames; of crops whose bytes are packed the most that they may take."""
    free: int
    """Bytes on the disk."""


class PackSummary(NamedTuple):
    """Size of a pack that was written."""

    tracklets: int
    frames: int
    files: int
    bytes: int
    """Of all frames together."""
    seconds: float
    damaged: int
    """Frames that could not be decoded; not looked for where image files are packed as they are."""


class _File(NamedTuple):
    """A file of the pack, before it is written."""

    path: Path
    frames: Sequence[str]


def pack_data_set(
    name: str,
    root: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    jobs: int | None = None,
    planned: Callable[[PackPlan], None] = lambda plan: None,
    progress: OnProgress = lambda done, total: None,
) -> PackSummary:
    """Packs the data set `name` (a key of `READERS`) below `root` into the folder `out`.

    `out` appears when everything is in it, or not at all. Its frames are in the order of the tracklets, and its bytes
    depend on nothing but the data set and `size`. `root` may be a pack of image files itself.

    Args:
        name: the data set's layout.
        root: its folder.
        out: a folder that is empty or not there yet.
        size: height and width to which frames are decoded and resized; None packs the image files as they are.
        jobs: processes that decode and write, each a file at a time; None for one per core.
        planned: called before anything is written.
        progress: called with the frames packed and all frames.

    Raises:
        ConfigError: no frame can have this size, or `out` lies in `root`.
        DataError: the data set cannot be read, more of its frames are damaged than a run tolerates, or `out` is
            occupied, has too little space or cannot be written.
    """
    start = time.perf_counter()
    if size is not None and not is_frame_size(size):
        raise ConfigError(f"size: no frame has {size[0]}x{size[1]} pixels (height x width); 256x128 is usual")
    check_apart(out, root)
    root, out = root.resolve(), out.resolve()
    folder = DataFolder(root, name, packed_data_set(root) is not None)
    folds = [folder.read(fold) for fold in range(folder.data_set.folds)]
    tracklets = list(dict.fromkeys(itertools.chain.from_iterable(itertools.chain(*fold) for fold in folds)))
    frames = [frame for tracklet in tracklets for frame in tracklet.frames]
    with _written_to(out) as part:
        sizes = _expected_bytes(frames, size)
        plan = PackPlan(len(tracklets), len(frames), sum(sizes), shutil.disk_usage(part).free)
        _check_space(out, plan)
        planned(plan)
        damage, done = DamagedFrames(len(frames)), 0

        def on_frames(number: int, damaged: Sequence[str]) -> None:
            nonlocal done
            damage.add(damaged)
            done += number
            progress(done, len(frames))

        written = dict(_written(_files(part, frames, sizes), size, jobs or cores(), on_frames))
        files = tuple(
            PackedFile(name=path.name, bytes=sum(file.lengths), sha256=file.sha256) for path, file in written.items()
        )
        header = PackHeader(
            data_set=name,
            size=size,
            files=files,
            folds=_packed_folds(folds, tracklets),
            pairs=_packed_pairs(folder.pairs(), tracklets),
            table_sha256=write_table(part, _table(tracklets, [file.lengths for file in written.values()])),
            identities=names_of(tracklet.identity for tracklet in tracklets),
            cameras=names_of(tracklet.camera for tracklet in tracklets),
        )
        _copy_truth(root, part)
        write_header(part, header)
    return PackSummary(
        tracklets=len(tracklets),
        frames=len(frames),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        seconds=time.perf_counter() - start,
        damaged=damage.count,
    )


@contextlib.contextmanager
def _written_to(out: Path) -> Iterator[Path]:
    """`new_folder`, with faults as DataError."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: is there and not empty; name another folder, or remove this one")
        with new_folder(out) as part:
            yield part
    except ChildError as error:
        raise DataError(f"{out}: {error}") from error
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def _expected_bytes(frames: Sequence[str], size: tuple[int, int] | None) -> list[int]:
    if size is not None:
        return [size[0] * size[1] * 3] * len(frames)
    batches = (frames[start : start + SIZES_AT_ONCE] for start in range(0, len(frames), SIZES_AT_ONCE))
    looks = in_threads(lambda batch: list(map(stored_bytes, batch)), batches, SIZE_THREADS)
    with contextlib.closing(looks):
        return list(itertools.chain.from_iterable(looks))


def _check_space(out: Path, plan: PackPlan) -> None:
    if plan.bytes > plan.free:
        sizes = f"{plan.bytes / 2**30:.1f} GiB of frames, {plan.free / 2**30:.1f} GiB free"
        raise DataError(f"{out}: too little space on this disk ({sizes}); free some or pack to another one")


def _files(folder: Path, frames: Sequence[str], sizes: Sequence[int]) -> list[_File]:
    """The frames cut into files of at most `MAX_FILE_BYTES`, as far as their sizes are known."""
    starts, filled = [0], 0
    for place, length in enumerate(sizes):
        if filled and filled + length > MAX_FILE_BYTES:
            starts.append(place)
            filled = 0
        filled += length
    spans = itertools.pairwise([*starts, len(frames)])
    return [_File(folder / f"frames-{at:03d}.pack", frames[start:end]) for at, (start, end) in enumerate(spans)]


def _written(
    files: Sequence[_File], size: tuple[int, int] | None, jobs: int, on_frames: OnFrames
) -> Iterator[tuple[Path, WrittenFile]]:
    """Writes the files, here or in as many processes, the n-th of which writes every so many-th from its n-th on."""
    if min(jobs, len(files)) == 1:
        for path, frames in files:
            yield path, write_pack_file(path, frames, size, on_frames)
        return
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Child(WRITER, name="a packing process")) for _ in files[:jobs]]

        def ask(number: int) -> None:
            if number < len(files):
                path, frames = files[number]
                writers[number % len(writers)].send([str(path), frames, size])

        for number in range(2 * len(writers)):  # one that is waited for later has another file to go on with
            ask(number)
        for number, (path, _) in enumerate(files):
            yield path, _received(writers[number % len(writers)], on_frames)
            ask(number + 2 * len(writers))


def _received(writer: Child, on_frames: OnFrames) -> WrittenFile:
    while "file" not in (reply := writer.receive()):
        if "error" in reply:
            raise DataError(reply["error"]) if reply["errno"] is None else OSError(reply["errno"], reply["error"])
        on_frames(reply["frames"], reply["damaged"])
    return WrittenFile(*reply["file"])


def _table(tracklets: Sequence[Tracklet], lengths: Sequence[Sequence[int]]) -> FrameTable:
    """The index of the frames, given the bytes of each frame of each file."""
    names = "".join(f"{os.path.basename(frame)}\n" for tracklet in tracklets for frame in tracklet.frames)  # noqa: PTH119
    numbers = np.array([(identity, camera, len(frames)) for frames, identity, camera in tracklets], dtype=np.int64)
    of_files = [np.array(of_file, dtype=np.int64) for of_file in lengths]
    return FrameTable(
        identity=numbers[:, 0],
        camera=numbers[:, 1],
        frames=numbers[:, 2],
        pack=np.repeat(np.arange(len(of_files)), [len(of_file) for of_file in of_files]),
        offset=np.concatenate([of_file.cumsum() - of_file for of_file in of_files]),
        length=np.concatenate(of_files),
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


def _packed_pairs(pairs: Sequence[Pair], tracklets: Sequence[Tracklet]) -> tuple[tuple[int, int, int], ...]:
    index = {tracklet: number for number, tracklet in enumerate(tracklets)} if pairs else {}
    return tuple((index[pair.first], index[pair.second], pair.fold) for pair in pairs)


def _copy_truth(root: Path, out: Path) -> None:
    """Copies the file that marks a data set as synthetic."""
    truth = truth_file(root)
    if truth is not None:
        (out / "info").mkdir()
        shutil.copyfile(truth, out / "info" / TRUTH)


def write_table(folder: Path, table: FrameTable) -> str:
    """Writes index.npz; returns its digest, which belongs into the header.

    Raises:
        DataError: a frame has a name that a pack does not take.
    """
    fault = name_fault(table)
    if fault:
        raise DataError(f"{folder}: {fault}; rename it")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(zip(ARRAYS, table, strict=True))
    np.savez(buffer, **arrays)
    (folder / TABLE).write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def write_header(folder: Path, header: PackHeader) -> None:
    """Writes index.json, the last file of a pack."""
    absent = None if header.pairs else {"pairs"}
    (folder / HEADER).write_bytes(header.model_dump_json(exclude=absent).encode() + b"\n")
