"""Feeds hostile inputs to the readers of `hostile.py`, guided by the lines of code that they reach.

    python tests/helpers/fuzz.py journal --runs 10000 --seed 0

Stops at the first fault, with an exit code other than 0; the input, made as small as it gets in a few seconds, is then
in tests/helpers/regressions/, whose files `test_hostile_inputs.py` feeds ever after. Needs atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["trainer", "orchestrator", "yaml"]):
    import hostile

REGRESSIONS = Path(__file__).with_name("regressions")
MOST_SECONDS, MOST_BYTES = 1.0, 500 * 2**20
SHRINKING_S = 10.0


def main() -> None:
    """One reader, as many runs as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reader", choices=hostile.READERS)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    reader = hostile.READERS[asked.reader]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        searches, data, place = hostile.folders(Path(base))
        seeds = reader.seeds(searches if asked.reader in hostile.OF_SEARCHES else data)
        corpus = Path(base).parent / f"{Path(base).name}-corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
            hostile.check(reader, seed, place)  # what is loaded once is not any input's fault
        run = _Run(asked.reader, reader, place)

        def mutate(content: bytes, most: int, seed: int) -> bytes:
            chance = random.Random(seed)
            if chance.random() < 0.3:
                return atheris.Mutate(content, most)  # type: ignore[no-any-return]
            return hostile.mutated(content, reader.words, chance, chance.choice((1, 1, 2, 4)))[:most]

        longest = max(map(len, seeds))
        options = [f"-runs={asked.runs}", f"-seed={asked.seed + 1}", f"-max_len={2 * longest + 4096}", "-len_control=0"]
        atheris.Setup(
            [sys.argv[0], *options, "-rss_limit_mb=0", "-print_final_stats=1", str(corpus)],
            run.once,
            custom_mutator=lambda content, most, seed: mutate(bytes(content), most, seed),
        )
        atheris.Fuzz()


class _Run:
    """One input after another."""

    def __init__(self, name: str, reader: hostile.Reader, place: Path) -> None:
        self._name = name
        self._reader = reader
        self._place = place

    def once(self, data: bytes) -> None:
        """Feeds an input; a fault is written down and ends everything."""
        try:
            self._measured(bytes(data))
        except hostile.Fault as fault:
            small = self._shrunk(bytes(data), str(fault))
            REGRESSIONS.mkdir(exist_ok=True)
            path = REGRESSIONS / f"{self._name}-{hashlib.sha256(small).hexdigest()[:8]}"
            path.write_bytes(small)
            print(f"{path}: {fault}", file=sys.stderr, flush=True)
            raise

    def _measured(self, data: bytes) -> None:
        before, began = _peak(), time.process_time()
        hostile.check(self._reader, data, self._place)
        if (seconds := time.process_time() - began) > MOST_SECONDS:
            raise hostile.Fault(f"slow: {seconds:.1f} s")
        if (more := _peak() - before) > MOST_BYTES:
            raise hostile.Fault(f"large: {more / 2**20:.0f} MB")

    def _shrunk(self, data: bytes, fault: str) -> bytes:
        """The input without what the fault does not need."""
        kind, end = fault[:20], time.monotonic() + SHRINKING_S
        size = len(data) // 2
        while size and time.monotonic() < end:
            at = 0
            while at < len(data) and time.monotonic() < end:
                smaller = data[:at] + data[at + size :]
                try:
                    self._measured(smaller)
                    at += size
                except hostile.Fault as other:
                    if str(other)[:20] == kind:
                        data = smaller
                    else:
                        at += size
            size //= 2
        return data


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
