"""The example notebook runs, says what it is kept as saying, and its widgets live in JupyterLab."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser

import notebooks
from pages import keep
from whyalike.data.samples import demo_pair


def kept() -> nbformat.NotebookNode:
    return nbformat.read(notebooks.PATH, 4)


def test_it_is_executed_small_and_names_no_place() -> None:
    text = notebooks.PATH.read_text()
    assert len(text) < 300_000
    for word in ("/tmp", "/home", "/root", "/work", "Traceback", "widget-view"):
        assert word not in text
    counts = [cell.execution_count for cell in kept().cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    nbformat.validate(kept())


@pytest.mark.slow
def test_it_runs_and_says_the_same() -> None:
    made = notebooks.run()
    shown = [cell for cell in made.cells if cell.get("outputs")]
    assert sum(notebooks.WIDGET in o.get("data", {}) for c in shown for o in c.outputs) == 2
    for cell, before in zip(notebooks.at_rest(made).cells, kept().cells, strict=True):
        assert cell.source == before.source
        for now, then in zip(cell.get("outputs", []), before.get("outputs", []), strict=True):
            assert now.get("text") == then.get("text")
            assert now.get("data", {}).get("text/plain") == then.get("data", {}).get("text/plain")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab, in a folder with a notebook of one cell."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    for name, source in zip(("query.jpg", "reference.jpg"), demo_pair(), strict=True):
        shutil.copy(source, tmp_path / name)
    code = (
        "import whyalike as wa\n"
        "view = wa.explain_pair(wa.load(), 'query.jpg', 'reference.jpg').view()\n"
        "view.observe(lambda change: open('chosen', 'w').write(repr(change.new)), 'region')\n"
        "view.region = (190, 60, 330, 230)\n"
        "view"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    book.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    nbformat.write(book, tmp_path / "book.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {f"JUPYTER_{n}_DIR": str(tmp_path / n) for n in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--IdentityProvider.token=", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **home}, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api").close()
            break
        except OSError:
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(30)
    log.close()


@pytest.mark.slow
@pytest.mark.browser
def test_in_jupyterlab_both_ways(lab: str, browser: Browser, tmp_path: Path) -> None:
    tab = browser.new_page(viewport={"width": 1300, "height": 1100})
    elsewhere: list[str] = []
    tab.on(
        "request",
        lambda r: None if r.url.startswith((lab, "data:", "blob:")) else elsewhere.append(r.url),
    )
    tab.goto(f"{lab}/lab/tree/book.ipynb?reset")
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    prompt = tab.locator(".jp-CodeCell .jp-InputArea-prompt").first
    for _ in range(30):  # the kernel may not be there yet, and then nothing is run
        tab.locator(".jp-CodeCell .cm-content").first.click()
        tab.keyboard.press("Shift+Enter")
        tab.wait_for_timeout(2000)
        if re.search(r"[*\d]", prompt.inner_text()):
            break
    try:
        tab.wait_for_selector("rect.wa-pinned", timeout=120_000)  # what Python chose
    finally:
        keep(tab, "notebook-jupyterlab")
    assert (tmp_path / "chosen").read_text() == "(190.0, 60.0, 330.0, 230.0)"
    canvas = tab.locator("canvas.wa-map").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    scale = box["width"] / 512
    tab.mouse.move(box["x"] + 100 * scale, box["y"] + 300 * scale)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 200 * scale, box["y"] + 400 * scale, steps=4)
    tab.mouse.up()
    for _ in range(100):
        tab.wait_for_timeout(100)
        chosen = ast.literal_eval((tmp_path / "chosen").read_text() or "None")
        if chosen and chosen[0] < 150:
            break
    assert chosen == pytest.approx((100, 300, 200, 400), abs=3)
    assert elsewhere == []
    tab.close()
