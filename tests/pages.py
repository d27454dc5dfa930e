"""Pages in a real browser, for the tests of what is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

Open = Callable[..., Page]


def settle(tab: Page) -> None:
    """Waits for what was asked of the next frame to be drawn."""
    tab.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def keep(tab: Page, name: str) -> None:
    """A picture of the whole page for people to look at, in test-artefacts/."""
    folder = Path(__file__).parent.parent / "test-artefacts"
    folder.mkdir(exist_ok=True)
    tab.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
