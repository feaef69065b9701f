"""What several test modules share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from object_store import CREDENTIALS, Machines, ObjectStore, object_store

from trainer.config import TrialConfig
from trainer.data.synthetic.dataset import write_synthetic

# Neither how long an example takes nor how long it takes to find is a property of the code on a busy machine.
settings.register_profile("patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests compare figures bit by bit, and two cores are shared by everything that runs."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests confirm is not what the user confirmed, also in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Commands that train let their process flush denormal numbers to 0; tests run in the same process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def mini_mars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny generated data set."""
    root = tmp_path_factory.mktemp("data") / "mini-mars-tiny"
    write_synthetic(root, size="tiny", seed=0, workers=1)
    return root


@pytest.fixture(scope="session")
def tiny_config(mini_mars: Path) -> TrialConfig:
    """A trial of about a second on the tiny data set, with every loss term at work."""
    return TrialConfig.model_validate(
        {
            "data": {"root": str(mini_mars), "validation": {"share": 0.4}},
            "clips": {"identities": 4, "tracklets": 2, "frames": 2, "pad": 2, "workers": 0},
            "model": {"backbone": "tiny", "weights": "none", "height": 32, "width": 16},
            "loss": {"osm_share": 0.5, "center_weight": 5e-4, "attention_weight": 0.1},
            "optim": {"epochs": 4, "learning_rate": 2e-3},
            "evaluation": {"every": 1, "folder": False},
            "compute": {"precision": "fp32", "tf32": False},
            "checkpoint": {"every": 1},  # an epoch is reported before the next one is saved, however slow the disk is
        }
    )


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """A real server of the S3 protocol."""
    with object_store() as found:
        yield found


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Machines that share nothing but a storage; the first is called `here`."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    found = Machines(tmp_path / "machines", monkeypatch)
    found.become("here")
    return found


@pytest.fixture(params=["memory", "s3"])
def uri(request: pytest.FixtureRequest, store: ObjectStore, machines: Machines) -> str:
    """A bucket in the memory of this process, and one of a real server."""
    return store.bucket() if request.param == "s3" else f"memory://bucket-{secrets.token_hex(4)}/searches"
