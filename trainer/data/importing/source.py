"""What lies in a folder that is to be imported."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trainer.data.importing.folders import read_folders, read_levels
from trainer.data.importing.mot import IDENTITIES, VIDEOS, read_mot
from trainer.data.importing.plan import ImportPlan
from trainer.data.readers.tracklet_table import VIDEOS as VIDEO_FILES
from trainer.errors import DataError
from trainer.settings import FrozenConfig


class ImportOptions(FrozenConfig):
    """How a source is read, and how its crops are written."""

    folders: str | None = None
    """What the folders of each level name, as identity/camera/tracklet; None finds out by depth."""
    margin: float = Field(0.0, ge=0, le=1)
    """Added on each side of a box, as a share of its width and height."""
    quality: int = Field(95, ge=1, le=100)
    """Of the JPEG files that crops are written to."""


def read_source(source: Path, options: ImportOptions) -> ImportPlan:
    """The tracklets in the folder: of files of boxes if it holds videos.csv, otherwise of folders of frames.

    Raises:
        DataError: what is wrong in it, a line each.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; name one of tracklets, or one that holds {VIDEOS} and {IDENTITIES}")
    try:
        if not (source / VIDEOS).is_file():
            if options != ImportOptions(folders=options.folders):
                raise DataError(f"{source}: holds no {VIDEOS}; margin and quality are of crops that boxes cut")
            if any(each.suffix.lower() in VIDEO_FILES for each in source.iterdir()):
                raise DataError(
                    f"{source / VIDEOS}: no such file, but there are videos; write it, with a row for each of them: "
                    f"camera,video,tracks, and {IDENTITIES}: video,track,identity"
                )
            return read_folders(source, None if options.folders is None else read_levels(options.folders))
        if options.folders is not None:
            raise DataError(f"{source}: holds {VIDEOS}; leave out what its folders are")
        return read_mot(source, options.margin)
    except OSError as error:
        raise DataError(f"{error.filename or source}: cannot be read ({error.strerror})") from error
