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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from orchestrator.study.events import AttemptFailed
from orchestrator.study.journal import Journal, read_journal

# A journal longer than this is put aside for a new one, or reading it would take most of the time.
LONG_JOURNAL_BYTES = 1 << 20
LONGEST_LIFE_S = 0.01
# A process that saves checkpoints lives through a few of them.
LONGEST_SAVING_S = 0.3
CHECKPOINT_NUMBERS = 1 << 21


def main() -> int:
    """Runs what is asked for; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["journal", "checkpoint", "search"])
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
        if asked.what == "checkpoint":
            return _checkpoint(folder, asked.kills, asked.seed)
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
        life = chance.uniform(0, LONGEST_LIFE_S)
        said = _one_life(partial(_append_forever, path), life, speaks_first=bool(number % 2))
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


def _one_life(work: Callable[[int], None], seconds: float, *, speaks_first: bool) -> list[int]:
    """Numbers that a process acknowledged before it was killed, by writing them to the descriptor given to its work.

    The seconds count from its first word, or from its birth, so that some die while they begin.
    """
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            os.close(ours)
            work(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answers:
        first = answers.readline() if speaks_first else b""
        time.sleep(seconds)
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        said = (first + answers.read()).splitlines(keepends=True)
    return [int(line) for line in said if line.endswith(b"\n")]


def _append_forever(path: Path, acknowledge: int) -> None:
    journal = Journal(path)
    for number in itertools.count(len(journal.records) + 1):
        journal.append(_event(number))
        os.write(acknowledge, b"%d\n" % number)


def _event(number: int) -> AttemptFailed:
    """An event that says its number; every fourth is long enough for a kill to fall into its writing."""
    reason = "x" * (200_000 if number % 4 == 0 else 10)
    return AttemptFailed(trial="t0000", attempt=number, failure="error", reason=reason)


def _checkpoint(folder: Path, kills: int, seed: int) -> int:
    """Lets one process after another train and save all the time, and ends each by SIGKILL at a random moment.

    Afterwards `best.pt` and `last.pt` have to be whole, `best.pt` not the older one, and neither older than what was
    acknowledged.
    """
    import torch

    from trainer.checkpoint import load_checkpoint
    from trainer.errors import CheckpointError

    torch.set_num_threads(1)  # a fork cannot use the threads of its parent
    began, chance = time.monotonic(), random.Random(seed)
    last, best = folder / "last.pt", folder / "best.pt"
    saved = midway = lost = newest = 0
    for number in range(kills):
        life, born = chance.uniform(0, LONGEST_SAVING_S), time.time()
        # The first one leaves a state behind.
        said = _one_life(partial(_save_forever, folder, newest), life, speaks_first=number % 2 == 0)
        saved, newest = saved + len(said), max(said, default=newest)
        midway += any(_is_midway(path) and path.stat().st_mtime > born for path in folder.iterdir())
        try:
            found = [load_checkpoint(path) for path in (best, last)]
        except CheckpointError as error:
            print(error)
            lost += 1
            continue
        whole = all(bool((state["weights"] == state["epoch"]).all()) for state in found)
        lost += not (whole and found[0]["epoch"] >= found[1]["epoch"] >= newest)
        newest = found[1]["epoch"]
    print(
        f"{kills} kills of a process that saves in {time.monotonic() - began:.0f} s: {saved} states acknowledged, "
        f"{midway} kills while files were written, {lost} lost"
    )
    return 1 if lost else 0


def _is_midway(path: Path) -> bool:
    """Whether the file is one that a save leaves only where it is cut short."""
    return path.suffix == ".tmp" or (path.suffix == ".sha256" and len(path.read_text().splitlines()) > 1)


def _save_forever(folder: Path, known: int, acknowledge: int) -> None:
    """Trains on while each state is written; its numbers are all the number of the epoch at that moment."""
    import torch

    from trainer.checkpoint import CheckpointWriter

    weights = torch.full((CHECKPOINT_NUMBERS,), float(known))
    with CheckpointWriter(torch.device("cpu")) as writer:
        for epoch in itertools.count(known + 1):
            weights += 1
            states = {folder / f"{name}.pt": {"epoch": epoch, "weights": weights} for name in ("best", "last")}
            writer.begin(states)  # which waits for the one before
            if epoch > known + 1:
                os.write(acknowledge, b"%d\n" % (epoch - 1))


if __name__ == "__main__":
    sys.exit(main())
