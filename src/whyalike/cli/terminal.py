"""What is said on a terminal: results, progress, errors."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from whyalike.errors import OutputFileError

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import ProgressColumn


def say(message: str) -> None:
    click.echo("whyalike: " + " ".join(message.split()), err=True)


def put(*lines: str) -> None:
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        click.echo("\n".join(lines))
    except OSError as error:
        raise OutputFileError(
            f"standard output cannot be written: {error.strerror or error}"
        ) from error


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal what is being waited for; what others print goes to stderr."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    with redirect_stdout(sys.stderr):
        if sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(f"{what} …"):
            yield


@contextmanager
def bar_of(*columns: ProgressColumn) -> Iterator[tuple[ProgressBar, bool]]:
    """A bar on a terminal, nothing elsewhere; and whether it is one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    terminal = sys.stderr is not None and sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns,
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with (
        redirect_stdout(sys.stderr),
        ProgressBar(*columns, console=console, disable=not terminal, transient=True) as bar,
    ):
        yield bar, terminal


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of work that comes in steps of known number."""
    with bar_of() as (bar, _):
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield tell
