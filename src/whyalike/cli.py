"""The command line: arguments only, one function a command.

torch and all that needs it is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, get_args

import click

from whyalike import __version__
from whyalike.errors import (
    CheckpointError,
    DataError,
    GalleryError,
    ImageError,
    ModelError,
    OutputFileError,
    WhyalikeError,
    in_one_line,
)
from whyalike.files import check_input, check_outputs

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import ProgressColumn

    from whyalike.data import Dataset
    from whyalike.depth import Depth
    from whyalike.evaluate.report import Report
    from whyalike.gallery import Gallery, Hit, Manifest, Progress
    from whyalike.model import EmbeddingModel
    from whyalike.pair import Pair
    from whyalike.train import Progress as Step


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
            help="Read the weights of timm and transformers, or start from random ones.",
        ),
        click.option(
            "--checkpoint", metavar="FILE", help="Weights for the model: safetensors or torch."
        ),
        click.option(
            "--layer",
            metavar="NAME",
            help="Cut at this layer; default: the last map, or, for tokens, `auto`: the deepest "
            "layer whose cells carry 80 %.",
        ),
        click.option(
            "--model",
            metavar="SPEC",
            help="timm:NAME, transformers:NAME, published:NAME, onnx:FILE, pt2:FILE, "
            "package.module:factory or a folder of `whyalike train`; default: EfficientNet-Lite0.",
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
_A_CHECKPOINT = (
    "a checkpoint is a safetensors or torch file; `whyalike import-checkpoint` makes one of "
    "TensorFlow's"
)
_storage = click.option(
    "--storage",
    "storage",
    multiple=True,
    type=(str, str),
    metavar="KEY VALUE",
    help="An option of the object store, where the gallery is at s3://... and the like.",
)
_evaluation_outputs = click.option(
    "-o",
    "--out",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="Write .json, .md or .html; may be given several times.",
)


def _data_options(limit: int | None, each: str = "ten") -> Callable[..., Any]:
    """Which photographs are measured, and with which others."""

    def of(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                         help="Of the lot."),
            click.option("--limit", type=click.IntRange(1), metavar="N", default=limit,
                         show_default=limit is not None, help=f"About so many photographs: {each} "
                         "of each class, of classes spread evenly over all."),
            click.option("--pairs", "pairing", type=click.Choice(["nearest", "random", "self"]),
                         default="nearest", show_default=True, help="The reference of each "
                         "photograph: the nearest of its class, another by lot, or itself."),
            click.option("--split", metavar="NAME", help="Only this split of it, or `unseen`: the "
                         "second half of the classes, as metric learning is tested."),
            click.option("--data", required=True, metavar="LAYOUT:PATH", help="The data set."),
        ):  # fmt: skip
            command = option(command)
        return command

    return of


_json = click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="whyalike")
def cli() -> None:
    """Why are these two images alike?

    Shows, exactly, which regions of two images carry the similarity that an embedding model
    gives them.

    \b
    Examples:
      whyalike demo
      whyalike explain a.jpg b.jpg -o pair.html
      whyalike explain a.jpg b.jpg --model timm:resnet50 -o pair.html -o pair.png
      whyalike index photos/ -o photos.lance
      whyalike search photos.lance query.jpg --region 40,30,120,110
      whyalike train photos/ -o model
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200
      whyalike evaluate correspondence
      whyalike models 'resnet*'
    """


@cli.command()
@click.option(
    "--out", "folder", default="demo", show_default=True, metavar="FOLDER", help="Where to write."
)
@_json
def demo(folder: str, as_json: bool) -> None:
    """Explain two photographs that are here already, with the default network.

    Needs no download. Writes pair.html and pair.png into a folder.

    \b
    Examples:
      whyalike demo
      whyalike demo --out /tmp/demo --json
    """
    outputs = check_outputs([_folder(folder) / name for name in ("pair.html", "pair.png")])
    with _working("loading the default network"):
        from whyalike.data.samples import demo_pair
        from whyalike.pair import explain_pair
        from whyalike.zoo import load

        model = load()
    with _working("explaining"):
        pair = explain_pair(model.drawn(), *demo_pair())
        pair.save(*outputs, points=_demo_points(pair))
    _report(pair, outputs, as_json)


@cli.command()
@click.argument("query", metavar="QUERY")
@click.argument("reference", metavar="REFERENCE")
@_model_options
@click.option(
    "--reference-model",
    metavar="SPEC",
    help="The reference's own network, where the images have one each (cross-view towers); "
    "layer and checkpoint are those of --model.",
)
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
    "--sharp/--plain",
    default=None,
    help="Finer maps that still add up (a finer grid, surrogate gamma, biases located, shared "
    "among cells that the network sees alike), or the paper's own of the last map; default: sharp "
    "for convolutional networks, unless --layer, --surrogate or --biases is given.",
)
@click.option(
    "--surrogate",
    type=click.Choice(["gates", "gamma", "taylor"]),
    help="How the network behind the layer is made linear; default: gates.",
)
@click.option(
    "--gamma",
    type=click.FloatRange(0),
    help="γ of the surrogate gamma; default: 0.05, of --sharp 0.1.",
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
    reference_model: str | None,
    points: tuple[tuple[float, float], ...],
    regions: tuple[tuple[float, float, float, float], ...],
    sharp: bool | None,
    surrogate: Literal["gates", "gamma", "taylor"] | None,
    gamma: float | None,
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
      whyalike explain a.jpg b.jpg --plain -o pair.html
      whyalike explain a.jpg b.jpg --model timm:vit_small_patch16_224 --depths
      whyalike explain a.jpg b.jpg --model transformers:facebook/dinov2-small
      whyalike explain a.jpg b.jpg --model mymodels:make --checkpoint weights.safetensors --json
      whyalike explain a.jpg b.jpg --model published:bn_inception --checkpoint theirs.pth.tar
      whyalike explain ground.jpg aerial.jpg --model mymodels:street --reference-model mymodels:air
    """
    if sharp and (layer, surrogate, biases) != (None, None, None):
        raise click.UsageError("--sharp chooses layer, surrogate and biases; leave those out")
    if gamma is not None and math.isnan(gamma):
        raise click.UsageError("--gamma is 0 or more, or inf; came nan")
    if gamma is not None and not (sharp or surrogate == "gamma"):
        raise click.UsageError("--gamma is of --sharp or of --surrogate gamma; give one of them")
    as_drawn = sharp is None and (layer, surrogate, biases) == (None, None, None)
    inputs = [query, reference]
    for photograph in inputs:
        check_input(photograph, ImageError, "check the path of the image")
    if checkpoint is not None:
        check_input(checkpoint, CheckpointError, _A_CHECKPOINT)
        inputs.append(checkpoint)
    paths = check_outputs(outputs, inputs)
    with _working("loading the network"):
        loaded, of_reference = _load(model, reference_model, layer, checkpoint, pretrained, device)
    with _working("explaining"):
        from whyalike.pair import explain_pair
        from whyalike.zoo import blaming

        def linearised(of: EmbeddingModel) -> EmbeddingModel:
            if as_drawn:
                return of.drawn()
            if sharp:
                return of.sharp() if gamma is None else of.sharp(gamma=gamma)
            if (surrogate, biases) == (None, None):
                return of
            return of.cut(surrogate=surrogate, gamma=gamma, biases=biases)

        with blaming("running the network"):
            curve = loaded.depths(query) if depths else []
            same = of_reference is loaded
            loaded = linearised(loaded)
            of_reference = loaded if same else linearised(of_reference)
            pair = explain_pair(loaded, query, reference, reference_model=of_reference)
        maps: dict[str, list[tuple[Any, Any]]] = {
            "points": [(p, pair.point_map(query_xy=p)) for p in points],
            "regions": [(r, pair.region_map(query_xyxy=r)) for r in regions],
        }
    if paths:
        with _working("writing"):
            pair.save(*paths, points=points, regions=regions, bias=bias)
    _report(pair, paths, as_json, curve, bias=bias, **maps)


