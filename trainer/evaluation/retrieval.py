"""Embedded queries and the gallery that a protocol searches for them, ranked and re-ranked.

Q queries, G gallery tracklets, N = queries and gallery without repetition, D embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.config import Distance, EvaluationConfig, RerankConfig
from trainer.data import Tracklet
from trainer.data.dataset import (
    ALL_CAMERAS,
    NO_CAMERA,
    PROTOCOLS,
    Precision,
    ProtocolName,
    protocol_for,
    seen_by_one_camera,
)
from trainer.errors import ConfigError, DataError
from trainer.evaluation.metrics import Ranking, evaluate_ranking, rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance


class RetrievalData(NamedTuple):
    """Queries, the gallery that the protocol searches for them, and the embeddings of both."""

    query: Sequence[Tracklet]
    gallery: Sequence[Tracklet]
    """Under a protocol with queries in the gallery they come first."""
    query_embeddings: Float[Tensor, "Q D"]
    gallery_embeddings: Float[Tensor, "G D"]
    distance: Distance = "cosine"
    protocol: ProtocolName = "mars"

    @property
    def query_ids(self) -> Int[Tensor, " Q"]:
        """Identities of the queries."""
        return torch.tensor([tracklet.identity for tracklet in self.query], dtype=torch.long)

    @property
    def gallery_ids(self) -> Int[Tensor, " G"]:
        """Identities of the gallery."""
        return torch.tensor([tracklet.identity for tracklet in self.gallery], dtype=torch.long)

    @property
    def query_cameras(self) -> Int[Tensor, " Q"]:
        """Cameras of the queries."""
        return cameras_of_queries(self.query)

    @property
    def gallery_cameras(self) -> Int[Tensor, " G"]:
        """Cameras of the gallery."""
        return cameras_of_gallery(self.gallery)

    @property
    def precision(self) -> Precision:
        """How the protocol averages precision."""
        return PROTOCOLS[self.protocol].precision


def cameras_of_queries(query: Sequence[Tracklet]) -> Int[Tensor, " Q"]:
    """Cameras of queries; `NO_CAMERA` where they are not known, which no gallery tracklet has."""
    return torch.tensor([tracklet.camera for tracklet in query], dtype=torch.long)


def cameras_of_gallery(gallery: Sequence[Tracklet]) -> Int[Tensor, " G"]:
    """Cameras of gallery tracklets; unknown ones are numbered apart from the queries', so that they share none."""
    cameras = cameras_of_queries(gallery)
    return torch.where(cameras == NO_CAMERA, NO_CAMERA - 1, cameras)


def used_protocol(query: Sequence[Tracklet], protocol: ProtocolName) -> ProtocolName:
    """The protocol that is followed: the one asked for, or `no_camera` where the queries' cameras are not known.

    Raises:
        ConfigError: the protocol needs cameras that are not known, or is for data without and they are known.
    """
    found = protocol_for(query, protocol)
    if found == "no_camera" != protocol and protocol != "mars":
        raise ConfigError(
            f"evaluation.protocol: {protocol} leaves out what the query's camera saw, but cameras of this data set are "
            "not known; leave it out, then no_camera is taken"
        )
    if query and protocol == "no_camera" and protocol_for(query, "mars") != "no_camera":
        raise ConfigError(
            "evaluation.protocol: no_camera is for data whose cameras are not known, and this data set tells them; "
            "choose mars, or remove the column camera from its table"
        )
    return found


def retrieval_data(
    embeddings: Float[Tensor, "N D"], query: Sequence[Tracklet], gallery: Sequence[Tracklet], config: EvaluationConfig
) -> RetrievalData:
    """The data of a ranking under the protocol; `embeddings` are the queries' and then the gallery's.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: no query has a match in the gallery.
    """
    protocol = used_protocol(query, config.protocol)
    searched = searched_gallery(query, gallery, protocol)
    first = len(query) + len(gallery) - len(searched)
    return RetrievalData(query, searched, embeddings[: len(query)], embeddings[first:], config.distance, protocol)


def searched_gallery(query: Sequence[Tracklet], gallery: Sequence[Tracklet], protocol: ProtocolName) -> list[Tracklet]:
    """What the protocol searches for the queries: the gallery, after the queries where they belong to it.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: no query has a match in the gallery.
    """
    protocol = used_protocol(query, protocol)
    searched = [*(query if PROTOCOLS[protocol].queries_in_gallery else ()), *gallery]
    identities = Counter(tracklet.identity for tracklet in searched)
    seen = Counter((tracklet.identity, tracklet.camera) for tracklet in searched)
    matches = [
        identities[each.identity] - (0 if each.camera == NO_CAMERA else seen[each.identity, each.camera])
        for each in query
    ]
    if not query:
        raise DataError("there are no query tracklets in this part, so nothing can be evaluated on it")
    if not any(matches):
        if protocol == "no_camera":
            raise DataError(f"none of the {len(query)} queries has another tracklet of its identity in the gallery")
        if (why := seen_by_one_camera([*query, *searched])) is not None:
            raise DataError(f"{why}, and a query is searched among other cameras; {ALL_CAMERAS}")
        raise DataError(
            f"none of the {len(query)} queries has a match by another camera in the gallery under protocol {protocol}; "
            "evaluate another part, or with evaluation.protocol=mars_query_in_gallery"
        )
    if protocol == "prid" and max(matches) > 1:
        raise ConfigError(
            f"evaluation.protocol: prid has one match per query, but a query has {max(matches)} in this gallery; "
            "choose mars"
        )
    return searched


def rank(data: RetrievalData) -> Ranking:
    """The ranking of the gallery by the distance of embeddings."""
    return rank_embeddings(
        data.query_embeddings,
        data.gallery_embeddings,
        data.query_ids,
        data.gallery_ids,
        data.query_cameras,
        data.gallery_cameras,
        metric=data.distance,
        protocol=data.precision,
    )


def rerank(data: RetrievalData, config: RerankConfig) -> Ranking:
    """The ranking of the gallery by k-reciprocal neighbours.

    Under cosine distance the embeddings are normalised first, as that makes their squared distance twice the cosine
    distance. Neighbourhoods are taken among queries and gallery together; queries that stand in the gallery are there
    twice, once as a query and once to be found, as in the codes that use such protocols.
    """
    query, gallery = data.query_embeddings, data.gallery_embeddings
    if data.distance == "cosine":
        query, gallery = functional.normalize(query, dim=1), functional.normalize(gallery, dim=1)
    distances = k_reciprocal_distance(query, gallery, k1=config.k1, k2=config.k2, lambda_value=config.lambda_value)
    return evaluate_ranking(
        distances,
        data.query_ids,
        data.gallery_ids,
        data.query_cameras,
        data.gallery_cameras,
        protocol=data.precision,
    )
