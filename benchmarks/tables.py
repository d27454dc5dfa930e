"""A table of results, for the terminal and for the documentation; and what it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as RichTable

from whyalike.evaluate import report


class UnavailableError(Exception):
    """A benchmark cannot run here; the message says what it lacks."""


class Table(report.Table):
    """One question and its answer, in colour on a terminal."""

    def show(self, console: Console) -> None:
        """Print the table and what was measured."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        console.print(self.about.replace("\n", " "), style="dim", markup=False, highlight=False)
        console.print()


def verdict(value: float, budget: float, unit: str = "") -> str:
    """A budget and whether it was kept, such as "4 ms: kept"."""
    return f"{budget:g}{unit}: {'kept' if value <= budget else 'missed'}"


def machine() -> str:
    """What the numbers were measured on, in one line."""
    parts = [
        _processor(),
        f"{os.cpu_count()} cores",
        f"torch {torch.__version__} on {torch.get_num_threads()} threads",
        f"Python {platform.python_version()}",
        platform.system(),
        datetime.date.today().isoformat(),
    ]
    if hasattr(os, "getloadavg"):
        parts.append(f"load average at the start {os.getloadavg()[0]:.1f}")
    return ", ".join(parts)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
