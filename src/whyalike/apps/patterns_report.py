"""Which kinds of region answer which, to read: the tables, and a row of patches for each two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from whyalike.apps.patterns import SURE, Link, Patterns
from whyalike.evaluate import plots
from whyalike.evaluate.report import Figure, Report, Table, percent
from whyalike.evaluate.shortcuts_report import cut_out
from whyalike.images import printable, read_image

SHOWN, PATCHES = 12, 9
"""Combinations that have a row of patches, and patches in a row, of a photograph each."""
AROUND = 1.0
"""A patch shows so much of its cell's size on each side of it."""
GAP, ICON = 4, 56
SIDES = ("query", "reference")


def report(found: Patterns, pictures: bool = True) -> Report:
    """Tables, numbers and patches.

    Args:
        found: what `find_patterns` returned.
        pictures: whether patches are cut out, for the page; their photographs are read again.
    """
    seen = lru_cache(64)(read_image)
    icons = _icons(found, seen) if pictures else {}
    return Report(
        title="Which regions answer which",
        lead=_lead(found),
        settings={
            "data": found.data,
            "model, query": found.models[0],
            "model, reference": found.models[1],
            "kinds, at most": found.kinds,
            "strongest matches of a pair, at most": found.each,
            "seed": found.seed,
            "threads": torch.get_num_threads(),
        },
        numbers=_numbers(found),
        tables=[_answers(found), _shares(found, icons), _lifts(found, icons)],
        figures=_figures(found, seen) if pictures else [],
        ahead=1,
    )


def name(found: Patterns, a: int, b: int) -> str:
    """Two kinds, by their names."""
    letters, digits = found.names
    return f"{letters[a]} → {digits[b]}"


def _lead(found: Patterns) -> str:
    strong = found.strong(surely=True)
    lot = "" if len(found.pairs) < 2 else f" ({found.by_lot.sum():.3f} if they are matched by lot)"
    words = f"Of {len(found.pairs):,} pairs, with a mean score of {found.score:.3f}{lot}, "
    if not strong:
        return words + "no kind of region is told to answer another more often than by chance."
    held = sum(found.held[two] for two in strong)
    first, count = strong[0], len(found.links)
    return (
        f"{words}{percent(held)} % of what the {count:,} strongest matches of cells carry lies in "
        f"{len(strong)} combinations of kinds that meet more often than by chance; first "
        f"{name(found, *first)}, with {percent(found.held[first])} %, "
        f"{found.lift[first]:.1f} times as much as by chance."
    )


def _answers(found: Patterns) -> Table:
    rows = []
    for two in found.strong()[:SHOWN]:
        links = found.of(*two)
        rows.append(
            [
                name(found, *two),
                percent(found.held[two]),
                f"{found.lift[two]:.1f}",
                f"{found.p[two]:.3f}",
                f"{len({one.pair for one in links}):,}",
                f"{found.carried[two]:+.3f}",
                _signed(found.by_lot[two]),
                _share(found, found.carried[two]),
            ]
        )
    about = (
        f"Letters are kinds of region of the query, numbers kinds of the reference: clusters of "
        f"what the cells give, by its direction, in the at most {found.each} strongest matches of "
        f"each pair. Matches: how much of what these carry together, in percent, the two kinds "
        f"hold. Lift: how many times as much as if either met the kinds of the other view as they "
        f"are frequent; 1 is chance. p: how often two kinds hold as much if each pair's reference "
        f"is another pair's by lot; {SURE:g}, as small as it can be, is told from chance. Pairs: "
        f"in how many they meet so. Carries: what all cells of both kinds carry of the score, the "
        f"mean over all pairs, in units of cosine; by lot: with the references of other pairs. "
        f"Share: carries, in percent of the score."
    )
    columns = ["kinds", "matches, %", "lift", "p", "pairs", "carries", "by lot", "share, %"]
    return Table("What answers what", about, columns, rows)


def _shares(found: Patterns, icons: dict[str, str]) -> Table:
    letters, digits = found.names
    table = np.vstack([found.carried, found.carried.sum(0)])
    table = np.column_stack([table, table.sum(1)])
    rows = [
        [head, *(_share(found, one) for one in row)]
        for head, row in zip([*letters, "no cell", "all"], table, strict=True)
    ]
    about = (
        "In percent of the mean score, what kinds of the query (rows) carry with kinds of the "
        "reference, counted over all cells. No cell: biases, and tokens that are of no place. It "
        "adds up to 100; below zero speaks against the matches."
    )
    columns = ["", *digits, "no cell", "all"]
    return Table("What carries the score", about, columns, rows, icons)


