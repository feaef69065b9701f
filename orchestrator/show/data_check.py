"""`reidsearch data check` and `data stats`: their results in words and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.data.checks import DataCheck, FrameCheck
    from trainer.data.folder import DataFolder
    from trainer.data.statistics import PartStatistics, Statistics

SHOWN = 20  # problems; a broken copy has thousands
BAR = 40  # characters of the longest bar
BEARABLE = {
    True: "a run leaves so few out and continues",
    False: "more than 0.1 %, at which a run stops",
    None: "a run stops at 0.1 % of all; --all tells how many there are",
}


def check_text(found: DataCheck) -> str:
    """What is right and what to note; a line each."""
    partitions = f", in all {found.partitions} partitions" if found.partitions > 1 else ""
    manifest = "no manifest" if found.manifest is None else f"manifest {found.manifest}"
    form = ", packed" * found.packed + "  SYNTHETIC" * found.synthetic
    lines = [
        f"ok   {found.folder}: {found.title}{form}",
        *(
            f"ok   {name:<8} {part.identities:>6,} identities {part.tracklets:>7,} tracklets {part.frames:>10,} frames"
            for name, part in (("train", found.train), ("query", found.query), ("gallery", found.gallery))
        ),
        *([f"ok   these are the published counts{partitions}"] if found.counts_as_published else []),
        _frames_line(found.frames),
        *(f"note {note}" for note in _notes(found)),
        f"     fingerprint sha256:{found.fingerprint[:16]}   {manifest}   checked in {found.seconds:.1f} s",
    ]
    return "\n".join(lines)


def check_document(found: DataCheck) -> dict[str, object]:
    """The same, and the problems, for machines."""
    return {**found._asdict(), "frames": found.frames._asdict()}


def problem_text(found: DataCheck) -> str:
    """The first problems, a line each, and how many there are; empty if there are none."""
    if not found.problem_count:
        return ""
    shown = found.problems[:SHOWN]
    more = found.problem_count - len(shown)
    return "\n".join([*shown, *([f"and {more:,} more"] if more else []), _counted(found.problem_count, "problem")])


def statistics_text(folder: DataFolder, found: Statistics) -> str:
    """Tables and bars of what is in the data set."""
    data_set = folder.data_set
    partition = f", partition 0 of {data_set.folds}" if data_set.folds > 1 else ""
    head = [
        f"{folder.root}: {data_set.title}{partition}" + ("  SYNTHETIC" if folder.synthetic else ""),
        f"{'':<8} {'identities':>10} {'tracklets':>10} {'frames':>10} {'distractors':>12} {'under 4 frames':>15}",
        *(_counts_row(name, part) for name, part in found.parts.items()),
        "",
        f"{'frames':<8} {'least':>8} {'quarter':>10} {'median':>10} {'three quarters':>15} {'most':>8} {'mean':>8}",
        *(_lengths_row(name, part) for name, part in found.parts.items()),
    ]
    lengths = {name: part.lengths.histogram if part.lengths else {} for name, part in found.parts.items()}
    charts: dict[str, Mapping[str, int] | Mapping[int, int]] = {
        **{f"{name}: tracklets by frames": each for name, each in lengths.items()},
        **{f"{name}: tracklets by camera": part.tracklets_by_camera for name, part in found.parts.items()},
        **{f"{name}: identities by number of cameras": each for name, each in found.identities_by_cameras.items()},
        **{f"queries by matches, protocol {name}": each for name, each in found.queries_by_matches.items()},
    }
    return "\n\n".join(["\n".join(head), *(_bars(title, counts) for title, counts in charts.items() if counts)])


def statistics_document(folder: DataFolder, found: Statistics) -> dict[str, object]:
    """The same for machines."""
    parts = {
        name: {
            **part._asdict(),
            "counts": part.counts._asdict(),
            "lengths": part.lengths and part.lengths._asdict(),
            "tracklets_by_camera": {str(camera): count for camera, count in part.tracklets_by_camera.items()},
        }
        for name, part in found.parts.items()
    }
    return {
        "folder": str(folder.root),
        "name": folder.name,
        "synthetic": folder.synthetic,
        "own_data": folder.data_set.own,
        "partition": 0,
        "partitions": folder.data_set.folds,
        **found._asdict(),
        "parts": parts,
    }


def _frames_line(frames: FrameCheck) -> str:
    mark = "bad " if frames.missing or frames.empty or frames.damaged else "ok  "
    there = f"{frames.listed - frames.missing:,} of {frames.listed:,} frames are there"
    return f"{mark} {there}, {frames.bytes / 1e6:,.1f} MB; {frames.decoded:,} decoded, {frames.damaged:,} failed"


def _notes(found: DataCheck) -> list[str]:
    (protocol, count), *others = found.queries_without_match.items()
    notes = []
    if found.query.tracklets:
        notes.append(
            f"{count:,} of {found.query.tracklets:,} queries have no match by another camera under protocol {protocol}"
            + "".join(f", {fewer:,} under {other}" for other, fewer in others)
            + "; they are left out of its metrics"
        )
    frames = found.frames
    if frames.unlisted:
        notes.append(f"{_counted(frames.unlisted, 'file')} beside the frames named by no list; never read")
    if frames.damaged or frames.empty:
        notes.append(
            f"damaged: {frames.damaged:,} of {_counted(frames.decoded, 'frame')} decoded, and "
            f"{_counted(frames.empty, 'empty file')}; {BEARABLE[frames.bearable]}"
        )
    return [*notes, *found.notes]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _counts_row(name: str, part: PartStatistics) -> str:
    identities, tracklets, frames = part.counts
    return f"{name:<8} {identities:>10,} {tracklets:>10,} {frames:>10,} {part.distractors:>12,} {part.short:>15,}"


def _lengths_row(name: str, part: PartStatistics) -> str:
    if part.lengths is None:
        return f"{name:<8} no tracklet"
    least, lower, median, upper, most, mean, _ = part.lengths
    return f"{name:<8} {least:>8,} {lower:>10,.0f} {median:>10,.0f} {upper:>15,.0f} {most:>8,} {mean:>8,.1f}"


def _bars(title: str, counts: Mapping[str, int] | Mapping[int, int]) -> str:
    """A bar per count, the longest `BAR` characters long, at least one character for a count above 0."""
    longest = max(counts.values(), default=0)
    width = max([9, *(len(str(key)) for key in counts)])
    rows = [
        f"{key:>{width}} {count:>9,} {'#' * (-(-BAR * count // longest) if longest else 0)}".rstrip()
        for key, count in counts.items()
    ]
    return "\n".join([title, *rows])
