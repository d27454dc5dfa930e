"""What was found of shortcuts, to read: a sentence, a table, the patches and the matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from whyalike import draw
from whyalike.data import Sample
from whyalike.evaluate import plots
from whyalike.evaluate.decisions import Decision, Region
from whyalike.evaluate.report import Figure, Table, percent
from whyalike.evaluate.shortcuts import FEWEST, SIGNIFICANT, Place, Shortcuts
from whyalike.geometry import XYXY, Frame
from whyalike.images import printable, read_image

THUMBNAIL = 240
PATCHES = 12
EXAMPLES = 3
AROUND = 0.5
"""A patch shows so much of its region's size on each side of it."""
MARK = "#ffd60a"

VERDICTS = {
    "chance": "not told from chance",
    "too large": "too large to hide as much elsewhere",
    "no effect": "not shown to matter",
    "unknown": "the object or not, is open",
    "object": "the object",
    "shortcut": "a shortcut",
}


def summary(found: Shortcuts) -> str:
    """The answer in a sentence or two, and no more than was found."""
    for verdict in ("shortcut", "unknown"):
        if these := [one for one in found.places if one.verdict == verdict]:
            return _of_place(these[0], found) + _of_others(these[1:])
    looked: list[str] = []
    few: list[str] = []
    for name, of in (("wrong", found.wrong), ("right", found.right)):
        (few if len(of) < FEWEST else looked).append(f"{len(of):,} {name}")
    words = [f"no place was found that is one in {' and '.join(looked)} matches"] if looked else []
    words += [f"{' and '.join(few)} matches are too few to look for one"] if few else []
    return f"Of shortcuts: {'; '.join(words)}."


def _of_place(place: Place, found: Shortcuts) -> str:
    assert place.undone is not None  # or else it is not told from chance
    of = found.wrong if place.wrong else found.right
    told = (
        f"{len(place.matches):,} of {len(of):,} {'wrong' if place.wrong else 'right'} matches are "
        f"decided {where(place)} of the image ({percent(place.share)} %; by chance, the fullest "
        f"place has {percent(place.fullest)} %); with that hidden, "
        f"{percent(place.undone.here)} % of them come out otherwise, with as much hidden "
        f"elsewhere {percent(place.undone.elsewhere)} %"
    )
    if place.on_object is None:
        return (
            f"Perhaps a shortcut: {told}; whether it is the object, photographs without boxes do "
            f"not tell: look at the patches."
        )
    if place.verdict == "unknown":
        return f"Perhaps a shortcut: {told}; whether it is the object is open: look at the patches."
    return (
        f"A shortcut: {told}; {percent(place.on_object.share)} % of it lies on the object, by "
        f"chance {percent(place.on_object.chance)} % would."
    )


def _of_others(places: Sequence[Place]) -> str:
    if not places:
        return ""
    kinds = (f"{'wrong' if one.wrong else 'right'} ones {where(one)}" for one in places)
    return f" So are {', '.join(kinds)}."


def where(place: Place) -> str:
    """A place in words."""
    x, y = place.xy
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    if not row and not column:
        return "in the middle"
    return f"at the {' '.join(one for one in (row, column) if one)}"


def table(models: Mapping[str, Shortcuts]) -> Table:
    """The places of all models."""
    rows = []
    for name, one in models.items():
        for place in _worth_telling(one):
            kind = "wrong" if place.wrong else "right"
            of = one.wrong if place.wrong else one.right
            undone = place.undone
            rows.append(
                [
                    f"{name}, {kind}, {where(place)}",
                    f"{len(place.matches)} of {len(of)}",
                    percent(place.share),
                    f"{percent(place.chance)} / {percent(place.fullest)}",
                    f"{place.p:.3f}",
                    percent(place.others),
                    percent(place.carried),
                    ""
                    if undone is None
                    else f"{percent(undone.here)} / {percent(undone.elsewhere)}",
                    ""
                    if place.on_object is None
                    else f"{percent(place.on_object.share)} / {percent(place.on_object.chance)}",
                    VERDICTS[place.verdict],
                ]
            )
    counts = ", ".join(
        f"{name} {one.all_wrong:,} of {one.queries:,} matches wrong" for name, one in models.items()
    )
    about = (
        f"{counts} (all parts together; both kinds are looked at in the same way, at most some "
        f"hundreds each by lot, and never fewer than {FEWEST}). What ranks the first before the "
        f"nearest of the other kind is known cell by cell of the query, and regions are the parts "
        f"that carry most of it. Matches: how many have a region at this place, and in percent. "
        f"Chance: how many would have if each region lay anywhere in its photograph, here / at "
        f"the fullest place of such a draw, of which {100 * SIGNIFICANT:g} % have a fuller one; p: "
        f"how often that is as full. Others: of the matches of the other kind, how many are "
        f"decided here. Carries: the regions' part of what the first is ahead by. Hidden: of the "
        f"matches here, how many come out otherwise once the region is hidden in the query / once "
        f"as much is hidden elsewhere, in percent. On object: how much of the regions lies in the "
        f"boxes / would if they lay anywhere. A shortcut is what p tells from chance "
        f"(≤ {SIGNIFICANT:g}), what matches hang on (hidden against elsewhere, 99 % interval above "
        f"0), and what lies on the object less than by chance (99 % interval below 0); what lies "
        f"there more is the object. "
        f"Marks that lie elsewhere in each photograph are not found so."
    )
    columns = ["decided", "matches", "%", "chance", "p", "others", "carries", "hidden",
               "on object", "verdict"]  # fmt: skip
    return Table("Places that decide matches", about, columns, rows)


