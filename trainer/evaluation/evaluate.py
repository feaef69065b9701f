"""The evaluation of a network on a part of its data set: embed, rank, re-rank, and sum up.

N tracklets, D embedding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from trainer.automatic import resolved, this_machine
from trainer.checkpoint import load_checkpoint
from trainer.compute import float32_products, require_precision
from trainer.config import TrialConfig
from trainer.data import Tracklet
from trainer.data.dataset import Pair, Splits
from trainer.data.folder import read_pairs, require_test_part
from trainer.data.frames import DamagedFrames
from trainer.data.kept import data_with_test_part
from trainer.data.splits import applied_split, cut_validation, read_validation
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.evaluation.analysis import pair_distances
from trainer.evaluation.embed import cached_embeddings, embed
from trainer.evaluation.metrics import Ranking, pairwise_distance
from trainer.evaluation.retrieval import RetrievalData, rank, rerank, retrieval_data, searched_gallery
from trainer.evaluation.test_set_record import RecordUse, Use, judged_weights, record_use
from trainer.evaluation.trained_on import TrainedOn, check_not_joined, check_not_trained_on, other_data, trained_on
from trainer.evaluation.verification import verify, verify_folds
from trainer.files import replacing
from trainer.model.network import ModelConfig, TemporalAttentionResNet
from trainer.model.weights import is_own_checkpoint
from trainer.result import DataRecord, Evaluation, Progress, RetrievalMetrics, no_progress
from trainer.seeds import derived_seed

log = logging.getLogger(__name__)

Part = Literal["test", "validation"]


class EvaluationResult(NamedTuple):
    """The metrics of an evaluation, and all that they were computed from."""

    evaluation: Evaluation
    """The metrics, without and with re-ranking, and the conditions that they depend on."""
    ranking: Ranking
    reranked: Ranking | None
    data: RetrievalData
    model: TemporalAttentionResNet
    config: TrialConfig
    """The trial, with what its settings that say `auto` became."""
    seconds: dict[str, float]
    """Of each stage: reading, network, embedding (of which waiting for frames), ranking, reranking."""
    roc: list[tuple[float, float]] | None = None
    """Points (false positive rate, true positive rate); None where verification was not measured."""


def evaluate(
    config: TrialConfig,
    checkpoint: Path | None,
    *,
    part: Part,
    split: Path | None = None,
    cache: Path | None = None,
    verification: bool = True,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> EvaluationResult:
    """Evaluates the network in `checkpoint` on the `test` or `validation` part of the configured data set.

    The metrics after re-ranking are with them unless `evaluation.reranking` is off. `Evaluation.trained_on` and
    `tested_on` are set where the network was trained on another data set.

    Settings that say `auto` are what they became when the checkpoint was trained, unless this machine lacks that.

    Args:
        config: the trial.
        checkpoint: weights; None is the untrained network.
        part: query and gallery of the data set, or of its validation split.
        split: validation split of a run or search; None cuts the one that the configuration describes.
        cache: folder that keeps embeddings; those of the same network, frames and settings are read from there.
        verification: whether error rates of "same identity or not" are measured, with the distance of every pair.
        device: where to embed; None takes the GPU if there is one.
        progress: called after every batch.
        record: called before trained weights are used on the test part, see `trainer.evaluation.test_set_record`.

    Raises:
        ConfigError: a setting that the data or the machine cannot follow, or a use of the test part that cannot be
            recorded.
        DataError: data that is missing, damaged or too small.
        CheckpointError: the checkpoint is damaged or of another architecture.
    """
    watch = Stopwatch()
    with watch("reading"):
        splits, judged = data_with_test_part(config.data)
        query, gallery = _query_and_gallery(config, splits, part, split)
        pairs = read_pairs(config.data) if part == "test" else ()
    with watch("network"):
        model, trained, config = _network(config, checkpoint, splits, judged, part, [*query, *gallery], device)
    _record(config, checkpoint, part, "evaluate", record, judged)
    with float32_products(config.compute, _device_of(model)):
        result = evaluate_network(
            model, query, gallery, config, reranking=config.evaluation.reranking, cache=cache, progress=progress
        )
        if pairs:
            with watch("pairs"):
                result = _with_pairs(result, pairs, cache, progress)
    names = {} if trained is None else other_data(trained, config.data, judged)
    evaluation = result.evaluation.model_copy(update=names)
    result = result._replace(evaluation=evaluation, seconds=watch.seconds | result.seconds)
    return with_verification(result) if verification else result


def evaluate_network(
    model: TemporalAttentionResNet,
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    config: TrialConfig,
    *,
    reranking: bool,
    cache: Path | None = None,
    damage: DamagedFrames | None = None,
    progress: Progress = no_progress,
) -> EvaluationResult:
    """Embeds query and gallery and ranks the gallery for each query; the network is left as it is.

    `damage` counts frames that cannot be decoded, see `trainer.evaluation.embed.embed`.

    Raises:
        ConfigError: the protocol does not fit the data.
        DataError: a frame is missing, too many are damaged, or no query has a match in the gallery.
        DivergedError: an embedding is not finite.
    """
    watch, tracklets = Stopwatch(), [*query, *gallery]
    searched_gallery(query, gallery, config.evaluation.protocol)  # fails before the embedding, which takes long
    with watch("embedding"):
        embeddings = cached_embeddings(
            cache, model, tracklets, config, lambda: embed(model, tracklets, config, damage=damage, progress=progress)
        )
    watch.seconds["waiting for frames"] = embeddings.waited_s
    data = retrieval_data(embeddings.vectors, query, gallery, config.evaluation)
    with watch("ranking"):
        ranking = rank(data)
    evaluation = Evaluation(
        **_metrics(ranking).model_dump(),
        attention_entropy=embeddings.attention_entropy,
        protocol=data.protocol,
        sampling=config.evaluation.frames_seen,
        queries=int(ranking.valid.sum()),
        dropped_queries=ranking.dropped,
    )
    result = EvaluationResult(evaluation, ranking, None, data, model, config, watch.seconds)
    if not reranking:
        return result
    with watch("reranking"):
        return with_reranking(result)


def with_reranking(result: EvaluationResult) -> EvaluationResult:
    """The result with the metrics after re-ranking, computed where they are missing."""
    if result.reranked is not None:
        return result
    reranked = rerank(result.data, result.config.evaluation.rerank)
    evaluation = result.evaluation.model_copy(update={"reranked": _metrics(reranked)})
    return result._replace(evaluation=evaluation, reranked=reranked)


def with_verification(result: EvaluationResult) -> EvaluationResult:
    """The result with error rates of "same identity or not"; as it is where the part shows one identity only.

    Holds the distance of every pair of query and gallery, on MARS 22 million.
    """
    matching, others = pair_distances(result.data)
    if not len(matching) or not len(others):
        return result
    found = verify(matching, others)
    evaluation = result.evaluation.model_copy(update={"verification": found.metrics})
    return result._replace(evaluation=evaluation, roc=found.roc)


def _with_pairs(
    result: EvaluationResult, pairs: Sequence[Pair], cache: Path | None, progress: Progress
) -> EvaluationResult:
    """The result with the metrics of the data set's list of pairs in the fold that is tested.

    The tracklets of all folds are embedded, since the others say what the threshold is. They are the same in every
    fold, so that a network that serves several finds them in `cache`.
    """
    config, tracklets = result.config, list(dict.fromkeys(each for pair in pairs for each in (pair.first, pair.second)))
    embedded = cached_embeddings(
        cache,
        result.model,
        tracklets,
        config,
        lambda: embed(result.model, tracklets, config, progress=progress),
    )
    place = {tracklet: index for index, tracklet in enumerate(tracklets)}
    first, second = ([place[tracklet] for tracklet in side] for side in list(zip(*pairs, strict=True))[:2])
    distances = pairwise_distance(embedded.vectors, embedded.vectors, config.evaluation.distance)[first, second]
    found = verify_folds(
        distances.cpu().numpy(),
        np.array([pair.same for pair in pairs]),
        np.array([pair.fold for pair in pairs]),
    )
    evaluation = result.evaluation.model_copy(update={"pairs": found.by_fold[config.data.fold]})
    return result._replace(evaluation=evaluation)


def write_embeddings(
    config: TrialConfig,
    checkpoint: Path | None,
    out: Path,
    *,
    part: Part,
    split: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
    record: RecordUse = record_use,
) -> int:
    """Writes the embeddings of query and gallery to the file `out` and returns the number of tracklets.

    The arguments are those of `evaluate`. The file is numpy's .npz without pickles: `embedding` [N D] float32, and for
    each tracklet `part` ("query" or "gallery"), `identity`, `camera`, `frames` (their number) and `first_frame` (base
    name of the first).

    Raises:
        ConfigError, DataError, CheckpointError: as `evaluate`.
    """
    splits, judged = data_with_test_part(config.data)
    query, gallery = _query_and_gallery(config, splits, part, split)
    tracklets = [*query, *gallery]
    model, _, config = _network(config, checkpoint, splits, judged, part, tracklets, device)
    _record(config, checkpoint, part, "embed", record, judged)
    with float32_products(config.compute, _device_of(model)):
        embeddings = embed(model, tracklets, config, progress=progress)
    arrays = {
        "embedding": embeddings.vectors.cpu().numpy(),
        "part": np.array(["query"] * len(query) + ["gallery"] * len(gallery)),
        "identity": np.array([tracklet.identity for tracklet in tracklets]),
        "camera": np.array([tracklet.camera for tracklet in tracklets]),
        "frames": np.array([len(tracklet.frames) for tracklet in tracklets]),
        "first_frame": np.array([Path(tracklet.frames[0]).name for tracklet in tracklets]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return len(tracklets)


def trained_network(config: ModelConfig, checkpoint: Path) -> TemporalAttentionResNet:
    """The network in a checkpoint, on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged or of another architecture.
    """
    return restored_network(config, checkpoint, load_checkpoint(checkpoint)["model"])


def restored_network(config: ModelConfig, checkpoint: Path, weights: dict[str, Any]) -> TemporalAttentionResNet:
    """The network with these weights, and as many classes; messages name the checkpoint that they are from.

    Raises:
        CheckpointError: the weights are of another architecture.
    """
    try:
        model = TemporalAttentionResNet(
            config.model_copy(update={"weights": "none"}), len(weights["classifier.weight"])
        )
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint}: holds another architecture than the configuration") from error
    return model


@dataclass
class Stopwatch:
    """How long each stage took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what runs inside as `stage`."""
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began


def _metrics(ranking: Ranking) -> RetrievalMetrics:
    def cmc(rank: int) -> float:
        return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])

    return RetrievalMetrics(
        mAP=ranking.mean_ap,
        mAP_standard_error=ranking.standard_error,
        mINP=ranking.mean_inp,
        rank1=cmc(1),
        rank5=cmc(5),
        rank10=cmc(10),
        rank20=cmc(20),
    )


def _device_of(model: TemporalAttentionResNet) -> torch.device:
    return next(model.parameters()).device


def _query_and_gallery(
    config: TrialConfig, splits: Splits, part: Part, split: Path | None
) -> tuple[list[Tracklet], list[Tracklet]]:
    if part == "test":
        if split is not None:
            raise ConfigError(f"{split}: a split says what the validation part is; leave it out for the test part")
        require_test_part(config.data)
        return list(splits.query), list(splits.gallery)
    cut = (
        cut_validation(splits.train, config.data.validation) if split is None else read_validation(split, splits.train)
    )
    data = applied_split(splits.train, cut)
    if not data.query:
        raise DataError(
            "no identity is held out for validation (data.validation.share: 0, as in trainings for the test set); name "
            "a split with --split, or the test part with --part test"
        )
    return data.query, data.gallery


def _record(
    config: TrialConfig, checkpoint: Path | None, part: Part, use: Use, record: RecordUse, data: DataRecord
) -> None:
    """Records the use of the test part; untrained weights have learned nothing that it could be used to choose."""
    weights = judged_weights(config, checkpoint)
    if part == "test" and weights is not None:
        record(weights, use, data)


def _network(
    config: TrialConfig,
    checkpoint: Path | None,
    splits: Splits,
    judged: DataRecord,
    part: Part,
    tracklets: Iterable[Tracklet],
    device: torch.device | str | None,
) -> tuple[TemporalAttentionResNet, TrainedOn | None, TrialConfig]:
    """The network with as many classes as the checkpoint's, which may have learned from another data set.

    And what it was trained on; None for the untrained network; and the configuration with what `auto` became.
    `tracklets` are those that are to be judged.

    Raises:
        CheckpointError: the checkpoint is damaged or of another architecture.
        ConfigError: it was trained on identities that are to be judged.
    """
    torch.manual_seed(derived_seed(config.seed, "weights"))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if checkpoint is None:
        if is_own_checkpoint(config.model.weights):
            raise ConfigError(
                f"model.weights: {config.model.weights} is a checkpoint of a training; give it as --checkpoint, which "
                "tells what it was trained on"
            )
        model = TemporalAttentionResNet(config.model, len({tracklet.identity for tracklet in splits.train}))
        return model.to(device), None, resolved(config, this_machine(device))
    state = load_checkpoint(checkpoint)
    trained = trained_on(checkpoint, state)
    identities = {tracklet.identity for tracklet in tracklets} if part == "validation" else None
    check_not_trained_on(trained, config.data, judged, identities)
    check_not_joined(trained, config.data, splits, validation=part == "validation")
    model = restored_network(config.model, checkpoint, state["model"]).to(device)
    return model, trained, _as_trained(config, checkpoint, state["config"], device)


def _as_trained(
    config: TrialConfig, checkpoint: Path, recorded: Mapping[str, Any], device: torch.device
) -> TrialConfig:
    """The configuration with what `auto` became in the training; with what this machine has, where it lacks that."""
    machine = this_machine(device)
    try:
        as_trained = resolved(config, machine, recorded)
        require_precision(as_trained.compute, device)
    except ConfigError:
        here = resolved(config, machine)
        trained, now = recorded["compute"]["precision"], here.compute.precision
        log.warning("%s: was trained in %s, which this machine lacks; it is evaluated in %s", checkpoint, trained, now)
        return here
    return as_trained
