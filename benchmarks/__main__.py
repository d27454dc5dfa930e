"""`python -m benchmarks [NAME...] [--markdown FILE]`."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.tables import Table, UnavailableError, machine

NAMES = ["pair", "peers", "paths", "hover", "startup", "memory", "indexing", "search",
         "serve", "faithfulness"]  # fmt: skip
ON_REQUEST = ["region_retrieval", "paper_tables", "cross_view"]
"""Those that train networks for minutes the first time, and have a page of their own."""

INTRODUCTION = """\
# Benchmarks

What whyalike costs and how true its maps are, as `make bench` measures it (half an hour and more;
the first time half an hour beside, to train two small networks; `python -m benchmarks pair hover`
runs the named ones, and `--markdown docs/benchmarks.md` writes this page). Costs are ratios of
things that took turns in one run, as medians, with the 10th and the 90th percentile in brackets:
on another machine the milliseconds differ, the ratios less so. No test times anything. Each
benchmark of costs first checks that what it times gives the right answer.
"""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*NAMES, *ON_REQUEST]))
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the tables as a page of the documentation, too.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads of torch; by default its own.")
@click.option("--full", is_flag=True, help="All pairs for faithfulness, which takes hours, and "
              "all photographs for region_retrieval and paper_tables.")  # fmt: skip
def main(names: tuple[str, ...], markdown: Path | None, threads: int | None, full: bool) -> None:
    """Measure what whyalike costs: all of it, or NAMES alone."""
    if threads is not None:
        torch.set_num_threads(threads)
    console, sections = Console(), [INTRODUCTION, f"Measured on: {machine()}.\n"]
    console.print(f"{machine()}\n", highlight=False)
    for name in dict.fromkeys(names or NAMES):
        start = time.perf_counter()
        try:
            options = {"full": full} if name in ("faithfulness", *ON_REQUEST) else {}
            answer: Table | list[Table] = import_module(f"benchmarks.{name}").run(**options)
        except (UnavailableError, ModuleNotFoundError) as error:
            console.print(f"{name}: skipped: {error}\n", style="bold")
            continue
        for table in answer if isinstance(answer, list) else [answer]:
            table.show(console)
            sections.append(table.markdown())
        console.print(f"{name} took {time.perf_counter() - start:.0f} s\n", highlight=False)
    if markdown is not None:
        markdown.write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
