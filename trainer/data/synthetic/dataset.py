"""A synthetic stand-in for MARS: drawn people, the published layout, the truth about occlusions.

It exercises every step of a search without a download. Figures on it say nothing about real people;
whoever prints them marks them as synthetic (`is_synthetic`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import ValidationError

from trainer.child import Child, ChildError, Parent, child_command
from trainer.data.synthetic.render import write_walk
from trainer.data.synthetic.scene import SIZES, Plan, Planned, SizeName, plan
from trainer.errors import DataError
from trainer.frozen import FrozenConfig

VERSION = 1  # of the drawing; raise it when the same seed gives other bytes
TRUTH = "synth_truth.json"
FRAMES_PER_WORKER = 400  # fewer are drawn sooner here than a process starts
OUTLINED = 8  # tracklets that an outline draws
DRAWER = child_command("trainer.data.synthetic.dataset")
MAT_DESCRIPTION = b"MATLAB 5.0 MAT-file, synthetic".ljust(116)  # scipy's own holds the time of day


class SyntheticSummary(NamedTuple):
    """What lies below the root."""

    identities: int
    """Identities, distractors and junk not counted."""
    tracklets: int
    frames: int
    bytes: int
    """Of all frames together."""
    seconds: float
    """Spent now; next to nothing where the set was there already."""


class _Truth(FrozenConfig):
    """What info/synth_truth.json holds."""

    version: int
    size: str
    seed: int
    summary: SyntheticSummary
    occluded: dict[str, bool]
    """Base name of each frame -> is a large part of the body hidden?"""


def write_synthetic(
    root: Path,
    *,
    size: SizeName,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> SyntheticSummary:
    """Draw a data set in the layout of MARS; same size and seed, same bytes, whatever the workers.

    `root` appears when everything is in it, or not at all; where it holds this very set it is left alone.
    `progress` is called with the frames drawn and all frames. Workers are processes, None for one per core.

    Raises:
        DataError: `root` holds something else, or its disk is full or cannot be written.
    """
    start = time.perf_counter()
    root = root.resolve()
    if _is_occupied(root):
        return _summary_of_same(root, size, seed, start)
    part = root.with_name(f".{root.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        drawn = plan(size, seed)
        _make_folders(part, drawn)
        written = _draw(part, drawn, size, seed, progress, workers)
        summary = _write_info(part, drawn, size, seed, written)
        try:
            part.rename(root)
        except OSError:  # another process may have put the same data set there meanwhile
            if not _is_occupied(root):
                raise
            return _summary_of_same(root, size, seed, start)
        return summary._replace(seconds=time.perf_counter() - start)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_outline(root: Path, *, size: SizeName, seed: int) -> None:
    """A stand-in for what `write_synthetic` draws, in a fraction of its time: to try and to time, not to learn from.

    The lists are the same and every frame is there, but only `OUTLINED` tracklets are drawn; the frames of all others
    are links to those. `root` is an empty folder or none yet.

    Raises:
        DataError: the disk is full or cannot be written.
    """
    try:
        drawn = plan(size, seed)
        _make_folders(root, drawn)
        planned = (*drawn.train, *drawn.test)
        written = sum(write_walk(root, each.walk) for each in planned[:OUTLINED])
        frames = [_frame_files(root, each) for each in planned]
        sources = itertools.cycle([frame for files in frames[:OUTLINED] for frame in files])
        for files in frames[OUTLINED:]:
            for frame in files:
                frame.symlink_to(next(sources))
        _write_info(root, drawn, size, seed, written)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror or error})") from error


def is_synthetic(root: Path) -> bool:
    """Is the data set below `root` drawn by `write_synthetic`?"""
    return (root / "info" / TRUTH).is_file()


def occluded_frames(root: Path) -> frozenset[str]:
    """Base names of the frames in which a large part of the body is hidden.

    Raises:
        DataError: the data set is not synthetic, or its truth is damaged.
    """
    return frozenset(name for name, hidden in _read_truth(root).occluded.items() if hidden)


def _is_occupied(root: Path) -> bool:
    try:
        return root.exists() and (not root.is_dir() or any(root.iterdir()))
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror})") from error


def _summary_of_same(root: Path, size: SizeName, seed: int, start: float) -> SyntheticSummary:
    """What `root` holds, if it is the data set asked for."""
    advice = "name another folder, or remove this one"
    if not is_synthetic(root):
        raise DataError(f"{root}: is not empty and no synthetic data set; {advice}")
    truth = _read_truth(root)
    found, wanted = (truth.version, truth.size, truth.seed), (VERSION, size, seed)
    if found != wanted:
        raise DataError(
            f"{root}: holds another synthetic data set (version, size, seed: {found}; asked for: {wanted}); {advice}"
        )
    return truth.summary._replace(seconds=time.perf_counter() - start)


def _read_truth(root: Path) -> _Truth:
    path = root / "info" / TRUTH
    try:
        return _Truth.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the data set is not synthetic") from error
    except ValidationError as error:
        advice = "remove the data set and draw it again"
        raise DataError(f"{path}: damaged ({error.error_count()} errors); {advice}") from error


def _make_folders(root: Path, drawn: Plan) -> None:
    (root / "info").mkdir(parents=True)
    for folder in {(root / planned.walk.stem).parent for planned in (*drawn.train, *drawn.test)}:
        folder.mkdir(parents=True, exist_ok=True)


def _draw(
    root: Path, drawn: Plan, size: str, seed: int, progress: Callable[[int, int], None], workers: int | None
) -> int:
    """Draw all frames; returns their bytes."""
    walks = [planned.walk for planned in (*drawn.train, *drawn.test)]
    total = sum(len(walk.hidden) for walk in walks)
    processes = min(workers or _cores(), max(1, total // FRAMES_PER_WORKER))
    if processes == 1:
        finished = ((len(walk.hidden), write_walk(root, walk)) for walk in walks)
    else:
        finished = _draw_in_processes(root, size, seed, processes)
    done = written = 0
    with contextlib.closing(finished):
        for frames, size_in_bytes in finished:
            done, written = done + frames, written + size_in_bytes
            progress(done, total)
    return written


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _draw_in_processes(root: Path, size: str, seed: int, count: int) -> Generator[tuple[int, int], None, None]:
    """Frames and bytes of each finished walk, in their order: process N draws every `count`-th from number N on."""
    try:
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(Child(DRAWER, name="a drawing process")) for _ in range(count)]
            for first, child in enumerate(children):
                child.send([os.fspath(root), size, seed, first, count])
            for child in itertools.cycle(children):
                if (finished := child.receive()) is None:
                    return
                yield finished[0], finished[1]
    except ChildError as error:
        raise DataError(f"{root}: {error}") from error


def main(parent: Parent) -> None:
    """A drawing process: draws its share of a plan and sends frames and bytes of each walk, null after the last."""
    root, size, seed, first, step = parent.receive()
    drawn = plan(next(name for name in SIZES if name == size), seed)
    for planned in (*drawn.train, *drawn.test)[first::step]:
        parent.send([len(planned.walk.hidden), write_walk(Path(root), planned.walk)])
    parent.send(None)


def _write_info(root: Path, drawn: Plan, size: str, seed: int, written: int) -> SyntheticSummary:
    """The name lists, tables and query index of MARS, and the truth."""
    info = root / "info"
    for part, tracklets in (("train", drawn.train), ("test", drawn.test)):
        names = "".join(f"{name}\n" for planned in tracklets for name in _frame_names(planned))
        (info / f"{part}_name.txt").write_text(names, encoding="ascii", newline="\n")
        _write_mat(info / f"tracks_{part}_info.mat", f"track_{part}_info", _table(tracklets))
    queries = [row for row, planned in enumerate(drawn.test, start=1) if planned.query]
    _write_mat(info / "query_IDX.mat", "query_IDX", np.array([queries], dtype=np.int32))
    everything = (*drawn.train, *drawn.test)
    summary = SyntheticSummary(
        identities=len({planned.identity for planned in everything if planned.identity > 0}),
        tracklets=len(everything),
        frames=sum(len(planned.walk.hidden) for planned in everything),
        bytes=written,
        seconds=0.0,
    )
    occluded = {
        name: hidden
        for planned in everything
        for name, hidden in zip(_frame_names(planned), planned.walk.hidden, strict=True)
    }
    truth = _Truth(version=VERSION, size=size, seed=seed, summary=summary, occluded=occluded)
    (info / TRUTH).write_bytes(truth.model_dump_json(indent=1).encode() + b"\n")
    return summary


def _frame_files(root: Path, planned: Planned) -> list[Path]:
    folder = (root / planned.walk.stem).parent
    return [folder / name for name in _frame_names(planned)]


def _frame_names(planned: Planned) -> list[str]:
    stem = planned.walk.stem.rpartition("/")[2]
    return [f"{stem}{number:03d}.jpg" for number in range(1, len(planned.walk.hidden) + 1)]


def _table(tracklets: Sequence[Planned]) -> Int[np.ndarray, "tracklets 4"]:
    """Rows of first line, last line, identity, camera; lines are counted from 1."""
    lengths = np.array([len(planned.walk.hidden) for planned in tracklets])
    last = lengths.cumsum()
    identities = [planned.identity for planned in tracklets]
    cameras = [planned.camera for planned in tracklets]
    return np.stack([last - lengths + 1, last, identities, cameras], axis=1).astype(np.int32)


def _write_mat(path: Path, name: str, matrix: Int[np.ndarray, "rows columns"]) -> None:
    from scipy.io import savemat  # drawing processes do without it

    buffer = io.BytesIO()
    savemat(buffer, {name: matrix})
    path.write_bytes(MAT_DESCRIPTION + buffer.getvalue()[len(MAT_DESCRIPTION) :])
