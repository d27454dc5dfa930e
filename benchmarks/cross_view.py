"""Two towers that are trained on a world by lot, how well they find places, and their headings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.tables import Table
from benchmarks.trained import FOLDER
from whyalike.apps.orientation_evaluation import evaluate_orientation
from whyalike.apps.orientation_report import report
from whyalike.data import read
from whyalike.data.worlds import write_world
from whyalike.train.towers import TowerSettings, train_towers
from whyalike.train.views import Views
from whyalike.zoo import load_two

SEEN, UNSEEN, SEED = 8000, 1000, 0
AERIAL, PANORAMA = 112, (256, 48)
SETTINGS = TowerSettings(epochs=22)


def run(full: bool = False) -> list[Table]:
    """The world, the training, and both evaluations, all on places that were not trained on.

    Args:
        full: train three times as long.
    """
    settings = replace(SETTINGS, epochs=SETTINGS.epochs * (3 if full else 1))
    folder = FOLDER / f"cross-view-{SEEN}-{settings.epochs}"
    world, rows = FOLDER / f"cross-view-world-{SEEN}", []
    if not (world / "splits" / "val-19zl.csv").exists():
        rows.append(["the world", *_taken(lambda: _made(world))])
    data = read(f"cvusa:{world}")
    seen, unseen = (Views.of(data.only(split=split)) for split in ("train", "val"))
    made: dict[str, Any] = {}

    def training() -> None:
        made["report"] = train_towers(seen, folder / "model", settings, unseen=unseen,
                                      evaluate_epochs=0, progress=_told)  # fmt: skip

    rows.append(["training", *_taken(training)])
    recall = made["report"].epochs[-1].recall
    ground, aerial = load_two(str(folder / "model"))
    found: dict[str, Any] = {}

    def orientation() -> None:
        found["it"] = evaluate_orientation(ground, aerial, data.only(split="val"))

    rows.append([f"headings of {UNSEEN} pairs", *_taken(orientation)])
    headings = report(found["it"])
    return [
        Table(
            "Across views: what it took",
            f"{SEEN} places to train on, {UNSEEN} to measure on; {made['report'].steps} steps of "
            f"{settings.batch_size} places. Seconds of this run alone: a training that was begun "
            f"before goes on.",
            ["", "CPU, s", "wall, s"],
            rows,
        ),
        Table(
            "Across views: recall on unseen places",
            f"Of {UNSEEN} places, how many are found from the street among the first 1, 5 and "
            f"{UNSEEN // 100 + 1} of all views from above, each turned by lot.",
            ["", "R@1", "R@5", "R@1 %"],
            [["small towers", *(f"{100 * recall[k]:.1f}" for k in ("1", "5", "1%"))]],
        ),
        *(Table(one.title, one.about, one.columns, one.rows) for one in headings.tables),
    ]


def _made(world: Path) -> None:
    for _ in write_world(world, SEEN, UNSEEN, seed=SEED, aerial=AERIAL, panorama_wh=PANORAMA):
        pass


def _taken(work: Callable[[], None]) -> list[str]:
    """CPU and wall seconds of some work in this process."""
    start, clock = time.perf_counter(), os.times()
    work()
    after = os.times()
    cpu = after.user + after.system - clock.user - clock.system
    return [f"{cpu:.0f}", f"{time.perf_counter() - start:.0f}"]


def _told(now: Any) -> None:
    if now.epoch is not None:
        print(now.epoch, flush=True)
