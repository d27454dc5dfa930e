"""whyalike index, search, remove."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from whyalike.cli.network import Network, network_options
from whyalike.cli.options import Numbers, json_option, storage_option
from whyalike.cli.terminal import put, say, working
from whyalike.errors import GalleryError, ImageError, ModelError
from whyalike.files import check_input, check_outputs

if TYPE_CHECKING:
    from whyalike.gallery import Gallery, Hit, Manifest, Progress
    from whyalike.gallery.query import Query
    from whyalike.model import EmbeddingModel


@click.command()
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
@network_options
@storage_option
@json_option
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
    network: Network,
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
    with working("opening the gallery"):
        from whyalike.gallery import Cluster, Gallery, list_images, open_manifest

        cluster = None if address is None else Cluster(address, network.device or "cpu")
        options = dict(storage)
        found = open_manifest(gallery, options)
        if found is None and not photos:
            raise GalleryError(f"{gallery}: there is no gallery yet; give photographs to index")
        if photos and not list_images(photos).files and found is None:
            raise GalleryError(f"{', '.join(photos)}: no images are there")
    # On a cluster, the device is the workers'; this machine may have none.
    network = network if cluster is None else replace(network, device=None)
    loaded, network = gallery_model(found, network)
    with _progress() as tell:
        if photos:
            made = Gallery.build(
                loaded, photos, gallery, maps=maps or (found.maps if found else "full"),
                batch_size=batch_size, workers=workers, strict=strict, prune=prune,
                commit_rows=commit_rows, ray=cluster, progress=tell,
                storage_options=options or None, spec=network.how_loaded,
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
        with working("making the index for approximate search"):
            made.make_approximate()
    _report_index(made, as_json)


@click.command()
@click.argument("gallery", metavar="GALLERY")
@click.argument("query", metavar="QUERY")
@click.option("--region", "regions", multiple=True, type=Numbers("X1,Y1,X2,Y2"),
              help="A box of the query, in pixels; several are added up.")  # fmt: skip
@click.option("--point", "points", multiple=True, type=Numbers("X,Y"),
              help="A point of the query, in pixels; several are added up.")  # fmt: skip
@click.option("--mask", "masks", multiple=True, metavar="FILE",
              help="An image of the query's size: what is white is searched for.")  # fmt: skip
@click.option("--without", multiple=True, type=Numbers("X1,Y1,X2,Y2"),
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
@network_options
@storage_option
@json_option
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
    network: Network,
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
    with working("opening the gallery"):
        from whyalike.gallery import Gallery, mask_of, open_manifest
        from whyalike.images import read_image

        options = dict(storage)
        found = open_manifest(gallery, options)
        opened = Gallery.open(gallery, storage_options=options or None)
    loaded, _ = gallery_model(found, network)
    with working("searching"):
        from whyalike.zoo import blaming

        opened.use(loaded)
        with blaming("running the network"):
            asked = opened.ask(
                query, regions or None, points or None,
                [mask_of(read_image(one)) for one in masks] or None,
                without=without or None, weights=weights or None,
            )  # fmt: skip
        ask: Callable[[Query], Sequence[Hit]]
        if approximate:
            ask = partial(opened.search, k=k, where=where, exact=False)
        else:  # what is searched by the whole photograph serves the ranks without the region, too
            ask = partial(opened.follow(asked.contributions, where).search, k=k)
        hits = ask(asked)
    if explained:
        with working("explaining"):
            for rank, file in explained:
                if rank > len(hits):
                    raise GalleryError(f"--explain {rank}: there are {len(hits)} hits")
                opened.explain(hits[rank - 1]).save(file, points=points, regions=regions)
    if pages:
        with working("writing"):
            from whyalike.save import save_results

            rest = () if asked.is_whole else ask(opened.ask(asked.contributions))
            save_results(opened, hits, *pages, whole=rest, where=where, exact=not approximate)
    written = [*files, *map(str, pages)]
    _report_hits(opened, hits, written, approximate, as_json)


@click.command()
@click.argument("gallery", metavar="GALLERY")
@click.argument("photos", nargs=-1, metavar="[PHOTOS]...")
@click.option("--where", metavar="SQL", help="A condition on the columns, such as \"label = 'x'\".")
@storage_option
@json_option
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
    with working("removing"):
        from whyalike.gallery import Gallery

        opened = Gallery.open(gallery, storage_options=dict(storage) or None)
        count = opened.remove(photos, where=where)
    if as_json:
        put(json.dumps({"removed": count, "images": len(opened)}))
    else:
        put(f"removed {count:,}; {len(opened):,} are left in {gallery}")


def gallery_model(found: Manifest | None, network: Network) -> tuple[EmbeddingModel, Network]:
    """The model that is named, or else the one that made the gallery, and how it was loaded."""
    network = gallery_network(found, network)
    with working("loading the network"):
        return network.load(), network


def gallery_network(found: Manifest | None, network: Network) -> Network:
    """The network that is named, or else the one that made the gallery; not loaded yet."""
    from whyalike.images import printable

    named = (network.spec, network.layer, network.checkpoint) != (None, None, None)
    kept = None if found is None else found.spec
    if kept is not None and not named:
        # What a gallery says is a stranger's word: it may name a network, but no code and no file.
        plain = kept.get("spec") or "default"
        plain_kind = plain == "default" or plain.startswith(("timm:", "published:"))
        if not plain_kind or kept.get("checkpoint") is not None:
            words = " ".join(f"--{k} {v}" for k, v in (("model", kept.get("spec")), ("checkpoint",
                             kept.get("checkpoint"))) if v)  # fmt: skip
            raise ModelError(f"the gallery was made with {printable(words)}; give that again")
        network = Network(kept.get("spec"), kept.get("layer"), None, bool(kept.get("pretrained")),
                          network.device)  # fmt: skip
    network.checked_files()
    return network


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
        put(json.dumps(found))
        return
    for one in done.failed[:5]:
        say(f"{one.path}: {one.reason}")
    if len(done.failed) > 5:
        say(f"... and {len(done.failed) - 5:,} more, all listed in errors.parquet")
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
    put(*lines)


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
        put(json.dumps(found, default=str, allow_nan=False))
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
    put(*lines, *(f"wrote {file}" for file in files))