def _worth_telling(found: Shortcuts) -> list[Place]:
    """The fullest place of either kind, and others that are more than chance."""
    firsts = {one.wrong: one for one in reversed(found.places)}.values()
    return [one for one in found.places if one in firsts or one.verdict != "chance"]


def numbers(found: Shortcuts) -> dict[str, Any]:
    """All that was found of one model."""
    return {
        "matches": found.queries,
        "wrong": found.all_wrong,
        "looked_at": {"wrong": len(found.wrong), "right": len(found.right)},
        "places": [_place(place, found) for place in found.places],
    }


def _place(place: Place, found: Shortcuts) -> dict[str, Any]:
    of = found.wrong if place.wrong else found.right
    return {
        "of": "wrong" if place.wrong else "right",
        "where": where(place),
        "xy": list(place.xy),
        "verdict": place.verdict,
        "matches": len(place.matches),
        **{
            key: getattr(place, key)
            for key in ("share", "chance", "fullest", "p", "others", "carried", "classes")
        },
        "on_object": None if place.on_object is None else asdict(place.on_object),
        "undone": None if place.undone is None else asdict(place.undone),
        "regions": [
            {
                "query": str(of[at].query.path),
                "first": str(of[at].first.path),
                "second": str(of[at].second.path),
                "difference": of[at].difference,
                "xyxy": list(of[at].xyxy(region)),
                "carried": region.carried,
            }
            for at, region in zip(place.matches, place.regions, strict=True)
        ],
    }  # fmt: skip


def figures(models: Mapping[str, Shortcuts]) -> list[Figure]:
    """The patches of each place, some matches whole, and where the matches of all are decided."""
    made = []
    for name, one in models.items():
        for place in one.places:
            if place.verdict != "chance":
                made += _of_patches(name, one, place)
    return [*made, *_densities(models)]


def _of_patches(name: str, shortcuts: Shortcuts, place: Place) -> list[Figure]:
    """The regions at a place, cut out, and the strongest matches whole."""
    of = shortcuts.wrong if place.wrong else shortcuts.right
    kind = "wrong" if place.wrong else "right"
    these = list(zip(place.matches, place.regions, strict=True))
    patches = [
        (f"{label(of[at].query)} → {label(of[at].first)}", _patch(of[at], region))
        for at, region in _first_of_each(these, of)[:PATCHES]
    ]
    figures = [
        Figure(
            f"{VERDICTS[place.verdict].capitalize()}: what {len(these):,} {kind} matches have "
            f"{where(place)}, those first that carry most. Framed: the region; class of the query "
            f"→ class of what is found.",
            patches,
            f"{name}: {kind} matches decided {where(place)}",
        )
    ]
    for at, region in these[:EXAMPLES] if place.verdict in ("shortcut", "unknown") else ():
        decision = of[at]
        carried = region.carried
        figures.append(
            Figure(
                f"{label(decision.query)}: S = {decision.score:.3f} with the first, "
                f"{decision.difference:.3f} less with the second; the framed region carries "
                f"{carried:+.3f} of that.",
                [
                    (f"{label(decision.query)}, {decision.query.path.name}",
                     _deciding(decision, region, False)),
                    ("what ranks the first before the second", _deciding(decision, region, True)),
                    (f"first: {label(decision.first)}, {decision.first.path.name}",
                     plots.jpeg(small(read_image(decision.first.path)))),
                    (f"second: {label(decision.second)}, {decision.second.path.name}",
                     plots.jpeg(small(read_image(decision.second.path)))),
                ],
                large=True,
            )
        )  # fmt: skip
    return figures


