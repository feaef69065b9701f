"""Figures of embedded queries and gallery, under a named protocol, without and with re-ranking.

Q queries, G gallery, N = Q + G tracklets, D embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.config import EvaluationConfig, TrialConfig
from trainer.data import Tracklet
from trainer.data.dataset import ALL_CAMERAS, PROTOCOLS, ProtocolName, seen_by_one_camera
from trainer.data.frames import DamagedFrames
from trainer.errors import ConfigError, DataError
from trainer.evaluation.embed import embed
from trainer.evaluation.metrics import Ranking, evaluate_ranking, rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.model.network import TemporalAttentionResNet
from trainer.result import Evaluation, Progress, RetrievalMetrics, no_progress


class Lineup(NamedTuple):
    """Queries, and the gallery that a protocol searches for them, with their embeddings."""

    query: Sequence[Tracklet]
    gallery: Sequence[Tracklet]
    """Under a protocol with queries in the gallery they come first."""
    query_vectors: Float[Tensor, "Q D"]
    gallery_vectors: Float[Tensor, "G D"]
    protocol: str

    @property
    def labels(self) -> tuple[Int[Tensor, " Q"], Int[Tensor, " G"], Int[Tensor, " Q"], Int[Tensor, " G"]]:
        """Identities of queries and gallery, cameras of queries and gallery."""
        sides = (self.query, self.gallery)
        identities = [torch.tensor([tracklet.identity for tracklet in side]) for side in sides]
        cameras = [torch.tensor([tracklet.camera for tracklet in side]) for side in sides]
        return identities[0], identities[1], cameras[0], cameras[1]


class RankedTracklets(NamedTuple):
    """An evaluation, and what it is the sum of."""

    evaluation: Evaluation
    ranking: Ranking
    reranked: Ranking | None
    lineup: Lineup


def line_up(
    vectors: Float[Tensor, "N D"], query: Sequence[Tracklet], gallery: Sequence[Tracklet], config: EvaluationConfig
) -> Lineup:
    """What the protocol asks for and searches; `vectors` are the queries' embeddings and then the gallery's.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: no query has a match in the gallery.
    """
    searched = searched_gallery(query, gallery, config.protocol)
    first = len(query) + len(gallery) - len(searched)
    return Lineup(query, searched, vectors[: len(query)], vectors[first:], config.protocol)


def searched_gallery(query: Sequence[Tracklet], gallery: Sequence[Tracklet], protocol: ProtocolName) -> list[Tracklet]:
    """What the protocol searches for the queries: the gallery, with the queries before it where they belong to it.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: no query has a match in the gallery.
    """
    searched = [*(query if PROTOCOLS[protocol].queries_in_gallery else ()), *gallery]
    _check_matches(query, searched, protocol)
    return searched


def _check_matches(query: Sequence[Tracklet], gallery: Sequence[Tracklet], protocol: str) -> None:
    identities = Counter(tracklet.identity for tracklet in gallery)
    seen = Counter((tracklet.identity, tracklet.camera) for tracklet in gallery)
    matches = [identities[asked.identity] - seen[asked.identity, asked.camera] for asked in query]
    if not any(matches):
        if (why := seen_by_one_camera([*query, *gallery])) is not None:
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


def plain_ranking(lineup: Lineup, config: EvaluationConfig) -> Ranking:
    """Ranking of the gallery by the distance of embeddings."""
    return rank_embeddings(
        lineup.query_vectors,
        lineup.gallery_vectors,
        *lineup.labels,
        metric=config.distance,
        protocol=PROTOCOLS[config.protocol].precision,
    )


def reranked_ranking(lineup: Lineup, config: EvaluationConfig) -> Ranking:
    """Ranking of the gallery by k-reciprocal neighbours.

    Under cosine distance the embeddings are normalised first, as that makes their squared distance twice the cosine
    distance. Neighbourhoods are taken among queries and gallery together; queries that stand in the gallery are there
    twice, once as a query and once to be found, as in the codes that use such protocols.
    """
    sides = (lineup.query_vectors, lineup.gallery_vectors)
    if config.distance == "cosine":
        sides = (functional.normalize(sides[0], dim=1), functional.normalize(sides[1], dim=1))
    again = config.rerank
    distances = k_reciprocal_distance(*sides, k1=again.k1, k2=again.k2, lambda_value=again.lambda_value)
    return evaluate_ranking(distances, *lineup.labels, protocol=PROTOCOLS[config.protocol].precision)


def summary(ranking: Ranking, reranked: Ranking | None, entropy: float, config: EvaluationConfig) -> Evaluation:
    """The figures of a ranking, and of the re-ranking if there is one."""
    return Evaluation(
        **_figures(ranking).model_dump(),
        attention_entropy=entropy,
        protocol=config.protocol,
        sampling=config.frames_seen,
        queries=int(ranking.valid.sum()),
        dropped_queries=ranking.dropped,
        reranked=None if reranked is None else _figures(reranked),
    )


def _figures(ranking: Ranking) -> RetrievalMetrics:
    def rank(k: int) -> float:
        return float(ranking.cmc[min(k, len(ranking.cmc)) - 1])

    return RetrievalMetrics(
        mAP=ranking.mean_ap,
        mAP_standard_error=ranking.standard_error,
        mINP=ranking.mean_inp,
        rank1=rank(1),
        rank5=rank(5),
        rank10=rank(10),
        rank20=rank(20),
    )


def rank_tracklets(
    model: TemporalAttentionResNet,
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    config: TrialConfig,
    *,
    rerank: bool = False,
    damage: DamagedFrames | None = None,
    progress: Progress = no_progress,
) -> RankedTracklets:
    """Embeds query and gallery, ranks the gallery for each query and sums it up; arguments as in `embed`.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: a frame is missing, too many are damaged, or no query has a match in the gallery.
        DivergedError: an embedding is not finite.
    """
    embeddings = embed(model, [*query, *gallery], config, damage=damage, progress=progress)
    settings = config.evaluation
    lineup = line_up(embeddings.vectors, query, gallery, settings)
    ranking, reranked = plain_ranking(lineup, settings), reranked_ranking(lineup, settings) if rerank else None
    figures = summary(ranking, reranked, embeddings.attention_entropy, settings)
    return RankedTracklets(figures, ranking, reranked, lineup)
