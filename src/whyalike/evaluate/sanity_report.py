"""What an evaluation of sanity found, to read: tables and a curve."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from whyalike.evaluate import plots
from whyalike.evaluate.methods import ALWAYS
from whyalike.evaluate.report import Figure, Report, Table, percent, shown
from whyalike.evaluate.sanity import Likeness, Sanity, Shaken, Step


def report(found: Sanity, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of an evaluation of sanity.

    Args:
        found: what was measured.
        pictures: whether to make the figures of the page.
    """
    ours = next((name for name in found.likeness if name not in ALWAYS), "random")
    alike, forgot = found.likeness[ours], found.randomised[ours][-1]
    lead = (
        f"{len(found):,} pairs of {found.data.about}. Maps of {ours} correlate by "
        f"{shown(forgot.pearson)} with those of a network that has forgotten all of its weights, "
        f"and by {shown(alike.pearson)} with those of the same queries with an impostor; "
        f"{percent(alike.told)} % of the impostors have the smaller sum."
    )
    return Report(
        title="Sanity",
        lead=lead,
        settings=found.settings(methods=", ".join(found.likeness)),
        numbers={
            "pairs": len(found),
            "methods": {
                name: {
                    "randomised": [_plain(one) for one in found.randomised[name]],
                    "likeness": _plain(found.likeness[name]),
                    "shaken": [_plain(one) for one in found.shaken[name]],
                }
                for name in found.likeness
            },
            "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
        },
        tables=(_forgotten(found), _impostors(found), _noise(found)),
        figures=[_curve(found)] if pictures else (),
    )


def _plain(one: Step | Likeness | Shaken) -> dict[str, Any]:
    """NaN is none of JSON's numbers."""
    bad = {k for k, v in asdict(one).items() if isinstance(v, float) and math.isnan(v)}
    return {name: None if name in bad else value for name, value in asdict(one).items()}


def _forgotten(found: Sanity) -> Table:
    steps = next(iter(found.randomised.values()))[1:]
    rows = [
        [
            name,
            *(
                f"{shown(one.pearson)} / {shown(one.absolute)}"
                for one in found.randomised[name][1:]
            ),
        ]
        for name in found.randomised
    ]
    about = (
        "Correlation with the trained network's map, Pearson's, and Spearman's of absolute values, "
        "as weights are drawn anew from the head down to the layer named, one step keeping what "
        "the last one forgot; means over the pairs (Adebayo et al., 2018). A map that stays near "
        "1 does not depend on what the network has learned, as a box in the middle and noise of "
        "the image's own do not."
    )
    return Table("Weights forgotten", about, ["map", *(one.forgotten for one in steps)], rows)


def _impostors(found: Sanity) -> Table:
    rows = [
        [name, shown(one.pearson), shown(one.spearman), percent(one.told)]
        for name, one in found.likeness.items()
    ]
    about = (
        "A query's map with one of its class against its map with the nearest photograph of "
        "another class: mean correlations, 1 for a map that does not look at the other image. "
        "Told apart: how often, in percent, the sum of the map is larger for the one of its class; "
        "50 is what chance gives."
    )
    return Table("Impostors", about, ["map", "Pearson", "Spearman", "told apart"], rows)


def _noise(found: Sanity) -> Table:
    levels = [one.level for one in next(iter(found.shaken.values()))]
    rows = [
        [name, *(f"{shown(one.pearson)} / {shown(one.change)}" for one in found.shaken[name])]
        for name in found.shaken
    ]
    scores = next(iter(found.shaken.values()))
    about = (
        "Correlation of a query's map with that of the same with Gaussian noise in its pixels, and "
        "the largest relative change of the map (max-sensitivity), means over the pairs. Noise: "
        "standard deviation, in those of the image. The cosine changes by "
        + ", ".join(f"{shown(one.score)}" for one in scores)
        + "."
    )
    return Table("Noise in the query", about, ["map", *(f"noise {x:g}" for x in levels)], rows)


def _curve(found: Sanity) -> Figure:
    lines = {name: [one.pearson for one in steps] for name, steps in found.randomised.items()}
    x = range(len(next(iter(lines.values()))))
    drawn = plots.curves(x, lines, "steps of forgetting, from the head down", "correlation")
    caption = "Correlation with the trained network's map as it forgets its weights."
    return Figure(caption, [("Curves of correlation over steps", drawn)], "Forgetting", wide=True)
