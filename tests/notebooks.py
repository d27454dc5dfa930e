"""Runs the example notebook; `python tests/notebooks.py` writes docs/notebook.ipynb anew."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from whyalike.data.samples import demo_pair

PATH = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path = PATH) -> nbformat.NotebookNode:
    """The notebook, executed in a folder with the two photographs that it speaks of."""
    book = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        for name, source in zip(("query.jpg", "reference.jpg"), demo_pair(), strict=True):
            shutil.copy(source, Path(folder, name))
        os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
        client = NotebookClient(
            book,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            store_widget_state=False,
            record_timing=False,
        )
        client.execute()
    return book


def at_rest(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What is kept of it: figures in the place of widgets, nothing of the machine."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return book


if __name__ == "__main__":
    nbformat.write(at_rest(run()), PATH)
