"""The dashboard: who gets an answer, what a page says, and how it behaves in a browser while a search runs."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, await_script, chromium
from events import epoch_result
from PIL import Image
from running import served
from searches import POINT, a_search, completed, write_search
from starlette.testclient import TestClient
from waiting import PATIENCE_S, wait_until

from orchestrator.show.dashboard import Dashboard
from orchestrator.show.report.live_page import Link, SearchPage
from orchestrator.space.search_space import SearchSpace
from orchestrator.stores.local import LocalStore
from orchestrator.study.events import (
    AttemptFailed,
    Event,
    SessionEnded,
    SessionStarted,
    TrialFailed,
    TrialReported,
    TrialStarted,
    TrialStopped,
    TrialSuggested,
)
from orchestrator.summary import read_summary

HERE = "http://localhost:1234"  # as through a tunnel
TOKEN = {"X-Token": "T", "Origin": HERE}


def client(storage: Path, *, images: bool = False) -> TestClient:
    return TestClient(Dashboard(LocalStore(storage), "T", images=images).app(), base_url=HERE)


def running_trial(index: int, epochs: int) -> list[Event]:
    key = f"t{index:04d}"
    return [
        TrialSuggested(trial=key, index=index, params=POINT, source="sobol", seed=0, epochs=20),
        TrialStarted(trial=key, attempt=1),
        *(TrialReported(trial=key, result=epoch_result(epoch, epoch / 100)) for epoch in range(1, epochs + 1)),
    ]


PAGES = (
    "/",
    "/?compare=first,second",
    "/first",
    "/first/trials.csv",
    "/first/figures/best-trace",
    "/first/t0000/ranking",
)


@pytest.mark.parametrize("page", PAGES)
def test_who_does_not_know_the_token_sees_nothing(tmp_path: Path, page: str) -> None:
    a_search(tmp_path / "first")
    for given in ("", "token=", "token=t", "token=T2"):
        answer = client(tmp_path).get(f"{page}{'&' if '?' in page else '?'}{given}")
        assert answer.status_code == 403 and "first" not in answer.text
    assert client(tmp_path).get("/_/page.js").status_code == 200, "everybody has a copy of the program's own files"


@pytest.mark.parametrize(("host", "code"), [("localhost:9", 200), ("127.0.0.1:8350", 200), ("evil.example:8350", 400)])
def test_a_name_that_an_attacker_points_at_this_machine_is_refused(tmp_path: Path, host: str, code: int) -> None:
    assert client(tmp_path).get("/?token=T", headers={"Host": host}).status_code == code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": HERE},
        {"X-Token": "T"},
        {"X-Token": "T", "Origin": "http://localhost:9"},
        {"X-Token": "T", "Origin": "null"},
        {"X-Token": "U", "Origin": HERE},
    ],
)
def test_only_a_page_of_the_dashboard_with_the_token_changes_a_search(tmp_path: Path, headers: dict[str, str]) -> None:
    folder = a_search(tmp_path / "first")
    before = folder.journal.read_bytes()
    answer = client(tmp_path).post("/first/extend?token=T", json={"more": 3}, headers=headers)
    assert answer.status_code == 403 and folder.journal.read_bytes() == before
    assert client(tmp_path).get("/first/extend?token=T").status_code == 405


def test_buttons_do_what_the_commands_do(tmp_path: Path) -> None:
    folder = a_search(tmp_path / "first")
    with LocalStore(tmp_path).record(folder) as recorder:
        for event in running_trial(2, 3):
            recorder.record(event)
    asked = client(tmp_path)
    answer = asked.post("/first/stop", json={"trial": "t0002"}, headers=TOKEN)
    assert (answer.status_code, answer.text) == (200, "first/t0002: given up; no process drives the search")
    again = asked.post("/first/stop", json={"trial": "t0002"}, headers=TOKEN)
    assert (again.status_code, again.text) == (409, "first/t0002: is over already (stopped)")
    assert "budget.trials 2 -> 5" in asked.post("/first/extend", json={"more": 3}, headers=TOKEN).text
    assert read_summary(folder).space.budget.trials == 5
    for wrong in ({"more": 0}, {"more": "+3"}, {}, []):
        assert asked.post("/first/extend", json=wrong, headers=TOKEN).status_code == 400
    assert asked.post("/nothing/stop", json={}, headers=TOKEN).status_code == 409


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/first/t0009/ranking", "/first/t0000/other", "/first/figures/x", "/first/..%2F..%2Fetc/ranking"],
)
def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, path: str) -> None:
    a_search(tmp_path / "first")
    answer = client(tmp_path).get(f"{path}?token=T")
    assert answer.status_code == 404 and "\n" not in answer.text
    assert client(tmp_path).get("/first?token=T&trial=t0009").status_code == 404


def test_texts_of_a_journal_are_no_markup(tmp_path: Path) -> None:
    wild = "<img src=x onerror=alert(1)>\x1b[2J</script>"
    failed = [
        *running_trial(2, 1),
        AttemptFailed(trial="t0002", attempt=1, failure="error", reason=wild),
        TrialFailed(trial="t0002", failure="error", reason=wild),
    ]
    space = SearchSpace.load("smoke.yaml")
    write_search(
        tmp_path / "first", space, [*completed(0, 0.4), *failed, SessionEnded(state="interrupted", reason=wild)]
    )
    for page in ("/first", "/", "/?compare=first,nothing"):
        text = client(tmp_path).get(f"{page}{'&' if '?' in page else '?'}token=T").text
        assert "<img src=x" not in text and "\x1b" not in text


def test_what_is_asked_to_stop_is_shown_at_once_and_then_what_became_of_it(tmp_path: Path) -> None:
    space = SearchSpace.load("smoke.yaml")
    folder = write_search(tmp_path / "first", space, [SessionStarted(session=1, host="h", pid=1), *running_trial(0, 2)])
    with LocalStore(tmp_path).record(folder) as recorder:
        page = SearchPage(folder, Link("T"), images=False)
        values = {"link": Link("T"), "token": "T", "storage": "s", "versions": defaultdict(str)}
        page._spent = 1e9  # so that the page is not read anew for a long time
        assert "stopping …" not in page.text(None, **values)
        with page.stopping("t0000"):
            assert "stopping …" in page.text(None, **values)
            recorder.record(TrialStopped(trial="t0000", rule="user", epoch=2, reason="asked for"))
        assert "No trial runs." in page.text(None, **values)


def test_a_page_that_did_not_change_is_not_sent_again(tmp_path: Path) -> None:
    space = SearchSpace.load("smoke.yaml")
    folder = write_search(tmp_path / "first", space, [SessionStarted(session=1, host="h", pid=1), *running_trial(0, 2)])
    asked, url = client(tmp_path), "/first?token=T"
    known = {"If-None-Match": asked.get(url).headers["ETag"]}
    assert asked.get(url, headers=known).status_code == 304
    with LocalStore(tmp_path).record(folder) as recorder:
        recorder.record(SessionEnded(state="failed", reason="the disk is full"))
    wait_until(lambda: asked.get(url, headers=known).status_code == 200)
    assert "<span>first: failed (the disk is full); 0/" in asked.get(url).text


def test_what_runs_is_shown_with_its_last_and_best_value_and_the_time_left(tmp_path: Path) -> None:
    folder = write_search(
        tmp_path / "first", SearchSpace.load("smoke.yaml"), [SessionStarted(session=1, host="h", pid=1)]
    )
    with LocalStore(tmp_path).record(folder) as recorder:
        for event in [*completed(0, 0.4), *running_trial(1, 5)]:
            recorder.record(event)
        recorder.record(TrialReported(trial="t0001", result=epoch_result(6, 0.01)))
        text = client(tmp_path).get("/first?token=T").text
    row = text[text.index('aria-label="epochs of t0001"') :].partition("</tr>")[0]
    for shown in ("6/20", "0.167", ">1.0<", ">5.0<", "100", "14 s", 'data-post="first/stop"'):
        assert shown in row
    assert "trial=t0001 started" in text and "Pause" in text


def test_sheets_of_any_trial_are_shown_of_real_people_only_where_asked_for(tmp_path: Path) -> None:
    folders = {
        "made": a_search(tmp_path / "made"),
        "real": write_search(
            tmp_path / "real", SearchSpace.load("smoke.yaml"), completed(0, 0.4), tracklets={"train": 1}
        ),
    }
    for folder in folders.values():
        place = folder.trial("t0000") / "evaluation"
        place.mkdir(parents=True)
        Image.new("RGB", (40, 20)).save(place / "ranking.png")
    for name, images, code in (("made", False, 200), ("real", False, 404), ("real", True, 200)):
        asked = client(tmp_path, images=images)
        with pytest.MonkeyPatch.context() as patch:
            asked.get(f"/{name}?token=T")
            patch.setattr("orchestrator.summary.fold_records", None)  # nothing is read again
            assert asked.get(f"/{name}/t0000/ranking?token=T").status_code == code
        text = asked.get(f"/{name}?token=T&trial=t0000").text
        assert (f"{name}/t0000/ranking?token=T" in text) == (code == 200)


def test_searches_are_compared_side_by_side_as_compare_does(tmp_path: Path) -> None:
    for name, best in (("first", 0.6), ("second", 0.5)):
        space = SearchSpace.load("smoke.yaml")
        found = write_search(tmp_path / name, space, completed(0, best))
        found.trial("t0000").mkdir(parents=True)
        (found.trial("t0000") / "config.json").write_text(json.dumps({"optim": {"learning_rate": best}}))
    text = client(tmp_path).get("/?compare=first&compare=second&token=T").text
    assert "50.0 (-10.0)" in text and "optim.learning_rate" in text and '"name":"second"' in text
    assert "no trial is completed" not in text
    assert '"dtick":1' in text and '"include":[52.5,57.5]' in text, "whole trials, 5 points at least"
    write_search(tmp_path / "third", space, [])
    text = client(tmp_path).get("/?compare=first&compare=third&token=T").text
    assert "<td>third</td>" in text and "<td>-</td>" in text, "a search without a result has its row"
    (tmp_path / "second/journal.jsonl").write_text("damaged\n")
    assert "unreadable" in client(tmp_path).get("/?token=T").text, "and the other search is listed"


# --- in a browser


@pytest.mark.e2e
@pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium here; Debian: apt-get install chromium-driver"
)
def test_in_a_browser_the_page_follows_the_search_and_a_button_ends_it(tmp_path: Path) -> None:
    events = [SessionStarted(session=1, host="h", pid=1), *completed(0, 0.4), *completed(1, 0.5), *running_trial(2, 3)]
    folder = write_search(tmp_path / "first", SearchSpace.load("smoke.yaml"), events)
    words = ("dashboard", "first", "--storage", str(tmp_path))
    with served(*words) as (address, process), chromium(1280, 900) as browser:

        def script(text: str) -> object:
            return browser.execute_script(f"return {text}")

        with LocalStore(tmp_path).record(folder) as recorder:
            for width, scheme in ((390, "dark"), (1280, "light")):
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
                browser.get(f"{address}#progress")
                await_script(browser, "document.querySelector('#trace svg.main-svg') !== null")
                paper = script("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(15, 19, 24)" if scheme == "dark" else "rgb(255, 255, 255)")
                root = "document.documentElement"
                assert script(f"{root}.scrollWidth - {root}.clientWidth") == 0, "nothing is wider than the screen"
            browser.execute_script("document.querySelector('#all-trials button').click(); scrollTo(0, 700)")
            browser.execute_script(
                "document.querySelector('#all-trials button').click(); kept = document.querySelector('h1')"
            )
            recorder.record(TrialReported(trial="t0002", result=epoch_result(4, 0.9)))
            await_script(browser, "document.querySelector('#now').textContent.includes('4/20')")
            await_script(browser, "document.querySelector('#trace').text.includes('90')")
            assert script("kept.isConnected && scrollY > 500"), "what did not change stays, and so does the place"
            assert script("document.querySelector('#all-trials tbody th').textContent.trim()") == "t0002", (
                "still sorted"
            )
            browser.execute_script("scrollTo(0, 0)")
            browser.find_element("css selector", "[data-post='first/stop']:not([data-trial])").click()
            browser.switch_to.alert.accept()
            wait_until(lambda: (folder.requests / "search").exists())
        await_script(browser, "document.getElementById('answer').textContent.startsWith('first: stopped')")
        await_script(browser, "document.querySelector('h1').textContent.includes('interrupted')")
        assert browser.get_log("browser") == [], "no errors in the console"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
