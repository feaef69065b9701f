"""What a long search costs the process that drives it; `make soak` runs hundreds of trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_forty_trials_leave_the_driver_as_it_was_after_the_first_twenty(tmp_path: Path) -> None:
    findings = soak(tmp_path / "s", 40)
    print(f"\n{findings}")
    assert len(findings.waits) == 40
    assert findings.growth <= 100
    assert findings.reload_s + findings.summary_s <= 2
