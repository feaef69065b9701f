"""What an evaluation leaves on disk: its figures, every query's average precision, and pictures.

A training leaves it too, in `evaluation/`, for its best network on the validation split.

evaluation.json   figures, protocol, data set, seconds of each stage, CMC at all ranks to 50
per_query.npz     average precision of every query (see `trainer.evaluation.query_metrics`)
cmc.png distances.png cameras.png
ranking.png attention.png   show people: only of generated data, or where they were asked for
"""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config import TrialConfig
from trainer.data.dataset import PROTOCOLS, Splits, dataset_fingerprint
from trainer.data.synthetic.dataset import is_synthetic
from trainer.evaluation.embed import attention_over_frames
from trainer.evaluation.evaluate import Assessment, Part
from trainer.evaluation.metrics import Ranking
from trainer.evaluation.query_metrics import per_query, write_per_query
from trainer.evaluation.retrieval import (
    CameraPrecision,
    camera_matrix,
    choose_queries,
    distance_sample,
    nearest,
    precision_by_camera,
    probe_queries,
)
from trainer.files import write_atomically
from trainer.formatting import counted
from trainer.plots import charts
from trainer.plots.sheets import AttendedClip, attention_strip, ranking_sheet

FOLDER = Path("evaluation")
SHOWN_QUERIES = 9  # a third each of the worst, the middling and the best
PROBES = 6  # every trial of a search leaves them


def write_evaluation(
    out: Path, assessment: Assessment, config: TrialConfig, part: Part, *, images: bool, probes: bool = False
) -> None:
    """Writes figures and pictures of an evaluation into the folder `out`; those of identities only with `images`.

    Pictures of generated people are always written. They show the queries answered worst, middling and best or, with
    `probes`, the same queries whatever the network, so that those of several networks can be compared.

    Raises:
        DataError: a frame that is to be shown is missing or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    synthetic = is_synthetic(config.data.root)
    by_camera = _precision_by_camera(assessment, config)
    write_per_query(out, per_query(assessment.ranking, assessment.lineup.query, by_camera))
    write_atomically(out / "evaluation.json", json.dumps(_description(assessment, config, part, synthetic), indent=2))
    _draw_charts(out, assessment, config, by_camera, synthetic)
    if images or synthetic:
        _draw_persons(out, assessment, config, synthetic, probes=probes)


def _description(assessment: Assessment, config: TrialConfig, part: Part, synthetic: bool) -> dict[str, object]:
    lineup = assessment.lineup
    judged = Splits(train=(), query=tuple(lineup.query), gallery=tuple(lineup.gallery))
    return {
        **assessment.evaluation.model_dump(),
        "part": part,
        "data_set": config.data.name,
        "fold": config.data.fold,
        "synthetic": synthetic,
        "fingerprint": dataset_fingerprint(judged),
        "seconds": assessment.seconds,
        "cmc": {name: ranking.cmc.tolist() for name, ranking in _rankings(assessment).items()},
    }


def _rankings(assessment: Assessment) -> dict[str, Ranking]:
    found = {"embeddings": assessment.ranking}
    return found if assessment.reranked is None else {**found, "re-ranked": assessment.reranked}


def _precision_by_camera(assessment: Assessment, config: TrialConfig) -> CameraPrecision:
    lineup = assessment.lineup
    return precision_by_camera(
        lineup.query_vectors,
        lineup.gallery_vectors,
        lineup.query,
        lineup.gallery,
        metric=config.evaluation.distance,
        protocol=PROTOCOLS[config.evaluation.protocol].precision,
    )


def _draw_charts(
    out: Path, assessment: Assessment, config: TrialConfig, by_camera: CameraPrecision, synthetic: bool
) -> None:
    lineup = assessment.lineup
    curves = {name: ranking.cmc.tolist() for name, ranking in _rankings(assessment).items()}
    queries = counted(assessment.evaluation.queries, "query", "queries")
    title = f"{config.data.name}, {config.evaluation.protocol} protocol, {queries}"
    charts.cmc_curve(curves, out / "cmc.png", title=title, synthetic=synthetic)
    sample = distance_sample(
        lineup.query_vectors, lineup.gallery_vectors, lineup.query, lineup.gallery, metric=config.evaluation.distance
    )
    margin = config.loss.triplet_margin if config.evaluation.distance == config.loss.triplet_metric else None
    charts.distance_histogram(sample.matching, sample.others, out / "distances.png", margin=margin, synthetic=synthetic)
    matrix = camera_matrix(by_camera, (tracklet.camera for tracklet in lineup.query))
    charts.camera_matrix(
        matrix.mean_ap, matrix.cameras, out / "cameras.png", queries=matrix.queries, synthetic=synthetic
    )


def _draw_persons(out: Path, assessment: Assessment, config: TrialConfig, synthetic: bool, *, probes: bool) -> None:
    lineup, ranking = assessment.lineup, assessment.ranking
    if probes:
        chosen = probe_queries(lineup.query, ranking.valid.numpy(), PROBES)
    else:
        chosen = choose_queries(ranking.average_precision.numpy(), ranking.valid.numpy(), SHOWN_QUERIES)
    rows = nearest(
        lineup.query_vectors,
        lineup.gallery_vectors,
        lineup.query,
        lineup.gallery,
        which=chosen,
        metric=config.evaluation.distance,
        protocol=PROTOCOLS[config.evaluation.protocol].precision,
    )
    ranking_sheet(rows, out / "ranking.png", synthetic=synthetic)
    shown = [lineup.query[place] for place in chosen]
    found = attention_over_frames(assessment.model, shown, config)
    clips = [AttendedClip(tracklet, *each) for tracklet, each in zip(shown, found, strict=True)]
    attention_strip(clips, out / "attention.png", synthetic=synthetic)
