"""Checks of a data set before anything is trained on it: lists, counts, cameras, frames, manifest."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import combining, normalize

from trainer.data.dataset import (
    ALL_CAMERAS,
    DISTRACTOR,
    PROTOCOLS,
    ProtocolName,
    Splits,
    Tracklet,
    dataset_fingerprint,
    names_of,
    protocol_for,
    seen_by_one_camera,
)
from trainer.data.folder import DataFolder, find_data
from trainer.data.frame_checks import Decoded, Findings, decode_frames, look_for_frames, without_boxes_outside
from trainer.data.frames import ALLOWED_SHARE
from trainer.data.manifest import (
    MANIFEST,
    Filed,
    Manifest,
    differences,
    filed_tracklets,
    make_manifest,
    manifest_digest,
    write_manifest,
)
from trainer.data.pack import HEADER, check_pack
from trainer.data.statistics import PartCounts, matches_of_queries, part_counts, usual_protocols
from trainer.errors import DataError
from trainer.formatting import shown
from trainer.result import Progress, no_progress


class FrameCheck(NamedTuple):
    """Results of checking the frames that the lists of all partitions name."""

    listed: int
    missing: int
    """Those that are not there."""
    empty: int
    """Those without a byte."""
    bytes: int
    """Of all together."""
    unlisted: int
    """Files beside them that no list names."""
    decoded: int
    """Those that were decoded to see whether they can be."""
    damaged: int
    """Those of the decoded that cannot be."""
    single_colour: int
    """Those of the decoded whose pixels are all alike."""
    bearable: bool | None
    """Whether a run goes on in spite of the empty and damaged ones; None where only decoding all of them can tell."""


class DataCheck(NamedTuple):
    """Results of checking a data set."""

    folder: str
    name: str
    """Key of `READERS`."""
    title: str
    packed: bool
    synthetic: bool
    partitions: int
    train: PartCounts
    """Of partition 0, as the other parts."""
    query: PartCounts
    gallery: PartCounts
    counts_as_published: bool | None
    """None if not asked for, if the people are drawn, or if nothing is published of data of one's own."""
    queries_without_match: Mapping[ProtocolName, int]
    """Queries that a protocol leaves out: no tracklet of the identity by another camera in the gallery."""
    frames: FrameCheck
    fingerprint: str
    """`dataset_fingerprint` of partition 0."""
    manifest: str | None
    """The file, where there is one after the check; the index of a packed data set."""
    manifest_digest: str | None
    """As `trainer.data.manifest.manifest_digest`, if the manifest is where that looks."""
    notes: tuple[str, ...]
    """Remarks that are not problems."""
    problem_count: int
    problems: tuple[str, ...]
    """The first of them, a line each that names a file."""
    seconds: float


def check_data(
    root: Path,
    *,
    name: str | None = None,
    all_frames: bool = False,
    any_counts: bool = False,
    manifest: Path | None = None,
    progress: Progress = no_progress,
) -> DataCheck:
    """Looks for everything that would disturb a training on the data set in the folder.

    Layout and lists, counts against the published ones, every frame that a list names, a seeded sample of `SAMPLE`
    frames decoded (or all), and what an earlier check left in the manifest. Where nothing is wrong and there is no
    manifest yet, it is written: to the given file, or into the folder. Of a packed data set all SHA-256 digests are
    computed instead, and its index is the manifest.

    Raises:
        DataError: the lists cannot be read or disagree, or a packed file is damaged: nothing else can be told then.
    """
    began = time.monotonic()
    folder, findings = find_data(root, name), Findings()
    if folder.packed and manifest is not None:
        raise DataError(f"{root}: packed; {root / HEADER} is its manifest, leave --manifest out")
    partitions = [folder.read(fold) for fold in range(folder.data_set.folds)]
    first = partitions[0]
    protocol = protocol_for(first.query, folder.data_set.protocol)
    as_published = (
        None if any_counts or folder.synthetic or folder.data_set.own else _check_counts(folder, partitions, findings)
    )
    _check_cameras(folder, partitions, findings)
    findings.notes += _look_alike(tracklet for part in first for tracklet in part)
    if protocol == "no_camera":
        findings.notes.append(f"protocol no_camera, {PROTOCOLS['no_camera'].about}")
    if pairs := folder.pairs():
        same = sum(pair.same for pair in pairs)
        findings.notes.append(f"{len(pairs):,} listed pairs, {same:,} of the same identity")
    if not folder.data_set.tested:
        findings.notes.append(_joined(first.train))
    if folder.packed:
        path = root / HEADER
        frames = _check_packed(root, partitions, findings, all_frames, progress)
    else:
        path = manifest or root / MANIFEST
        frames = _check_files(folder, partitions, path, findings, all_frames, progress)
        if findings.count and not path.exists():
            findings.notes.append("no manifest is written while there are problems")
    return DataCheck(
        folder=str(root),
        name=folder.name,
        title=folder.data_set.title,
        packed=folder.packed,
        synthetic=folder.synthetic,
        partitions=len(partitions),
        train=part_counts(first.train),
        query=part_counts(first.query),
        gallery=part_counts(first.gallery),
        counts_as_published=as_published,
        queries_without_match={usual: matches_of_queries(first, usual).count(0) for usual in usual_protocols(protocol)},
        frames=frames,
        fingerprint=dataset_fingerprint(first),
        manifest=str(path) if path.is_file() else None,
        manifest_digest=manifest_digest(root),
        notes=tuple(findings.notes),
        problem_count=findings.count,
        problems=tuple(findings.problems),
        seconds=time.monotonic() - began,
    )


