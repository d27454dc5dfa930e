"""What an evaluation found, as JSON, as Markdown and as a page; the same for the same command.

Nothing in it depends on when it was run or how long that took.
"""

from __future__ import annotations

import html
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from whyalike.files import check_outputs, write_whole
from whyalike.images import printable
from whyalike.page import page

ENDINGS = (".json", ".md", ".html")
PACKAGES = ("whyalike", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-image", "pillow")
"""Those whose versions decide what comes out."""


@dataclass(frozen=True)
class Table:
    """One question and its answer.

    Args:
        title: the question in a few words.
        about: what exactly was measured, in plain sentences.
        columns: the heads of the columns; the first names what a row is about.
        rows: as many cells a row as there are columns.
        icons: pictures for the page, data URLs, by the head of a row or column that they stand at.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    icons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row has as many cells as there are columns; came {self.rows}")

    def text(self) -> str:
        """For a terminal: columns of equal width."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        shown = [
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *shown])

    def markdown(self) -> str:
        """A section of a Markdown page."""
        rules = ["---"] + ["---:"] * (len(self.columns) - 1)
        cells = [[one.replace("|", "\\|") for one in line] for line in (self.columns, *self.rows)]
        lines = [f"| {' | '.join(line)} |" for line in (cells[0], rules, *cells[1:])]
        return f"## {self.title}\n\n{self.about}\n\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Figure:
    """A picture of a page.

    Args:
        caption: what is to be seen.
        pictures: one or more, side by side: what each shows, and it as a data URL.
        title: over it, where something new begins.
        wide: whether a picture takes the width of the page, as a curve does.
        large: whether pictures are larger than a thumbnail, as those that are to be compared.
    """

    caption: str
    pictures: Sequence[tuple[str, str]]
    title: str = ""
    wide: bool = False
    large: bool = False


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Args:
        title: in a few words.
        lead: the answer in a sentence or two.
        settings: everything that the command was given, and what it chose.
        numbers: all that was measured.
        tables: to read.
        figures: for the page.
        ahead: tables that stand before the figures; by default all.
    """

    title: str
    lead: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]
    tables: Sequence[Table]
    figures: Sequence[Figure] = ()
    ahead: int | None = None

    def json(self) -> str:
        """For a program: settings, exact versions and numbers."""
        found = {
            "title": self.title,
            "settings": dict(self.settings),
            "versions": versions(),
            **self.numbers,
        }
        return json.dumps(found, indent=1, allow_nan=False, default=str)

    def markdown(self) -> str:
        """For a page of documentation: the tables, and what they were made with."""
        settings = "\n".join(
            f"- {name}: {_in_code(value)}"
            for name, value in [*self.settings.items(), *self._made()]
        )
        tables = "\n".join(table.markdown() for table in self.tables)
        return f"# {self.title}\n\n{self.lead}\n\n{tables}\n## Made with\n\n{settings}\n"

    def html(self) -> str:
        """One file that asks nothing of any other, and runs nothing."""
        body = [f"<h1>{_safe(self.title)}</h1>", f'<p class="lead">{_safe(self.lead)}</p>']
        tables = [_table(table) for table in self.tables]
        ahead = len(tables) if self.ahead is None else self.ahead
        body += [*tables[:ahead], *(_figure(one) for one in self.figures), *tables[ahead:]]
        rows = "".join(
            f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>"
            for name, value in [*self.settings.items(), *self._made()]
        )
        body.append(f"<section><h2>Made with</h2><dl>{rows}</dl></section>")
        return page(self.title, _CSS, "\n".join(["<main>", *body, "</main>"]))

    def save(self, *paths: str | os.PathLike[str]) -> None:
        """Write .json, .md or .html, by their endings; whole or not at all.

        Raises:
            OutputFileError: another ending, or a file cannot be written.
        """
        places = check_outputs(paths, endings=ENDINGS)
        made = {".json": self.json, ".md": self.markdown, ".html": self.html}

        def write(path: Path, file: BinaryIO) -> None:
            file.write(made[path.suffix.lower()]().encode("utf-8", "replace"))

        write_whole(places, write)

    def _made(self) -> list[tuple[str, str]]:
        return [("versions", ", ".join(f"{name} {one}" for name, one in versions().items()))]


def versions() -> dict[str, str]:
    """Of Python, of the packages whose numbers these are, and the kind of machine."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # pragma: no cover
            found[name] = "unknown"
    return {**found, "machine": f"{platform.system()} {platform.machine()}"}


def percent(value: float | None) -> str:
    """A share as it stands in a table: percent with one decimal; nothing where it is not known."""
    return "" if value is None else f"{100 * value:.1f}"


def shown(value: float | None) -> str:
    """A number as it stands in a table: three decimals; nothing where it is not known."""
    return "" if value is None or value != value else f"{value:.3f}"


def _in_code(value: object) -> str:
    text = printable(str(value)).replace("`", "'")
    return f"`{text}`"


def _safe(value: object) -> str:
    return html.escape(printable(str(value)))


def _table(table: Table) -> str:
    def named(cell: str) -> str:
        icon = table.icons.get(cell)
        return _safe(cell) if icon is None else f'<img src="{_safe(icon)}" alt="">{_safe(cell)}'

    head = "".join(f'<th scope="col">{named(cell)}</th>' for cell in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{named(row[0])}</th>'
        + "".join(f"<td>{_safe(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f"<section><h2>{_safe(table.title)}</h2>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(table.title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="about">{_safe(table.about)}</p></section>'
    )


def _figure(figure: Figure) -> str:
    shown = "".join(
        f'<div><img src="{_safe(url)}" alt="{_safe(what)}">'
        + ("" if figure.wide else f"<p>{_safe(what)}</p>")
        + "</div>"
        for what, url in figure.pictures
    )
    kind = "wide" if figure.wide else "row large" if figure.large else "row"
    title = f"<h2>{_safe(figure.title)}</h2>" if figure.title else ""
    return (
        f'{title}<figure><div class="{kind}">{shown}</div>'
        f"<figcaption>{_safe(figure.caption)}</figcaption></figure>"
    )


_CSS = """\
:root {
  color-scheme: light dark;
  --paper: light-dark(#fcfbf9, #161514);
  --raised: light-dark(#ffffff, #262422);
  --line: light-dark(#dcd7cf, #3a3733);
  --ink: light-dark(#1b1917, #f1eee9);
  --soft: light-dark(#645e56, #a9a298);
}
* { box-sizing: border-box; }
body {
  margin: 0;
  background: var(--paper);
  color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1180px; margin: 0 auto; padding: clamp(16px, 2.2vw, 32px); }
h1 { font-size: 24px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 17px; margin: 32px 0 8px; }
p { margin: 0 0 8px; }
.lead { max-width: 46em; }
.about, figcaption { max-width: 52em; color: var(--soft); font-size: 13px; margin: 8px 0 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); background: var(--raised); }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; font-weight: 400; }
th[scope="col"] { color: var(--soft); border-bottom: 1px solid var(--line); }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--raised); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
th img { width: 56px; margin: 2px 0 2px auto; }
th[scope="row"] img { display: inline-block; vertical-align: middle; margin-right: 10px; }
figure { margin: 0 0 24px; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 8px; }
.large { grid-template-columns: repeat(auto-fill, minmax(min(168px, 30%), 1fr)); }
.row p { color: var(--soft); font-size: 12px; margin: 2px 0 0; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; }
.wide img { max-width: 820px; background: #ffffff; border: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 520px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
"""
