"""What a localization found, to read: tables, curves and photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from whyalike import draw
from whyalike.data import Sample
from whyalike.evaluate import measures, plots
from whyalike.evaluate.localization import Localization
from whyalike.evaluate.methods import ALWAYS, METHODS, Both
from whyalike.evaluate.photographs import map_size
from whyalike.evaluate.report import Figure, Report, Table, percent
from whyalike.geometry import XYXY, Frame
from whyalike.images import read_image

SHOWN = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Thresholds of the table; the numbers have all of them."""
EXAMPLES = 6
THUMBNAIL = 220
TRUE, FOUND = "#19b35b", "#ffd60a"

COMPARED = {
    "nearest": "the nearest photograph of its class",
    "random": "another photograph of its class, by lot",
    "self": "itself",
}


def report(found: Localization, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of a localization.

    Args:
        found: what was measured.
        pictures: whether to make the figures of the page, which runs the network again on some
            photographs.
    """
    figures = [_curves(found), *_examples(found)] if pictures else []
    summaries = {name: one.summary() for name, one in found.methods.items()}
    ours = [name for name in found.methods if name not in ALWAYS]
    best = max(ours or [*found.methods], key=lambda name: summaries[name]["accuracy"] or 0.0)
    lead = (
        f"{len(found):,} photographs of {found.data.about}, each with {COMPARED[found.pairing]}. "
        f"Of the maps measured, {best} finds most objects: "
        f"{percent(summaries[best]['accuracy'])} % of the boxes have an IoU of 0.5 or more at its "
        f"best threshold, {percent(summaries[best]['held_out'])} % at thresholds chosen on the "
        f"other half of the classes; a box in the middle finds "
        f"{percent(summaries['centre-box']['accuracy'])} %."
    )
    return Report(
        title="Localization",
        lead=lead,
        settings=found.settings(methods=", ".join(found.methods)),
        numbers=_numbers(found, summaries),
        tables=(_thresholds(found), _measures(found, summaries)),
        figures=figures,
    )


def _numbers(
    found: Localization, summaries: dict[str, dict[str, float | None]]
) -> dict[str, object]:
    return {
        "photographs": len(found),
        "recall_at_1": found.recall,
        "thresholds": measures.THRESHOLDS.tolist(),
        "methods": {
            name: {
                **summaries[name],
                "accuracy_by_threshold": {
                    str(share): one.accuracies(share).tolist() for share in measures.OVERLAPS
                },
            }
            for name, one in found.methods.items()
        },
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _thresholds(found: Localization) -> Table:
    at = [int(np.abs(measures.THRESHOLDS - one).argmin()) for one in SHOWN]
    rows = []
    for name, one in found.methods.items():
        shares = one.accuracies()
        rows.append([name, *(percent(shares[i]) for i in at), percent(shares.max())])
    about = (
        f"Percent of {len(found):,} photographs where the box around the largest part of the map "
        f"above a threshold, a share of the map's largest value, has an IoU of at least 0.5 with "
        f"the object's box. Maps are brought to the image's size (bilinear), and what is below "
        f"zero counts as nothing. Best: at the best of {len(measures.THRESHOLDS)} thresholds from "
        f"0 to {measures.THRESHOLDS[-1]:g}. centre-box: a box in the middle with 1 − threshold of "
        f"each side; random: noise in each pixel."
    )
    columns = ["map", *(f"{one:g}" for one in SHOWN), "best"]
    return Table("Boxes with IoU ≥ 0.5, by threshold", about, columns, rows)


def _measures(found: Localization, summaries: dict[str, dict[str, float | None]]) -> Table:
    columns = {"accuracy": "best", "held_out": "held out", "v2": "V2",
               "v2_held_out": "V2 held out", "pointing": "pointing", "energy": "energy",
               "pixel_ap": "pixel AP"}  # fmt: skip
    masks = any(one["pixel_ap"] is not None for one in summaries.values())
    shown = [key for key in columns if masks or key != "pixel_ap"]
    rows = [
        [name, f"{one['threshold']:g}", *(percent(one[key]) for key in shown)]
        for name, one in summaries.items()
    ]
    about = (
        "In percent. At: the threshold at which most boxes have an IoU of 0.5, and best: how many "
        "that are. Held out: the same, but each photograph at the threshold that is best for the "
        "other half of the classes. V2: MaxBoxAccV2, the mean over IoU 0.3, 0.5 and 0.7. Pointing: "
        "the largest value lies in the box. Energy: how much of the map's positive values lies in "
        "the box."
        + (" Pixel AP: precision over recall of the object's pixels." if masks else "")
        + f" Of the photographs, {percent(found.recall)} % have one of their class nearest (R@1)."
    )
    return Table("Measures", about, ["map", "at", *(columns[key] for key in shown)], rows)


def _curves(found: Localization) -> Figure:
    lines = {name: 100 * one.accuracies() for name, one in found.methods.items()}
    drawn = plots.curves(
        measures.THRESHOLDS, lines, "threshold, as a share of the map's largest value",
        "boxes with IoU ≥ 0.5, %", xlim=(0, 1), ylim=(0, None),
    )  # fmt: skip
    what = "Curves: share of boxes with an IoU of at least 0.5 over the threshold, for each map"
    caption = "Share of boxes found, by threshold. Dotted: what knows nothing of the image."
    return Figure(caption, [(what, drawn)], "By threshold", wide=True)


def _examples(found: Localization) -> list[Figure]:
    """Some pairs, spread evenly over all, with the box that each map gives."""
    model, sharp = found.model, cache(found.model.sharp)
    assert model.preprocess is not None
    figures = []
    for i in np.unique(np.linspace(0, len(found) - 1, min(EXAMPLES, len(found))).round()):
        query, reference = found.queries[int(i)], found.references[int(i)]
        pictures = [read_image(one.path) for one in (query, reference)]
        (x, view), (y, _) = (model.preprocess(picture) for picture in pictures)
        both = Both(model, sharp, x, y, seed=found.seed)
        shown = [("query", _drawn(pictures[0], query)), ("reference", _drawn(pictures[1]))]
        for name, one in found.methods.items():
            values = METHODS[name](both).detach().cpu()
            drawn = _with_map(pictures[0], values, view, one.best_threshold, map_size(x), query)
            shown.append((name, drawn))
        what = f"{query.label or query.path.name}: {query.path.name} with {reference.path.name}."
        figures.append(Figure(what, shown))
    first = figures[0]
    legend = (
        "Green: the object's box. Yellow: the box around the largest part of the map above the "
        "map's best threshold. Red speaks for the match, blue against it."
    )
    return [Figure(f"{first.caption} {legend}", first.pictures, "Examples"), *figures[1:]]


def _drawn(picture: Image.Image, sample: Sample | None = None) -> str:
    """A photograph, with its true box if a sample is given."""
    small = _small(picture)
    if sample is not None and sample.box_xyxy is not None:
        _frame(small, sample.box_xyxy, small.width / picture.width, TRUE)
    return plots.jpeg(small)


def _with_map(
    picture: Image.Image,
    values: Tensor,
    view: XYXY,
    threshold: float,
    size_hw: tuple[int, int],
    sample: Sample,
) -> str:
    """A map over its photograph, the box that it gives and the true one."""
    small = _small(picture)
    frame = Frame(picture.size, view, (values.shape[0], values.shape[1]))
    drawn = draw.overlay(small, values, frame)
    scale = small.width / picture.width
    if sample.box_xyxy is not None:
        _frame(drawn, sample.box_xyxy, scale, TRUE)
    big = measures.to_image(values, size_hw).numpy()
    if big.max() > 0:
        x0, y0, x1, y1 = measures.largest_part(big > threshold * big.max())
        sx, sy = (view[2] - view[0]) / size_hw[1], (view[3] - view[1]) / size_hw[0]
        box = (view[0] + x0 * sx, view[1] + y0 * sy, view[0] + x1 * sx, view[1] + y1 * sy)
        _frame(drawn, box, scale, FOUND)
    return plots.jpeg(drawn)


def _small(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return small


def _frame(picture: Image.Image, box: Sequence[float], scale: float, colour: str) -> None:
    x0, y0, x1, y1 = (side * scale for side in box)
    limits = (picture.width - 1, picture.height - 1)
    corners = [max(x0, 0), max(y0, 0), min(x1, limits[0]), min(y1, limits[1])]
    if corners[2] > corners[0] and corners[3] > corners[1]:
        ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=2)
