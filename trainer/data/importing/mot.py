"""A tracker's boxes, in the format of MOTChallenge, with a video or a folder of frames each.

SOURCE/videos.csv says which file of boxes is of which video: `camera,video,tracks`, and `first`, the number of the
first frame, where it is neither of those found (below). SOURCE/identities.csv says who was tracked: `video,track,
identity`; tracks that it does not list are left out. Paths start at SOURCE, or are absolute.

A file of boxes has lines `frame,id,x,y,w,h` in pixels, what follows on a line is not read. In a folder of frames a
frame's number is the one that its name ends with. Otherwise frames are counted from 0 if the file has a frame 0, and
from 1 if not, as MOTChallenge does (Dendorfer et al. 2021, IJCV, section 4).
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.frames import Box, clipped
from trainer.data.importing.plan import Cut, ImportPlan, PlannedTracklet, cleaned, stamp, stamp_of_sizes
from trainer.data.importing.video import Pictures, image_files, look_at
from trainer.data.readers.table_file import Faults
from trainer.data.readers.tracklet_table import is_label, whole_number
from trainer.errors import DataError
from trainer.files import open_regular
from trainer.formatting import counted, did_you_mean, shown

VIDEOS, IDENTITIES = "videos.csv", "identities.csv"
BOX_LINE = "frame,id,x,y,w,h"
MAX_EDGE = 10**6  # pixels


class _Video(NamedTuple):
    """A row of the table of videos."""

    camera: str | None
    name: str
    """As the table writes its path."""
    path: Path
    tracks: Path
    first: int | None
    """Number of the first frame, if the table tells."""

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return self.name.removesuffix(self.path.suffix)


class _Boxed(NamedTuple):
    """A line of a file of boxes."""

    frame: int
    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    row: int


_Tracks = Mapping[int, Sequence[_Boxed]]


def read_mot(source: Path, margin: float) -> ImportPlan:
    """The tracklets of all videos that have an identity; each video is opened, and its first frame decoded.

    Args:
        source: folder of the tables.
        margin: what is added on each side of a box, as a share of its width and height.

    Raises:
        DataError: what is wrong in the tables, files of boxes and videos, a line each.
    """
    faults = Faults()
    videos = list(_read_videos(source, faults))
    identities = _read_identities(source, videos, faults)
    faults.refuse()
    tracklets: list[PlannedTracklet] = []
    left_out = outside = 0
    for video in videos:
        tracks, found = _read_boxes(video, faults), _looked_at(video, faults)
        wanted = identities[video.name]
        left_out += len(tracks.keys() - wanted.keys())
        first = None if found is None else _first_frame(video, tracks, found)
        for track, (row, identity) in wanted.items():
            if tracks and track not in tracks:
                faults.add(source / IDENTITIES, f"track {track} is not in {video.tracks}; correct the row", row)
            if found is None or track not in tracks:
                continue
            before = faults.count
            cuts = [_cut(video, boxed, found, first, margin, faults) for boxed in tracks[track]]
            inside = tuple([cut for cut in cuts if cut is not None])
            outside += len(cuts) - len(inside)
            if not inside and faults.count == before:
                faults.add(source / IDENTITIES, f"track {track} has no box in a picture of {video.path}", row)
            tracklets.append(PlannedTracklet(identity, video.camera, f"{video.stem}-{track}", inside))
    faults.refuse()
    return ImportPlan(tuple(tracklets), _stamp(source, videos), tuple(_notes(left_out, outside)))


def _notes(left_out: int, outside: int) -> Iterator[str]:
    if left_out:
        yield f"left out: {counted(left_out, 'track', 'tracks')} without an identity in {IDENTITIES}"
    if outside:
        yield f"left out: {counted(outside, 'box', 'boxes')} outside of the picture"


def _stamp(source: Path, videos: Sequence[_Video]) -> str:
    files = [source / VIDEOS, source / IDENTITIES, *(video.tracks for video in videos)]
    folders = [video.path for video in videos if video.path.is_dir()]
    files += [video.path for video in videos if not video.path.is_dir()]
    return stamp(files) + stamp_of_sizes(file for folder in folders for file in image_files(folder))


# The tables


def _read_videos(source: Path, faults: Faults) -> Iterator[_Video]:
    path = source / VIDEOS
    seen: dict[str, int] = {}
    for row, field in _rows(path, ("video", "tracks"), ("camera", "first"), faults):
        name = field["video"]
        empty = [column for column in ("video", "tracks", "camera") if field.get(column) == ""]
        for column in empty:
            faults.add(path, f"{column} is empty", row)
        if not is_label(field.get("camera", "")):
            faults.add(path, f"camera {shown(field['camera'])} holds a line break or a NUL; remove it", row)
        if seen.setdefault(name, row) != row:
            faults.add(path, f"video {shown(name)} is in row {seen[name]} as well; each is listed once", row)
        first = whole_number(field.get("first") or "0")
        if first is None:
            faults.add(path, f"first is {shown(field['first'])}; the number of the first frame is expected", row)
        if not empty and not (source / field["tracks"]).is_file():
            faults.add(path, f"tracks: {source / field['tracks']}: no such file", row)
        if not empty and not (source / name).exists():
            faults.add(path, f"video: {source / name}: no such video or folder of frames", row)
        told = first if field.get("first") else None
        yield _Video(field.get("camera"), name, source / name, source / field["tracks"], told)


def _read_identities(source: Path, videos: Sequence[_Video], faults: Faults) -> dict[str, dict[int, tuple[int, str]]]:
    """Row and identity of each track, by video."""
    path = source / IDENTITIES
    named, so_far = _videos_by_name(videos), faults.count
    found: dict[str, dict[int, tuple[int, str]]] = defaultdict(dict)
    for row, field in _rows(path, ("video", "track", "identity"), (), faults):
        video, track = named.get(field["video"]), whole_number(field["track"])
        if video is None and videos:
            near = did_you_mean(field["video"], named)
            faults.add(path, f"video {shown(field['video'])} is not in {VIDEOS}{near}", row)
        if track is None:
            faults.add(path, f"track is {shown(field['track'])}; the tracker's whole number is expected", row)
        if not field["identity"]:
            faults.add(path, "identity is empty; remove the row if the track is nobody's", row)
        if not is_label(field["identity"]):
            faults.add(path, f"identity {shown(field['identity'])} holds a line break or a NUL; remove it", row)
        if video is None or track is None:
            continue
        before = found[video.name].setdefault(track, (row, field["identity"]))
        if before[0] != row:
            faults.add(path, f"track {track} of {shown(field['video'])} is in row {before[0]} as well", row)
    if not found and videos and faults.count == so_far:
        faults.add(path, "names no track; a row a track is expected")
    return found


def _videos_by_name(videos: Sequence[_Video]) -> dict[str, _Video]:
    """Videos by their paths, and by their cameras where a camera has one only."""
    by_camera: dict[str, list[_Video]] = defaultdict(list)
    for video in videos:
        by_camera[video.camera or ""].append(video)
    return {camera: same[0] for camera, same in by_camera.items() if len(same) == 1} | {v.name: v for v in videos}


def _rows(
    path: Path, needed: Sequence[str], others: Sequence[str], faults: Faults
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header, by column; the header is row 1."""
    before, lines = faults.count, _lines(path, faults)
    header = [cleaned(name) for name in next(lines, (0, []))[1]]
    if missing := [name for name in needed if name not in header]:
        if faults.count == before:
            faults.add(path, f"has no column {', '.join(missing)}; the header is {','.join([*needed, *others])}")
        return
    known = {name: header.index(name) for name in (*needed, *others) if name in header}
    for row, fields in lines:
        if len(fields) == len(header):
            yield row, {name: cleaned(fields[place]) for name, place in known.items()}
        else:
            faults.add(path, f"{len(fields)} fields, the header has {len(header)}; quote texts with commas", row)


