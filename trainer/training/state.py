"""The state of a training: everything that changes while it runs, and what of it the checkpoints hold.

best.pt   `config`, `data` (a `DataRecord`: what was trained on), `held_out` (identities that were not), `epoch` and
          `model`: all that an evaluation needs
last.pt   the same, and `learner`, `meters`, `damaged`, `history`: all that a resume needs

Randomness is in neither: it derives from seed, purpose and position (`trainer.seeds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from trainer.checkpoint import load_checkpoint
from trainer.config import TrialConfig
from trainer.data.frames import DamagedFrames
from trainer.errors import CheckpointError
from trainer.result import DataRecord, EpochResult
from trainer.settings import differing_settings
from trainer.training.learner import Learner
from trainer.training.meters import EpochMeters

LAST_CHECKPOINT = Path("checkpoint/last.pt")
BEST_CHECKPOINT = Path("checkpoint/best.pt")


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint from which a run in `out` resumes; None before the first was saved."""
    path = out / LAST_CHECKPOINT
    return path if path.is_file() else None


def read_state(path: Path) -> dict[str, Any]:
    """What `TrainingState.save_last` wrote.

    Raises:
        CheckpointError: the file is damaged, or holds weights only.
    """
    state = load_checkpoint(path)
    if "learner" not in state:
        raise CheckpointError(f"{path}: holds weights only; training resumes from a last.pt")
    return state


class TrainingState:
    """What a training changes."""

    def __init__(
        self, config: TrialConfig, source: DataRecord, held_out: Set[int], learner: Learner, damage: DamagedFrames
    ) -> None:
        """The state before the first epoch; `held_out` are the identities that are not trained on."""
        self._config, self._source, self._held_out = config, source, held_out
        self.learner = learner
        """Network, losses, optimizer, average of the weights."""
        self.damage = damage
        """Damaged frames met so far."""
        self.meters = EpochMeters()
        """Sums over the epoch that is under way."""
        self.history: list[EpochResult] = []
        """Results of the finished epochs."""

    def checkpoints(self, out: Path, *, best: bool) -> dict[Path, dict[str, Any]]:
        """What `last.pt` of the run in the folder `out` has to hold, after `best.pt` if this is the `best` network."""
        weights = self._weights()
        state = {
            "learner": self.learner.state(),
            "meters": self.meters.state(),
            "damaged": self.damage.state(),
            "history": [result.model_dump(mode="json") for result in self.history],
        }
        return ({out / BEST_CHECKPOINT: weights} if best else {}) | {out / LAST_CHECKPOINT: weights | state}

    def restore(self, path: Path, state: Mapping[str, Any]) -> None:
        """Takes over what `read_state` found in the file.

        Raises:
            CheckpointError: it belongs to another configuration.
        """
        differing = differing_settings(self._config.model_dump(mode="json"), state["config"])
        if differing:
            raise CheckpointError(
                f"{path}: was trained with other settings ({', '.join(differing)}); start a new run in another folder"
            )
        self.learner.restore(state["learner"])
        self.meters = EpochMeters.restored(state["meters"], self.learner.device)
        self.damage.add(state["damaged"])
        self.history = [EpochResult.model_validate(result) for result in state["history"]]

    def _weights(self) -> dict[str, Any]:
        return {
            "config": self._config.model_dump(mode="json"),
            "data": self._source.model_dump(),
            "held_out": sorted(map(int, self._held_out)),
            "epoch": len(self.history),
            "model": self.learner.weights(),
        }
