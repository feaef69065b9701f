"""Readers of data sets, one file for each."""

from __future__ import annotations

from trainer.data.dataset import DataSet
from trainer.data.readers.ilids_vid import ILIDS_VID
from trainer.data.readers.ls_vid import LS_VID
from trainer.data.readers.mars import MARS
from trainer.data.readers.prid2011 import PRID2011
from trainer.data.readers.tracklets import TRACKLETS

READERS: dict[str, DataSet] = {
    "mars": MARS,
    "prid2011": PRID2011,
    "ilids_vid": ILIDS_VID,
    "ls_vid": LS_VID,
    "tracklets": TRACKLETS,
}
"""Reads the data set below a folder; `DataError` names the file that is missing or wrong."""