def _lines(path: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Numbers, from 1, and fields of the rows that hold something."""
    try:
        with open_regular(path) as raw:
            content = raw.read().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(content, newline=""), strict=True, skipinitialspace=True)
        for row, fields in enumerate(reader, start=1):
            if any(fields):
                yield row, fields
    except UnicodeDecodeError:
        faults.add(path, "not UTF-8; save it as CSV in UTF-8")
    except csv.Error as error:
        faults.add(path, f"{error}; quote texts with commas, quotes or line breaks")
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        faults.add(path, why)


# Boxes


def _read_boxes(video: _Video, faults: Faults) -> _Tracks:
    """The boxes of each track in the order of frames."""
    tracks: dict[int, dict[int, _Boxed]] = defaultdict(dict)
    before = faults.count
    for row, fields in _lines(video.tracks, faults):
        if row == 1 and fields[0].strip().casefold() == "frame":
            continue
        line = _boxed(row, fields)
        if isinstance(line, str):
            faults.add(video.tracks, line, row, cause=line.rpartition("; ")[2])
            continue
        track, boxed = line
        known = tracks[track].setdefault(boxed.frame, boxed)
        if known is not boxed:
            what = f"track {track} is in frame {boxed.frame} in row {known.row} as well"
            faults.add(video.tracks, what, row, cause="track twice in a frame")
    if not tracks and faults.count == before:
        faults.add(video.tracks, f"lists no box; lines {BOX_LINE} are expected")
    return {track: [frames[frame] for frame in sorted(frames)] for track, frames in tracks.items()}


def _boxed(row: int, fields: Sequence[str]) -> tuple[int, _Boxed] | str:
    """Track and box of a line, or what is wrong with it."""
    if len(fields) < 6:
        return f"{len(fields)} fields; {BOX_LINE} are expected, separated by commas"
    frame, track = whole_number(fields[0]), whole_number(fields[1])
    if frame is None or track is None:
        name, text = ("frame", fields[0]) if frame is None else ("id", fields[1])
        return f"{name} is {shown(text)}; a whole number is expected"
    try:
        x, y, w, h = map(float, fields[2:6])
    except ValueError:
        return f"x,y,w,h are {shown(','.join(fields[2:6]))}; four numbers are expected, in pixels"
    if not all(map(math.isfinite, (x, y, w, h))) or max(abs(x), abs(y), w, h) > MAX_EDGE:
        return f"x,y,w,h are {shown(','.join(fields[2:6]))}; pixels of a picture are expected"
    if w < 1 or h < 1:
        return f"a box of {w:g}x{h:g} pixels; one has at least 1x1: are these shares of the picture, or corners?"
    return track, _Boxed(frame, (x, y, w, h), row)


# Boxes in pictures


def _looked_at(video: _Video, faults: Faults) -> Pictures | None:
    try:
        return look_at(video.path)
    except DataError as error:
        path, _, what = str(error).partition(": ")
        faults.add(Path(path), what)
        return None


def _first_frame(video: _Video, tracks: _Tracks, found: Pictures) -> int | None:
    """The number of the first frame; None where each frame's name tells its own."""
    if video.first is not None:
        return video.first
    if found.places:
        return None
    return 0 if any(boxes[0].frame == 0 for boxes in tracks.values()) else 1


def _cut(video: _Video, boxed: _Boxed, found: Pictures, first: int | None, margin: float, faults: Faults) -> Cut | None:
    """The part of a frame that the box shows; None if it lies outside of the picture, or there is no such frame."""
    place = boxed.frame - first if first is not None else found.places.get(boxed.frame, -1)
    if not 0 <= place < found.frames:
        faults.add(video.tracks, _no_frame(video, boxed.frame, found, first), boxed.row, cause="no such frame")
        return None
    box = _whole_box(boxed.box, margin, found)
    return None if box is None else Cut(video.path, place, box)


def _no_frame(video: _Video, frame: int, found: Pictures, first: int | None) -> str:
    if first is None:
        return (
            f"frame {frame}: no file of {video.path} has this number; copy them again, or set first in {VIDEOS} to "
            "count files instead"
        )
    return (
        f"frame {frame}: {video.path} has the frames {first} to {first + found.frames - 1}; copy it again if it is "
        f"cut off, or set first in {VIDEOS}, the number of its first frame"
    )


def _whole_box(box: tuple[float, float, float, float], margin: float, found: Pictures) -> Box | None:
    """The box with its margin in whole pixels, as far as it lies in the picture; None if the box itself does not."""
    x, y, w, h = box
    if clipped(_outward(x, y, x + w, y + h), found.width, found.height) is None:
        return None
    wider, higher = margin * w, margin * h
    return clipped(_outward(x - wider, y - higher, x + w + wider, y + h + higher), found.width, found.height)


def _outward(left: float, top: float, right: float, bottom: float) -> Box:
    """Every pixel that the rectangle touches; its edges may be wrong by a millionth of a pixel."""
    x, y = math.floor(left + 1e-6), math.floor(top + 1e-6)
    return Box(x, y, math.ceil(right - 1e-6) - x, math.ceil(bottom - 1e-6) - y)
