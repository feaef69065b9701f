"""Ray's dashboard as a person sees it: in Debian's Chromium, with the token typed into its form."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from browser import chromium
from PIL import Image, ImageDraw, ImageFont
from waiting import PATIENCE_S

GAP, TITLE, COLOURS = 24, 40, 64
WITHOUT_FOLDERS = """
    const texts = document.createTreeWalker(document.querySelector('table'), NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        texts.currentNode.nodeValue = texts.currentNode.nodeValue.replace(/^\\/\\S*\\//, '');
"""
FORM = "Authentication Token Required"


def dashboard_pages(address: str, token: str, job: str, trials: str, pictures: Path) -> dict[str, str]:
    """The text of pages: jobs, actors, and tasks of the first job whose names hold `trials`.

    Their tables are left below one another in `ray-dashboard.png`. `without` is what one sees who gave no token.
    """
    with chromium(1500, 1000) as browser:
        browser.get(address)
        found = {"without": _await(browser, lambda text: FORM in text)}
        browser.find_element("css selector", "[role=dialog] input").send_keys(token)
        _click(browser, "//*[@role='dialog']//button[text()='Submit']")
        _await(browser, lambda text: FORM not in text)
        _go(browser, f"{address}/#/jobs")
        found["jobs"] = _await(browser, lambda text: job in text)
        tables = [_picture(browser, "Jobs")]
        _go(browser, f"{address}/#/actors")
        found["actors"] = _await(browser, lambda text: "ALIVE" in text)
        tables.append(_picture(browser, "Actors"))
        _go(browser, f"{address}/#/jobs/01000000")
        _await(browser, lambda text: "Task Table" in text)
        _click(browser, "//*[text()='Task Table']")
        _await(browser, lambda text: "Function or Class Name" in text)
        field = browser.find_element("xpath", "//label[text()='Name']/following-sibling::*//input")
        field.send_keys(trials)
        _await(browser, lambda text: trials in text)
        field.send_keys("\ue00c")  # Escape, which puts the list of proposals away
        found["trials"] = _await(browser, lambda text: trials in text)
        tables.append(_picture(browser, f"The job's tasks with {trials} in their names"))
        _below_one_another(tables).save(pictures / "ray-dashboard.png", optimize=True)
        return found


def _picture(browser: Any, title: str) -> Image.Image:
    """The table of the page, as far as it is in the window, below a title; programs without their folders."""
    time.sleep(1)  # until nothing moves any more
    table = browser.find_element("css selector", "table")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", table)
    time.sleep(0.5)
    browser.execute_script("document.querySelectorAll('[role=tooltip]').forEach(each => each.remove())")
    browser.execute_script(WITHOUT_FOLDERS)
    place = browser.execute_script("return arguments[0].parentElement.getBoundingClientRect().toJSON()", table)
    screen = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    found = screen.crop((int(place["left"]), int(place["top"]), int(place["right"]), int(place["bottom"])))
    titled = Image.new("RGB", (found.width, found.height + TITLE), "white")
    titled.paste(found, (0, TITLE))
    ImageDraw.Draw(titled).text((8, 8), title, fill="black", font=ImageFont.load_default(22))
    return titled


def _below_one_another(pictures: list[Image.Image]) -> Image.Image:
    width, height = max(each.width for each in pictures), sum(each.height + GAP for each in pictures) - GAP
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for each in pictures:
        whole.paste(each, (0, top))
        top += each.height + GAP
    return whole.quantize(COLOURS)


def _go(browser: Any, address: str) -> None:
    browser.get(address)
    browser.refresh()  # an address that differs after its # alone is no other page


def _click(browser: Any, path: str) -> None:
    browser.find_element("xpath", path).click()


def _await(browser: Any, condition: Any) -> str:
    """The text of the page as soon as it fulfils the condition."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        text = str(browser.find_element("tag name", "body").text)
        if condition(text):
            return text
        time.sleep(0.3)
    raise AssertionError(f"never shown; the page says:\n{text[:2000]}")
