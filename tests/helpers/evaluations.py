"""Evaluations, networks and searches as a trial leaves them, without a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from searches import write_search

from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.base import SearchFolder
from orchestrator.study.events import (
    Event,
    TrialSuggested,
)
from orchestrator.summary import read_summary
from trainer.checkpoint import save_checkpoint
from trainer.config import TrialConfig
from trainer.evaluation.query_metrics import QueryMetrics, write_query_metrics
from trainer.model.network import TemporalAttentionResNet


def checkpoint(path: Path, config: TrialConfig, *, classes: int, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = TemporalAttentionResNet(config.model, classes)
    save_checkpoint(path, {"config": config.model_dump(mode="json"), "epoch": 1, "model": model.state_dict()})
    return path


def queries(average_precision: list[float]) -> QueryMetrics:
    """Of identities 1, 1, 2, 2 ... under cameras 1, 2, 1, 2 ..., with a gallery of cameras 1, 2 and 3."""
    precision = np.array(average_precision)
    count = len(precision)
    return QueryMetrics(
        average_precision=precision,
        valid=~np.isnan(precision),
        identity=np.arange(count) // 2 + 1,
        camera=np.arange(count) % 2 + 1,
        frames=np.full(count, 7),
        first_frame=np.array([f"{place:04d}.jpg" for place in range(count)]),
        gallery_cameras=np.array([1, 2, 3]),
        by_camera=np.repeat(precision[:, None], 3, axis=1),
    )


def evaluation(folder: Path, per_query: QueryMetrics, **changes: object) -> Path:
    """A folder as an evaluation writes it."""
    folder.mkdir(exist_ok=True)
    write_query_metrics(folder, per_query)
    description = {"protocol": "mars", "fingerprint": "ab", "synthetic": False, "mAP": 0.5} | changes
    (folder / "evaluation.json").write_text(json.dumps(description))
    return folder


def save_network(folder: SearchFolder, key: str, epoch: int = 3) -> TrialConfig:
    """What a trial of the space `smoke` leaves."""
    summary = read_summary(folder)
    trial = summary.trial(key)
    config = summary.space.config(trial.params, seed=trial.seed)
    torch.manual_seed(0)
    model = TemporalAttentionResNet(config.model, 5)
    state = {"config": config.model_dump(mode="json"), "epoch": epoch, "model": model.state_dict()}
    save_checkpoint(folder.trial(key) / "checkpoint/best.pt", state)
    return config


BETTER = [0.2, 0.5, 0.9, 0.4, 0.7, 0.8]


WORSE = [0.1, 0.5, 0.8, 0.3, 0.5, 0.9]


def search(storage: Path, name: str, events: list[Event], *, evaluated: bool = True, fingerprint: str = "0") -> None:
    """A search with what its trials leave on disk."""
    space = SearchSpace.load("smoke.yaml")
    folder = write_search(storage / name, space, events, fingerprint=fingerprint)
    folder.split.write_text('{"identities": [1]}')
    for event in events:
        if isinstance(event, TrialSuggested):
            out = folder.trial(event.trial)
            out.mkdir(parents=True)
            config = space.config(event.params, seed=event.seed)
            (out / "config.json").write_text(config.model_dump_json())
            if evaluated:
                precision = BETTER if event.index else WORSE
                evaluation(out / "evaluation", queries(precision), synthetic=True)
