"""What 100 million photographs take, from rates that are measured here.

`python -m benchmarks.scale [--markdown docs/scale.md]`
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.indexing import SIZE_WH
from benchmarks.rates import Rates, measure
from benchmarks.tables import Table, machine
from whyalike.gallery.build import COMMIT_BYTES, COMMIT_ROWS, COMMIT_SECONDS

ROWS = 100_000_000
MACHINES, CORES = 100, 16
FILE_BYTES = 100_000
HEADING = "## Measured, and computed from that\n"


def measured(rates: Rates) -> Table:
    """The rates themselves."""

    def ms(of: str, seconds: float) -> list[str]:
        return [of, f"{1e3 * seconds:.1f}", "core-ms"]

    def us(of: str, seconds: float) -> list[str]:
        return [of, f"{1e6 * seconds:.0f}", "core-µs"]

    def size(of: str, count: float) -> list[str]:
        return [of, f"{count:.0f}", "bytes"]

    rows = [
        ms("reading a photograph: hash, decode, prepare", rates.read),
        ms("the network alone, in batches of 32", rates.network),
        *(ms(f"indexing it whole, maps {maps}", of) for maps, of in rates.indexed.items()),
        ["exact search, in memory", f"{rates.scan / 1e9:.1f}", "GB / core-s"],
        ["this disk, read in order", f"{rates.disk / 1e9:.1f}", "GB / s"],
        size("LanceDB's index, a row, beside a bit a number", rates.ann[0]),
        ms("a search of it, 100,000 rows of 512", rates.ann[1]),
        us("a fragment more: to map its vectors", rates.part[0]),
        us("a fragment more: in each exact search", rates.part[1]),
        us("a fragment more: to open the table", rates.opened),
        us("a fragment more: to read the ids there are", rates.ids),
        us("a fragment more: in each commit", rates.commit),
        size("a fragment more: in each commit's manifest", rates.manifest),
        us("listing a file in a folder", rates.listed[0]),
        us("looking at a file that is indexed", rates.known[1]),
        size("kept of a listed file", rates.listed[1]),
        size("kept of a row that was there before", rates.known[0]),
        size("kept of a row of this run", rates.done),
        size("kept of a file that cannot be read", rates.failed),
    ]
    about = f"""\
