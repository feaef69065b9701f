"""The report in a real browser: with Ax's cards, without a network, on a desk and on a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from events import epoch_result
from searches import completed, write_search

from orchestrator.__main__ import run
from orchestrator.show.report.page import POLICY
from orchestrator.space.search_space import SearchSpace
from orchestrator.study.events import (
    Forecast,
    SessionEnded,
    TrialPaused,
    TrialReported,
    TrialStarted,
    TrialSuggested,
)

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
# Nothing can be reached: every request goes to a proxy that is not there.
OFFLINE = ("--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking")
WIDTHS = {"desk": 1280, "phone": 390}
# A page around two reports, which looks into them once every figure is drawn.
AROUND = """<!doctype html><body>{frames}<pre id="found"></pre><script>
const look = (frame) => {{
  const page = frame.contentDocument, root = page.documentElement;
  const heading = [...page.querySelectorAll("#all-trials button")].find((button) => button.textContent === "mAP");
  const first = () => page.querySelector("#all-trials tbody tr th").textContent.slice(0, 5);
  heading.click();
  const worst = first();
  heading.click();
  const places = [...page.querySelectorAll(".chart")];
  return {{
    charts: places.map((place) => place.id),
    drawn: places.filter((place) => place.querySelector("svg.main-svg")).map((place) => place.id),
    overflow: root.scrollWidth - root.clientWidth,
    wide: places.filter((place) => !place.closest(".wide")
      && place.querySelector("svg.main-svg").getBoundingClientRect().width > root.clientWidth).length,
    covered: places.filter((place) => {{
      const bar = place.querySelector(".modebar"), drawn = place.querySelector("svg.main-svg").getBoundingClientRect();
      const [inner, outer] = [bar?.getBoundingClientRect(), place.getBoundingClientRect()];
      return bar && (inner.bottom > drawn.top + 0.5 || inner.top < outer.top - 0.5 || inner.right > outer.right + 0.5);
    }}).map((place) => place.id),
    fans: page.querySelectorAll("#curve-0 .fills path").length,
    bars: places.filter((place) => place.querySelector(".modebar")).length,
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
    banner: page.querySelector(".banner").textContent,
    sorted: [worst, first()],
  }};
}};
addEventListener("load", () => setTimeout(() => {{
  const frames = [...document.querySelectorAll("iframe")];
  const found = Object.fromEntries(frames.map((frame) => [frame.name, look(frame)]));
  document.getElementById("found").textContent = JSON.stringify(found);
}}, 5000));
</script>"""


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what they and the browser said in the console."""
    assert BROWSER is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        f"--user-data-dir={profile}",
    ]
    watched = ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(
        [BROWSER, *flags, *OFFLINE, *watched], capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.e2e
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian: apt-get install chromium")
def test_the_page_works_in_a_browser_without_a_network(tmp_path: Path) -> None:
    space = SearchSpace.load("smoke.yaml", overrides=["budget.trials=8"])
    rates, gates = (1e-3, 2e-3, 4e-3, 8e-3), ("softmax", "sigmoid")
    settings = [
        {
            "optim.learning_rate": rates[index % 4],
            "clips.identities": 2 + index % 3,
            "model.attention_gate": gates[index % 2],
        }
        for index in range(8)
    ]
    trials = [event for index, given in enumerate(settings) for event in completed(index, 0.2 + index / 20, **given)]
    forecast = Forecast(value=0.5, error=0.02)
    paused = [
        TrialSuggested(trial="t0008", index=8, params=settings[0], source="ax", seed=0, epochs=3, until=1),
        TrialStarted(trial="t0008", attempt=1),
        TrialReported(trial="t0008", result=epoch_result(1, 0.3)),
        TrialPaused(trial="t0008", epoch=1, reason="until epoch 1", forecast=forecast),
    ]
    ending = SessionEnded(state="interrupted", reason="asked to stop")
    folder = write_search(tmp_path / "first", space, [*trials, *paused, ending])
    folder.logs.mkdir()
    assert run(["report", "first", "--storage", str(tmp_path)]) == 0

    frames = "".join(
        f'<iframe name="{name}" src="first/report.html#draw-all" style="width:{width}px;height:900px"></iframe>'
        for name, width in WIDTHS.items()
    )
    around = tmp_path / "around.html"
    around.write_text(AROUND.format(frames=frames))
    document, console = browse(around, tmp_path / "profile")
    assert console == [], "no errors, and nothing that the page's policy had to refuse"
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', document)
    found: dict[str, Any] = json.loads(html.unescape(text))
    for name in WIDTHS:
        seen = found[name]
        assert seen["drawn"] == seen["charts"], f"{name}: every figure is drawn"
        assert {"trace", "importance-0", "slice-0", "contour-0", "fit-0", "parallel", "cmc", "cost"} <= set(
            seen["charts"]
        )
        assert (seen["overflow"], seen["wide"]) == (0, 0), f"{name}: nothing is wider than the screen"
        assert seen["bars"] == (0 if name == "phone" else len(seen["charts"]))
        assert seen["covered"] == [], f"{name}: Plotly's buttons cover nothing, and nothing cuts them off"
        assert seen["fans"] == 1, f"{name}: the forecast of the paused trial"
        assert seen["requests"] == 0
        assert "SYNTHETIC" in seen["banner"]
        assert seen["sorted"] == ["t0000", "t0007"], "a click sorts, a second one the other way round"
    log = (folder.logs / "report.log").read_text()
    assert "Traceback" not in log, log


@pytest.mark.e2e
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian: apt-get install chromium")
def test_the_policy_of_the_page_refuses_requests_and_errors_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    wish = '<img src="http://reidsearch.invalid/picture.png"><script>throw Error("no")</script>'
    page.write_text(f"<!doctype html>{policy}{wish}")
    _, console = browse(page, tmp_path / "profile")
    assert any("reidsearch.invalid" in line and "blocked" in line for line in console), console
    assert any("Error: no" in line for line in console)
