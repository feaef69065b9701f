"""The names that programs outside of the project rely on."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

import pytest

NAMES = {
    "trainer": ["fit", "TrialConfig", "EpochResult"],
    "trainer.losses": ["batch_hard_triplet", "center_loss", "osm_caa", "erased_frame_attention"],
    "trainer.model": ["TemporalAttention", "AttentionOutput", "TemporalAttentionResNet", "ModelOutput"],
    "trainer.metrics": ["evaluate_ranking", "Ranking"],
    "trainer.rerank": ["k_reciprocal_distance"],
    "trainer.data": ["READERS", "Tracklet", "Splits"],
    "trainer.clips": ["frame_windows"],
    "orchestrator": ["launch", "load", "resume", "Search"],
    "orchestrator.space": ["SearchSpace"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_name_that_others_rely_on_is_there(module: str, name: str) -> None:
    assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("module", ["orchestrator.space", "trainer"])
def test_a_face_that_loads_late_has_no_other_names(module: str) -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = import_module(module).nothing_like_it


def test_losses_and_metrics_take_what_they_always_took() -> None:
    from trainer.losses import osm_caa
    from trainer.metrics import evaluate_ranking
    from trainer.rerank import k_reciprocal_distance

    assert list(signature(osm_caa).parameters)[:3] == ["embeddings", "labels", "class_vectors"]
    assert "protocol" in signature(evaluate_ranking).parameters
    assert signature(k_reciprocal_distance).parameters["k1"].default == 20
