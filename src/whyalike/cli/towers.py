"""whyalike train --pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from whyalike.cli.network import hush_hub
from whyalike.cli.terminal import put, working

if TYPE_CHECKING:
    from whyalike.train import Progress
    from whyalike.train.views import Views

SHARED = {"trunk", "pretrained", "embedding", "epochs", "batch_size", "learning_rate", "seed",
          "alpha", "triplets", "ground_size", "aerial_size"}  # fmt: skip
"""Options of `whyalike train` that two towers have, too."""
Tells = AbstractContextManager[Callable[["Progress"], None]]


def train_pairs(
    data: tuple[str, ...],
    folder: str,
    unseen: tuple[str, ...],
    hold_out: float | None,
    given: dict[str, Any],
    running: dict[str, Any],
    as_json: bool,
    progress: Callable[[], Tells],
) -> None:
    """Train two towers on the pairs of a data set.

    Args:
        data, unseen: as they were named, LAYOUT:PATH.
        folder, hold_out, given, as_json: as the command has them.
        running: device, workers and restart.
        progress: shows how far it is.
    """
    chosen = {name: value for name, value in given.items() if value not in (None, {})}
    if others := sorted(chosen.keys() - SHARED):
        named = ", ".join("--" + name.replace("_", "-") for name in others)
        raise click.UsageError(f"{named}: two towers have no such option; leave it out")
    if len(data) != 1 or len(unseen) > 1:
        raise click.UsageError("--pairs takes one data set, LAYOUT:PATH, such as cvusa:PATH")
    with working("looking at the pairs"):
        if chosen.get("pretrained", True) and str(chosen.get("trunk")).startswith("timm:"):
            hush_hub()
        from whyalike.train.towers import TowerSettings, train_towers

        settings = replace(TowerSettings(), **chosen)
        seen, others_seen = _split(data[0], unseen[0] if unseen else None, hold_out)
    with progress() as tell:
        report = train_towers(seen, folder, settings, unseen=others_seen, progress=tell, **running)
    if as_json:
        put(json.dumps(asdict(report)))
        return
    went = f"{report.steps - report.began:,} steps in {report.seconds:.0f} s"
    lines = [f"{went}, {report.steps:,} in all"]
    named = f"wrote {folder}, for --model {folder} (a pair's QUERY is the view from the street)"
    put(*map(str, report.epochs), *lines, named)


def _split(spec: str, unseen: str | None, share: float | None) -> tuple[Views, Views | None]:
    """Places to train on, and places to measure on: those named, the split "val", or a share."""
    from whyalike.data import read
    from whyalike.train.views import Views

    found = read(spec)
    if unseen is not None:
        return Views.of(found), Views.of(read(unseen))
    if share is None and {"train", "val"} <= found.splits.keys():
        return Views.of(found.only(split="train")), Views.of(found.only(split="val"))
    return Views.of(found).hold_out(0.2 if share is None else share)


def sizes(_: Any, option: Any, text: str | None) -> int | tuple[int, int] | None:
    """A side, or height,width."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise click.BadParameter(f"is a number of pixels, or HEIGHT,WIDTH; came {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
