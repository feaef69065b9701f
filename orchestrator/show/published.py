"""Results that the paper published, to stand beside ours; shares in [0, 1].

Pathak, Eshratifar and Gormish, "Video Person Re-ID: Fantastic Techniques and Where to Find Them" (AAAI 2020 student
abstract). Each is of one training. MARS: gallery without the queries, 140 queries without a match left out; those
after re-ranking stand in brackets there. PRID2011: the first of the ten published splits only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class PublishedRow(NamedTuple):
    """A row of one of the paper's tables."""

    row: str
    """As the paper calls it."""
    metrics: Mapping[str, float]
    """By name."""


class PublishedTable(NamedTuple):
    """One of the paper's tables."""

    title: str
    columns: tuple[str, ...]
    """Metrics, without those after re-ranking."""
    data: Mapping[str, int]
    """Tracklets of the data set, as `SearchDescription.tracklets`: results on any other set are of another task."""
    protocol: str
    sampling: str
    """Frames of a tracklet that were looked at, as `Evaluation.sampling`."""
    queries: int
    """Valid ones."""
    dropped_queries: int
    rows: Mapping[str, PublishedRow]
    """By the name of the search space that is this row."""


def _mars(*per_cent: float) -> dict[str, float]:
    """mAP, rank-1, rank-5, rank-20 in per cent, then the same after re-ranking."""
    plain = ("mAP", "rank1", "rank5", "rank20")
    names = [*plain, *(f"reranked/{name}" for name in plain)]
    return {name: value / 100 for name, value in zip(names, per_cent, strict=True)}


def _prid(*per_cent: float) -> dict[str, float]:
    return {name: value / 100 for name, value in zip(("rank1", "rank5", "rank20"), per_cent, strict=True)}


TABLES = (
    PublishedTable(
        "Table 1: MARS",
        ("mAP", "rank1", "rank5", "rank20"),
        data={"train": 8298, "query": 1980, "gallery": 9330},
        protocol="mars",
        sampling="dense, at most 41 clips",
        queries=1840,
        dropped_queries=140,
        rows={
            "baseline": PublishedRow("Baseline", _mars(76.7, 83.3, 93.8, 97.4, 84.5, 85.0, 94.7, 97.7)),
            "b_bot": PublishedRow("B-BOT", _mars(81.3, 87.1, 95.9, 98.2, 88.4, 87.6, 96.0, 98.4)),
            "b_bot_osm": PublishedRow("B-BOT + OSM", _mars(82.4, 87.9, 96.0, 98.0, 88.1, 87.6, 95.7, 98.5)),
            "b_bot_osm_cl": PublishedRow(
                "B-BOT + OSM + CL Centers", _mars(81.2, 86.3, 95.6, 98.2, 88.5, 88.0, 96.1, 98.5)
            ),
            "attn_cl": PublishedRow("Attn-CL", _mars(82.9, 88.6, 96.2, 98.0, 87.8, 88.0, 95.4, 98.3)),
        },
    ),
    PublishedTable(
        "Table 2: PRID2011",
        ("rank1", "rank5", "rank20"),
        data={"train": 178, "query": 89, "gallery": 89},
        protocol="prid",
        sampling="dense, at most 41 clips",
        queries=89,
        dropped_queries=0,
        rows={
            "attn_cl_prid": PublishedRow("Attn-CL", _prid(93.3, 98.9, 100)),
            "attn_cl_prid_from_mars": PublishedRow("Attn-CL, pre-trained on MARS", _prid(96.6, 100, 100)),
        },
    ),
)
