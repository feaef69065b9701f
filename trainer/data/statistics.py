"""How many identities, tracklets, frames and cameras a data set has, and how they are distributed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer.data.dataset import DISTRACTOR, NO_CAMERA, PROTOCOLS, ProtocolName, Splits, Tracklet, protocol_for

SHORT = 4  # frames; the paper's clips are as long, a shorter tracklet repeats some


class PartCounts(NamedTuple):
    """Size of a part of a data set."""

    identities: int
    """Identities, distractors not counted."""
    tracklets: int
    frames: int


class Lengths(NamedTuple):
    """How many frames the tracklets of a part have."""

    least: int
    lower_quartile: float
    median: float
    upper_quartile: float
    most: int
    mean: float
    histogram: Mapping[str, int]
    """Tracklets by length, in classes that double: 1, 2-3, 4-7 ..."""


class PartStatistics(NamedTuple):
    """What a part of a data set is like."""

    counts: PartCounts
    distractors: int
    """Tracklets of no identity."""
    short: int
    """Tracklets of fewer than `SHORT` frames."""
    lengths: Lengths | None
    """None where the part has no tracklet."""
    tracklets_by_camera: Mapping[int, int]


class Statistics(NamedTuple):
    """What a partition of a data set is like."""

    parts: Mapping[str, PartStatistics]
    """By name: train, query, gallery."""
    identities_by_cameras: Mapping[str, Mapping[int, int]]
    """Identities by the number of cameras that saw them, of those trained on and those tested on."""
    queries_by_matches: Mapping[ProtocolName, Mapping[str, int]]
    """Queries by their matches in the gallery, in classes that double."""


def part_counts(part: Sequence[Tracklet]) -> PartCounts:
    """Identities, tracklets and frames of a part."""
    identities = {tracklet.identity for tracklet in part if tracklet.identity > DISTRACTOR}
    return PartCounts(len(identities), len(part), sum(len(tracklet.frames) for tracklet in part))


def usual_protocols(protocol: ProtocolName) -> tuple[ProtocolName, ...]:
    """The protocol, and the same one with the queries in the gallery where both are in use."""
    return ("mars", "mars_query_in_gallery") if protocol == "mars" else (protocol,)


def matches_of_queries(splits: Splits, protocol: ProtocolName) -> list[int]:
    """For each query, the gallery's tracklets of its identity by other cameras; 0 cannot be averaged.

    Where cameras are not known, all tracklets of its identity.
    """
    gallery = (*splits.gallery, *splits.query) if PROTOCOLS[protocol].queries_in_gallery else splits.gallery
    seen = Counter((tracklet.identity, tracklet.camera) for tracklet in gallery)
    by_identity: Counter[int] = Counter()
    for (identity, _), tracklets in seen.items():
        by_identity[identity] += tracklets
    return [
        by_identity[query.identity] - (seen[query.identity, query.camera] if query.camera != NO_CAMERA else 0)
        for query in splits.query
    ]


def statistics(splits: Splits, protocol: ProtocolName) -> Statistics:
    """What the partition is like, its queries under the protocol and those usual beside it."""
    protocol = protocol_for(splits.query, protocol)
    return Statistics(
        parts={name: _part_statistics(part) for name, part in splits._asdict().items()},
        identities_by_cameras={
            "train": _identities_by_cameras(splits.train),
            "test": _identities_by_cameras((*splits.query, *splits.gallery)),
        },
        queries_by_matches={usual: _doubling(matches_of_queries(splits, usual)) for usual in usual_protocols(protocol)},
    )


def _part_statistics(part: Sequence[Tracklet]) -> PartStatistics:
    lengths = [len(tracklet.frames) for tracklet in part]
    return PartStatistics(
        counts=part_counts(part),
        distractors=sum(tracklet.identity == DISTRACTOR for tracklet in part),
        short=sum(length < SHORT for length in lengths),
        lengths=_lengths(lengths) if lengths else None,
        tracklets_by_camera=_ascending(Counter(tracklet.camera for tracklet in part)),
    )


def _lengths(lengths: Sequence[int]) -> Lengths:
    lower, median, upper = np.percentile(lengths, [25, 50, 75]).tolist()
    return Lengths(
        least=min(lengths),
        lower_quartile=lower,
        median=median,
        upper_quartile=upper,
        most=max(lengths),
        mean=sum(lengths) / len(lengths),
        histogram=_doubling(lengths),
    )


def _identities_by_cameras(part: Sequence[Tracklet]) -> dict[int, int]:
    cameras: defaultdict[int, set[int]] = defaultdict(set)
    for tracklet in part:
        if tracklet.identity > DISTRACTOR:
            cameras[tracklet.identity].add(tracklet.camera)
    return _ascending(Counter(map(len, cameras.values())))


def _ascending(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items()))


def _doubling(values: Iterable[int]) -> dict[str, int]:
    """How many of the values, none negative, lie in each class: 0, 1, 2-3, 4-7 ...; none left out between."""
    classes = Counter(value.bit_length() for value in values)
    return {_class_name(bits): classes[bits] for bits in range(min(classes), max(classes) + 1)} if classes else {}


def _class_name(bits: int) -> str:
    least, most = (1 << bits) >> 1, (1 << bits) - 1
    return str(most) if bits < 2 else f"{least}-{most}"
