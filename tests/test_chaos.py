"""Whole searches under kills at random moments; `make chaos` runs more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# `make chaos` does thirty of them; in `make test` test_search.py kills its driver and a trial.
pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_five_kills_lose_no_epoch_repeat_no_epoch_and_leave_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "search", "--kills", "5", "--seed", "0"]
    with subprocess.Popen([*command, "--keep", str(tmp_path / "kept")], stdout=subprocess.PIPE, text=True) as chaos:
        try:
            output, _ = chaos.communicate()
        finally:
            # Ends its search as well.
            chaos.terminate()
    assert chaos.returncode == 0, output
    assert "5 kills" in output
