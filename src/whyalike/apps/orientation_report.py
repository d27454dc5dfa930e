"""What an evaluation of headings found, to read: Figure 9 of the paper, tables, how sure it was."""

from __future__ import annotations

from typing import Any

import torch

from whyalike.apps.orientation import SMOOTHING, Compass
from whyalike.apps.orientation_evaluation import BIN, Orientation, histogram
from whyalike.evaluate import plots
from whyalike.evaluate.report import Figure, Report, Table, percent

WORDS = {
    "overall": "maxima of both overall maps",
    "point": "the street map's maximum, and that of its point map (the paper's)",
    "profile": "all of that point map, by bearing",
    "votes": "all pairs of points, by what they carry",
}
DEGREES = (BIN / 2, 10.0, 20.0, 45.0)


def report(found: Orientation) -> Report:
    """Tables, numbers and figures of an evaluation of headings."""
    n = len(found.truth)
    best = max(found.estimates, key=found.within)
    lead = (
        f"Of {n} pairs, the heading is within ±{BIN / 2:g}° for {percent(found.within(best))} % by "
        f"{best}, for {percent(found.within('point'))} % by the point-specific map and for "
        f"{percent(found.within('overall'))} % by the overall maps; chance is "
        f"{percent(BIN / 360)} %."
    )
    turned = {"panorama": "panoramas begin anywhere", "tile": "views from above are turned",
              "none": "none: all headings are one"}  # fmt: skip
    return Report(
        title="Orientation",
        lead=lead,
        settings={
            "data": found.data,
            "turned by lot": turned[found.turn],
            "seed": found.seed,
            "model, street": found.models[0],
            "model, above": found.models[1],
            "kernel": f"{SMOOTHING:g}°",
            "threads": torch.get_num_threads(),
        },
        numbers=_numbers(found),
        tables=[_shares(found), _sure(found)],
        figures=[_figure(found)],
    )


def _numbers(found: Orientation) -> dict[str, Any]:
    compass = Compass()
    return {
        "pairs": len(found.truth),
        "angles": "0° is south, 90° west, 180° north, as in the paper",
        "truth": [round(compass.angle(one), 3) for one in found.truth],
        "estimators": {
            name: {
                "within_3.5": found.within(name),
                "within_3.5_interval": list(found.interval(name)),
                "opposite_3.5": found.opposite(name),
                "within": {f"{far:g}": found.within(name, far) for far in DEGREES},
                "headings": [round(compass.angle(one.heading), 3) for one in each],
                "histogram": histogram(found.errors(name))[1].tolist(),
                "probability_of_first_mode": [round(one.modes[0].probability, 4) for one in each],
            }
            for name, each in found.estimates.items()
        },
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _shares(found: Orientation) -> Table:
    rows = []
    for name in found.estimates:
        low, high = found.interval(name)
        rows.append(
            [
                f"{name}: {WORDS[name]}",
                percent(found.within(name)),
                f"{percent(low)} to {percent(high)}",
                *(percent(found.within(name, far)) for far in DEGREES[1:]),
                percent(found.opposite(name)),
                percent(found.opposite(name, 20.0)),
            ]
        )
    rows.append(["chance", percent(BIN / 360), "", *(percent(far / 180) for far in DEGREES[1:]),
                 percent(BIN / 360), percent(20 / 180)])  # fmt: skip
    about = (
        f"How many of {len(found.truth)} headings, in percent, are within so many degrees of the "
        f"true one, with Wilson's interval of 95 % for the first; and how many are as near to its "
        f"opposite."
    )
    columns = ["estimator", f"±{BIN / 2:g}°", "95 %", *(f"±{far:g}°" for far in DEGREES[1:]),
               f"180 ± {BIN / 2:g}°", "180 ± 20°"]  # fmt: skip
    return Table("Headings", about, columns, rows)


def _sure(found: Orientation) -> Table:
    rows = [
        [name, percent(told), percent(right), str(count)]
        for name in ("profile", "votes")
        for told, right, count in found.told_sure(name)
    ]
    about = (
        "The opposite is told as a second mode, each with the probability of lying about there "
        "rather than about the other. Of headings within 45° of the truth or of its opposite, in "
        "five parts by that probability: its mean, and how many are right, in percent."
    )
    return Table("North or south", about, ["estimator", "told", "right", "pairs"], rows)


def _figure(found: Orientation) -> Figure:
    lines = {}
    for name in found.estimates:
        middles, shares = histogram(found.errors(name))
        lines[name] = 100 * shares
    drawn = plots.curves(middles, lines, "error of the heading, degrees", f"pairs in {BIN:g}°, %")
    caption = (
        f"Errors of the heading in bins of {BIN:g}° (the paper's Figure 9); the bin about ±180° is "
        f"what is left of the circle, 3° wide. Chance is {100 * BIN / 360:.1f} % in each."
    )
    return Figure(caption, [("Histogram of errors by estimator", drawn)], "Errors", wide=True)
