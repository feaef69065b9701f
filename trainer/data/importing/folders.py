"""Tracklets in folders: SOURCE/IDENTITY/CAMERA/TRACKLET/FRAMES, without cameras, or in another order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainer.data.dataset import contents
from trainer.data.importing.plan import ImportPlan, PlannedTracklet, cleaned, stamp_of_sizes
from trainer.data.readers.table_file import Faults
from trainer.data.readers.tracklet_table import IMAGES, is_label, natural
from trainer.errors import DataError
from trainer.formatting import shown

LEVELS = ("identity", "camera", "tracklet")
FOUND = {2: ("identity", "tracklet"), 3: LEVELS}


def read_levels(text: str) -> tuple[str, ...]:
    """What the folders of each level name, from `identity/camera/tracklet`.

    Raises:
        DataError: a level is unknown or named twice, or none is the identity.
    """
    levels = tuple(text.strip("/").split("/"))
    if "identity" not in levels or len({*levels}) < len(levels) or not {*levels} <= {*LEVELS}:
        raise DataError(f"{shown(text)}: is no layout; write identity/camera/tracklet, or some of these in any order")
    return levels


def read_folders(root: Path, levels: Sequence[str] | None) -> ImportPlan:
    """The tracklets in the folders below `root`; frames are not opened.

    Args:
        root: the uppermost folder.
        levels: what the folders of each level name; None finds out by depth.

    Raises:
        DataError: frames lie at other depths, or not in folders, or a folder is empty; a line each.
    """
    faults = Faults()
    leaves = _leaves(root, faults)
    if levels is None:
        levels = _found_levels(root, leaves, faults)
    tracklets = []
    files: list[Path] = []
    for folder, names in leaves.items():
        steps = folder.relative_to(root).parts
        if len(steps) != len(levels):
            faults.add(folder, f"holds frames {len(steps)} folders down; {'/'.join(levels)} are {len(levels)}")
            continue
        texts = dict(zip(levels, (_text(folder, step, faults) for step in steps), strict=True))
        frames = tuple([folder / name for name in sorted(names, key=natural)])
        files += frames
        for file in frames:
            if not file.stat().st_size:
                faults.add(file, "empty file; copy it again, or remove it")
        name = texts.get("tracklet", "frames")
        tracklets.append(PlannedTracklet(texts["identity"], texts.get("camera"), name, frames))
    faults.refuse()
    return ImportPlan(tuple(tracklets), stamp_of_sizes(files), ())


def _leaves(root: Path, faults: Faults) -> dict[Path, list[str]]:
    """The folders that hold images, sorted, with the images' names."""
    leaves: dict[Path, list[str]] = {}
    for place, folders, names in os.walk(root, onerror=lambda error: faults.add(root, f"cannot be read ({error})")):
        folder = Path(place)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        images = [name for name in names if name.lower().endswith(IMAGES) and not name.startswith(".")]
        if images and folders:
            faults.add(folder, f"holds frames, and the folder {shown(folders[0])} as well; move one of them")
        elif images:
            leaves[folder] = images
        elif not folders:
            faults.add(folder, f"{contents(folder, '000001.jpg')}; frames are expected: add them or remove the folder")
    return leaves


def _found_levels(root: Path, leaves: dict[Path, list[str]], faults: Faults) -> Sequence[str]:
    depths: dict[int, Path] = {}
    for folder in leaves:
        depths.setdefault(len(folder.relative_to(root).parts), folder)
    if len(depths) == 1 and (levels := FOUND.get(depth := next(iter(depths)))):
        return levels
    faults.refuse()
    if len(depths) > 1:
        examples = ", ".join(f"{depth} in {shown(str(folder))}" for depth, folder in sorted(depths.items()))
        raise DataError(f"{root}: frames lie at different depths ({examples}); say which is right with --folders")
    raise DataError(
        f"{root}: frames lie {depth} folders down; identity/camera/tracklet or identity/tracklet are expected: "
        "say what the folders are with --folders"
    )


def _text(folder: Path, step: str, faults: Faults) -> str:
    """A folder's name as a text of the table."""
    if not step.strip():
        faults.add(folder, "the name is blank; rename the folder")
    if not is_label(step):
        faults.add(folder, "the name holds a line break; rename the folder")
    try:
        step.encode()
    except UnicodeEncodeError:
        faults.add(folder, "the name is not UTF-8; rename the folder")
    return cleaned(step)
