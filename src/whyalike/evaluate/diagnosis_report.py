"""What a diagnosis found, to read: tables, and pairs with the maps of all models side by side."""

from __future__ import annotations

from typing import Any

import torch

from whyalike import draw
from whyalike.data import Dataset
from whyalike.evaluate import plots, shortcuts_report
from whyalike.evaluate.diagnosis import BORDER, Diagnosed, Diagnosis, Shares
from whyalike.evaluate.report import Figure, Report, Table, percent
from whyalike.evaluate.shortcuts_report import label, small
from whyalike.gallery.manifest import fingerprint
from whyalike.images import read_image
from whyalike.pair import Pair


def report(found: Diagnosis, *, pictures: bool = True) -> Report:
    """Tables, numbers and figures of a diagnosis.

    Args:
        found: what was found.
        pictures: whether to make the figures of the page, which runs the networks again on some
            pairs.
    """
    shortcuts = {name: one.shortcuts for name, one in found.models.items()}
    fingerprints = {
        f"{name}, {what}": value
        for name, one in found.models.items()
        for what, value in fingerprint(one.model).items()
    }
    return Report(
        title="Diagnosis",
        lead=_lead(found),
        settings={
            **{part: _described(data) for part, data in found.data.items()},
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
            shortcuts_report.table(shortcuts),
        ],
        figures=[*shortcuts_report.figures(shortcuts), *_side_by_side(found)] if pictures else (),
    )


def _described(data: Dataset) -> str:
    classes = len(data.labels)
    return f"{data.name} ({data.about}; {len(data):,} photographs of {classes:,} classes)"


def _lead(found: Diagnosis) -> str:
    sentences = []
    for name, one in found.models.items():
        recalls = ", ".join(
            f"{percent(part.retrieval.recall[1])} % on {where}" for where, part in one.parts.items()
        )
        sentences.append(
            f"{name} has a recall at 1 of {recalls}. {shortcuts_report.summary(one.shortcuts)}"
        )
    return " ".join(sentences)


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
        "of the map's positive values lies there. (Section VI-C of the paper; whyalike evaluate "
        "localization has all thresholds.)"
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
        **shortcuts_report.numbers(one.shortcuts),
    }


def _side_by_side(found: Diagnosis) -> list[Figure]:
    """The pairs where models look most differently, with the maps of each."""
    figures = []
    for pair in found.differing:
        paths = [str(pair.query.path), str(pair.reference.path)]
        pictures = [read_image(path) for path in paths]
        shown = [
            (f"{label(one)}, {one.path.name}", plots.jpeg(small(picture)))
            for one, picture in zip((pair.query, pair.reference), pictures, strict=True)
        ]
        for name, one in found.models.items():
            explained = Pair(*one.model.explain(paths))
            for side, c, picture in zip(
                ("query", "reference"), (explained.query, explained.reference), pictures,
                strict=True,
            ):  # fmt: skip
                values = explained.overall_map(side)  # type: ignore[arg-type]
                drawn = draw.overlay(small(picture), values, c.frame)
                shown.append((f"{name}, {side}, S = {explained.similarity:.3f}", plots.jpeg(drawn)))
        figures.append(
            Figure(
                f"{pair.part}: {100 * pair.distance:.0f} % of one map (its absolute values) would "
                f"have to be moved to make it the other.",
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