def _lifts(found: Patterns, icons: dict[str, str]) -> Table:
    letters, digits = found.names
    rows = []
    for at, (head, row) in enumerate(zip(letters, found.lift, strict=True)):
        rows.append([head, *("" if np.isnan(one) else f"{one:.1f}" for one in row),
                     percent(found.areas[0][at])])  # fmt: skip
    rows.append(["cells, %", *(percent(one) for one in found.areas[1]), ""])
    about = (
        "Of the strongest matches, how many times as much two kinds hold as if either met the "
        "kinds of the other view as they are frequent there. Cells: how much of a photograph is of "
        "each kind, in percent; a cell that gives nothing at all is of none."
    )
    return Table("Lift", about, ["", *digits, "cells, %"], rows, icons)


def _share(found: Patterns, value: float) -> str:
    """In percent of the score; where that is not above zero, in cosine."""
    return percent(value / found.score) if found.score > 0.01 else f"{value:+.3f}"


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.3f}"


def _figures(found: Patterns, seen: Callable[[Path], Image.Image]) -> list[Figure]:
    """Of each two kinds that answer each other, patches of both views, one above the other."""
    made = []
    for number, two in enumerate(found.strong()[:SHOWN]):
        patches = []
        for link in _of_other_pairs(found.of(*two), PATCHES):
            above, below = (_patch(found, link, side, seen) for side in range(2))
            both = Image.new("RGB", (above.width, 2 * above.height + GAP), (255, 255, 255))
            both.paste(above, (0, 0))
            both.paste(below, (0, above.height + GAP))
            patches.append((f"{link.value:+.4f}", plots.jpeg(both)))
        caption = (
            f"{name(found, *two)}: {percent(found.held[two])} % of the strongest matches, "
            f"{found.lift[two]:.1f} times as much as by chance"
            f"{'' if found.p[two] <= SURE + 1e-9 else ', which is not told from it'}."
        )
        if not number:
            caption += (
                " Above the query's cell, framed, below the reference's; the strongest match of a "
                "pair each, with what it carries. Cells see more than they cover."
            )
        made.append(Figure(caption, patches, "" if number else "Patches"))
    return made


def _icons(found: Patterns, seen: Callable[[Path], Image.Image]) -> dict[str, str]:
    """Of each kind, two by two patches of its strongest matches, by its name."""
    icons = {}
    for side, names in enumerate(found.names):
        for at, kind in enumerate(names):
            links = [one for one in found.links if one[4 + side] == at]
            links.sort(key=lambda one: -one.value)
            icon = Image.new("RGB", (2 * ICON, 2 * ICON), (255, 255, 255))
            for place, link in enumerate(_of_other_pairs(links, 4)):
                patch = _patch(found, link, side, seen, 0.0).resize((ICON, ICON))
                icon.paste(patch, (place % 2 * ICON, place // 2 * ICON))
            if links:
                icons[kind] = plots.jpeg(icon)
    return icons


def _of_other_pairs(links: Iterable[Link], most: int) -> list[Link]:
    """The first of each pair."""
    first: dict[int, Link] = {}
    for link in links:
        first.setdefault(link.pair, link)
    return list(first.values())[:most]


def _patch(
    found: Patterns,
    link: Link,
    side: int,
    seen: Callable[[Path], Image.Image],
    around: float = AROUND,
) -> Image.Image:
    xyxy = link.query_xyxy if side == 0 else link.reference_xyxy
    return cut_out(seen(found.pairs[link.pair][side]), xyxy, around, framed=around > 0)


def _numbers(found: Patterns) -> dict[str, Any]:
    letters, digits = found.names
    return {
        "pairs": len(found.pairs),
        "score": found.score,
        "kinds": {"query": letters, "reference": digits},
        "carried": _plain(found.carried),
        "carried_by_lot": _plain(found.by_lot),
        "matches": _plain(found.held),
        "lift": _plain(found.lift),
        "cells": {side: one.tolist() for side, one in zip(SIDES, found.areas, strict=True)},
        "answers": [
            {
                "query": letters[a],
                "reference": digits[b],
                "matches": float(found.held[a, b]),
                "lift": float(found.lift[a, b]),
                "p": float(found.p[a, b]),
                "carried": float(found.carried[a, b]),
                "links": [_of_link(found, link) for link in found.of(a, b)],
            }
            for a, b in found.strong()
        ],
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _of_link(found: Patterns, link: Link) -> dict[str, Any]:
    query, reference = (printable(str(one)) for one in found.pairs[link.pair])
    return {
        "query": query,
        "reference": reference,
        "query_xyxy": list(link.query_xyxy),
        "reference_xyxy": list(link.reference_xyxy),
        "value": link.value,
    }


def _plain(values: Float[np.ndarray, "a b"]) -> list[list[float | None]]:
    return [[None if np.isnan(one) else float(one) for one in row] for row in values]
