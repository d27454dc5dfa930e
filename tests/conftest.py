"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook
from playwright.sync_api import Browser, sync_playwright

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
