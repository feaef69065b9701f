"""Data of one's own, imported: folders of frames, or a tracker's boxes and videos, written as `tracklets` are read."""

from __future__ import annotations

from trainer.data.importing.source import ImportOptions, read_source
from trainer.data.importing.write import ImportSummary, import_data

__all__ = ["ImportOptions", "ImportSummary", "import_data", "read_source"]
