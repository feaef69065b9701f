"""What is known of a published data set: how its folder is recognised and read, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer.data.protocols import ProtocolName
from trainer.data.tracklets import Splits
from trainer.formatting import one_line, shortened

LOOKED_AT = 100  # entries of a folder that are told apart


class Counts(NamedTuple):
    """Size of a part of a data set; None where nothing was published."""

    identities: int | None
    """Identities, distractors not counted."""
    tracklets: int | None
    frames: int | None


def contents(folder: Path, example: str | None = None) -> str:
    """What a folder holds instead of what was looked for, of which `example` is a name; half a sentence."""
    try:
        entries = sorted(folder.iterdir())
        kinds = {entry.is_dir() for entry in entries[:LOOKED_AT]}
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not entries:
        return "is empty"
    kind = "entries" if len(kinds) > 1 else "folders" if kinds.pop() else "files"
    none = "" if example is None else f", none named like {example}"
    return f"holds {len(entries):,} {kind}{none}; the first is {one_line(shortened(entries[0].name))}"


@dataclass(frozen=True)
class DataSet:
    """A published data set. Called with its folder, and a fold where it has several, it is read."""

    title: str
    """Name in its paper."""
    read: Callable[[Path, int], Splits]
    """Reads the partition of the given number, from 0; see `__call__`."""
    recognises: Callable[[Path], bool]
    """Whether a folder looks like this data set; a look at a few names, never an error."""
    protocol: ProtocolName
    """Protocol that its figures are usually given under."""
    published: Mapping[str, Counts]
    """What each partition holds, by part: train, query, gallery."""
    folds: int = 1
    """Number of published partitions."""
    frame_folders: tuple[str, ...] = ()
    """Folders of its frames that tell which data set it is where its lists are missing."""

    def __call__(self, root: Path, fold: int = 0) -> Splits:
        """The tracklets below the folder `root`; frames are not opened.

        Raises:
            DataError: a file is missing, damaged or disagrees with another; names the file.
        """
        assert 0 <= fold < self.folds, fold
        return self.read(root, fold)
