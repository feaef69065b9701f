"""What an evaluation leaves on disk: its metrics, every query's average precision, and pictures.

A training leaves it too, in `evaluation/`, for its best network on the validation split.

evaluation.json   metrics, protocol, data set, seconds of each stage, CMC at all ranks to 50
per_query.npz     average precision of every query (see `trainer.evaluation.query_metrics`)
cmc.png distances.png cameras.png; roc.png where pairs of both kinds are there
ranking.png attention.png   show people: only of generated data, or where they were asked for
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.config import TrialConfig
from trainer.data.dataset import Splits, dataset_fingerprint, names_of
from trainer.data.synthetic.dataset import is_synthetic
from trainer.evaluation.analysis import (
    CameraPrecision,
    camera_matrix,
    choose_queries,
    distance_sample,
    nearest,
    precision_by_camera,
    probe_queries,
)
from trainer.evaluation.embed import attention_over_frames
from trainer.evaluation.evaluate import EvaluationResult, Part, evaluate
from trainer.evaluation.query_metrics import query_metrics, write_query_metrics
from trainer.evaluation.verification import share_nearer
from trainer.files import write_atomically
from trainer.formatting import counted
from trainer.plots import charts
from trainer.plots.sheets import AttendedClip, RankedQuery, attention_strip, ranking_sheet
from trainer.result import Progress, no_progress

FOLDER = Path("evaluation")
SHOWN_QUERIES = 9  # a third each of the worst, the middling and the best
PROBES = 6  # every trial of a search leaves them


def write_evaluation(out: Path, result: EvaluationResult, part: Part, *, images: bool, probes: bool = False) -> None:
    """Writes metrics and pictures of an evaluation into the folder `out`; those of people only with `images`.

    Pictures of generated people are always written. They show the queries answered worst, middling and best or, with
    `probes`, the same queries whatever the network, so that those of several networks can be compared.

    Raises:
        DataError: a frame that is to be shown is missing or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    synthetic = is_synthetic(result.config.data.root)
    by_camera = precision_by_camera(result.data)
    write_query_metrics(out, query_metrics(result.ranking, result.data.query, by_camera))
    write_atomically(out / "evaluation.json", json.dumps(_description(result, part, synthetic), indent=2))
    _draw_charts(out, result, by_camera, synthetic)
    if images or synthetic:
        _draw_people(out, result, synthetic, probes=probes)


class Network(NamedTuple):
    """A trained network, and what it is evaluated on."""

    name: str
    config: TrialConfig
    checkpoint: Path
    split: Path
    """Validation split."""


def draw_comparison(
    networks: Sequence[Network],
    places: Sequence[int],
    out: Path,
    *,
    synthetic: bool,
    progress: Progress = no_progress,
) -> None:
    """Draws for each of the validation queries at `places` a row per network, in the order of the networks.

    Raises:
        ConfigError, DataError, CheckpointError: as `trainer.evaluate`.
        ValueError: there is nothing to draw, or too much for a picture.
    """
    found = [_nearest_of(network, places, progress) for network in networks]
    rows = [rankings[number] for number in range(len(places)) for rankings in found]
    title = "each query as answered by " + ", then ".join(network.name for network in networks)
    ranking_sheet(rows, out, title=title, synthetic=synthetic)


def _nearest_of(network: Network, places: Sequence[int], progress: Progress) -> list[RankedQuery]:
    settings = network.config.evaluation.model_copy(update={"reranking": False})
    config = network.config.model_copy(update={"evaluation": settings})
    result = evaluate(
        config, network.checkpoint, part="validation", split=network.split, verification=False, progress=progress
    )
    return nearest(result.data, places)


def _description(result: EvaluationResult, part: Part, synthetic: bool) -> dict[str, object]:
    evaluated = Splits(train=(), query=tuple(result.data.query), gallery=tuple(result.data.gallery))
    return {
        **result.evaluation.model_dump(),
        "part": part,
        "data_set": result.config.data.name,
        "fold": result.config.data.fold,
        "synthetic": synthetic,
        "fingerprint": dataset_fingerprint(evaluated),
        "seconds": result.seconds,
        "cmc": _cmc_curves(result),
        "roc": result.roc,
        # Of cameras only: the names of identities may be those of people, and the file goes to MLflow.
        "cameras": names_of(tracklet.camera for tracklet in (*result.data.query, *result.data.gallery)),
    }


def _cmc_curves(result: EvaluationResult) -> dict[str, list[float]]:
    curves = {"embeddings": result.ranking.cmc.tolist()}
    return curves if result.reranked is None else curves | {"re-ranked": result.reranked.cmc.tolist()}


def _draw_charts(out: Path, result: EvaluationResult, by_camera: CameraPrecision, synthetic: bool) -> None:
    config, queries = result.config, counted(result.evaluation.queries, "query", "queries")
    title = f"{result.evaluation.other_data or config.data.name}, {result.data.protocol} protocol, {queries}"
    charts.cmc_curve(_cmc_curves(result), out / "cmc.png", title=title, synthetic=synthetic)
    sample = distance_sample(result.data)
    margin = config.loss.triplet_margin if config.evaluation.distance == config.loss.triplet_metric else None
    charts.distance_histogram(
        *(sample.matching, sample.others, out / "distances.png"),
        nearer=share_nearer(sample.matching, sample.others),
        margin=margin,
        synthetic=synthetic,
    )
    if (verification := result.evaluation.verification) is not None and result.roc is not None:
        title = f"same identity or not: {title}"
        charts.roc_curve(result.roc, verification, out / "roc.png", title=title, synthetic=synthetic)
    matrix = camera_matrix(by_camera, [tracklet.camera for tracklet in result.data.query])
    charts.camera_matrix(
        matrix.mean_ap, matrix.cameras, out / "cameras.png", queries=matrix.queries, synthetic=synthetic
    )


def _draw_people(out: Path, result: EvaluationResult, synthetic: bool, *, probes: bool) -> None:
    data, ranking = result.data, result.ranking
    if probes:
        chosen = probe_queries(data.query, ranking.valid.numpy(), PROBES)
    else:
        chosen = choose_queries(ranking.average_precision.numpy(), ranking.valid.numpy(), SHOWN_QUERIES)
    ranking_sheet(nearest(data, chosen), out / "ranking.png", synthetic=synthetic)
    shown = [data.query[place] for place in chosen]
    attention = attention_over_frames(result.model, shown, result.config)
    clips = [AttendedClip(tracklet, *each) for tracklet, each in zip(shown, attention, strict=True)]
    attention_strip(clips, out / "attention.png", synthetic=synthetic)
