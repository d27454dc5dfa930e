"""The command line: arguments only, one function a command.

torch and all that needs it is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whyalike import __version__
from whyalike.errors import OutputFileError, WhyalikeError

if TYPE_CHECKING:
    from whyalike.model import EmbeddingModel
    from whyalike.pair import Pair


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers, such as a point X,Y."""

    def __init__(self, form: str) -> None:
        self.name = form

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.name.count(",") + 1:
            self.fail(f"expected {self.name} in pixels, came {value!r}")
        return numbers


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--device", help="Where to run, such as cuda or cpu."),
        click.option(
            "--pretrained/--no-pretrained",
            default=True,
            help="Download timm's weights, or start from random ones.",
        ),
        click.option(
            "--checkpoint", metavar="FILE", help="Weights for the model: safetensors or torch."
        ),
        click.option("--layer", metavar="NAME", help="Cut at this layer; default: the last map."),
        click.option(
            "--model",
            metavar="SPEC",
            help="timm:NAME or package.module:factory; default: EfficientNet-Lite0.",
        ),
    ):
        command = option(command)
    return command


_outputs = click.option(
    "-o",
    "--out",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="Write .html, .png, .pdf or .npz; may be given several times.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="whyalike")
def cli() -> None:
    r"""Why are these two images alike?

    Shows, exactly, which regions of two images carry the similarity that an embedding model
    gives them.

    \b
    Examples:
      whyalike demo
      whyalike explain a.jpg b.jpg -o pair.html
      whyalike explain a.jpg b.jpg --model timm:resnet50 -o pair.html -o pair.png
      whyalike models 'resnet*'
    """


@cli.command()
@click.option(
    "--out", "folder", default="demo", show_default=True, metavar="FOLDER", help="Where to write."
)
@_json
def demo(folder: str, as_json: bool) -> None:
    r"""Explain two photographs that are here already, with the default network.

    Needs no download. Writes pair.html and pair.png into a folder.

    \b
    Examples:
      whyalike demo
      whyalike demo --out /tmp/demo --json
    """
    with _working("loading the default network"):
        from whyalike.data.samples import demo_pair
        from whyalike.pair import explain_pair
        from whyalike.zoo import load

        model = load()
    with _working("explaining"):
        pair = explain_pair(model, *demo_pair())
        outputs = [str(_folder(folder) / name) for name in ("pair.html", "pair.png")]
        pair.save(*outputs, points=_demo_points(pair))
    _report(pair, outputs, as_json)


@cli.command()
@click.argument("query", metavar="QUERY")
@click.argument("reference", metavar="REFERENCE")
@_model_options
@click.option(
    "--point",
    "points",
    multiple=True,
    type=_Numbers("X,Y"),
    help="A point of the query, in pixels; may be given several times.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    type=_Numbers("X1,Y1,X2,Y2"),
    help="A box of the query, in pixels; may be given several times.",
)
@click.option(
    "--bias/--no-bias",
    default=False,
    help="Count in the overall maps what a cell has with the other image's bias.",
)
@_outputs
@_json
def explain(
    query: str,
    reference: str,
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    points: tuple[tuple[float, float], ...],
    regions: tuple[tuple[float, float, float, float], ...],
    bias: bool,
    outputs: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""Explain why QUERY and REFERENCE are alike.

    Prints the similarity and its four terms; writes an interactive page, a figure, or arrays.
    Pixels are those of the files, after EXIF orientation.

    \b
    Examples:
      whyalike explain a.jpg b.jpg -o pair.html
      whyalike explain a.jpg b.jpg --point 96,128 --region 40,30,120,110 -o pair.png
      whyalike explain a.jpg b.jpg --model timm:resnet50 --layer layer3 -o pair.npz
      whyalike explain a.jpg b.jpg --model mymodels:make --checkpoint weights.safetensors --json
    """
    with _working("loading the network"):
        from whyalike.pair import explain_pair

        loaded = _load(model, layer, checkpoint, pretrained, device)
    with _working("explaining"):
        pair = explain_pair(loaded, query, reference)
        maps: dict[str, list[tuple[Any, Any]]] = {
            "points": [(p, pair.point_map(query_xy=p)) for p in points],
            "regions": [(r, pair.region_map(query_xyxy=r)) for r in regions],
        }
    if outputs:
        with _working("writing"):
            pair.save(*outputs, points=points, regions=regions, bias=bias)
    _report(pair, outputs, as_json, bias=bias, **maps)


@cli.command()
@click.argument("pattern", default="*")
@_json
def models(pattern: str, as_json: bool) -> None:
    r"""List the models that `--model` can name, those of timm by a PATTERN.

    \b
    Examples:
      whyalike models
      whyalike models 'convnext*'
    """
    with _working("asking timm"):
        from whyalike.zoo import from_timm

        names = from_timm.names(pattern)
        weights = {name: from_timm.has_weights(name) for name in names}
    if as_json:
        found = [{"model": f"timm:{n}", "pretrained": weights[n]} for n in names]
        click.echo(json.dumps([{"model": "default", "pretrained": True}, *found]))
        return
    click.echo("default                  EfficientNet-Lite0, ImageNet weights, no download")
    click.echo("package.module:factory   a function of yours that returns a network")
    click.echo(f"timm:NAME                {len(names)} convolutional networks of timm")
    for name in names:
        click.echo(f"  timm:{name}{'' if weights[name] else '   (no weights to download)'}")


def main() -> None:
    """The entry point: every foreseen error is one line and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(str(message))
            # Third parties' deprecations are for us, not for a user at a terminal.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except WhyalikeError as error:
        _fail(str(error))


def _say(message: str) -> None:
    click.echo("whyalike: " + " ".join(message.split()), err=True)


def _fail(message: str) -> None:
    _say(message)
    sys.exit(2)


def _load(
    spec: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
) -> EmbeddingModel:
    from whyalike.zoo import load

    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # `mymodels:make` may lie in the folder that one is in
    return load(spec, layer=layer, checkpoint=checkpoint, pretrained=pretrained, device=device)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Say on a terminal what is being waited for; nothing in pipes."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …"):
        yield


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
    pair: Pair, outputs: Any, as_json: bool, bias: bool = False, **maps: list[tuple[Any, Any]]
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
        found["matches"] = [match._asdict() for match in pair.matches()]
        for name, key in (("points", "query_xy"), ("regions", "query_xyxy")):
            found[name] = [{key: at, "reference_map": m.tolist()} for at, m in maps.get(name, [])]
        found["files"] = list(outputs)
        click.echo(json.dumps(found))
        return
    click.echo(f"{pair.query.name}  ~  {pair.reference.name}")
    click.echo(pair.model)
    click.echo(f"\nsimilarity        {pair.similarity:+.8f}")
    for label, value in zip(
        ("regions × regions", "query's bias", "reference's bias", "bias × bias"),
        pair.terms,
        strict=True,
    ):
        click.echo(f"  {label:<18}{value:+.8f}")
    for name in ("points", "regions"):
        for at, values in maps.get(name, []):
            text = ",".join(f"{v:g}" for v in at)
            click.echo(f"{name[:-1]} {text} carries {values.sum().item():+.8f} with all regions")
    for path in outputs:
        click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