@cli.command()
@click.argument("output", metavar="FILE")
@_model_options
@_json
def export(
    output: str,
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Write a model with its explanation as one network, to FILE.onnx or FILE.pt2.

    It takes preprocessed images (N, 3, H, W) and gives embedding (N, d), contributions
    (N, h, w, d) and bias (N, d) by plain operations. What is written has been checked against
    the model.

    \b
    Examples:
      whyalike export model.onnx
      whyalike export model.onnx --model timm:resnet50 --layer layer4
    """
    inputs = [] if checkpoint is None else [checkpoint]
    if model is not None:  # it may be in a file itself
        inputs += [part.partition("#")[0] for part in (model, model.partition(":")[2])]
    (path,) = check_outputs([output], inputs, [".onnx", ".pt2"])
    if checkpoint is not None:
        check_input(checkpoint, CheckpointError, _A_CHECKPOINT)
    with _working("loading the network"):
        loaded, _ = _load(model, None, layer, checkpoint, pretrained, device)
    with _working("exporting"):
        from whyalike.zoo import blaming, exporting

        with blaming("running the network"):
            exporting.export(loaded, path)
    if as_json:
        outputs = list(exporting.NAMES)
        _print(json.dumps({"model": loaded.description, "outputs": outputs, "files": [str(path)]}))
    else:
        _print(loaded.description, f"wrote {path}")


@cli.command("import-checkpoint")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("-o", "--out", "output", required=True, metavar="FILE.safetensors", help="To write.")
@_json
def import_checkpoint(checkpoint: str, output: str, as_json: bool) -> None:
    """Write the CHECKPOINT of a published network as safetensors.

    It is a torch file, or what comes before .index in the names of a TensorFlow checkpoint. No
    code in it is run, and what it holds is checked against the network.

    \b
    Examples:
      whyalike import-checkpoint model.ckpt -o siamese_vgg16.safetensors
      whyalike import-checkpoint baseline.pkl -o reid_baseline.safetensors
    """
    index = f"{checkpoint.removesuffix('.index')}.index"  # TensorFlow's
    read = index if os.path.isfile(index) else checkpoint
    check_input(read, CheckpointError, "a checkpoint is a torch file, or TensorFlow's")
    (path,) = check_outputs([output], [read], [".safetensors"])
    with _working("converting"):
        from whyalike.zoo import importing

        name = importing.import_checkpoint(checkpoint, path)
    if as_json:
        _print(json.dumps({"model": f"published:{name}", "files": [str(path)]}))
    else:
        _print(f"wrote {path}, for --model published:{name}")


@cli.command()
@click.argument("photos", nargs=-1, metavar="[PHOTOS]...")
@click.option(
    "-o", "--out", "gallery", required=True, metavar="GALLERY", help="The gallery's folder."
)
@click.option(
    "--maps",
    type=click.Choice(["none", "full", "pq"]),
    help="What is kept to explain hits: all in float16, a byte for eight numbers and not exactly, "
    "or nothing; default: full.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True,
              help="Images in one forward pass.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Threads that read files; default: cores.")
@click.option("--commit-rows", type=click.IntRange(1), default=4096, show_default=True,
              help="Rows that are committed together: so much a kill can lose.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Stop at the first file that cannot be read.")
@click.option("--prune", is_flag=True, help="Remove what is gone from disk.")
@click.option("--approximate", is_flag=True, help="Make an index for `search --approximate`, too.")
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Index on a Ray cluster: auto, HOST:PORT, or local; --workers and --device are then those "
    "of each of its workers (docs/scale.md).",
)
@_model_options
@_storage
@_json
def index(
    photos: tuple[str, ...],
    gallery: str,
    maps: Literal["none", "full", "pq"] | None,
    batch_size: int,
    workers: int | None,
    commit_rows: int,
    strict: bool,
    prune: bool,
    approximate: bool,
    address: str | None,
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    storage: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Index PHOTOS, to search them by region.

    PHOTOS are folders, files, globs, tables (.csv, .parquet) with a column `path` and perhaps
    `label` and metadata, and data sets LAYOUT:PATH (see `whyalike evaluate --help`). Run again, it
    reads what is new or has changed, and goes on where it was stopped; without PHOTOS it looks at
    all files that the gallery has. Files that cannot be read are set aside in
    GALLERY/errors.parquet.

    \b
    Examples:
      whyalike index photos/ -o photos.lance
      whyalike index photos/ 'more/**/*.jpg' -o photos.lance --model timm:resnet50 --maps pq
      whyalike index products.csv -o products.lance --strict
      whyalike index market1501:Market-1501-v15.09.15 -o people.lance
      whyalike index -o photos.lance --prune
      whyalike index /nfs/photos -o s3://bucket/photos.lance --ray auto --device cuda
    """
    with _working("opening the gallery"):
        from whyalike.gallery import Cluster, Gallery, list_images, open_manifest

        cluster = None if address is None else Cluster(address, device or "cpu")
        options = dict(storage)
        found = open_manifest(gallery, options)
        if found is None and not photos:
            raise GalleryError(f"{gallery}: there is no gallery yet; give photographs to index")
        if photos and not list_images(photos).files and found is None:
            raise GalleryError(f"{', '.join(photos)}: no images are there")
    given = {"spec": model, "layer": layer, "checkpoint": checkpoint, "pretrained": pretrained}
    # On a cluster, the device is the workers'; this machine may have none.
    loaded, spec = _gallery_model(found, given, device if cluster is None else None)
    with _progress() as tell:
        if photos:
            made = Gallery.build(
                loaded, photos, gallery, maps=maps or (found.maps if found else "full"),
                batch_size=batch_size, workers=workers, strict=strict, prune=prune,
                commit_rows=commit_rows, ray=cluster, progress=tell,
                storage_options=options or None, spec=spec,
            )  # fmt: skip
        else:
            made = Gallery.open(gallery, loaded, storage_options=options or None)
            made.reindex(
                batch_size=batch_size,
                workers=workers,
                strict=strict,
                prune=prune,
                commit_rows=commit_rows,
                ray=cluster,
                progress=tell,
            )
    if approximate:
        with _working("making the index for approximate search"):
            made.make_approximate()
    _report_index(made, as_json)


@cli.command()
@click.argument("gallery", metavar="GALLERY")
@click.argument("query", metavar="QUERY")
@click.option("--region", "regions", multiple=True, type=_Numbers("X1,Y1,X2,Y2"),
              help="A box of the query, in pixels; several are added up.")  # fmt: skip
@click.option("--point", "points", multiple=True, type=_Numbers("X,Y"),
              help="A point of the query, in pixels; several are added up.")  # fmt: skip
@click.option("--mask", "masks", multiple=True, metavar="FILE",
              help="An image of the query's size: what is white is searched for.")  # fmt: skip
@click.option("--without", multiple=True, type=_Numbers("X1,Y1,X2,Y2"),
              help="A box of the query that is subtracted.")  # fmt: skip
@click.option("--weight", "weights", multiple=True, type=float,
              help="One for each --region, --point and --mask, in this order.")  # fmt: skip
@click.option("-k", type=click.IntRange(1), default=20, show_default=True, help="How many hits.")
@click.option("--where", metavar="SQL", help="A condition on the columns, such as \"label = 'x'\".")
@click.option("--approximate", is_flag=True, help="Search LanceDB's index, not every row.")
@click.option("--explain", "explained", multiple=True, type=(click.IntRange(1), str),
              metavar="RANK FILE",
              help="Write the pair of the query and a hit, without running the network: .html, "
              ".png, .pdf or .npz; may be given several times.")  # fmt: skip
@click.option("-o", "--out", "outputs", multiple=True, metavar="FILE.html",
              help="Write an interactive page of the hits, each with its pair.")  # fmt: skip
@_model_options
@_storage
@_json
def search(
    gallery: str,
    query: str,
    regions: tuple[tuple[float, ...], ...],
    points: tuple[tuple[float, ...], ...],
    masks: tuple[str, ...],
    without: tuple[tuple[float, ...], ...],
    weights: tuple[float, ...],
    k: int,
    where: str | None,
    approximate: bool,
    explained: tuple[tuple[int, str], ...],
    outputs: tuple[str, ...],
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    storage: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Search GALLERY for photographs that are alike to QUERY, or to a part of it.

    The model is the one that made the gallery; a function of yours, or one with a checkpoint, must
    be named again.

    \b
    Examples:
      whyalike search photos.lance query.jpg
      whyalike search photos.lance query.jpg --region 40,30,120,110 --where "label = 'bag'"
      whyalike search photos.lance query.jpg --region 40,30,120,110 --without 60,10,90,40 --json
      whyalike search photos.lance query.jpg --point 96,128 --explain 1 first.html
      whyalike search photos.lance query.jpg --region 40,30,120,110 -o results.html
    """
    for photograph in (query, *masks):
        check_input(photograph, ImageError, "check the path of the image")
    if any(rank > k for rank, _ in explained):
        raise click.UsageError(f"--explain takes the rank of a hit, 1 to {k} (see -k)")
    files = [file for _, file in explained]
    check_outputs(files, [query, *masks])
    pages = check_outputs(outputs, [query, *masks], [".html"])
    if {os.path.realpath(one) for one in files} & {os.path.realpath(one) for one in pages}:
        raise click.UsageError("--explain and -o write one file each; give them other names")
    with _working("opening the gallery"):
        from whyalike.gallery import Gallery, mask_of, open_manifest
        from whyalike.images import read_image

        options = dict(storage)
        found = open_manifest(gallery, options)
        opened = Gallery.open(gallery, storage_options=options or None)
    given = {"spec": model, "layer": layer, "checkpoint": checkpoint, "pretrained": pretrained}
    loaded, _ = _gallery_model(found, given, device)
    with _working("searching"):
        from whyalike.zoo import blaming

        opened.use(loaded)
        with blaming("running the network"):
            asked = opened.ask(
                query, regions or None, points or None,
                [mask_of(read_image(one)) for one in masks] or None,
                without=without or None, weights=weights or None,
            )  # fmt: skip
        hits = opened.search(asked, k=k, where=where, exact=not approximate)
    if explained:
        with _working("explaining"):
            for rank, file in explained:
                if rank > len(hits):
                    raise GalleryError(f"--explain {rank}: there are {len(hits)} hits")
                opened.explain(hits[rank - 1]).save(file, points=points, regions=regions)
    if pages:
        with _working("writing"):
            from whyalike.save import save_results

            exact = not approximate
            rest = () if asked.is_whole else opened.search(
                asked.contributions, k=k, where=where, exact=exact
            )  # fmt: skip
            save_results(opened, hits, *pages, whole=rest, where=where, exact=exact)
    written = [*files, *map(str, pages)]
    _report_hits(opened, hits, written, approximate, as_json)


@cli.command()
@click.argument("gallery", metavar="GALLERY")
@click.argument("photos", nargs=-1, metavar="[PHOTOS]...")
@click.option("--where", metavar="SQL", help="A condition on the columns, such as \"label = 'x'\".")
@_storage
@_json
def remove(
    gallery: str,
    photos: tuple[str, ...],
    where: str | None,
    storage: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Take PHOTOS, files or folders, out of GALLERY; the files themselves stay.

    \b
    Examples:
      whyalike remove photos.lance photos/one.jpg photos/old/
      whyalike remove photos.lance --where "label = 'x'"
    """
    if not photos and where is None:
        raise click.UsageError("name photographs or give --where")
    with _working("removing"):
        from whyalike.gallery import Gallery

        opened = Gallery.open(gallery, storage_options=dict(storage) or None)
        count = opened.remove(photos, where=where)
    if as_json:
        _print(json.dumps({"removed": count, "images": len(opened)}))
    else:
        _print(f"removed {count:,}; {len(opened):,} are left in {gallery}")


@cli.group()
def evaluate() -> None:
    """Measure a model, or its maps, on data of which the truth is known.

    \b
    Data sets are named LAYOUT:PATH, in the layout in which they unpack: cub, cars, sop, inshop,
    market1501, lfw, fiw, casia, cvusa, cvact, vigor, folder, and manifest:FILE, a table (.csv,
    .parquet) with columns path, label, split, x0, y0, x1, y1, mask.

    \b
    Examples:
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200 -o maps.html
      whyalike evaluate faithfulness --help
    """


@evaluate.command()
@_data_options(None)
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure, such as decomposition, "
              "sharp, grad-cam; default: ours, and others that take no minutes.")  # fmt: skip
@_evaluation_outputs
@_model_options
@_json
def localization(
    data: str,
    split: str | None,
    methods: str | None,
    pairing: Literal["nearest", "random", "self"],
    limit: int | None,
    seed: int,
    outputs: tuple[str, ...],
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Do maps lie on the object? Boxes of photographs, found by thresholds of their maps.

    Each photograph is compared with another of its class. A box in the middle and random maps
    are always measured, too. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200
      whyalike evaluate localization --data cub:CUB_200_2011 --split unseen -o birds.html
      whyalike evaluate localization --data manifest:images.csv --methods sharp,grad-cam --json
    """
    paths = _evaluation_paths(outputs, checkpoint)
    with _working("reading the data set"):
        from whyalike.evaluate.methods import USUAL

        names = _methods(methods, USUAL)
        found = _data(data, split)
    with _working("loading the network"):
        loaded, _ = _load(model, None, layer, checkpoint, pretrained, device)
    with _steps() as tell:
        from whyalike.evaluate.localization import evaluate_localization
        from whyalike.evaluate.localization_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = evaluate_localization(
                loaded, found, names, pairing=pairing, limit=limit, seed=seed, tell=tell
            )
            made = report(measured, pictures=_pictured(paths))
    _report_evaluation(made, measured.left_out, paths, as_json)


@evaluate.command()
@_data_options(10)
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure; default: decomposition, "
              "sharp, grad-cam.")  # fmt: skip
@click.option("--fills", metavar="NAME,NAME", default="grey,blur", show_default=True,
              help="What hides pixels: grey, mean (the image's own), blur.")  # fmt: skip
@_evaluation_outputs
@_model_options
@_json
def faithfulness(
    data: str,
    split: str | None,
    pairing: Literal["nearest", "random", "self"],
    limit: int,
    seed: int,
    methods: str | None,
    fills: str,
    outputs: tuple[str, ...],
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Do scores hang on what maps show? Pixels are hidden, and the network is asked again.

    Deletion and insertion, of the query alone and of both images; ROAD; and the change of the score
    that a map predicts for hidden boxes against the change measured. Hundreds of passes through the
    network for each pair and method. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate faithfulness --data cub:CUB_200_2011
      whyalike evaluate faithfulness --data folder:photos --methods decomposition -o faithful.html
      whyalike evaluate faithfulness --data manifest:images.csv --fills grey,mean,blur --json
    """
    paths = _evaluation_paths(outputs, checkpoint)
    with _working("reading the data set"):
        from whyalike.evaluate import faithfulness as faithful
        from whyalike.evaluate.perturbation import Fill

        names = _methods(methods, faithful.USUAL)
        kinds = [name.strip() for name in fills.split(",") if name.strip()]
        if not kinds or {*kinds} - {*get_args(Fill)}:
            raise click.UsageError(f"--fills: some of {', '.join(get_args(Fill))}; came {fills!r}")
        found = _data(data, split)
    with _working("loading the network"):
        loaded, _ = _load(model, None, layer, checkpoint, pretrained, device)
    with _steps() as tell:
        from whyalike.evaluate.faithfulness_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = faithful.evaluate_faithfulness(
                loaded, found, names, fills=cast(Any, kinds), pairing=pairing, limit=limit,
                seed=seed, tell=tell,
            )  # fmt: skip
    made = report(measured, pictures=_pictured(paths))
    _report_evaluation(made, measured.left_out, paths, as_json)


@evaluate.command()
@_data_options(10, "two")
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure; default: decomposition, "
              "sharp, grad-cam.")  # fmt: skip
@_evaluation_outputs
@_model_options
@_json
def sanity(
    data: str,
    split: str | None,
    pairing: Literal["nearest", "random", "self"],
    limit: int,
    seed: int,
    methods: str | None,
    outputs: tuple[str, ...],
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Are maps of the network, and of the pair? They are compared as either is another.

    As weights are drawn anew from the head down; as the reference is an impostor, the nearest of
    another class; and as there is noise in the query. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate sanity --data cub:CUB_200_2011
      whyalike evaluate sanity --data folder:photos --methods decomposition,grad-cam -o sane.html
    """
    paths = _evaluation_paths(outputs, checkpoint)
    with _working("reading the data set"):
        from whyalike.evaluate.sanity import USUAL, evaluate_sanity

        names = _methods(methods, USUAL)
        found = _data(data, split)
    with _working("loading the network"):
        loaded, _ = _load(model, None, layer, checkpoint, pretrained, device)
    with _steps() as tell:
        from whyalike.evaluate.sanity_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = evaluate_sanity(
                loaded, found, names, pairing=pairing, limit=limit, seed=seed, tell=tell
            )
    made = report(measured, pictures=_pictured(paths))
    _report_evaluation(made, measured.left_out, paths, as_json)


@evaluate.command()
@click.option("--data", metavar="LAYOUT:PATH", help="Photographs for homographies; default: the "
              "demo's two.")  # fmt: skip
@click.option("--methods", metavar="NAME,NAME", help="Some of decomposition, sharp, cosine (of "
              "features); default: all.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", default=10, show_default=True,
              help="So many photographs, spread evenly over all.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Of the homographies.")  # fmt: skip
@_evaluation_outputs
@_model_options
@_json
def correspondence(
    data: str | None,
    methods: str | None,
    limit: int,
    seed: int,
    outputs: tuple[str, ...],
    model: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Do point maps find what a point shows? Against matches that are known.

    Of a stereo pair that is here already, and of photographs under random homographies; beside the
    nearest features, a point left where it was, and chance. The same command gives the same
    numbers.

    \b
    Examples:
      whyalike evaluate correspondence
      whyalike evaluate correspondence --data folder:photos --limit 5 -o points.html
    """
    paths = _evaluation_paths(outputs, checkpoint)
    with _working("reading the data set"):
        from whyalike.evaluate.correspondence import METHODS, evaluate_correspondence

        names = [*METHODS]
        if methods is not None:
            names = [name.strip() for name in methods.split(",") if name.strip()]
        if bad := [name for name in names if name not in METHODS]:
            raise click.UsageError(
                f"--methods: a method is one of {', '.join(METHODS)}; came {bad[0]!r}"
            )
        photographs = None
        if data is not None:
            found = _data(data, None)
            count = min(limit, len(found))
            photographs = [found[i * len(found) // count].path for i in range(count)]
    with _working("loading the network"):
        loaded, _ = _load(model, None, layer, checkpoint, pretrained, device)
    with _steps() as tell:
        from whyalike.evaluate.correspondence_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = evaluate_correspondence(loaded, photographs, names, seed=seed, tell=tell)
    made = report(measured, pictures=_pictured(paths))
    _report_evaluation(made, measured.left_out, paths, as_json)


@cli.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("-o", "--out", "folder", required=True, metavar="FOLDER",
              help="The model's folder; a training that was begun there goes on.")  # fmt: skip
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
@_json
def train(
    data: tuple[str, ...],
    folder: str,
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

    \b
    Examples:
      whyalike train digits -o digits-model
      whyalike train photos/ -o model --trunk timm:resnet50 --pool max --device cuda --amp
      whyalike train products.csv -o model --loss triplet --miner triplet-margin
      whyalike train photos/ -o model --loss proxy-anchor --loss-option alpha 32 --epochs 40
      whyalike explain a.jpg b.jpg --model model
    """
    if unseen and hold_out is not None:
        raise click.UsageError("--unseen and --hold-out say the same in two ways; leave one out")
    scenes = data == ("digits",)
    if scenes and (unseen or hold_out is not None):
        raise click.UsageError("digits has classes of its own to measure on; leave --unseen and "
                               "--hold-out out")  # fmt: skip
    for name in ("loss_options", "miner_options"):
        given[name] = {key: _plain_value(value) for key, value in given[name]} or None
    chosen = {name: value for name, value in given.items() if value is not None}
    with _working("looking at the pictures"):
        if chosen.get("pretrained", True) and str(chosen.get("trunk")).startswith("timm:"):
            _hush_hub()
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
        _print(json.dumps(asdict(report)))
        return
    went = f"{report.steps - report.began:,} steps in {report.seconds:.0f} s"
    lines = [f"{went}, {report.steps:,} in all"]
    _print(*map(str, report.epochs), *lines, f"wrote {folder}, for --model {folder}")


@cli.command()
@click.argument("pattern", default="*")
@_json
def models(pattern: str, as_json: bool) -> None:
    """List the models that `--model` can name, those of timm by a PATTERN.

    \b
    Examples:
      whyalike models
      whyalike models 'convnext*'
    """
    with _working("asking timm"):
        from whyalike.zoo import from_timm, published

        names = from_timm.names(pattern)
        weights = {name: from_timm.has_weights(name) for name in names}
    if not names:
        raise ModelError(f"no network of timm matches {pattern!r}; `whyalike models` lists them")
    if as_json:
        found = [{"model": f"timm:{n}", "pretrained": weights[n]} for n in names]
        found += [{"model": f"published:{n}", "pretrained": False} for n in published.SPECS]
        _print(json.dumps([{"model": "default", "pretrained": True}, *found]))
        return
    _print(
        "default                  EfficientNet-Lite0, ImageNet weights, no download",
        "package.module:factory   a function of yours that returns a network",
        "onnx:FILE, pt2:FILE      a network in an ONNX file, or in a program of torch.export.save",
        "published:NAME           the paper's networks; their weights are given as --checkpoint",
        *(f"  published:{n:<24}{what}" for n, what in published.SPECS.items()),
        "transformers:NAME        networks of Hugging Face's transformers, by hub name or folder",
        "FOLDER                   a network that `whyalike train` made",
        f"timm:NAME                {len(names)} networks of timm",
        *(f"  timm:{n}{'' if weights[n] else '   (no weights to download)'}" for n in names),
    )


def main() -> None:
    """The entry point: an error is one line and exit code 2, or a traceback with WHYALIKE_DEBUG."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without × or →
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
    except Exception as error:
        if os.environ.get("WHYALIKE_DEBUG"):
            raise
        if isinstance(error, WhyalikeError):
            _fail(str(error))
        _fail(f"unexpected {in_one_line(error)} (set WHYALIKE_DEBUG=1 for the traceback)")


def _say(message: str) -> None:
    click.echo("whyalike: " + " ".join(message.split()), err=True)


def _fail(message: str) -> NoReturn:
    _say(message)
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # what it holds has no place to go to; let the exit not complain of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)


def _print(*lines: str) -> None:
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        click.echo("\n".join(lines))
    except OSError as error:
        raise OutputFileError(
            f"standard output cannot be written: {error.strerror or error}"
        ) from error


def _load(
    spec: str | None,
    reference_spec: str | None,
    layer: str | None,
    checkpoint: str | None,
    pretrained: bool,
    device: str | None,
) -> tuple[EmbeddingModel, EmbeddingModel]:
    """The query's network and the reference's, which are mostly one."""
    named = [] if checkpoint is not None else [spec]
    timm = any((each or "").startswith("timm:") for each in [*named, reference_spec])
    # Of transformers' networks, the settings are on the hub as well.
    if (pretrained and timm) or any(
        (each or "").startswith("transformers:") for each in (spec, reference_spec)
    ):
        _hush_hub()
    from whyalike.zoo import load_two

    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # `mymodels:make` may lie in the folder that one is in
    return load_two(
        spec,
        reference_spec,
        layer=layer,
        checkpoint=checkpoint,
        pretrained=pretrained,
        device=device,
    )


def _hush_hub() -> None:
    """Let the hub's client not talk in our place, nor try for a minute where there is no network.

    It reads its settings when it is imported, and has none for retries. Where its name is not
    known, it is told that it is offline; behind a proxy the name may be known to that alone. What
    the user has set stays.
    """
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if "HF_HUB_OFFLINE" in os.environ or getproxies():
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "//huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Say on a terminal what is being waited for; what others print goes to stderr."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    with redirect_stdout(sys.stderr):
        if sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(f"{what} …"):
            yield


def _gallery_model(
    found: Manifest | None, given: dict[str, Any], device: str | None
) -> tuple[EmbeddingModel, dict[str, Any]]:
    """The model that is named, or else the one that made the gallery, and how it was loaded."""
    from whyalike.images import printable

    named = (given["spec"], given["layer"], given["checkpoint"]) != (None, None, None)
    kept = None if found is None else found.spec
    if kept is not None and not named:
        # What a gallery says is a stranger's word: it may name a network, but no code and no file.
        plain = kept.get("spec") or "default"
        plain_kind = plain == "default" or plain.startswith(("timm:", "published:"))
        if not plain_kind or kept.get("checkpoint") is not None:
            words = " ".join(f"--{k} {v}" for k, v in (("model", kept.get("spec")), ("checkpoint",
                             kept.get("checkpoint"))) if v)  # fmt: skip
            raise ModelError(f"the gallery was made with {printable(words)}; give that again")
        given = {**given, **{name: kept.get(name) for name in ("spec", "layer", "pretrained")}}
    if given["checkpoint"] is not None:
        check_input(given["checkpoint"], CheckpointError, _A_CHECKPOINT)
    with _working("loading the network"):
        spec, layer, checkpoint = (given[name] for name in ("spec", "layer", "checkpoint"))
        loaded, _ = _load(spec, None, layer, checkpoint, bool(given["pretrained"]), device)
    return loaded, given


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Say how far indexing is: a bar on a terminal, and first of all what a row takes on disk."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} a second"), TimeRemainingColumn(),
    )  # fmt: skip
    terminal = sys.stderr is not None and sys.stderr.isatty()
    with (
        redirect_stdout(sys.stderr),
        Bar(*columns, console=Console(stderr=True), disable=not terminal, transient=True) as bar,
    ):
        task = bar.add_task("indexing", total=None, rate=0.0)

        def tell(now: Progress) -> None:
            if now.done == 0 and now.total:
                size = f"{_size(now.bytes_per_image)} an image"
                total = _size(now.bytes_per_image * now.total)
                text = f"{now.total:,} to read; maps {now.maps}: {size}, {total} in all"
                say = bar.console.print if terminal else partial(click.echo, err=True)
                say(text)
            bar.update(task, completed=now.done, total=now.total, rate=now.rate)

        yield tell


@contextmanager
def _bar(*columns: ProgressColumn) -> Iterator[tuple[ProgressBar, bool]]:
    """A bar on a terminal, nothing elsewhere; and whether it is one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    terminal = sys.stderr is not None and sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns,
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with (
        redirect_stdout(sys.stderr),
        ProgressBar(*columns, console=console, disable=not terminal, transient=True) as bar,
    ):
        yield bar, terminal


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of work that comes in steps of known number."""
    with _bar() as (bar, _):
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield tell


@contextmanager
def _training_progress() -> Iterator[Callable[[Step], None]]:
    """Say how far training is: a bar, and what came out of each epoch."""
    from rich.progress import TextColumn

    with _bar(TextColumn("loss {task.fields[loss]:.4f}")) as (bar, terminal):
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


def _evaluation_paths(outputs: Sequence[str], checkpoint: str | None) -> list[Path]:
    if checkpoint is not None:
        check_input(checkpoint, CheckpointError, _A_CHECKPOINT)
    return check_outputs(outputs, [] if checkpoint is None else [checkpoint],
                         [".json", ".md", ".html"])  # fmt: skip


def _pictured(paths: Sequence[Path]) -> bool:
    return any(path.suffix.lower() == ".html" for path in paths)


def _methods(given: str | None, usual: Sequence[str]) -> list[str]:
    """Names of methods, checked; the usual ones where none are given."""
    from whyalike.evaluate.methods import named

    if given is None:
        return [*usual]
    names = [name.strip() for name in given.split(",") if name.strip()]
    try:
        named(names)
    except ValueError as error:
        raise click.UsageError(f"--methods: {error}") from error
    return names


def _data(name: str, split: str | None) -> Dataset:
    from whyalike.data import read

    found = read(name)
    if split is None:
        return found
    held = found.halves()[1] if split == "unseen" else found.only(split=split)
    if not len(held):
        has = ", ".join([*found.splits, "unseen"])
        raise DataError(f"{name}: there is no split {split!r}; it has {has}")
    return held


def _report_evaluation(
    made: Report, left_out: Sequence[tuple[str, str]], paths: Sequence[Path], as_json: bool
) -> None:
    from whyalike.images import printable

    made.save(*paths)
    if as_json:
        _print(made.json())
        return
    for path, reason in left_out[:5]:
        _say(f"left out: {printable(path)}: {reason}")
    if len(left_out) > 5:
        _say(f"... and {len(left_out) - 5:,} more; --json has them all")
    tables = [line for table in made.tables for line in (table.text(), "")]
    _print(made.lead, "", *tables, *(f"wrote {path}" for path in paths))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _report_index(gallery: Gallery, as_json: bool) -> None:
    done = gallery.report
    assert done is not None
    if as_json:
        found = {**asdict(done), "images": len(gallery)}
        found["failed"] = [{"path": one.path, "reason": one.reason} for one in done.failed]
        _print(json.dumps(found))
        return
    for one in done.failed[:5]:
        _say(f"{one.path}: {one.reason}")
    if len(done.failed) > 5:
        _say(f"... and {len(done.failed) - 5:,} more, all listed in errors.parquet")
    rate = (done.added + done.replaced) / max(done.seconds, 1e-9)
    lines = [
        f"{len(gallery):,} photographs: {done.added:,} added, {done.replaced:,} read again, "
        f"{done.unchanged:,} unchanged, {done.pruned:,} removed, {len(done.failed):,} set aside "
        f"({done.seconds:.1f} s, {rate:.1f} a second)"
    ]
    if done.missing > done.pruned:
        lines.append(f"{done.missing:,} are gone from disk; --prune removes them")
    if done.same_content:
        lines.append(f"{done.same_content:,} have the same bytes as another one")
    if done.others:
        lines.append(f"{done.others:,} files are no images by their names")
    _print(*lines)


def _finite(metadata: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinity are none of JSON's numbers."""
    bad = {n for n, v in metadata.items() if isinstance(v, float) and not math.isfinite(v)}
    return {name: None if name in bad else value for name, value in metadata.items()}


def _report_hits(
    gallery: Gallery, hits: Sequence[Hit], files: Sequence[str], approximate: bool, as_json: bool
) -> None:
    from whyalike.images import printable

    recall = gallery.approximate if approximate else None
    if as_json:
        names = ("rank", "score", "path", "label", "whole", "rank_without_region", "query_bias",
                 "id")  # fmt: skip
        found = {
            "model": gallery.manifest.network,
            "images": len(gallery),
            "approximate": None if recall is None else asdict(recall),
            "hits": [
                {**{name: getattr(hit, name) for name in names}, "metadata": _finite(hit.metadata)}
                for hit in hits
            ],
            "files": list(files),
        }
        _print(json.dumps(found, default=str, allow_nan=False))
        return
    whole = not hits or hits[0].query.is_whole
    head = f"{'rank':>4} {'score':>9}" + ("" if whole else f" {'whole':>9} {'rank':>6}")
    lines = [f"{head}  label  path"]
    for hit in hits:
        without = "?" if hit.rank_without_region is None else hit.rank_without_region
        extra = "" if whole else f" {hit.whole:+9.4f} {without:>6}"
        label = "-" if hit.label is None else printable(hit.label)
        lines.append(f"{hit.rank:>4} {hit.score:+9.4f}{extra}  {label}  {hit.path}")
    if recall is not None:
        lines.append(str(recall))
    _print(*lines, *(f"wrote {file}" for file in files))


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
        _print(json.dumps(found, allow_nan=False))
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
    _print(*lines, *(f"wrote {path}" for path in outputs))


def _of_tokens(ledger: dict[str, dict[str, float]], other: str) -> float:
    """What prefix tokens of either image carry with a part of the other one."""
    return ledger["prefix tokens"][other] + ledger[other]["prefix tokens"]


if __name__ == "__main__":
    main()
