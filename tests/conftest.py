"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.config import TrialConfig
from trainer.data.synthetic import write_synthetic


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests compare figures bit by bit, and two cores are shared by everything that runs."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mini_mars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny generated data set."""
    root = tmp_path_factory.mktemp("data") / "mini-mars-tiny"
    write_synthetic(root, size="tiny", seed=0, workers=1)
    return root


@pytest.fixture
def tiny_config(mini_mars: Path) -> TrialConfig:
    """A trial of about a second on the tiny data set, with every loss term at work."""
    return TrialConfig.model_validate(
        {
            "data": {"root": str(mini_mars), "validation": {"share": 0.4}},
            "clips": {"persons": 4, "tracklets": 2, "frames": 2, "pad": 2},
            "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1},
            "optim": {"epochs": 4, "learning_rate": 2e-3},
            "evaluation": {"every": 1, "folder": False},
        }
    )
