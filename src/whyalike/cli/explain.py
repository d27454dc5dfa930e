"""whyalike demo, explain."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from whyalike.cli.network import Network, two_network_options
from whyalike.cli.options import Numbers, json_option, outputs_option
from whyalike.cli.terminal import put, working
from whyalike.errors import CompletenessError, ImageError, ModelError, OutputError, OutputFileError
from whyalike.files import check_input, check_outputs

if TYPE_CHECKING:
    from whyalike.depth import Depth
    from whyalike.model import EmbeddingModel
    from whyalike.pair import Pair
    from whyalike.surrogates import Kind


@click.command()
@click.option(
    "--out", "folder", default="demo", show_default=True, metavar="FOLDER", help="Where to write."
)
@json_option
def demo(folder: str, as_json: bool) -> None:
    """Explain two photographs that are here already, with the default network.

    Needs no download. Writes pair.html and pair.png into a folder.

    \b
    Examples:
      whyalike demo
      whyalike demo --out /tmp/demo --json
    """
    outputs = check_outputs([_folder(folder) / name for name in ("pair.html", "pair.png")])
    with working("loading the default network"):
        from whyalike.data.samples import demo_pair
        from whyalike.pair import explain_pair
        from whyalike.zoo import load

        model = load()
    with working("explaining"):
        pair = explain_pair(model.drawn(), *demo_pair())
        pair.save(*outputs, points=_demo_points(pair))
    _report(pair, outputs, as_json)


@click.command()
@click.argument("query", metavar="QUERY")
@click.argument("reference", metavar="REFERENCE")
@two_network_options("REFERENCE")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=Numbers("X,Y"),
    help="A point of the query, in pixels; may be given several times.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    type=Numbers("X1,Y1,X2,Y2"),
    help="A box of the query, in pixels; may be given several times.",
)
@click.option(
    "--sharp/--plain",
    default=None,
    help="Finer maps that still add up (a finer grid, surrogate gamma, biases located, shared "
    "among cells that the network sees alike), or the paper's own of the last map; default: sharp, "
    "unless channels come last (Swin), or --layer, --surrogate or --biases is given.",
)
@click.option(
    "--surrogate",
    type=click.Choice(["gates", "gamma", "taylor", "change"]),
    help="How the network behind the layer is made linear; default: gates. change asks, of the "
    "image's own pixels, what hiding them would take away.",
)
@click.option(
    "--gamma",
    type=click.FloatRange(0),
    help="γ of the surrogate gamma; default: 0.05, of --sharp 0.1.",
)
@click.option(
    "--finer",
    type=click.IntRange(1),
    help="How many times as many rows as the last map's the grid of --sharp is to have; default: "
    "2; 4 lies closer around small objects, and takes twice as long, a page ten times.",
)
@click.option(
    "--biases",
    type=click.Choice(["residual", "located"]),
    help="Leave what the network adds behind the layer out of the maps, or put it where it is "
    "added; default: residual.",
)
@click.option("--depths", is_flag=True, help="Say what the cells carry at each depth, too.")
@click.option(
    "--bias/--no-bias",
    default=False,
    help="Count in the overall maps what a cell has with the other image's bias.",
)
@outputs_option
@json_option
def explain(
    query: str,
    reference: str,
    network: Network,
    points: tuple[tuple[float, float], ...],
    regions: tuple[tuple[float, float, float, float], ...],
    sharp: bool | None,
    surrogate: Kind | None,
    gamma: float | None,
    finer: int | None,
    biases: Literal["residual", "located"] | None,
    depths: bool,
    bias: bool,
    outputs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain why QUERY and REFERENCE are alike.

    Prints the similarity and its four terms; writes an interactive page, a figure, or arrays.
    Pixels are those of the files, after EXIF orientation.

    \b
    Examples:
      whyalike explain a.jpg b.jpg -o pair.html
      whyalike explain a.jpg b.jpg --point 96,128 --region 40,30,120,110 -o pair.png
      whyalike explain a.jpg b.jpg --model timm:resnet50 --layer layer3 -o pair.npz
      whyalike explain a.jpg b.jpg --sharp --finer 4 -o pair.png
      whyalike explain a.jpg b.jpg --plain -o pair.html
      whyalike explain a.jpg b.jpg --model timm:vit_small_patch16_224 --depths
      whyalike explain a.jpg b.jpg --model transformers:facebook/dinov2-small
      whyalike explain a.jpg b.jpg --model mymodels:make --checkpoint weights.safetensors --json
      whyalike explain a.jpg b.jpg --model published:bn_inception --checkpoint theirs.pth.tar
      whyalike explain ground.jpg aerial.jpg --model mymodels:street --reference-model mymodels:air
    """
    if sharp and (network.layer, surrogate, biases) != (None, None, None):
        raise click.UsageError("--sharp chooses layer, surrogate and biases; leave those out")
    if gamma is not None and math.isnan(gamma):
        raise click.UsageError("--gamma is 0 or more, or inf; came nan")
    if gamma is not None and not (sharp or surrogate == "gamma"):
        raise click.UsageError("--gamma is of --sharp or of --surrogate gamma; give one of them")
    if finer is not None and not sharp:
        raise click.UsageError("--finer is of --sharp; give that too")
    as_drawn = sharp is None and (network.layer, surrogate, biases) == (None, None, None)
    inputs = [query, reference]
    for photograph in inputs:
        check_input(photograph, ImageError, "check the path of the image")
    paths = check_outputs(outputs, [*inputs, *network.checked_files()])
    with working("loading the network"):
        loaded, of_reference = network.load_two()
    with working("explaining"):
        from whyalike.pair import explain_pair
        from whyalike.zoo import blaming

        def linearised(of: EmbeddingModel) -> EmbeddingModel:
            if as_drawn:
                return of.drawn()
            if sharp:
                given: dict[str, Any] = {"gamma": gamma, "finer": finer}
                return of.sharp(**{k: v for k, v in given.items() if v is not None})
            if (surrogate, biases) == (None, None):
                return of
            return of.cut(surrogate=surrogate, gamma=gamma, biases=biases)

        with blaming("running the network"):
            curve = loaded.depths(query) if depths else []
            same = of_reference is loaded
            try:
                loaded = linearised(loaded)
                of_reference = loaded if same else linearised(of_reference)
                pair = explain_pair(loaded, query, reference, reference_model=of_reference)
            except (ModelError, CompletenessError) as error:
                if not as_drawn or isinstance(error, OutputError):
                    raise
                raise type(error)(f"{error} (--plain explains the last map, and may do)") from error
        maps: dict[str, list[tuple[Any, Any]]] = {
            "points": [(p, pair.point_map(query_xy=p)) for p in points],
            "regions": [(r, pair.region_map(query_xyxy=r)) for r in regions],
        }
    if paths:
        with working("writing"):
            pair.save(*paths, points=points, regions=regions, bias=bias)
    _report(pair, paths, as_json, curve, bias=bias, **maps)


