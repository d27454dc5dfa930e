"""What a diagnosis found, to read: tables, pairs side by side, and the patches of a shortcut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from whyalike import draw
from whyalike.data import Sample
from whyalike.evaluate import plots
from whyalike.evaluate.diagnosis import BORDER, Diagnosed, Diagnosis, Shares
from whyalike.evaluate.report import Figure, Report, Table, percent
from whyalike.evaluate.shortcuts import FEWEST, SIGNIFICANT, Decision, Place, Region, Shortcuts
from whyalike.gallery.manifest import fingerprint
from whyalike.geometry import XYXY, Frame
from whyalike.images import printable, read_image
from whyalike.pair import Pair

THUMBNAIL = 240
PATCHES = 12
EXAMPLES = 3
AROUND = 0.5
"""A patch shows so much of its region's size on each side of it."""
MARK = "#ffd60a"

VERDICTS = {
    "chance": "not told from chance",
    "no effect": "hiding it changes nothing",
    "unknown": "where the object is, nobody says",
    "object": "the object",
    "shortcut": "a shortcut",
}


def report(found: Diagnosis, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of a diagnosis.

    Args:
        found: what was found.
        pictures: whether to make the figures of the page, which runs the networks again on some
            pairs.
    """
    fingerprints = {
        f"{name}, {what}": value
        for name, one in found.models.items()
        for what, value in fingerprint(one.model).items()
    }
    return Report(
        title="Diagnosis",
        lead=_lead(found),
        settings={
            **{part: f"{data.name} ({data.about})" for part, data in found.data.items()},
            "models": ", ".join(found.models),
            "limit": "all" if found.limit is None else found.limit,
            "seed": found.seed,
            **fingerprints,
            "threads": torch.get_num_threads(),
        },
        numbers=_numbers(found),
        tables=[
            _recall(found),
            *([_located(found)] if any(one.located for one in found.models.values()) else []),
            _shares(found),
            _places(found),
        ],
        figures=_figures(found) if pictures else (),
    )


def _lead(found: Diagnosis) -> str:
    sentences = []
    for name, one in found.models.items():
        recalls = ", ".join(
            f"{percent(part.retrieval.recall[1])} % on {where}" for where, part in one.parts.items()
        )
        sentences.append(f"{name} has a recall at 1 of {recalls}. {_of_shortcuts(one.shortcuts)}")
    return " ".join(sentences)


def _of_shortcuts(found: Shortcuts) -> str:
    """The answer in a sentence, and no more than was found."""
    if found.found:
        told = []
        for place in found.found[:2]:
            assert place.undone is not None
            assert place.on_object is not None
            told.append(
                f"{len(place.matches):,} of {_count(found, place.wrong)} "
                f"{'wrong' if place.wrong else 'right'} matches are decided {where(place)} of "
                f"the image ({percent(place.share)} %; the fullest place by chance has "
                f"{percent(place.fullest)} %), where {percent(place.on_object)} % of the regions "
                f"lie on the object; without them {percent(place.undone.here)} % of the matches "
                f"come out otherwise, without as much elsewhere {percent(place.undone.elsewhere)} %"
            )
        return f"A shortcut: {'; '.join(told)}."
    unknown = [one for one in found.places if one.verdict == "unknown"]
    if unknown:
        one = unknown[0]
        return (
            f"{percent(one.share)} % of the {'wrong' if one.wrong else 'right'} matches are "
            f"decided {where(one)} of the image; whether that is the object, photographs without "
            f"boxes do not tell: look at the patches."
        )
    few = [
        f"too few {name} matches ({count}) to look for one"
        for name, count in (("wrong", len(found.wrong)), ("right", len(found.right)))
        if count < FEWEST
    ]
    looked = [
        f"{count} {name}"
        for name, count in (("wrong", len(found.wrong)), ("right", len(found.right)))
        if count >= FEWEST
    ]
    words = [f"no place was found that is a shortcut in {' and '.join(looked)} matches"]
    return f"Of shortcuts: {'; '.join((words if looked else []) + few)}."


def _count(found: Shortcuts, wrong: bool) -> str:
    return f"{len(found.wrong if wrong else found.right):,}"


def where(place: Place) -> str:
    """A place in words."""
    x, y = place.xy
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    if not row and not column:
        return "in the middle"
    return f"at the {' '.join(one for one in (row, column) if one)}"


def _recall(found: Diagnosis) -> Table:
    parts = list(found.data)
    rows = []
    for name, one in found.models.items():
        row = [name]
        for part in parts:
            row += [percent(one.parts[part].retrieval.recall[1]),
                    percent(one.parts[part].retrieval.map_at_r)]  # fmt: skip
        rows.append(row)
    images = ", ".join(
        f"{next(iter(found.models.values())).parts[part].images:,} of {part}" for part in parts
    )
    about = (
        f"In percent, each photograph searched for among the others of its part ({images}): "
        f"R@1, the nearest is of its class, and MAP@R. Smaller galleries are easier: numbers of "
        f"other sizes cannot be compared with these."
    )
    columns = [f"{what}, {part}" for part in parts for what in ("R@1", "MAP@R")]
    return Table("Found again", about, ["model", *columns], rows)


def _located(found: Diagnosis) -> Table:
    rows = []
    shown: dict[str, float | None] = {}
    for name, one in found.models.items():
        if one.located is None:
            continue
        for method, of_method in one.located.methods.items():
            summary = of_method.summary()
            if method in ("centre-box", "random"):
                shown = summary if method == "centre-box" else shown
                continue
            rows.append([f"{name}, {method}", *_measured(summary)])
    rows.append(["a box in the middle", *_measured(shown)])
    about = (
        "Of the training photographs with a box, each with the nearest of its class: percent where "
        "the box around the largest part of the map has an IoU of at least 0.5 with the object's, "
        "at the threshold that is best for all, and held out, at the one that is best for the "
        "other half of the classes. Pointing: the largest value lies in the box. Energy: how much "
        "of the map's positive values lies there. (Table IV of the paper; `whyalike evaluate "
        "localization` has all thresholds.)"
    )
    columns = ["map", "IoU ≥ 0.5", "held out", "pointing", "energy"]
    return Table("Do maps lie on the object, on train?", about, columns, rows)


def _measured(summary: dict[str, float | None]) -> list[str]:
    return [percent(summary[key]) for key in ("accuracy", "held_out", "pointing", "energy")]


def _shares(found: Diagnosis) -> Table:
    rows = []
    for name, one in found.models.items():
        for part, those in one.parts.items():
            s = those.shares
            carried = [_share(value, s) for value in (s.objects, s.border, s.elsewhere, s.biases)]
            rows.append([f"{name}, {part}", f"{s.score:+.3f}", *carried])
    areas = []
    for part, those in next(iter(found.models.values())).parts.items():
        s = those.shares
        objects = "" if s.object_area is None else f"object {percent(s.object_area)} %, "
        areas.append(f"of {part}, {objects}border {percent(s.border_area)} %")
    about = (
        f"The mean cosine of each photograph with another of its class, by lot, the same pairs for "
        f"all models, and what carries it, in percent of it: the cells of the query on the object "
        f"(its box), in the border (the outer {BORDER:g} of each side, where the object is not), "
        f"elsewhere, and the terms with a bias, which no pair of cells carries. The four add up; "
        f"below zero is against the match. Areas, as the first model sees them: "
        f"{'; '.join(areas)}. Cells see more than they cover, so some of the object's evidence "
        f"lies beside it."
    )
    columns = ["model", "score", "object", "border", "elsewhere", "biases"]
    return Table("What carries the score", about, columns, rows)


def _share(value: float | None, shares: Shares) -> str:
    """In percent of the score; where that is not above zero, in cosine."""
    if value is None:
        return ""
    return percent(value / shares.score) if shares.score > 0.01 else f"{value:+.3f}"


def _places(found: Diagnosis) -> Table:
    rows = []
    for name, one in found.models.items():
        for place in one.shortcuts.places:
            kind = "wrong" if place.wrong else "right"
            of = one.shortcuts.wrong if place.wrong else one.shortcuts.right
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
                    percent(place.on_object),
                    VERDICTS[place.verdict],
                ]
            )
    counts = ", ".join(
        f"{name} {one.shortcuts.all_wrong:,} of {one.shortcuts.queries:,} matches wrong"
        for name, one in found.models.items()
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
        f"boxes. A shortcut is what p tells from chance (≤ {SIGNIFICANT:g}), what matches hang on "
        f"(hidden against elsewhere, 99 % interval above 0), and what is mostly not the object. "
        f"Marks that lie elsewhere in each photograph are not found so."
    )
    columns = ["decided", "matches", "%", "chance", "p", "others", "carries", "hidden",
               "on object", "verdict"]  # fmt: skip
    return Table("Places that decide matches", about, columns, rows)


def _numbers(found: Diagnosis) -> dict[str, Any]:
    return {
        "models": {name: _of_model(one) for name, one in found.models.items()},
        "differing": {
            "mean_distance": found.distance,
            "pairs": [
                {
                    "part": one.part,
                    "query": str(one.query.path),
                    "reference": str(one.reference.path),
                    "distance": one.distance,
                }
                for one in found.differing
            ],
        },
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _of_model(one: Diagnosed) -> dict[str, Any]:
    shortcuts = one.shortcuts
    return {
        "parts": {
            name: {
                "images": part.images,
                "recall": {str(k): value for k, value in part.retrieval.recall.items()},
                "map_at_r": part.retrieval.map_at_r,
                "shares": part.shares._asdict(),
            }
            for name, part in one.parts.items()
        },
        "localization": None
        if one.located is None
        else {name: of.summary() for name, of in one.located.methods.items()},
        "matches": shortcuts.queries,
        "wrong": shortcuts.all_wrong,
        "looked_at": {"wrong": len(shortcuts.wrong), "right": len(shortcuts.right)},
        "places": [_of_place(place, shortcuts) for place in shortcuts.places],
    }


def _of_place(place: Place, shortcuts: Shortcuts) -> dict[str, Any]:
    of = shortcuts.wrong if place.wrong else shortcuts.right
    return {
        "of": "wrong" if place.wrong else "right",
        "where": where(place),
        "xy": list(place.xy),
        "verdict": place.verdict,
        "matches": len(place.matches),
        **{
            key: getattr(place, key)
            for key in ("share", "chance", "fullest", "p", "others", "carried", "classes",
                        "on_object")
        },
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


def _figures(found: Diagnosis) -> list[Figure]:
    figures = []
    for name, one in found.models.items():
        for place in one.shortcuts.places:
            if place.verdict != "chance":
                figures += _of_patches(name, one.shortcuts, place)
    figures += _densities(found)
    return [*figures, *_side_by_side(found)]


def _of_patches(name: str, shortcuts: Shortcuts, place: Place) -> list[Figure]:
    """The regions at a place, cut out, and the strongest matches whole."""
    of = shortcuts.wrong if place.wrong else shortcuts.right
    kind = "wrong" if place.wrong else "right"
    these = list(zip(place.matches, place.regions, strict=True))
    patches = [
        (f"{_label(of[at].query)} → {_label(of[at].first)}", _patch(of[at], region))
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
    for at, region in these[:EXAMPLES]:
        decision = of[at]
        carried = region.carried
        figures.append(
            Figure(
                f"{_label(decision.query)}: S = {decision.score:.3f} with the first, "
                f"{decision.difference:.3f} less with the second; the framed region carries "
                f"{carried:+.3f} of that.",
                [
                    (f"{decision.query.path.name}, what ranks the first before the second",
                     _deciding(decision, region)),
                    (f"first: {_label(decision.first)}, {decision.first.path.name}",
                     plots.jpeg(_small(read_image(decision.first.path)))),
                    (f"second: {_label(decision.second)}, {decision.second.path.name}",
                     plots.jpeg(_small(read_image(decision.second.path)))),
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


def _densities(found: Diagnosis) -> list[Figure]:
    """How many matches are decided at each cell, one picture for each model and kind."""
    shown = []
    for name, one in found.models.items():
        for kind, of in (("wrong", one.shortcuts.wrong), ("right", one.shortcuts.right)):
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


def _side_by_side(found: Diagnosis) -> list[Figure]:
    """The pairs where models look most differently, with the maps of each."""
    figures = []
    for pair in found.differing:
        paths = [str(pair.query.path), str(pair.reference.path)]
        pictures = [read_image(path) for path in paths]
        shown = [
            (f"{_label(one)}, {one.path.name}", plots.jpeg(_small(picture)))
            for one, picture in zip((pair.query, pair.reference), pictures, strict=True)
        ]
        for name, one in found.models.items():
            explained = Pair(*one.model.explain(paths))
            for side, c, picture in zip(
                ("query", "reference"), (explained.query, explained.reference), pictures,
                strict=True,
            ):  # fmt: skip
                values = explained.overall_map(side)  # type: ignore[arg-type]
                drawn = draw.overlay(_small(picture), values, c.frame)
                shown.append((f"{name}, {side}, S = {explained.similarity:.3f}", plots.jpeg(drawn)))
        figures.append(
            Figure(
                f"{pair.part}: {100 * pair.distance:.0f} % of one map would have to be moved to "
                f"make it the other.",
                shown,
                large=True,
            )
        )
    if figures:
        mean = 0.0 if found.distance is None else found.distance
        first = figures[0]
        legend = (
            f" Red speaks for the match, blue against it, each map on its own scale. Over all "
            f"pairs {100 * mean:.0f} %, of the two models that differ most."
        )
        figures[0] = Figure(
            first.caption + legend, first.pictures, "Where models look most differently", large=True
        )
    return figures


def _label(sample: Sample) -> str:
    return printable(sample.label or "")


def _deciding(decision: Decision, region: Region) -> str:
    picture = read_image(decision.query.path)
    small = _small(picture)
    drawn = draw.overlay(small, decision.values, decision.frame)
    _outline(drawn, decision.xyxy(region), drawn.width / picture.width)
    return plots.jpeg(drawn)


def _patch(decision: Decision, region: Region) -> str:
    """A region and some of what is around it, cut out of the photograph."""
    picture = read_image(decision.query.path)
    x0, y0, x1, y1 = decision.xyxy(region)
    dx, dy = AROUND * (x1 - x0), AROUND * (y1 - y0)
    box = (
        max(0, math.floor(x0 - dx)), max(0, math.floor(y0 - dy)),
        min(picture.width, math.ceil(x1 + dx)), min(picture.height, math.ceil(y1 + dy)),
    )  # fmt: skip
    cut = picture.crop(box).convert("RGB")
    scale = THUMBNAIL / 2 / max(cut.size)
    drawn = cut.resize(
        (max(1, round(cut.width * scale)), max(1, round(cut.height * scale))),
        Image.Resampling.BICUBIC,
    )
    moved = (x0 - box[0], y0 - box[1], x1 - box[0], y1 - box[1])
    _outline(drawn, moved, scale)
    return plots.jpeg(drawn)


def _small(picture: Image.Image) -> Image.Image:
    """At most 240 pixels a side, and of a smaller one, at least that."""
    scale = THUMBNAIL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _outline(picture: Image.Image, box: XYXY, scale: float) -> None:
    x0, y0, x1, y1 = (side * scale for side in box)
    corners = [max(x0, 0), max(y0, 0), min(x1, picture.width - 1), min(y1, picture.height - 1)]
    if corners[2] > corners[0] and corners[3] > corners[1]:
        ImageDraw.Draw(picture).rectangle(corners, outline=MARK, width=2)
