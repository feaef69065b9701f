"""When the state of a training is saved, and when its epochs are reported."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from trainer.checkpoint import CheckpointConfig, CheckpointWriter
from trainer.result import EpochResult, Report
from trainer.training.state import TrainingState

# With `checkpoint.every: auto` a resume repeats at most so much, besides the time of a save.
SAVE_PERIOD_S = 300.0


class Saver:
    """Saves the state while training goes on; reports epochs, in their order, when a resume would not repeat them."""

    def __init__(
        self, config: CheckpointConfig, writer: CheckpointWriter, state: TrainingState, out: Path, report: Report
    ) -> None:
        """The state, fresh or restored, counts as saved."""
        self._every, self._writer, self._state, self._out, self._report = config.every, writer, state, out, report
        self._unreported: list[EpochResult] = []
        # Of the latest last.pt, which may be under way: its epochs and batches, and when its saving began.
        self._saved, self._began = self._position, time.monotonic()

    def report(self, result: EpochResult) -> None:
        """Reports a finished epoch: at once, or when it is on disk."""
        self._unreported.append(result)
        self._report_saved()

    def after_step(self) -> None:
        """Saves where `auto` wants it, and reports what is on disk by now; waits for nothing.

        Raises:
            OSError: the disk is full or fails, as in all methods but `end`.
        """
        if self._every == "auto" and self._position != self._saved and self._writer.is_idle():
            is_old = time.monotonic() - self._began >= SAVE_PERIOD_S
            if is_old or len(self._state.history) > self._saved[0]:
                self._begin()
        self._report_saved()

    def after_epoch(self, *, best: bool, last: bool) -> None:
        """Saves where it is due: with the `best` network so far, and after the `last` epoch, which is waited for.

        `last.pt` follows every `best.pt`: epochs that are trained again then never put a lesser network in its place.
        """
        if best or last or (self._every != "auto" and len(self._state.history) % self._every == 0):
            self._begin(best=best)
        else:
            self.after_step()
        if last:
            self._writer.wait()

    def save(self) -> None:
        """Saves the state as it is, waits until it is on disk, and reports its epochs."""
        self._begin()
        self._writer.wait()
        self._report_saved()

    def end(self) -> None:
        """Waits for what is under way and reports its epochs, in a training that another error ends."""
        with suppress(OSError):
            self._writer.wait()
            self._report_saved()

    @property
    def _position(self) -> tuple[int, int]:
        return len(self._state.history), self._state.meters.batches

    def _begin(self, *, best: bool = False) -> None:
        self._writer.wait()
        self._report_saved()
        self._writer.begin(self._state.checkpoints(self._out, best=best))
        self._saved, self._began = self._position, time.monotonic()

    def _report_saved(self) -> None:
        if not self._writer.is_idle():
            return
        safe = self._saved[0] + (0 if self._every == "auto" else self._every - 1)
        while self._unreported and self._unreported[0].epoch <= safe:
            self._report(self._unreported.pop(0))
