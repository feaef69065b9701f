"""Frame windows, see `trainer.input.clips`."""

from trainer.input.clips import frame_windows

__all__ = ["frame_windows"]
