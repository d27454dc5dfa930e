"""whyalike diagnose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from whyalike.cli.evaluate import finish, pictured, report_paths
from whyalike.cli.network import Network
from whyalike.cli.options import json_option, report_option, seed_option
from whyalike.cli.terminal import steps, working
from whyalike.errors import DataError

if TYPE_CHECKING:
    from whyalike.data import Dataset
    from whyalike.model import EmbeddingModel


@click.command()
@click.option(
    "--model",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="A model, as for `explain`; "
    "given several times, they are laid side by side. Default: EfficientNet-Lite0.",
)
@click.option(
    "--data",
    required=True,
    metavar="LAYOUT:PATH",
    help="What they were trained on, as for `evaluate`.",
)
@click.option(
    "--validation", metavar="LAYOUT:PATH", help="What they were not, if that is another data set."
)
@click.option(
    "--splits",
    metavar="TRAIN,VALIDATION",
    help="Two splits of the data set, such as "
    "train,test; default without --validation: seen,unseen, the first and the second "
    "half of the classes, as metric learning is trained and tested.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    metavar="N",
    help="About so many photographs of each: ten of each class, of classes spread evenly.",
)
@seed_option("Of the lot.")
@click.option(
    "--pretrained/--no-pretrained",
    default=True,
    help="Read the weights of timm and transformers, or start from random ones.",
)
@click.option("--device", help="Where to run, such as cuda or cpu.")
@report_option
@json_option
def diagnose(
    specs: tuple[str, ...],
    data: str,
    validation: str | None,
    splits: str | None,
    limit: int,
    seed: int,
    pretrained: bool,
    device: str | None,
    outputs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Models side by side on one data set, and the shortcuts that lead them astray.

    Recall on train and on validation; whether maps lie on the object on train; which part of the
    image carries the score; the pairs where the models look most differently; and the places that
    decide wrong matches, held to chance, to what hiding them does, and to the object's boxes.

    \b
    Examples:
      whyalike diagnose --model first --model second --data cub:CUB_200_2011 -o models.html
      whyalike diagnose --model first --data folder:photos --splits train,val
      whyalike diagnose --model first --data manifest:a.csv --validation manifest:b.csv --json
    """  # fmt: skip
    names = [*dict.fromkeys(specs)] or ["default"]
    if len(names) < len(specs):
        raise click.UsageError("--model: each model is named once")
    paths = report_paths(outputs)
    with working("reading the data set"):
        parts = _parts(data, validation, splits)
    models: dict[str, EmbeddingModel] = {}
    for name in names:
        with working(f"loading {name}"):
            models[name] = Network(name, None, None, pretrained, device).load()
    with steps() as tell:
        from whyalike.evaluate import diagnosis
        from whyalike.evaluate.diagnosis_report import report
        from whyalike.zoo import blaming

        with blaming("running the networks"):
            found = diagnosis.diagnose(models, *parts, limit=limit, seed=seed, tell=tell)
            made = report(found, pictures=pictured(paths))  # runs the networks, too
    finish(made, found.left_out, paths, as_json)


def _parts(data: str, validation: str | None, splits: str | None) -> list[Dataset]:
    """What models were trained on, and what they were not."""
    from whyalike.data import read

    if validation is not None:
        if splits is not None:
            raise click.UsageError("--validation names another data set, --splits parts of one")
        return [read(data), read(validation)]
    found = read(data)
    names = [one.strip() for one in (splits or "seen,unseen").split(",")]
    if len(names) != 2 or not all(names):
        raise click.UsageError(f"--splits: two names, such as train,test; came {splits!r}")
    halves = dict(zip(("seen", "unseen"), found.halves(), strict=True))
    parts = [halves[name] if name in halves else found.only(split=name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if not len(part):
            has = ", ".join([*found.splits, *halves])
            raise DataError(f"{data}: there is no split {name!r}; it has {has}")
    return parts
