"""Kills things at random moments and counts what was lost: `python tests/helpers/chaos.py WHAT --kills N --seed S`."""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from orchestrator.study.events import AttemptFailed
from orchestrator.study.journal import Journal, read_journal

# A journal longer than this is put aside for a new one, or reading it would take most of the time.
LONG_JOURNAL_BYTES = 1 << 20
LONGEST_LIFE_S = 0.01


def main() -> int:
    """Runs what is asked for; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["journal", "search"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", nargs="+", help="of `search`: driver, attempt, raylet, GCS (default: all)")
    parser.add_argument("--keep", type=Path, help="leave everything in this folder, which must not exist yet")
    asked = parser.parse_args()
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=asked.keep is None)
        if asked.what == "journal":
            return _journal(folder, asked.kills, asked.seed)
        from kills import VICTIMS, batter_searches

        return batter_searches(folder, asked.kills, asked.seed, asked.victims or VICTIMS)


def _journal(folder: Path, kills: int, seed: int) -> int:
    began = time.monotonic()
    toll = kill_writers(folder, kills, seed)
    print(
        f"{kills} kills of the writer in {time.monotonic() - began:.0f} s: {toll.acknowledged} events acknowledged, "
        f"{toll.in_flight} more on disk, {toll.cut_short} lines cut short, {toll.lost} lost"
    )
    return 1 if toll.lost else 0


class Toll(NamedTuple):
    """What kills of the journal's writer did."""

    acknowledged: int = 0
    lost: int = 0
    """Acknowledged, but not there afterwards, or there with another content."""
    in_flight: int = 0
    """There, though the writer died before it could say so."""
    cut_short: int = 0
    """Times that the file ended in the middle of a line."""


def kill_writers(folder: Path, kills: int, seed: int) -> Toll:
    """Lets one process after another write to a journal and ends each by SIGKILL at a random moment."""
    chance = random.Random(seed)
    toll, before = Toll(), 0
    path = folder / "0" / "journal.jsonl"
    for number in range(kills):
        if not path.exists() or path.stat().st_size > LONG_JOURNAL_BYTES:
            path, before = folder / str(number) / "journal.jsonl", 0
            path.parent.mkdir()
        said = _one_life(path, chance.uniform(0, LONGEST_LIFE_S), speaks_first=bool(number % 2))
        content = path.read_bytes() if path.exists() else b""
        kept = [record.event for record in read_journal(path)]
        right = sum(event == _event(position) for position, event in enumerate(kept, 1))
        toll = Toll(
            toll.acknowledged + len(said),
            toll.lost + max(0, max(said, default=before) - right),
            toll.in_flight + max(0, len(kept) - max(said, default=before)),
            toll.cut_short + (content[-1:] not in (b"", b"\n")),
        )
        before = len(kept)
    return toll


def _one_life(path: Path, seconds: float, *, speaks_first: bool) -> list[int]:
    """Numbers of the events that a writer acknowledged before it was killed.

    The seconds count from its first word, or from its birth, so that some die while they open the journal.
    """
    ours, theirs = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(ours)
        _write_until_killed(path, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answers:
        first = answers.readline() if speaks_first else b""
        time.sleep(seconds)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        said = (first + answers.read()).splitlines(keepends=True)
    return [int(line) for line in said if line.endswith(b"\n")]


def _write_until_killed(path: Path, acknowledge: int) -> None:
    try:
        journal = Journal(path)
        for number in itertools.count(len(journal.records) + 1):
            journal.append(_event(number))
            os.write(acknowledge, b"%d\n" % number)
    finally:
        os._exit(1)


def _event(number: int) -> AttemptFailed:
    """An event that says its number; every fourth is long enough for a kill to fall into its writing."""
    reason = "x" * (200_000 if number % 4 == 0 else 10)
    return AttemptFailed(trial="t0000", attempt=number, failure="error", reason=reason)


if __name__ == "__main__":
    sys.exit(main())
