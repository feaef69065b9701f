"""A synthetic stand-in for MARS: drawn people in the published layout, and the truth about occlusions.

It exercises every step of a search without a download. Metrics on it say nothing about real people and are marked as
synthetic wherever they are printed (`is_synthetic`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Int
from pydantic import ValidationError

from trainer.child import Child, ChildError, Parent, child_command, cores
from trainer.data.dataset import TRUTH
from trainer.data.readers.joined import member_roots
from trainer.data.synthetic.render import write_walk
from trainer.data.synthetic.scene import Plan, Planned, SizeName, plan
from trainer.errors import DataError
from trainer.files import new_folder
from trainer.settings import FrozenConfig

VERSION = 1  # of the drawing; raise it when the same seed gives other bytes
FRAMES_PER_WORKER = 400  # fewer are drawn sooner here than a process starts
OUTLINED = 8  # tracklets that an outline draws
DRAWER = child_command("trainer.data.synthetic.dataset")
MAT_DESCRIPTION = b"MATLAB 5.0 MAT-file, synthetic".ljust(116)  # scipy's own holds the time of day


class SyntheticSummary(NamedTuple):
    """What lies below the root."""

    identities: int
    """Distractors and junk not counted."""
    tracklets: int
    frames: int
    bytes: int
    """Of all frames together."""
    seconds: float
    """Spent now; next to nothing where the set was there already."""


class _Truth(FrozenConfig):
    """Content of info/synth_truth.json."""

    version: int
    size: str
    seed: int
    summary: SyntheticSummary
    occluded: dict[str, bool]
    """By base name of each frame, whether a large part of the body is hidden."""


def write_synthetic(
    root: Path,
    *,
    size: SizeName,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> SyntheticSummary:
    """Draws a data set in the layout of MARS: the same bytes for the same size and seed.

    `root` appears when everything is in it, or not at all; where it holds this very set it is left alone.

    Args:
        root: folder of the data set.
        size: how much is drawn, a key of `SIZES`.
        seed: of all random draws.
        progress: called with the frames drawn and all frames.
        workers: processes that draw; None for one per core.

    Raises:
        DataError: `root` holds something else, or its disk is full or cannot be written.
    """
    start = time.perf_counter()
    root = root.resolve()
    summary = _summary_of_same(root, size, seed)
    if summary is None:
        drawn = plan(size, seed)
        try:
            with new_folder(root) as part:
                _make_folders(part, drawn)
                summary = _write_info(part, drawn, size, seed, _draw(part, drawn, size, seed, progress, workers))
        except OSError as error:
            # Another process may have put the same data set there meanwhile.
            if (summary := _summary_of_same(root, size, seed)) is None:
                raise DataError(f"{root}: cannot be written ({error.strerror or error})") from error
    return summary._replace(seconds=time.perf_counter() - start)


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
        written = sum(write_walk(root, each.walk) for each in drawn.tracklets[:OUTLINED])
        sources = itertools.cycle([root / frame for each in drawn.tracklets[:OUTLINED] for frame in each.frames])
        for each in drawn.tracklets[OUTLINED:]:
            for frame in each.frames:
                (root / frame).symlink_to(next(sources))
        _write_info(root, drawn, size, seed, written)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror or error})") from error


def is_synthetic(root: Path) -> bool:
    """Whether `write_synthetic` has drawn the data set below `root`; all of them if it is a joined one."""
    return truth_file(root) is not None


def truth_file(root: Path) -> Path | None:
    """The file that marks the data set below `root` as drawn, of a joined one the first; None if people are real."""
    files = [folder / "info" / TRUTH for folder in member_roots(root) or [root]]
    return files[0] if all(file.is_file() for file in files) else None


def _summary_of_same(root: Path, size: SizeName, seed: int) -> SyntheticSummary | None:
    """What `root` holds if it is the data set asked for; None if it is empty or not there."""
    try:
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return None
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror})") from error
    advice = "name another folder, or remove this one"
    if not is_synthetic(root):
        raise DataError(f"{root}: is not empty and no synthetic data set; {advice}")
    truth = _read_truth(root)
    found, wanted = (truth.version, truth.size, truth.seed), (VERSION, size, seed)
    if found != wanted:
        raise DataError(
            f"{root}: holds another synthetic data set (version, size, seed: {found}; asked for: {wanted}); {advice}"
        )
    return truth.summary


def _read_truth(root: Path) -> _Truth:
    path = root / "info" / TRUTH
    try:
        return _Truth.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        advice = "remove the data set and draw it again"
        raise DataError(f"{path}: damaged ({error.error_count()} errors); {advice}") from error


def _make_folders(root: Path, drawn: Plan) -> None:
    (root / "info").mkdir(parents=True)
    for folder in {(root / planned.walk.stem).parent for planned in drawn.tracklets}:
        folder.mkdir(parents=True, exist_ok=True)


def _draw(
    root: Path,
    drawn: Plan,
    size: SizeName,
    seed: int,
    progress: Callable[[int, int], None],
    workers: int | None,
) -> int:
    """Draws all frames; returns their bytes."""
    total = sum(len(planned.frames) for planned in drawn.tracklets)
    processes = min(workers or cores(), max(1, total // FRAMES_PER_WORKER))
    done = written = 0
    with contextlib.closing(_sizes(root, drawn, size, seed, processes)) as sizes:
        for planned, bytes_of_walk in zip(drawn.tracklets, sizes, strict=True):
            done, written = done + len(planned.frames), written + bytes_of_walk
            progress(done, total)
    return written


def _sizes(root: Path, drawn: Plan, size: SizeName, seed: int, processes: int) -> Generator[int, None, None]:
    """Draws the tracklets and yields their bytes in order; process N draws every so many-th from number N on."""
    if processes == 1:
        yield from (write_walk(root, planned.walk) for planned in drawn.tracklets)
        return
    try:
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(Child(DRAWER, name="a drawing process")) for _ in range(processes)]
            for first, child in enumerate(children):
                child.send([os.fspath(root), size, seed, first, processes])
            for number in range(len(drawn.tracklets)):
                yield children[number % processes].receive()
    except ChildError as error:
        raise DataError(f"{root}: {error}") from error


def main(parent: Parent) -> None:
    """A drawing process: draws its share of a plan and sends the bytes of each tracklet."""
    root, size, seed, first, step = parent.receive()
    assert size in get_args(SizeName)
    for planned in plan(size, seed).tracklets[first::step]:
        parent.send(write_walk(Path(root), planned.walk))


def _write_info(root: Path, drawn: Plan, size: SizeName, seed: int, written: int) -> SyntheticSummary:
    """Writes the name lists, tables and query index of MARS, and the truth; `written` are the bytes of all frames."""
    info = root / "info"
    for part, tracklets in (("train", drawn.train), ("test", drawn.test)):
        names = "".join(f"{name}\n" for planned in tracklets for name in _base_names(planned))
        (info / f"{part}_name.txt").write_text(names, encoding="ascii", newline="\n")
        _write_mat(info / f"tracks_{part}_info.mat", f"track_{part}_info", _table(tracklets))
    queries = [row for row, planned in enumerate(drawn.test, start=1) if planned.query]
    _write_mat(info / "query_IDX.mat", "query_IDX", np.array([queries], dtype=np.int32))
    occluded = {
        name: hidden
        for planned in drawn.tracklets
        for name, hidden in zip(_base_names(planned), planned.walk.hidden, strict=True)
    }
    summary = SyntheticSummary(
        identities=len({planned.identity for planned in drawn.tracklets if planned.identity > 0}),
        tracklets=len(drawn.tracklets),
        frames=len(occluded),
        bytes=written,
        seconds=0.0,
    )
    truth = _Truth(version=VERSION, size=size, seed=seed, summary=summary, occluded=occluded)
    (info / TRUTH).write_bytes(truth.model_dump_json(indent=1).encode() + b"\n")
    return summary


def _base_names(planned: Planned) -> list[str]:
    return [frame.rpartition("/")[2] for frame in planned.frames]


def _table(tracklets: Sequence[Planned]) -> Int[np.ndarray, "tracklets 4"]:
    """Rows of first line, last line, identity, camera; lines are counted from 1."""
    last = np.cumsum([len(planned.frames) for planned in tracklets])
    first = np.concatenate([[1], last[:-1] + 1])
    owners = [(planned.identity, planned.camera) for planned in tracklets]
    return np.column_stack([first, last, owners]).astype(np.int32)


def _write_mat(path: Path, name: str, matrix: Int[np.ndarray, "rows columns"]) -> None:
    from scipy.io import savemat  # drawing processes do without it

    buffer = io.BytesIO()
    savemat(buffer, {name: matrix})
    path.write_bytes(MAT_DESCRIPTION + buffer.getvalue()[len(MAT_DESCRIPTION) :])
