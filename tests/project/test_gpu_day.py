"""The prepared run on a GPU: no part takes another along, and what a part found before it failed is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from benchmarks import gpu_day
from benchmarks.gpu_day import EXPECTED, PARTS, STEPS, WHOLE_S, Part, Row, run_part, table


def part(tmp_path: Path, program: str, limit_s: float = 60) -> dict[str, object]:
    """A part that writes a row and goes on as the program says."""
    writes = f"open({str(tmp_path / 'part.jsonl')!r}, 'w').write({json.dumps(['a', 1.5, 's'])!r})\n"
    program = "import os, subprocess, sys, time\n" + writes + program
    return run_part([sys.executable, "-c", program], tmp_path / "part", limit_s)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("", None),
        ("print('no GPU'); sys.exit(3)", "exit code 3: no GPU"),
        ("1 / 0", "exit code 1: ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), 9)", "exit code -9: no word"),
    ],
)
def test_what_a_part_found_is_kept_however_it_ends(tmp_path: Path, program: str, problem: str | None) -> None:
    found = part(tmp_path, program)
    assert (found["rows"], found["problem"]) == ([["a", 1.5, "s"]], problem)


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = f"subprocess.Popen([sys.executable, '-c', {'import os, time; ' + child!r}]); time.sleep(60)"
    found = part(tmp_path, program, limit_s=3)
    assert (found["rows"], found["problem"]) == ([["a", 1.5, "s"]], "ended at its limit of 3 s")
    number = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE)


def test_without_time_a_part_is_not_begun(tmp_path: Path) -> None:
    assert part(tmp_path, "", limit_s=-1)["problem"] == "no time was left for it"


def test_a_failed_part_stands_in_the_table_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "step": {"rows": [["step, fp32, 256x128", 1100.4, "images/s"]], "problem": None, "seconds": 1.0},
        "losses": {"rows": [], "problem": "exit code 1: x", "seconds": 2.0},
        "saving": {"rows": [["saving last.pt", 3.25, "s"]], "problem": None, "seconds": 3.0},
    }
    monkeypatch.setattr(gpu_day, "run_part", lambda command, at, limit_s: answers[at.name])
    monkeypatch.setattr(sys, "argv", ["gpu_day", "--out", str(tmp_path / "out"), "--only", *answers])
    assert gpu_day.main() == 1
    printed = capsys.readouterr().out
    assert "| step | step, fp32, 256x128 | 1,100 | images/s | 900 to 1,300 |" in printed
    assert "| losses | **failed** | exit code 1: x | | |" in printed
    assert "| saving | saving last.pt | 3.25 | s | 3 to 5 |" in printed
    assert json.loads((tmp_path / "out" / "gpu_day.json").read_text()) == {"small": False, "parts": answers}
    assert (tmp_path / "out" / "gpu_day.md").read_text() in printed


def test_rows_are_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def rows(small: bool):  # type: ignore[no-untyped-def]
        yield Row("first", 1.0)
        seen.append(len((tmp_path / "machine.jsonl").read_text().splitlines()))
        yield Row("second", "text")

    monkeypatch.setattr(gpu_day, "PARTS", {"machine": Part(rows, 1.0)})
    monkeypatch.setattr(gpu_day, "prepare_process", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["gpu_day", "--out", str(tmp_path), "--part", "machine", "--small"])
    assert gpu_day.main() == 0
    assert seen == [1]


@pytest.mark.parametrize("name", ["machine", "saving"])
def test_parts_run_small_on_a_processor(name: str) -> None:
    began = time.monotonic()
    rows = list(PARTS[name].rows(True))
    assert rows and all(row.what and (isinstance(row.value, str) or row.value >= 0) for row in rows), rows
    assert table({name: {"rows": rows, "problem": None}}, {}).count("\n") == len(rows) + 2
    assert time.monotonic() - began < 60


def test_limits_leave_each_part_its_time_and_expected_figures_belong_to_what_is_measured() -> None:
    assert sum(each.limit_s for name, each in PARTS.items() if name != "search") <= 1.3 * WHOLE_S
    steps = {f"step, {name}" for name, *_ in STEPS}
    assert {what for what in EXPECTED if what.startswith("step,")} <= steps


@pytest.mark.e2e
@pytest.mark.long
def test_the_whole_run_small_measures_every_part_on_a_processor(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=gpu_day.REPOSITORY, capture_output=True, text=True, check=False)
    parts = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]
    assert done.returncode == 0, done.stderr
    assert list(parts) == list(PARTS) and all(part["rows"] and not part["problem"] for part in parts.values())