def _folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    return folder


def _demo_points(pair: Pair) -> list[tuple[float, float]]:
    """The centres of the two strongest links, to show what point maps are."""
    boxes = [match.query_xyxy for match in pair.matches(2)]
    return [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]


def _report(
    pair: Pair,
    outputs: Sequence[Path],
    as_json: bool,
    depths: Sequence[Depth] = (),
    bias: bool = False,
    **maps: list[tuple[Any, Any]],
) -> None:
    if as_json:
        found: dict[str, Any] = {
            "model": pair.model,
            "similarity": pair.similarity,
            "terms": pair.terms._asdict(),
        }
        for side in ("query", "reference"):
            c = pair.query if side == "query" else pair.reference
            found[side] = {
                "name": c.name,
                "size_wh": c.frame.size_wh,
                "view_xyxy": c.frame.view_xyxy,
                "grid_hw": c.frame.grid_hw,
                "overall_map": pair.overall_map(side, bias=bias).tolist(),
            }
        found["matches"] = [
            {**match._asdict(), "share": match.share if math.isfinite(match.share) else None}
            for match in pair.matches()
        ]
        for name, key in (("points", "query_xy"), ("regions", "query_xyxy")):
            found[name] = [{key: at, "reference_map": m.tolist()} for at, m in maps.get(name, [])]
        found["ledger"] = pair.ledger
        found["taylor"] = dict(pair.taylor)
        found["depths"] = [
            {
                "layer": step.layer,
                "grid_hw": step.layout.grid_hw,
                "cells": step.cells,
                "prefix": step.prefix,
                "bias": step.bias,
            }
            for step in depths
        ]
        found["files"] = [str(path) for path in outputs]
        put(json.dumps(found, allow_nan=False))
        return
    lines = [
        f"{pair.query.name}  ~  {pair.reference.name}",
        pair.model,
        f"\nsimilarity        {pair.similarity:+.8f}",
    ]
    labels = ("regions × regions", "query's bias", "reference's bias", "bias × bias")
    lines += [f"  {label:<18}{value:+.8f}" for label, value in zip(labels, pair.terms, strict=True)]
    if any(len(c.prefix_values) for c in (pair.query, pair.reference)):
        lines.append("of the biases, prefix tokens (class, registers) carry")
        lines.append(f"  {'with regions':<18}{_of_tokens(pair.ledger, 'cells'):+.8f}")
        lines.append(
            f"  {'with one another':<18}{pair.ledger['prefix tokens']['prefix tokens']:+.8f}"
        )
    if depths:
        width = max(len(step.layer) for step in depths)
        lines.append("\nwhat carries the query's embedding, cut behind each layer")
        lines.append(f"  {'':<{width}}  {'cells':>7} {'tokens':>7} {'bias':>7}")
        lines += [
            f"  {step.layer:<{width}}  {step.cells:7.1%} {step.prefix:7.1%} {step.bias:7.1%}"
            for step in depths
        ]
    for name in ("points", "regions"):
        for at, values in maps.get(name, []):
            text = ",".join(f"{v:g}" for v in at)
            total = values.sum().item()
            lines.append(f"{name[:-1]} {text} carries {total:+.8f} with all regions")
    put(*lines, *(f"wrote {path}" for path in outputs))


def _of_tokens(ledger: dict[str, dict[str, float]], other: str) -> float:
    """What prefix tokens of either image carry with a part of the other one."""
    return ledger["prefix tokens"][other] + ledger[other]["prefix tokens"]
