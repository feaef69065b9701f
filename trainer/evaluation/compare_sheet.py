"""What several networks find for the same queries, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.config import TrialConfig
from trainer.data.dataset import PROTOCOLS
from trainer.evaluation.evaluate import assess
from trainer.evaluation.retrieval import RankedQuery, nearest
from trainer.plots.sheets import ranking_sheet
from trainer.result import Progress, no_progress


class Network(NamedTuple):
    """A trained network, and what it is judged on."""

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
    found = [_rankings(network, places, progress) for network in networks]
    rows = [rankings[number] for number in range(len(places)) for rankings in found]
    title = "each query as answered by " + ", then ".join(network.name for network in networks)
    ranking_sheet(rows, out, title=title, synthetic=synthetic)


def _rankings(network: Network, places: Sequence[int], progress: Progress) -> list[RankedQuery]:
    config = network.config
    settings = config.evaluation.model_copy(update={"reranking": False})
    config = config.model_copy(update={"evaluation": settings})
    lineup = assess(config, network.checkpoint, part="validation", split=network.split, progress=progress).lineup
    return nearest(
        lineup.query_vectors,
        lineup.gallery_vectors,
        lineup.query,
        lineup.gallery,
        which=places,
        metric=settings.distance,
        protocol=PROTOCOLS[settings.protocol].precision,
    )
