"""A network of the demo space learns something: figures, not only finished runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.space.search_space import SearchSpace
from trainer import evaluate, fit
from trainer.data.synthetic.dataset import write_synthetic

pytestmark = pytest.mark.e2e


def test_the_demos_first_trial_beats_its_untrained_network_by_fifteen_points_of_map(tmp_path: Path) -> None:
    root = tmp_path / "mini-mars-demo"
    write_synthetic(root, size="demo", seed=0)
    space = SearchSpace.load("demo.yaml", overrides=[f"data.root={root}"])
    config = space.config(space.start[0])
    untrained = evaluate(config, None, part="validation").evaluation
    trained = fit(config, out=tmp_path / "run").history[-1].validation
    assert trained is not None
    assert trained.mAP >= untrained.mAP + 0.15
    assert trained.queries == untrained.queries >= 50