def _first_of_each(
    these: Sequence[tuple[int, Region]], of: Sequence[Decision]
) -> list[tuple[int, Region]]:
    """Of each class the one that carries most, then the second of each, and so on."""
    rounds: dict[str | None, int] = {}
    ordered = []
    for place, (at, region) in enumerate(these):
        label = of[at].query.label
        rounds[label] = rounds.get(label, -1) + 1
        ordered.append((rounds[label], place, (at, region)))
    return [one for *_, one in sorted(ordered, key=lambda one: one[:2])]


def _densities(models: Mapping[str, Shortcuts]) -> list[Figure]:
    """How many matches are decided at each cell, one picture for each model and kind."""
    shown = []
    for name, one in models.items():
        for kind, of in (("wrong", one.wrong), ("right", one.right)):
            if len(of) >= FEWEST:
                drawn, most = _density(of)
                shown.append((f"{name}, {kind}: at most {percent(most)} % of {len(of):,}", drawn))
    if not shown:
        return []
    caption = (
        "How many matches have a region over each cell of what is seen; full colour is all of them."
    )
    return [Figure(caption, shown, "Where matches are decided", large=True)]


def _density(of: Sequence[Decision]) -> tuple[str, float]:
    h, w = of[0].frame.grid_hw
    counts = np.zeros((h, w))
    for decision in of:
        here = np.zeros((h, w), bool)
        for one in decision.regions:
            here[one.row : one.row + one.rows, one.column : one.column + one.columns] = True
        counts += here
    x0, y0, x1, y1 = of[0].frame.view_xyxy
    scale = THUMBNAIL / max(x1 - x0, y1 - y0)
    size = (round((x1 - x0) * scale), round((y1 - y0) * scale))
    blank = Image.new("RGB", size, (255, 255, 255))
    frame = Frame(size, (0.0, 0.0, float(size[0]), float(size[1])), (h, w))
    shares = counts / len(of)
    return plots.jpeg(draw.overlay(blank, torch.from_numpy(shares), frame, limit=1.0)), shares.max()


def label(sample: Sample) -> str:
    """A class, safe to show."""
    return printable(sample.label or "")


def _deciding(decision: Decision, region: Region, with_map: bool) -> str:
    picture = read_image(decision.query.path)
    drawn = small(picture)
    if with_map:
        drawn = draw.overlay(drawn, decision.values, decision.frame)
    outline(drawn, decision.xyxy(region), drawn.width / picture.width)
    return plots.jpeg(drawn)


def _patch(decision: Decision, region: Region) -> str:
    """A region and what is around it, a square cut out of the photograph."""
    return plots.jpeg(cut_out(read_image(decision.query.path), decision.xyxy(region), AROUND))


def cut_out(picture: Image.Image, xyxy: XYXY, around: float, framed: bool = True) -> Image.Image:
    """A square of 120 pixels out of a photograph: a box, and what is around it.

    Args:
        picture: the photograph.
        xyxy: the box, in its pixels.
        around: so much of its longer side is shown on each side of it.
        framed: whether the box is.
    """
    x0, y0, x1, y1 = xyxy
    side = round(min((1 + 2 * around) * max(x1 - x0, y1 - y0), *picture.size))
    left, top = (
        round(min(max((low + high - side) / 2, 0), size - side))
        for low, high, size in zip((x0, y0), (x1, y1), picture.size, strict=True)
    )
    cut = picture.crop((left, top, left + side, top + side)).convert("RGB")
    drawn = cut.resize((THUMBNAIL // 2, THUMBNAIL // 2), Image.Resampling.BICUBIC)
    if framed:
        outline(drawn, (x0 - left, y0 - top, x1 - left, y1 - top), drawn.width / side)
    return drawn


def small(picture: Image.Image) -> Image.Image:
    """A photograph whose longer side has 240 pixels."""
    scale = THUMBNAIL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def outline(picture: Image.Image, box: XYXY, scale: float) -> None:
    """Frame a box of a photograph in a picture of it at some scale."""
    x0, y0, x1, y1 = (side * scale for side in box)
    corners = [max(x0, 0), max(y0, 0), min(x1, picture.width - 1), min(y1, picture.height - 1)]
    if corners[2] > corners[0] and corners[3] > corners[1]:
        ImageDraw.Draw(picture).rectangle(corners, outline=MARK, width=2)
