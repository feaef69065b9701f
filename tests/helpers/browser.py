"""Debian's Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from waiting import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def chromium(width: int, height: int) -> Iterator[Any]:
    """A browser with a window of so many pixels."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def await_script(browser: Any, script: str) -> None:
    """Waits until the script's value is true."""
    wait_until(
        lambda: browser.execute_script(f"return {script}"),
        lambda: f"never true: {script}\n{browser.find_element('tag name', 'body').text[:2000]}",
        0.2,
    )
