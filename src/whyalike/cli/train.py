"""whyalike train."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from whyalike.cli.network import hush_hub
from whyalike.cli.options import json_option
from whyalike.cli.terminal import bar_of, put, working
from whyalike.cli.towers import sizes, train_pairs

if TYPE_CHECKING:
    from whyalike.train import Progress as Step

TOWERS = ("ground_size", "aerial_size", "alpha", "triplets")
"""Options that only two towers have."""


@click.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("-o", "--out", "folder", required=True, metavar="FOLDER",
              help="The model's folder; a training that was begun there goes on.")  # fmt: skip
@click.option("--pairs", is_flag=True, help="Two towers: DATA is pairs of a view from the street "
              "and one from above, such as cvusa:PATH.")  # fmt: skip
@click.option("--unseen", multiple=True, metavar="DATA",
              help="Pictures of other classes to measure on, for --hold-out.")  # fmt: skip
@click.option("--hold-out", type=click.FloatRange(0, 1, max_open=True), metavar="SHARE",
              help="Share of the classes, the last by name, to measure on; default: 0.5; 0 for "
              "none.")  # fmt: skip
@click.option("--trunk", metavar="NAME",
              help="timm:NAME, default (EfficientNet-Lite0) or small.")  # fmt: skip
@click.option("--pretrained/--no-pretrained", default=None,
              help="Begin with the trunk's weights, or with random ones.")  # fmt: skip
@click.option("--pool", type=click.Choice(["mean", "max", "gem", "flatten"]),
              help="How the map becomes a vector; default: mean.")  # fmt: skip
@click.option("--embedding", type=click.IntRange(0), metavar="N",
              help="Numbers in an embedding, 0 for the pooled vector; default: 512.")  # fmt: skip
@click.option("--size", type=click.IntRange(1), metavar="PIXELS",
              help="Side of the input; default: the trunk's own.")  # fmt: skip
@click.option("--ground-size", callback=sizes, metavar="PIXELS|H,W",
              help="Of the street's input, with --pairs.")  # fmt: skip
@click.option("--aerial-size", callback=sizes, metavar="PIXELS|H,W",
              help="Of the input from above, with --pairs.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, min_open=True), metavar="N", help="Weight in the "
              "soft margin, with --pairs: 10 (the default) as in CVM-Net, 1 for none.")  # fmt: skip
@click.option("--triplets", type=click.Choice(["each", "together"]), help="Soft margins, with "
              "--pairs: of each triplet as in CVM-Net, or of an anchor's together (the default), "
              "in which hard ones weigh more.")  # fmt: skip
@click.option("--loss", metavar="NAME", help="A loss of pytorch-metric-learning, such as "
              "multi-similarity (the default), triplet, margin, contrastive, arcface, "
              "proxy-anchor.")  # fmt: skip
@click.option("--loss-option", "loss_options", multiple=True, type=(str, str),
              metavar="NAME VALUE", help="An argument of the loss: margin 0.2.")  # fmt: skip
@click.option("--miner", metavar="NAME", help="A miner of pytorch-metric-learning, such as "
              "multi-similarity or triplet-margin; default: none.")  # fmt: skip
@click.option("--miner-option", "miner_options", multiple=True, type=(str, str),
              metavar="NAME VALUE", help="An argument of the miner.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Default: 20.")
@click.option("--batch-size", type=click.IntRange(4), metavar="N", help="Default: 80.")
@click.option("--per-class", type=click.IntRange(2), metavar="N",
              help="Images of one class in a batch; default: 5.")  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="At its largest; default: 1e-4.")  # fmt: skip
@click.option("--augment", type=click.Choice(["none", "flip", "crop"]),
              help="How pictures vary; default: crop (a random part, and flip).")  # fmt: skip
@click.option("--amp/--no-amp", default=None, help="Compute in 16 bits where it is safe.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Of all that is random.")
@click.option("--device", help="Where to run, such as cuda or cpu.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Threads that read files.")
@click.option("--restart", is_flag=True, help="Begin anew where a training has begun.")
@click.option("--tensorboard", is_flag=True, help="Write a log for TensorBoard, too.")
@json_option
def train(
    data: tuple[str, ...],
    folder: str,
    pairs: bool,
    unseen: tuple[str, ...],
    hold_out: float | None,
    device: str | None,
    workers: int | None,
    restart: bool,
    tensorboard: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train an embedding model on DATA, with losses of pytorch-metric-learning.

    DATA are folders with a folder for each class, tables (.csv, .parquet) with columns `path` and
    `label`, or `digits`: handwritten digits on clutter, which are here already and have settings
    and classes of their own (a folder of that name is ./digits). Half of the classes are held out,
    and Recall@K and MAP@R measured on them. What is written is a model: `--model FOLDER`,
    `whyalike.load(FOLDER)`. Run again, it goes on where it was stopped.

    With --pairs, two towers are trained by CVM-Net's loss, to find the view from above that belongs
    to a view from the street: on the split "train", and recall is measured on "val"; of data
    without these, on the last fifth of the places.

    \b
    Examples:
      whyalike train digits -o digits-model
      whyalike train photos/ -o model --trunk timm:resnet50 --pool max --device cuda --amp
      whyalike train products.csv -o model --loss triplet --miner triplet-margin
      whyalike train photos/ -o model --loss proxy-anchor --loss-option alpha 32 --epochs 40
      whyalike explain a.jpg b.jpg --model model
      whyalike train --pairs cvusa:CVUSA -o towers --trunk vgg16 --batch-size 16 --device cuda
    """
    if unseen and hold_out is not None:
        raise click.UsageError("--unseen and --hold-out say the same in two ways; leave one out")
    if pairs:
        given |= {name: given[name] or None for name in ("loss_options", "miner_options")}
        running = {"device": device, "workers": workers, "restart": restart}
        return train_pairs(data, folder, unseen, hold_out, given | ({"tensorboard": True} if
                           tensorboard else {}), running, as_json, _training_progress)  # fmt: skip
    if alone := [name for name in TOWERS if given.pop(name)]:
        named = ", ".join("--" + name.replace("_", "-") for name in alone)
        raise click.UsageError(f"{named}: is for two towers; add --pairs, or leave it out")
    scenes = data == ("digits",)
    if scenes and (unseen or hold_out is not None):
        raise click.UsageError("digits has classes of its own to measure on; leave --unseen and "
                               "--hold-out out")  # fmt: skip
    for name in ("loss_options", "miner_options"):
        given[name] = {key: _plain_value(value) for key, value in given[name]} or None
    chosen = {name: value for name, value in given.items() if value is not None}
    with working("looking at the pictures"):
        if chosen.get("pretrained", True) and str(chosen.get("trunk")).startswith("timm:"):
            hush_hub()
        from whyalike.train import DIGITS, Pictures, Settings
        from whyalike.train import train as run

        settings = replace(DIGITS if scenes else Settings(), **chosen)
        if not settings.embedding:
            settings = replace(settings, embedding=None)
        if scenes:
            seen, others = Pictures.digits()
        else:
            seen, others = Pictures.of_files(data), None
            if unseen:
                others = Pictures.of_files(unseen)
            elif share := 0.5 if hold_out is None else hold_out:
                seen, others = seen.hold_out(share)
    with _training_progress() as tell:
        report = run(seen, folder, settings, unseen=others, device=device, workers=workers,
                     restart=restart, tensorboard=tensorboard, progress=tell)  # fmt: skip
    if as_json:
        put(json.dumps(asdict(report)))
        return
    went = f"{report.steps - report.began:,} steps in {report.seconds:.0f} s"
    lines = [f"{went}, {report.steps:,} in all"]
    put(*map(str, report.epochs), *lines, f"wrote {folder}, for --model {folder}")


@contextmanager
def _training_progress() -> Iterator[Callable[[Step], None]]:
    """Say how far training is: a bar, and what came out of each epoch."""
    from rich.progress import TextColumn

    with bar_of(TextColumn("loss {task.fields[loss]:.4f}")) as (bar, terminal):
        task = bar.add_task("training", total=None, loss=math.nan)

        def tell(now: Step) -> None:
            if now.epoch is not None and now.step < now.steps:
                say = bar.console.print if terminal else partial(click.echo, err=True)
                say(str(now.epoch))
            bar.update(task, completed=now.step, total=now.steps, loss=now.loss)

        yield tell


def _plain_value(text: str) -> Any:
    """A number, a truth value or a list as JSON has it, or else the word itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
