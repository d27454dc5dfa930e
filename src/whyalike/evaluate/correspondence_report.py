"""What an evaluation of correspondence found, to read: tables, a curve and points on pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from whyalike.evaluate import correspondence as match
from whyalike.evaluate import plots
from whyalike.evaluate.correspondence import ALWAYS, RADII, Correspondence
from whyalike.evaluate.report import Figure, Report, Table, percent
from whyalike.gallery.manifest import fingerprint

WIDTH = 360
TRUE, FOUND = "#19b35b", "#ffd60a"


def report(found: Correspondence, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of an evaluation of correspondence.

    Args:
        found: what was measured.
        pictures: whether to make the figures of the page.
    """
    kinds = [*dict.fromkeys(found.kinds.tolist())]
    ours = [name for name in found.distances if name not in ALWAYS] or ["nearest cell"]
    at = RADII.index(0.1)
    best = max(ours, key=lambda name: float(found.pck(name, "stereo")[at]))
    lead = (
        f"Of {int((found.kinds == 'stereo').sum())} points of a stereo pair, {best} finds "
        f"{percent(found.pck(best, 'stereo')[at])} % within {RADII[at]:g} of the longer side; "
        f"a cell by lot {percent(found.pck('chance', 'stereo')[at])} %, the nearest cell "
        f"{percent(found.pck('nearest cell', 'stereo')[at])} %."
    )
    other = {} if found.reference_model is None else fingerprint(found.reference_model)
    return Report(
        title="Correspondence",
        lead=lead,
        settings={
            "photographs": ", ".join(found.names),
            "methods": ", ".join(found.distances),
            "seed": found.seed,
            "homographies": f"corners moved by up to {match.STRENGTH:g} of each side",
            **{f"model, {name}": value for name, value in fingerprint(found.model).items()},
            **{f"reference's model, {name}": value for name, value in other.items()},
            "threads": torch.get_num_threads(),
        },
        numbers=_numbers(found, kinds),
        tables=[_table(found, kind) for kind in kinds],
        figures=_figures(found, kinds) if pictures else (),
    )


def _numbers(found: Correspondence, kinds: list[str]) -> dict[str, Any]:
    return {
        "photographs": list(found.names),
        "points": {kind: int((found.kinds == kind).sum()) for kind in kinds},
        "radii": list(RADII),
        "pck": {
            kind: {name: found.pck(name, kind).tolist() for name in found.distances}
            for kind in kinds
        },
        "interval_at_0.1": {
            kind: {name: _ends(found, name, kind) for name in found.distances}
            for kind in kinds
            if _several(found, kind)
        },
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _several(found: Correspondence, kind: str) -> bool:
    """Whether there are photographs to draw anew."""
    return len({*found.photographs[found.kinds == kind].tolist()}) > 1


def _ends(found: Correspondence, name: str, kind: str) -> list[float]:
    interval = found.interval(name, kind)
    return [interval.low, interval.high]


def _table(found: Correspondence, kind: str) -> Table:
    count = int((found.kinds == kind).sum())
    known = {
        "stereo": "of the stereo pair of scikit-image, whose disparity is known",
        "homography": "of photographs, found in the same under a random homography",
    }[kind]
    several = _several(found, kind)
    rows = []
    for name in found.distances:
        shares = [percent(share) for share in found.pck(name, kind)]
        if several:
            shares.append("–".join(percent(end) for end in _ends(found, name, kind)))
        far = np.median(found.distances[name][found.kinds == kind])
        rows.append([name, *shares, f"{far:.3f}"])
    about = (
        f"{count} points {known}: how many, in percent, are found within a radius, a share of the "
        f"second picture's longer side (PCK), and the median distance. A point is found at the "
        f"centre of the cell with the largest value: of the point's map (in the model's own form, "
        f"the sharp one, the one that whyalike explain draws), or of a cosine: of v in "
        f"the sharp form (direction), of features at the cut (cosine). Nearest cell: the best that "
        f"cells of the model's grid can do; "
        f"same place: the point left where it was; chance: a cell by lot."
    )
    columns = ["points by", *(f"{one:g}" for one in RADII)]
    if several:
        about += " Behind them, 95 % of what 0.1 gives as photographs are drawn anew."
        columns.append("0.1, 95 %")
    return Table(f"PCK, {kind}", about, [*columns, "median"], rows)


def _figures(found: Correspondence, kinds: list[str]) -> list[Figure]:
    radii = np.arange(41) / 100
    figures = []
    for kind in kinds:
        of = found.kinds == kind
        lines = {name: 100 * match.pck(far[of], radii.tolist())
                 for name, far in found.distances.items()}  # fmt: skip
        label = "radius, as a share of the longer side"
        drawn = plots.curves(radii, lines, label, "points found, %")
        caption = f"Share of the points found within each radius, {kind}."
        figures.append(Figure(caption, [(f"Curves of PCK, {kind}", drawn)], kind.capitalize(),
                              wide=True))  # fmt: skip
    for given, where in found.shown:
        shown = [("points", _dotted(given.first, given.points_xy))]
        shown += [
            (name, _dotted(given.second, given.matches_xy, xy))
            for name, xy in where.items()
            if name != "chance"
        ]
        caption = (
            f"{given.name}: green where the points are, yellow where they are found, each with a "
            f"line to where it should be."
        )
        figures.append(Figure(caption, shown))
    return figures


def _dotted(picture: Image.Image, true_xy: np.ndarray, found_xy: np.ndarray | None = None) -> str:
    """A small picture with true points, and those that were found."""
    scale = WIDTH / picture.width
    small = picture.resize((WIDTH, max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(small)
    if found_xy is not None:
        for true, xy in zip(true_xy * scale, found_xy * scale, strict=True):
            pen.line([*true, *xy], fill=FOUND, width=1)
            _dot(pen, xy, FOUND)
    for xy in true_xy * scale:
        _dot(pen, xy, TRUE)
    return plots.jpeg(small)


def _dot(pen: ImageDraw.ImageDraw, xy: np.ndarray, colour: str) -> None:
    x, y = xy.tolist()
    pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