def _joined(train: Sequence[Tracklet]) -> str:
    """Of which data sets the training identities of a joined one are."""
    identities = {tracklet.identity for tracklet in train if tracklet.identity > DISTRACTOR}
    counts = Counter(str(identity).partition("/")[0] for identity in identities)
    members = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"joined for training, identities by data set: {members}; evaluate on one of them, there is no test part"


def _check_counts(folder: DataFolder, partitions: Sequence[Splits], findings: Findings) -> bool:
    """Whether every part holds what was published."""
    before = findings.count
    for fold, splits in enumerate(partitions):
        where = f"partition {fold}: " * (len(partitions) > 1)
        for part, published in folder.data_set.published.items():
            if part == "all" and fold:
                continue  # the same in every partition
            found = part_counts(sum(splits, ()) if part == "all" else splits._asdict()[part])
            wrong = [
                f"{held:,} {what} ({right:,} published)"
                for what, held, right in zip(PartCounts._fields, found, published, strict=True)
                if right not in (None, held)
            ]
            if wrong:
                what = "" if part == "all" else f"{where}{part} "
                findings.problem(
                    f"{folder.root}: {what}holds {', '.join(wrong)}; copy {folder.data_set.title} again, or let "
                    "other counts pass with --any-counts"
                )
    return findings.count == before


def _check_cameras(folder: DataFolder, partitions: Sequence[Splits], findings: Findings) -> None:
    """Some identity to train on, and one to test on, is seen by two cameras in every partition."""
    for fold, splits in enumerate(partitions):
        where = f"{folder.root}: " + f"partition {fold}: " * (len(partitions) > 1)
        tested = (*splits.query, *splits.gallery)
        for part, tracklets, lost in (
            ("training", splits.train, "none can be held out for validation"),
            ("test", tested, "no query has a match by another camera, and nothing can be evaluated"),
        ):
            if part == "test" and not folder.data_set.tested:
                continue
            if (why := seen_by_one_camera(tracklets)) is not None:
                is_known = tracklets and protocol_for(tracklets, "mars") != "no_camera"
                advice = ALL_CAMERAS if is_known else "add tracklets"
                findings.problem(f"{where}in the {part} tracklets {why}: {lost}; {advice}")


def _look_alike(tracklets: Iterable[Tracklet]) -> Iterator[str]:
    """A line on names of identities that differ by case or accents only, and one on such names of cameras."""
    identities, cameras = zip(*((tracklet.identity, tracklet.camera) for tracklet in tracklets), strict=True)
    for what, numbers in (("identities", identities), ("cameras", cameras)):
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in names_of(sorted({*numbers})).values():
            alike["".join(c for c in normalize("NFKD", name.casefold()) if not combining(c))].append(name)
        several = [names for names in alike.values() if len(names) > 1]
        if several:
            more = f", and {len(several) - 1:,} more" if len(several) > 1 else ""
            first = " and ".join(map(shown, several[0]))
            yield f"{what} whose names differ by case or accents only: {first}{more}; write them alike if they are one"


def _check_packed(
    root: Path, partitions: Sequence[Splits], findings: Findings, all_frames: bool, progress: Progress
) -> FrameCheck:
    check_pack(root, lambda done, total: progress("reading bytes", done, total))
    frames = _frames(filed_tracklets(partitions))
    decoded = decode_frames(frames, all_frames, findings, progress)
    return _frame_check(len(frames), decoded, size=sum(file.stat().st_size for file in root.glob("*.pack")))


def _check_files(
    folder: DataFolder,
    partitions: Sequence[Splits],
    path: Path,
    findings: Findings,
    all_frames: bool,
    progress: Progress,
) -> FrameCheck:
    """Frames and manifest, which is written to the path if nothing is wrong and none is there."""
    filed = filed_tracklets(partitions)
    frames = _frames(filed)
    files = look_for_frames(frames, findings, progress)
    manifest = make_manifest(folder.root, folder.name, partitions, filed, files.sizes)
    _compare(folder.root, path, manifest, filed, findings)
    whole = [frame for frame in frames if files.sizes.get(frame)]
    can_be_cut = without_boxes_outside(whole, findings, progress)
    decoded = decode_frames(can_be_cut, all_frames, findings, progress)
    if not findings.count and not path.exists():
        _write(path, manifest, findings, asked=path != folder.root / MANIFEST)
    return _frame_check(
        len(frames),
        decoded,
        size=files.bytes,
        missing=len(frames) - len(files.sizes),
        empty=len(files.sizes) - len(whole),
        unlisted=files.unlisted,
    )


def _frames(filed: Sequence[Filed]) -> list[str]:
    return [frame for each in filed for frame in each.tracklet.frames]


def _frame_check(
    listed: int, decoded: Decoded, *, size: int, missing: int = 0, empty: int = 0, unlisted: int = 0
) -> FrameCheck:
    there = listed - missing
    bearable: bool | None = empty + decoded.damaged <= ALLOWED_SHARE * there
    if bearable and decoded.damaged and decoded.frames < there - empty:
        bearable = None
    return FrameCheck(listed, missing, empty, size, unlisted, *decoded, bearable)


def _compare(root: Path, path: Path, now: Manifest, filed: Sequence[Filed], findings: Findings) -> None:
    """With the manifest in the file, where there is one."""
    before = findings.count
    try:
        for difference in differences(root, path, now, filed):
            findings.problem(difference)
    except DataError as error:
        findings.problem(str(error))
    if findings.count > before:
        findings.notes.append(f"if that is as it should be, remove {path} and check again")


def _write(path: Path, manifest: Manifest, findings: Findings, *, asked: bool) -> None:
    try:
        write_manifest(path, manifest)
    except OSError as error:
        if asked:
            findings.problem(f"{path}: cannot be written ({error.strerror})")
        else:
            findings.notes.append(f"no manifest: {path} cannot be written ({error.strerror}); --manifest FILE can be")
