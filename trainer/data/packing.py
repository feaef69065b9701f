"""Writes packed data sets: frames are read a little ahead and appended to a few large files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.dataset import TRUTH, Pair, Splits, Tracklet, dataset_fingerprint, names_of
from trainer.data.folder import DataFolder
from trainer.data.frames import DamagedFrames, frame_bytes, in_threads, read_clip, read_frame, stored_bytes
from trainer.data.images import DamagedFrameError
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
from trainer.data.synthetic.dataset import truth_file
from trainer.errors import ConfigError, DataError
from trainer.files import check_apart, new_folder

MAX_FILE_BYTES = 2**30
FRAMES_AT_ONCE = 32


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


def pack_data_set(
    name: str,
    root: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    progress: OnProgress = lambda done, total: None,
) -> PackSummary:
    """Packs the data set `name` (a key of `READERS`) below `root` into the folder `out`.

    `out` appears when everything is in it, or not at all. Its frames are in the order of the tracklets. `root` may be
    a pack of image files itself.

    Args:
        name: the data set's layout.
        root: its folder.
        out: a folder that is empty or not there yet.
        size: height and width to which frames are decoded and resized; None packs the image files as they are.
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
    damage = DamagedFrames(len(frames))
    with _written_to(out) as part:
        _check_space(part, out, sum(_expected_bytes(frames, size)))
        writer = PackWriter(part)
        with contextlib.closing(payloads_of(frames, size, damage)) as payloads, contextlib.closing(writer):
            for done, payload in enumerate(payloads, start=1):
                writer.add(payload)
                progress(done, len(frames))
        digest = write_table(part, _table(tracklets, writer.extents))
        packed = _packed_folds(folds, tracklets)
        header = PackHeader(
            data_set=name,
            size=size,
            files=tuple(writer.files),
            folds=packed,
            pairs=_packed_pairs(folder.pairs(), tracklets),
            table_sha256=digest,
            identities=names_of(tracklet.identity for tracklet in tracklets),
            cameras=names_of(tracklet.camera for tracklet in tracklets),
        )
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


@contextlib.contextmanager
def _written_to(out: Path) -> Iterator[Path]:
    """`new_folder`, with faults as DataError."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: is there and not empty; name another folder, or remove this one")
        with new_folder(out) as part:
            yield part
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


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


def payloads_of(
    frames: Sequence[str], size: tuple[int, int] | None, damage: DamagedFrames
) -> Generator[bytes, None, None]:
    """Bytes to write for each frame; threads read ahead."""
    batches = [frames[start : start + FRAMES_AT_ONCE] for start in range(0, len(frames), FRAMES_AT_ONCE)]
    with contextlib.closing(in_threads(partial(_stored, size=size), batches)) as results:
        for batch, payloads in zip(batches, results, strict=True):
            if size is not None:
                damage.add(frame for frame, payload in zip(batch, payloads, strict=True) if not payload)
            yield from payloads


def _stored(frames: Sequence[str], size: tuple[int, int] | None) -> list[bytes]:
    if size is None:
        return [frame_bytes(frame) for frame in frames]
    try:
        return [pixels.tobytes() for pixels in read_clip(frames, *size)]
    except DamagedFrameError:
        return [_pixels_or_nothing(frame, size) for frame in frames]


def _pixels_or_nothing(frame: str, size: tuple[int, int]) -> bytes:
    try:
        return read_frame(frame, *size).tobytes()
    except DamagedFrameError:
        return b""


class PackWriter:
    """Writes frames one after another into files of at most `MAX_FILE_BYTES`, and notes where each lies."""

    def __init__(self, folder: Path) -> None:
        self.files: list[PackedFile] = []
        """The files that are finished."""
        self.extents: list[tuple[int, int, int]] = []
        """File, offset and length of each frame."""
        self._folder = folder
        self._open()

    def add(self, payload: bytes) -> None:
        """Appends a frame."""
        if self._size and self._size + len(payload) > MAX_FILE_BYTES:
            self.close()
            self._open()
        self._file.write(payload)
        self._digest.update(payload)
        self.extents.append((len(self.files), self._size, len(payload)))
        self._size += len(payload)

    def close(self) -> None:
        """Finishes the last file; what is in it survives a crash."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.files.append(PackedFile(name=self._name, bytes=self._size, sha256=self._digest.hexdigest()))

    def _open(self) -> None:
        self._name = f"frames-{len(self.files):03d}.pack"
        self._file = (self._folder / self._name).open("xb")
        self._digest = hashlib.sha256()
        self._size = 0
