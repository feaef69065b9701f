"""Pictures of the live table and of the dashboard as a search goes on, and what both cost.

    python tests/helpers/views.py pictures runs/demo-24ed --out docs
    python tests/helpers/views.py measure [--trials 300]

`pictures` shows a search that has ended as it was after a share of its events: `live.svg` and `dashboard.png`.
`measure` writes a search of many trials, eight of which run, and prints one JSON line: the share of a core that the
live table takes, seconds until the dashboard has read the search, those until its page is painted first, and processor
seconds of its server. Both need Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from browser import await_script, chromium
from checkout import ROOT
from PIL import Image
from rich.console import Console
from running import served

from orchestrator.base.formatting import duration
from orchestrator.show.live import HINT, Display
from orchestrator.show.logs import news
from orchestrator.show.search_text import progress_parts
from orchestrator.show.terminal import LiveView
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import read_description
from orchestrator.study.events import TrialReported
from orchestrator.study.study import TrialStatus
from orchestrator.summary import SearchReader

WATCHED_S = 30.0
SCREEN = (1280, 900)  # pixels; the picture shows two of them
DRAWN = "[...document.querySelectorAll('.chart')].filter((each) => each.querySelector('svg.main-svg')).length"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    pictures = verbs.add_parser("pictures")
    pictures.add_argument("search", type=Path)
    pictures.add_argument("--share", type=float, default=0.55, help="of its events")
    pictures.add_argument("--out", type=Path, default=Path())
    verbs.add_parser("measure").add_argument("--trials", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        if asked.verb == "pictures":
            place = Path(storage) / asked.search.name
            shutil.copytree(asked.search, place, ignore=shutil.ignore_patterns("lease", "requests", "checkpoint"))
            lines = (place / "journal.jsonl").read_bytes().splitlines(keepends=True)
            (place / "journal.jsonl").write_bytes(b"".join(lines[: int(asked.share * len(lines))]))
            draw(local_search(place), asked.out)
        else:
            sys.path.insert(0, str(ROOT))
            from benchmarks.bench_report import write_large_search

            folder = write_large_search(Path(storage) / "large", trials=asked.trials, epochs=60, running=8)
            print(json.dumps(measured(folder)))


def draw(folder: SearchFolder, out: Path) -> None:
    """Both pictures of a search, as if a process drove it."""
    with (
        folder.store.record(folder) as recorder,
        served("dashboard", folder.name, "--storage", folder.storage) as (address, _),
    ):
        reader = SearchReader(folder)
        summary, spent = reader.read(), recorder.history[-1].time - recorder.history[0].time
        parts = [*progress_parts(summary), f"{duration(spent)} elapsed"]
        console = Console(width=100, height=24, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
        console.print(LiveView(summary, parts, HINT, news(reader.recent)))
        console.save_svg(str(out / "live.svg"), title=f"reidsearch launch ({folder.name})")
        with chromium(*SCREEN) as browser:
            size = {"width": SCREEN[0], "height": SCREEN[1], "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(address)
            screens = []
            browser.execute_script(
                "document.documentElement.style.scrollbarWidth = 'none';"
                "document.querySelector('nav').style.position = 'static'"
            )
            for part in ("body", "#progress"):
                browser.execute_script(f"document.querySelector('{part}').scrollIntoView()")
                if screens:
                    await_script(browser, f"{DRAWN} >= 3")
                screens.append(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
                if part == "body":  # up to what the picture leaves out
                    top = "document.querySelector('#summary').getBoundingClientRect().top"
                    end = min(int(browser.execute_script(f"return {top}")), SCREEN[1])
                    screens = [screens[0].crop((0, 0, SCREEN[0], end))]
    picture = Image.new("RGB", (SCREEN[0], sum(screen.height for screen in screens)))
    picture.paste(screens[0], (0, 0))
    picture.paste(screens[1], (0, screens[0].height))
    picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    picture.quantize(128).save(out / "dashboard.png", optimize=True)


def measured(folder: SearchFolder) -> dict[str, Any]:
    """Processor seconds and times; the load of the machine is beside them."""
    with folder.store.record(folder) as recorder:
        console = Console(width=120, height=40, file=io.StringIO(), force_terminal=True)
        display = Display(folder, console)
        display.watch().started(recorder, read_description(folder.description))
        with display.showing():
            before = time.process_time()
            time.sleep(WATCHED_S)
            live = (time.process_time() - before) / WATCHED_S
        words = ("dashboard", folder.name, "--storage", folder.storage)
        with served(*words) as (address, server), chromium(1280, 900) as browser:
            began = time.monotonic()
            with urllib.request.urlopen(address) as answer:  # waits until the search is read
                answer.read()
            read, started = time.monotonic() - began, cpu_seconds(server)
            browser.get(address)
            await_script(browser, "document.readyState === 'complete'")
            (paint,) = browser.execute_script(
                "return performance.getEntriesByName('first-contentful-paint').map((each) => each.startTime / 1000)"
            )
            shown = cpu_seconds(server)
            trial = next(each for each in recorder.study.trials.values() if each.status == TrialStatus.RUNNING)
            later = trial.results[-1].model_copy(update={"epoch": trial.epoch + 1})
            recorder.record(TrialReported(trial=trial.key, result=later))
            bar = f"document.querySelector('[aria-label=\"epochs of {trial.key}\"]').value"
            await_script(browser, f"{bar} === {trial.epoch}")
            refreshed = cpu_seconds(server)
    return {
        "trials": len(recorder.study.trials),
        "live_share_of_a_core": round(live, 4),
        "read_s": round(read, 3),
        "first_paint_s": round(paint, 3),
        "server_cpu_s": {
            "start": started,
            "first_page": round(shown - started, 2),
            "refresh": round(refreshed - shown, 2),
        },
        "load": os.getloadavg()[0],
    }


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
