"""Writing a pair, or what a search found, to files, by their endings; whole or not at all."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from whyalike import draw
from whyalike.errors import ImageError, ViewError
from whyalike.files import check_outputs, write_whole
from whyalike.geometry import XY, XYXY
from whyalike.pair import Pair
from whyalike.viewer import export, notebook, results
from whyalike.viewer.notebook import in_notebook as in_notebook

if TYPE_CHECKING:
    from whyalike.gallery import Gallery, Hit
    from whyalike.viewer.widget import PairView, RankingView


def save_pair(
    pair: Pair,
    *paths: str | os.PathLike[str],
    points: Sequence[XY] = (),
    regions: Sequence[XYXY] = (),
    bias: bool = False,
) -> None:
    """Write a pair as an interactive page (.html), a figure (.png, .pdf) or arrays (.npz).

    All files are written under temporary names first, so each appears whole or not at all.

    Args:
        pair: what to write.
        paths: one or more files; the ending says what is written.
        points: points of the query, in pixels, whose maps are added to figures and arrays.
        regions: boxes of the query, in pixels; the same.
        bias: whether the figures' overall maps count the other image's bias.

    Raises:
        OutputFileError: another ending, or the file cannot be written.
    """
    places = check_outputs(paths)

    def write(path: Path, file: BinaryIO) -> None:
        match path.suffix.lower():
            case ".html":
                file.write(export.page(export.viewer_data(pair.at_hand())).encode())
            case ".npz":
                np.savez_compressed(file, **arrays(pair, points=points, regions=regions))  # type: ignore[arg-type]
            case ending:
                made = draw.figure(pair, points=points, regions=regions, bias=bias)
                made.savefig(file, format=ending[1:], dpi=300)

    write_whole(places, write)


def save_results(
    gallery: Gallery,
    hits: Sequence[Hit],
    *paths: str | os.PathLike[str],
    whole: Sequence[Hit] = (),
    where: str | None = None,
    exact: bool = True,
) -> None:
    """Write what a search found as one interactive page (.html), each hit with its region map.

    >>> whole = gallery.search("query.jpg")  # doctest: +SKIP
    >>> save_results(gallery, hits, "results.html", whole=whole)  # doctest: +SKIP

    Args:
        gallery: that was searched.
        hits: of a search, best first.
        paths: one or more files.
        whole: the hits of the whole query, to lay beside those of a region.
        where, exact: as both were searched, to say it.

    Raises:
        GalleryError: no hits, or the gallery has changed since the search.
        OutputFileError: another ending, or the file cannot be written.
    """
    places = check_outputs(paths, endings=[".html"])
    data = results.results_data(gallery, hits, whole, where=where, exact=exact)
    text = results.page(data).encode()
    write_whole(places, lambda _, file: _write(file, text))


def _write(file: BinaryIO, text: bytes) -> None:
    file.write(text)


def arrays(
    pair: Pair, *, points: Sequence[XY] = (), regions: Sequence[XYXY] = ()
) -> dict[str, np.ndarray]:
    """Everything that a pair knows, as named arrays in units of cosine, for `numpy.load`.

    `query_values`, `query_prefix`, `query_bias` and `query_embedding` (and the reference's): v of
    the cells, v of prefix tokens, b and E as the network has them; maps and the matrix are divided
    by |E^q||E^r|. `query_taylor_names` are operations that were only expanded to first order,
    `query_taylor_sizes` what each leaves over, as a share of |E|. Where v are not at hand, this
    takes a derivative of the head for each cell.
    """
    found: dict[str, np.ndarray] = {
        "similarity": np.array(pair.similarity),
        "terms": np.array(pair.terms),
        "term_names": np.array(pair.terms._fields),
        "matrix": pair.matrix().cpu().numpy(),
    }
    for side in ("query", "reference"):
        c = pair.query if side == "query" else pair.reference
        found |= {
            f"{side}_name": np.array(c.name),
            f"{side}_values": c.values.cpu().numpy(),
            f"{side}_prefix": c.prefix_values.cpu().numpy(),
            f"{side}_bias": c.bias.cpu().numpy(),
            f"{side}_embedding": c.embedding.cpu().numpy(),
            f"{side}_taylor_names": np.array([*c.taylor], dtype=np.str_),
            f"{side}_taylor_sizes": np.array([*c.taylor.values()], dtype=np.float64),
            f"{side}_size_wh": np.array(c.frame.size_wh),
            f"{side}_view_xyxy": np.array(c.frame.view_xyxy),
            f"{side}_overall_map": pair.overall_map(side).cpu().numpy(),
            f"{side}_overall_map_with_bias": pair.overall_map(side, bias=True).cpu().numpy(),
        }
    if points:
        found["points_query_xy"] = np.array(points)
        found["point_maps"] = np.stack([pair.point_map(query_xy=p).cpu().numpy() for p in points])
    if regions:
        found["regions_query_xyxy"] = np.array(regions)
        found["region_maps"] = np.stack(
            [pair.region_map(query_xyxy=r).cpu().numpy() for r in regions]
        )
    return found


def show_pair(pair: Pair) -> None:
    """Write the interactive page to a temporary folder and open it in the web browser."""
    folder = Path(tempfile.mkdtemp(prefix="whyalike-"))
    save_pair(pair, folder / "pair.html")
    print(f"{folder / 'pair.html'}")
    webbrowser.open((folder / "pair.html").as_uri())


def view_pair(pair: Pair) -> PairView:
    """The pair as a widget of a notebook; see `Pair.view`."""
    return notebook.widgets().PairView(pair)


def view_ranking(
    ranked: Sequence[Any], gallery: Gallery | None, *, where: str | None, exact: bool
) -> RankingView:
    """A ranking as a widget of a notebook; see `whyalike.ranking.Ranking.view`.

    Args:
        ranked: pairs with one query, best first or not; or hits of a gallery.
        gallery: that was searched; None for pairs.
        where, exact: as it was searched, to say it.
    """
    widgets = notebook.widgets()
    if gallery is None:
        pairs = _pairs_of(ranked)
        return widgets.RankingView(pairs.__getitem__, results.ranking_data(pairs))
    whole: Sequence[Hit] = ()
    if not ranked[0].query.is_whole:
        query = ranked[0].query.contributions
        whole = gallery.search(query, k=len(ranked), where=where, exact=exact)
    data = results.results_data(gallery, ranked, whole, where=where, exact=exact)
    return widgets.RankingView(lambda index: gallery.explain(ranked[index]), data)


def pair_in_notebook(pair: Pair) -> dict[str, Any]:
    """What a notebook shows of a pair: the widget, where there is one, and a figure."""
    return notebook.bundle(repr(pair), lambda: view_pair(pair), lambda: draw.figure(pair))


def ranking_in_notebook(
    ranked: Sequence[Any], gallery: Gallery | None, view: Callable[[], Any]
) -> dict[str, Any]:
    """What a notebook shows of a ranking: the widget, where there is one, and a figure."""

    def figure() -> Any:
        if gallery is None:
            pairs = _pairs_of(ranked)[:SHOWN]
            maps = [pair.overall_map("reference", bias=True) for pair in pairs]
            says = [f"similarity {pair.similarity:.4f}" for pair in pairs]
            return draw.ranking(pairs, maps, says)
        if gallery.manifest.maps == "none":
            raise ViewError("the gallery keeps no maps")
        some = ranked[:SHOWN]
        pairs = gallery.explain_ranking(some)
        maps = [gallery.region_map(h, p.reference) for h, p in zip(some, pairs, strict=True)]
        asked = some[0].query
        says = [f"{hit.rank}: {hit.score:.4f}" for hit in some]
        return draw.ranking(pairs, maps, says, [*asked.boxes, *asked.points])

    return notebook.bundle(ranking_in_words(ranked), view, figure)


SHOWN = 6
"""Of a ranking, on a figure."""


def _pairs_of(ranked: Sequence[Pair | ImageError]) -> list[Pair]:
    """Those that were read, best first."""
    pairs = [pair for pair in ranked if isinstance(pair, Pair)]
    if not pairs:
        raise ViewError("a ranking is shown if it has a pair; none of its images could be read")
    return sorted(pairs, key=lambda pair: -pair.similarity)


def ranking_in_words(ranked: Sequence[Any]) -> str:
    """What a notebook says of a ranking: a line, without the folders that its files lie in."""
    said = []
    for one in ranked[:SHOWN]:
        if isinstance(one, ImageError):
            said.append(str(one))
        elif isinstance(one, Pair):
            said.append(f"{one.reference.name} {one.similarity:.4f}")
        else:
            said.append(f"{one.path.rpartition('/')[2]} {one.score:.4f}")
    more = ", ..." if len(ranked) > SHOWN else ""
    return f"Ranking of {len(ranked)}: {', '.join(said)}{more}"
