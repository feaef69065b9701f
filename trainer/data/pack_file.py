"""One file of a packed data set, written: its frames one after another. As a child process it writes several."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainer.child import Parent, child_command
from trainer.data.frames import frame_bytes, in_threads, read_clip, read_frame
from trainer.data.images import DamagedFrameError
from trainer.errors import DataError

WRITER = child_command("trainer.data.pack_file")
FRAMES_AT_ONCE = 32
THREADS = 4  # of a process: some wait for the disk while one decodes

OnFrames = Callable[[int, Sequence[str]], None]
"""Called with the number of frames written since the last call, and those of them that are damaged."""


class WrittenFile(NamedTuple):
    """A file of frames that is on the disk."""

    lengths: list[int]
    """Bytes of each frame; 0 for one that could not be decoded."""
    sha256: str


def write_pack_file(
    path: Path, frames: Sequence[str], size: tuple[int, int] | None, on_frames: OnFrames
) -> WrittenFile:
    """Writes a file that is not there yet; it survives a crash once this returns.

    Args:
        path: the file.
        frames: paths of its frames, in order.
        size: height and width to which they are decoded and resized; None writes the bytes of the image files.
        on_frames: see `OnFrames`.

    Raises:
        DataError: a frame is missing or too large.
        OSError: the disk is full or fails.
    """
    digest = hashlib.sha256()
    lengths: list[int] = []
    with path.open("xb") as file, contextlib.closing(_payloads(frames, size)) as batches:
        for payloads in batches:
            for payload in payloads:
                file.write(payload)
                digest.update(payload)
            batch = frames[len(lengths) : len(lengths) + len(payloads)]
            lengths += map(len, payloads)
            damaged = [] if size is None else [frame for frame, data in zip(batch, payloads, strict=True) if not data]
            on_frames(len(batch), damaged)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(lengths, digest.hexdigest())


def _payloads(frames: Sequence[str], size: tuple[int, int] | None) -> Generator[list[bytes], None, None]:
    batches = (frames[start : start + FRAMES_AT_ONCE] for start in range(0, len(frames), FRAMES_AT_ONCE))
    return in_threads(partial(_stored, size=size), batches, THREADS)


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


def main(parent: Parent) -> None:
    """Writes the files that are asked for: a list of path, frames and size each.

    Sends `{"frames": number, "damaged": paths}` now and then, and at the end of each file `{"file": WrittenFile}`, or
    `{"error": text}`, where the disk refused with its `errno`.
    """
    for path, frames, size in parent:
        try:
            written = write_pack_file(
                Path(path),
                frames,
                None if size is None else tuple(size),
                lambda number, damaged: parent.send({"frames": number, "damaged": damaged}),
            )
        except DataError as error:
            parent.send({"error": str(error), "errno": None})
        except OSError as error:
            parent.send({"error": error.strerror or str(error), "errno": error.errno})
        else:
            parent.send({"file": written})
