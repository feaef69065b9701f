"""What a search and its trials did, as `reidsearch logs` prints it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from searches import completed, write_search

from orchestrator.base.formatting import utc, with_utc
from orchestrator.runner.attempt import logging_to
from orchestrator.runner.trial_spec import LOG_FILE
from orchestrator.show.logs import log_lines
from orchestrator.space.search_space import SearchSpace

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time is not UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_events_and_what_an_attempt_logged_have_one_form_of_time(tmp_path: Path, in_tokyo: None) -> None:
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), completed(0, 0.5))
    folder.trial("t0000").mkdir(parents=True)
    with logging_to(folder.trial("t0000") / LOG_FILE):
        logging.getLogger("trainer").info("weights were loaded")
    lines = list(log_lines(folder, "t0000", follow=False))
    assert lines[-1].endswith("Z weights were loaded") and len(lines) > 3
    assert all(TIME.match(line) for line in lines)


def test_times_are_utc_wherever_it_runs(in_tokyo: None) -> None:
    record = logging.LogRecord("trainer", logging.INFO, "", 0, "saved", None, None)
    record.created = 86400.5
    assert with_utc("%(asctime)s %(message)s").format(record) == "1970-01-02T00:00:00Z saved"
    assert utc(86400.5) == "1970-01-02T00:00:00Z"
