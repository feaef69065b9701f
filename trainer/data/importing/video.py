"""Pictures in temporal order: the frames of a video, decoded once, or image files of a folder. N frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from trainer.data.dataset import contents, read_bounded
from trainer.data.frames import MAX_BYTES, MAX_CROPPED_PIXELS
from trainer.data.images import Frame, decode_image
from trainer.data.readers.tracklet_table import IMAGES, natural
from trainer.errors import DataError

NUMBER = re.compile(r"([0-9]+)\Z")


class Pictures(NamedTuple):
    """What is known of a video or of a folder of frames before it is decoded."""

    height: int
    width: int
    frames: int
    """How many there are; of a video how many the container holds."""
    places: Mapping[int, int]
    """Of image files by the numbers that their names end with; empty for a video, and where names tell none."""


def look_at(path: Path) -> Pictures:
    """Opens the video or the folder of frames and decodes the first.

    Raises:
        DataError: it is not there, not a video or an image, or damaged at its beginning.
    """
    if path.is_dir():
        return _look_at_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such video or folder of frames")
    return _look_at_video(path)


def pictures(path: Path, wanted: set[int]) -> Iterator[tuple[int, Frame]]:
    """The wanted frames by their places, counted from 0, in order.

    Raises:
        DataError: one is damaged, or the video ends before.
    """
    yield from (_images if path.is_dir() else _frames)(path, wanted)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder in temporal order: numbers in their names count as numbers."""
    found = [each for each in folder.iterdir() if each.suffix.lower() in IMAGES and not each.name.startswith(".")]
    return sorted(found, key=lambda each: natural(each.name))


def _look_at_folder(folder: Path) -> Pictures:
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder}: {contents(folder, '000001.jpg')}; a video or a folder of frames is expected")
    height, width, _ = _image(files[0]).shape
    ends = [NUMBER.search(each.stem) for each in files]
    places = {int(end[1]): place for place, end in enumerate(ends) if end is not None}
    return Pictures(height, width, len(files), places if len(places) == len(files) else {})


def _images(folder: Path, wanted: set[int]) -> Iterator[tuple[int, Frame]]:
    files = image_files(folder)
    size = None
    for place in sorted(wanted):
        frame = _image(files[place])
        size = size or frame.shape
        if frame.shape != size:
            raise DataError(
                f"{files[place]}: {frame.shape[1]}x{frame.shape[0]} pixels, the first has {size[1]}x{size[0]}; "
                "boxes count pixels of one size: put pictures of another size into a folder of their own"
            )
        yield place, frame


def _image(path: Path) -> Frame:
    content = read_bounded(path, MAX_BYTES, "an image")
    return decode_image(str(path), content, max_pixels=MAX_CROPPED_PIXELS)


def _av(path: Path) -> ModuleType:
    try:
        import av  # 34 MB with FFmpeg's libraries, for imports of videos only
    except ImportError as error:
        raise DataError(
            f"{path}: videos are decoded by PyAV; install it (pip install 'reidsearch[video]'), or name a folder of "
            "frames instead"
        ) from error
    return av


def _look_at_video(path: Path) -> Pictures:
    av = _av(path)
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video; name a video or a folder of frames")
            first = next(container.decode(container.streams.video[0]), None)
            if first is None:
                raise DataError(f"{path}: holds no frame that can be decoded; copy the video again")
            if first.rotation % 360:
                raise DataError(
                    f"{path}: is shown turned by {first.rotation} degrees, and trackers disagree whether their boxes "
                    "are; write it upright, for example with ffmpeg, and track it again"
                )
            size = first.height, first.width
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            packets = container.demux(container.streams.video[0])
            frames = sum(packet.size > 0 and not packet.is_discard for packet in packets)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: no video that can be read, or a truncated one ({_reason(error)})") from error
    return Pictures(*size, frames, {})


def _frames(path: Path, wanted: set[int]) -> Iterator[tuple[int, Frame]]:
    """Decoded one after another and never sought: where a seek ends differs between containers."""
    av = _av(path)
    last, place = max(wanted), -1
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            for place, frame in enumerate(container.decode(container.streams.video[0])):
                if place in wanted:
                    if frame.is_corrupt:
                        raise DataError(f"{path}: frame {place} (from 0) is damaged; copy the video again")
                    yield place, np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                if place == last:
                    return
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{path}: damaged after {place + 1:,} frames ({_reason(error)}); copy the video again"
        ) from error
    raise DataError(f"{path}: ends after {place + 1:,} frames, but frame {last} (from 0) is needed; copy it again")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
