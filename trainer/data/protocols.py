"""Ranking protocols by name: which gallery is searched, and how precision is averaged.

Figures under different protocols must not be compared: on the same embeddings they differ by points.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ProtocolName = Literal["mars", "mars_official", "mars_query_in_gallery", "prid"]
Precision = Literal["standard", "mars_official"]


class Protocol(NamedTuple):
    """What sets a protocol apart."""

    queries_in_gallery: bool
    """Whether the queries stand in the gallery; none matches itself, as its own camera is left out."""
    precision: Precision
    """How precision is averaged, see `trainer.evaluation.metrics.evaluate_ranking`."""
    about: str
    """Where it comes from, in a few words."""


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "mars": Protocol(False, "standard", "gallery without the queries; the paper, deep-person-reid"),
    "mars_official": Protocol(True, "mars_official", "queries in the gallery, trapezoidal precision; the MARS authors"),
    "mars_query_in_gallery": Protocol(True, "standard", "queries in the gallery; AP3D, TKP, STE-NVAN"),
    "prid": Protocol(
        False, "standard", "one query and one gallery tracklet per identity; mAP is the mean reciprocal rank"
    ),
}
