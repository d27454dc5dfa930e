"""What an evaluation of faithfulness found, to read: tables and curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from whyalike.evaluate import plots
from whyalike.evaluate.faithfulness import BOXES, VECTORS, Faithfulness
from whyalike.evaluate.methods import ALWAYS
from whyalike.evaluate.perturbation import SHARES, Agreement, Fill
from whyalike.evaluate.report import Figure, Report, Table, shown


def report(found: Faithfulness, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of an evaluation of faithfulness.

    Args:
        found: what was measured.
        pictures: whether to make the figures of the page.
    """
    last = found.fills[-1]
    agreed = found.agreements(last)
    ours = [name for name in found.methods if name not in ALWAYS]
    best = min(ours or found.methods, key=lambda name: found.areas(name, last)["deletion"])
    areas, chance = found.areas(best, last), found.areas("random", last)
    lead = (
        f"{len(found):,} pairs of {found.data.about}. Under {last}, {best} has the least area of "
        f"deletion, {areas['deletion']:.3f} ({chance['deletion']:.3f} by lot), and "
        f"{areas['insertion']:.3f} of insertion ({chance['insertion']:.3f}). As boxes are hidden, "
        f"the decomposition's vectors correlate with the change of the score by "
        f"{shown(agreed[VECTORS[1]]['correlation'])}."
    )
    return Report(
        title="Faithfulness",
        lead=lead,
        settings=found.settings(
            methods=", ".join(found.methods), fills=", ".join(found.fills)
        ),
        numbers=_numbers(found),
        tables=[*(_areas(found, fill) for fill in found.fills),
                *(_agreements(found, fill) for fill in found.fills)],
        figures=_figures(found) if pictures else (),
    )  # fmt: skip


def _numbers(found: Faithfulness) -> dict[str, Any]:
    return {
        "pairs": len(found),
        "methods": {
            name: {
                fill: {
                    **found.areas(name, fill),
                    "curves": _mean_curves(found, name, fill).tolist(),
                }
                for fill in found.fills
            }
            for name in found.methods
        },
        "predicted_against_measured": {fill: found.agreements(fill) for fill in found.fills},
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _mean_curves(found: Faithfulness, name: str, fill: Fill) -> np.ndarray:
    curves: np.ndarray = found.methods[name].curves[:, found.fills.index(fill)].mean(0)
    return curves


def _areas(found: Faithfulness, fill: Fill) -> Table:
    columns = {"deletion": "deletion ↓", "insertion": "insertion ↑",
               "deletion_both": "deletion, both ↓", "insertion_both": "insertion, both ↑",
               "road": "ROAD ↑"}  # fmt: skip
    rows = []
    for name in found.methods:
        areas = found.areas(name, fill)
        rows.append([name, *(shown(areas[key]) for key in columns)])
    hidden = _mean_curves(found, next(iter(found.methods)), fill)
    about = (
        f"Means over {len(found):,} pairs of areas under the cosine, where that is above zero, as "
        f"pixels of the largest values are replaced ({fill}) or put on what replaces them, in "
        f"{hidden.shape[-1] - 1} steps. The reference is held fixed, or (both) treated alike by "
        f"its own map. With all hidden, the score is {hidden[0, 0, -1]:.3f}, and of two hidden "
        f"images {hidden[1, 0, -1]:.3f}: where that is high, areas of both say little. ROAD: the "
        f"score without the least pixels less that without the most, imputed from their "
        f"neighbours, the mean over {', '.join(f'{share:g}' for share in SHARES)} of the pixels; "
        f"it knows no fill."
    )
    return Table(f"Deletion and insertion, {fill}", about, ["map", *columns.values()], rows)


def _agreements(found: Faithfulness, fill: Fill) -> Table:
    rows = []
    for name, one in found.agreements(fill).items():
        row = [shown(one[key]) for key in ("correlation", "slope", "unexplained")]
        rows.append([name, *row, "" if one["infidelity"] is None else f"{one['infidelity']:.2g}"])
    about = (
        f"{BOXES} random boxes of each query are hidden ({fill}), one at a time: the change of the "
        f"score that a map predicts, the values under the box, against the change measured; means "
        f"over the pairs. Slope: of measured over predicted. Unexplained: share of the measured "
        f"changes' squares that the best multiple, from 0, of the prediction leaves. Infidelity: "
        f"mean squared difference, telling of maps in units of cosine alone. {VECTORS[0]}: "
        f"the decomposition with the length of the embedding taken anew; {VECTORS[1]}: the same, "
        f"with what the cells of the hidden image give in their place."
    )
    columns = ["predicted by", *list(Agreement._fields)[:2], "unexplained ↓", "infidelity ↓"]
    return Table(f"Predicted against measured, {fill}", about, columns, rows)


def _figures(found: Faithfulness) -> list[Figure]:
    figures = []
    for fill in found.fills:
        pictures = []
        for way, what in enumerate(("deletion", "insertion")):
            lines = {name: _mean_curves(found, name, fill)[0, way] for name in found.methods}
            x = np.linspace(0, 100, len(next(iter(lines.values()))))
            label = "pixels hidden, %" if way == 0 else "pixels shown, %"
            pictures.append((f"{what}, {fill}", plots.curves(x, lines, label, "cosine")))
        at = found.fills.index(fill)
        points = {VECTORS[1]: (found.vectors[VECTORS[1]][:, at], found.measured[:, at])}
        drawn = plots.scatter(points, "predicted change", "measured change")
        caption = (
            f"Mean scores as pixels go, and as they come, the reference held fixed; and changes of "
            f"the score as boxes are hidden against those that the vectors predict ({fill})."
        )
        figures.append(Figure(caption, [*pictures, ("predicted and measured changes", drawn)],
                              fill.capitalize(), wide=True))  # fmt: skip
    return figures
