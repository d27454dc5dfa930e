"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from pages import Open, settle

# Where the mathematics is, shapes are checked at every call. Not where users come in: there it is
# tested what is said to them about a wrong argument.
CHECKED = ("decomposition", "heads", *(f"surrogates.{x}" for x in ("mode", "places", "units")))
install_import_hook([f"whyalike.{module}" for module in CHECKED], "typechecker.check")

CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's chromium, driven by Playwright."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens html in a context of its own; afterwards nothing complained, nothing was asked for."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(content: str, width: int = 1200, height: int = 900, **options: Any) -> Page:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(content, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        # Reading the pixels back is the test's doing, not the page's.
        tab.on("console", lambda m: None if "getImageData" in m.text else complaints.append(m.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        tab.on(
            "request",
            lambda r: (
                None
                if r.url == path.as_uri() or r.url.startswith("data:")
                else complaints.append(r.url)
            ),
        )
        tab.goto(path.as_uri())
        settle(tab)
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
