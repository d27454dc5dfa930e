"""Pages in a real browser, for the tests of what is exported."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

Open = Callable[..., Page]


def settle(tab: Page) -> None:
    """Waits for what was asked of the next frame to be drawn."""
    tab.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
