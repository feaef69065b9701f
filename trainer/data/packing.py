"""What goes into a pack: frames read a little ahead, and written one after another into a few files."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trainer.data.damage import DamageTally
from trainer.data.frames import DamagedFrameError, frame_bytes, read_clip, read_frame
from trainer.data.pack_index import PackedFile

MAX_FILE_BYTES = 2**30
FRAMES_AT_ONCE = 32
AHEAD = 16  # so many times that number are in memory


def payloads_of(
    frames: Sequence[str], size: tuple[int, int] | None, damage: DamageTally
) -> Generator[bytes, None, None]:
    """What is written for each frame; threads read a little ahead, and decoding does not hold Python's lock."""
    ahead: deque[tuple[Sequence[str], Future[list[bytes]]]] = deque()
    starts = iter(range(0, len(frames), FRAMES_AT_ONCE))
    executor = ThreadPoolExecutor()
    try:
        while True:
            for start in itertools.islice(starts, AHEAD - len(ahead)):
                some = frames[start : start + FRAMES_AT_ONCE]
                ahead.append((some, executor.submit(_stored, some, size)))
            if not ahead:
                return
            some, future = ahead.popleft()
            payloads = future.result()
            if size is not None:
                damage.add(frame for frame, payload in zip(some, payloads, strict=True) if not payload)
            yield from payloads
    finally:
        executor.shutdown(cancel_futures=True)


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
