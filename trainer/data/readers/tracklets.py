"""Data of one's own: a table of tracklets (`trainer.data.readers.tracklet_table`) and their frames beside it.

`part` puts tracklets into train, query and gallery; or `split` puts identities into train and test, and queries are
drawn. Without either, half of the identities are drawn for the test. `time` (seconds, or ISO 8601) orders tracklets.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.data.dataset import NO_CAMERA, DataSet, NamedNumber, Splits, Tracklet
from trainer.data.readers.table_file import CSV, PARQUET, Faults, table_path
from trainer.data.readers.tracklet_table import Listed, natural, read_table
from trainer.data.splits import by_identity_and_camera, can_be_found_again, draw_queries
from trainer.errors import DataError
from trainer.formatting import shown

SEED = 0  # of the draw of test identities and queries

log = logging.getLogger(__name__)


def read_tracklets(root: Path, fold: int = 0) -> Splits:
    """The parts of the data set in the folder; `fold` is 0.

    Parts that the table does not give are drawn, and a warning says so.

    Raises:
        DataError: as `read_table`, or parts overlap or cannot be drawn.
    """
    found = read_table(root)
    path = table_path(root)
    tracklets = _numbered_tracklets(found)
    parts = [each.part for each in found]
    if None in parts:
        parts = _with_queries(tracklets, list(_drawn_halves(path, tracklets)))
    else:
        _check_disjoint(path, found)
        if "test" in parts:
            _warn_of_drawing(path, "the queries")
            parts = _with_queries(tracklets, parts)
    return Splits(
        *(tuple([t for t, own in zip(tracklets, parts, strict=True) if own == part]) for part in Splits._fields)
    )


def _numbered_tracklets(found: Sequence[Listed]) -> list[Tracklet]:
    """The tracklets with identities and cameras numbered from 1 in the order of their texts."""
    identities = _numbers(each.identity for each in found)
    cameras = _numbers(each.camera for each in found if each.camera is not None)
    unknown = NamedNumber(NO_CAMERA, "unknown")
    return [
        Tracklet(each.frames, identities[each.identity], unknown if each.camera is None else cameras[each.camera])
        for each in found
    ]


def _numbers(texts: Iterable[str]) -> dict[str, NamedNumber]:
    ordered = sorted(set(texts), key=lambda text: (natural(text), text))
    return {text: NamedNumber(number, text) for number, text in enumerate(ordered, start=1)}


def _check_disjoint(path: Path, found: Sequence[Listed]) -> None:
    """No identity is both trained on and tested on."""
    faults = Faults()
    first: dict[tuple[str, bool], Listed] = {}
    for each in found:
        first.setdefault((each.identity, each.part == "train"), each)
    for (identity, trained), each in first.items():
        if trained and (other := first.get((identity, False))) is not None:
            what = f"identity {shown(identity)} is in train, but in row {other.row} in {other.part}; choose one"
            faults.add(path, what, each.row)
    faults.refuse()


def _drawn_halves(path: Path, tracklets: Sequence[Tracklet]) -> Iterator[str]:
    """Train or test for each tracklet: half of the identities that can be found again are drawn for the test."""
    by_identity = by_identity_and_camera(tracklets)
    eligible = [identity for identity, cameras in by_identity.items() if can_be_found_again(cameras)]
    if len(eligible) < 2:
        unknown = tracklets[0].camera == NO_CAMERA
        needed = "two tracklets" if unknown else "tracklets by two cameras"
        otherwise = "" if unknown else ", or remove the column camera if cameras need not be told apart"
        raise DataError(
            f"{path}: needs at least two identities with {needed}, one to train on and one to test on, and has "
            f"{len(eligible)}: add tracklets{otherwise}"
        )
    drawn = np.random.default_rng(SEED).permutation(eligible)[: len(eligible) // 2]
    tested = {int(identity) for identity in drawn}
    _warn_of_drawing(path, f"{len(tested)} of {len(by_identity)} identities to test on, and the queries")
    return ("test" if tracklet.identity in tested else "train" for tracklet in tracklets)


def _with_queries(tracklets: Sequence[Tracklet], parts: Sequence[str | None]) -> list[str | None]:
    """The parts with one query for each test identity and camera, as far as each keeps a match, and the gallery."""
    tested = [index for index, part in enumerate(parts) if part == "test"]
    generator = np.random.default_rng(SEED)
    by_identity = by_identity_and_camera([tracklets[index] for index in tested])
    queries = {
        tested[place]
        for cameras in by_identity.values()
        if can_be_found_again(cameras)
        for place in draw_queries(cameras, generator)
    }
    drawn = {index: "query" if index in queries else "gallery" for index in tested}
    return [drawn.get(index, part) for index, part in enumerate(parts)]


@functools.cache  # one warning for all readings of a process
def _warn_of_drawing(path: Path, what: str) -> None:
    log.warning(
        "%s: drawn here, with seed %d: %s; a column part (train, query, gallery) would fix them", path, SEED, what
    )


TRACKLETS = DataSet(
    title="own tracklets",
    read=read_tracklets,
    recognises=lambda root: any((root / name).is_file() for name in (CSV, PARQUET)),
    protocol="mars",
    published={},
)