One thread of torch, one that reads; JPEG files of {SIZE_WH[0]}×{SIZE_WH[1]} pixels, the default
network (7×7 cells, d = {rates.d}). Core-seconds are processor time of the whole process, which
neighbours on the machine stretch less than they do the clock; the disk alone is by the clock. What
is kept is memory of the process that plans and commits."""
    return Table("Rates", about, ["of", "measured", "unit"], rows)


def indexing(rates: Rates, count: int = ROWS) -> Table:
    """Machines, hours and bytes."""
    rows = []
    for maps, seconds in rates.indexed.items():
        hours, size = seconds * count / 3600, rates.on_disk[maps]
        words = [f"{rates.row[maps]:,}", f"{size:,.0f}", f"{size * count / 1e12:.2f}"]
        rows.append([maps, *words, f"{hours:,.0f}", f"{hours / MACHINES / CORES:.1f}"])
    size, hours = FILE_BYTES * count, min(rates.indexed.values()) * count / 3600 / MACHINES / CORES
    about = f"""\
{count:,} rows. What a row takes is told before anything is read, with its vector's copy
in `vectors/`; what the table's files took is measured. Hours are those of {MACHINES} machines of
{CORES} cores, if each core does what the one here did and storage keeps up: files of
{FILE_BYTES // 1000} kB are {size / 1e12:.0f} TB, and so {size / hours / 3600 / 1e9:.1f} GB/s."""
    columns = ["maps", "bytes a row, told", "in the table", "TB", "core-hours", "hours"]
    return Table(f"Indexing {count // 10**6} million", about, columns, rows)


def gpus(rates: Rates, count: int = ROWS) -> Table:
    """What feeding GPUs takes."""
    rows = [
        [f"{rate:,}", f"{rate * rates.read:.0f}", f"{count / rate / 3600:.1f}"]
        for rate in (500, 1000, 2000, 4000)
    ]
    about = """\
No GPU was measured. Whatever one embeds in a second, the cores beside it have to read: a worker
with `--device cuda` takes the cores of its machine that fall to its GPU, for threads that read.
Hours are those of one GPU, to be divided by how many there are."""
    return Table("GPUs", about, ["photographs a second", "cores to read them", "GPU-hours"], rows)


def searching(rates: Rates, count: int = ROWS) -> Table:
    """Seconds of a query."""
    size, parts = 4.0 * rates.d * count, count / COMMIT_ROWS
    codes = f"{(rates.d / 8 + rates.ann[0]) * count / 1e9:,.0f} GB of codes"
    memory, core = f"{size / 1e9:,.0f} GB", size / rates.scan
    fragments = f"for its {parts:,.0f} fragments, beside that"
    rows = [
        ["exact, all in memory, one core", memory, f"{core:,.0f}"],
        [f"the same, {CORES} cores, if memory keeps up", memory, f"{core / CORES:.1f}"],
        ["exact, mapped from a disk like this one", "any", f"{size / rates.disk:,.0f}"],
        [fragments, "", f"{parts * rates.part[1]:.1f}"],
        ["once a process: to map them", "", f"{parts * rates.part[0]:.1f}"],
        ["approximate", codes, "not measured"],
    ]
    about = f"""\
{count:,} vectors of {rates.d} numbers in float32, {memory}, in fragments of {COMMIT_ROWS:,} rows.
Ranks without the region take a second product, where they are asked for, and 8 bytes a row. The
index was measured at 100,000 rows; how its time grows depends on the partitions that LanceDB makes,
and its recall on region vectors is weak at any size: `recall_region` tells it."""
    return Table("A query", about, ["search", "memory", "seconds"], rows)


def growing(rates: Rates, count: int = ROWS) -> Table:
    """What grows, and how far."""

    def gb(size: float) -> str:
        return f"{size / 1e9:,.1f} GB"

    def minutes(seconds: float) -> str:
        return f"{seconds * count / 60:,.0f} min"

    def us(seconds: float, of: str) -> str:
        return f"{1e6 * seconds:.0f} µs a {of}"

    parts = count / COMMIT_ROWS
    hours = min(rates.indexed.values()) * count / 3600 / MACHINES / CORES
    commits = 3600 * hours / COMMIT_SECONDS
    alone = count * rates.row["full"] / COMMIT_BYTES
    memory = rates.listed[1] + rates.known[0] + rates.done
    limit = Path("/proc/sys/vm/max_map_count")
    mapped = f"at most {int(limit.read_text()):,}" if limit.exists() else "the system's limit"
    rows = [
        ["the matrix of exact search", f"{4 * rates.d} bytes a row", gb(4 * rates.d * count)],
        ["memory of who plans and commits", f"{memory:.0f} bytes a row", gb(memory * count)],
        ["listing", us(rates.listed[0], "file"), minutes(rates.listed[0])],
        ["looking again at what is indexed", us(rates.known[1], "file"), minutes(rates.known[1])],
        ["fragments, each a mapped file", mapped, f"{parts:,.0f}"],
        ["a commit, at the end", us(rates.commit, "fragment"), f"{rates.commit * parts:.2f} s"],
        ["manifests of a cluster's commits", f"{rates.manifest:.0f} bytes a fragment",
         gb(commits * parts / 2 * rates.manifest)],
        ["those of one machine, maps full", f"a commit for {COMMIT_BYTES // 2**20} MB",
         gb(alone**2 / 2 * rates.manifest)],
        ["reading the ids, to go on", us(rates.ids, "fragment"), f"{rates.ids * parts:.0f} s"],
        ["files that fail, if one in 100 does", f"{rates.failed:.0f} bytes each",
         gb(rates.failed * count / 100)],
    ]  # fmt: skip
    about = f"""\
{count:,} rows in {parts:,.0f} fragments of {COMMIT_ROWS:,}, which a cluster commits every
{COMMIT_SECONDS:.0f} seconds of the {hours:.1f} hours above, here with local folders: on a network,
listing, looking and opening wait for it."""
    return Table("What grows", about, ["what", "measured", "there"], rows)


@click.command()
@click.option("--markdown", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="FILE", help="Write it below its heading of this page, too.")  # fmt: skip
def main(markdown: Path | None) -> None:
    """Measure this machine, and compute what 100 million photographs take."""
    torch.set_num_threads(1)
    console, here = Console(), machine()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder))
    tables = [one(rates) for one in (measured, indexing, gpus, searching, growing)]
    for table in tables:
        table.show(console)
    if markdown is not None:
        before = markdown.read_text(encoding="utf-8").partition(HEADING)[0]
        by = "Measured by `python -m benchmarks.scale --markdown docs/scale.md` on:"
        sections = [table.markdown().replace("## ", "### ", 1) for table in tables]
        text = "\n".join([f"{before}{HEADING}", f"{by} {here}.\n", *sections])
        markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
