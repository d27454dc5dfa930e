"""Gallery: photographs on disk with what each of their cells gives, to search by any region."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.difference import Contrast, contrast
from whyalike.errors import GalleryError
from whyalike.gallery import approximate as approximating
from whyalike.gallery import build as building
from whyalike.gallery import cluster as clusters
from whyalike.gallery import manifest as manifests
from whyalike.gallery import store as stores
from whyalike.gallery.approximate import Approximate
from whyalike.gallery.build import Progress, Report, Settings, Work
from whyalike.gallery.cluster import Cluster, cluster_of
from whyalike.gallery.following import Following
from whyalike.gallery.hits import Hit
from whyalike.gallery.listing import (
    Listed,
    Listing,
    Name,
    absolute,
    belonging_to,
    id_of,
    list_images,
)
from whyalike.gallery.manifest import Manifest, Maps
from whyalike.gallery.query import Boxes, Masks, Points, Query, ask
from whyalike.gallery.reading import batches
from whyalike.gallery.rows import NO_MAPS, Packing
from whyalike.gallery.snapshot import Entry, Snapshot
from whyalike.gallery.store import Options, Store
from whyalike.gallery.vectors import temporary_folder
from whyalike.geometry import XYXY
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair, pairs_with
from whyalike.preprocess import Source
from whyalike.ranking import Ranking


class Gallery:
    """Photographs with their embeddings and contributions, in a LanceDB table.

    Made by `Gallery.build` and `Gallery.open`. Searches see the table as it was when it was opened,
    or last changed by this object; `refresh` sees what others have changed.
    """

    def __init__(
        self, store: Store, model: EmbeddingModel | None, cache: Name | None = None
    ) -> None:
        """Use `Gallery.open`."""
        self._store = store
        if cache is not None:
            self._folder = Path(cache)
        elif store.is_remote:
            self._folder = temporary_folder(self)
        else:
            self._folder = Path(store.at(stores.VECTORS))
        self.refresh()
        self.manifest: Manifest = store.manifest(self._now.table)
        self._packing: Packing = store.packing(self.manifest)
        self.model = model
        self.report: Report | None = None
        """What the last indexing by this object did."""
        if model is not None:
            self.use(model)

    @classmethod
    def build(
        cls,
        model: EmbeddingModel,
        sources: Name | Iterable[Name],
        path: Name,
        *,
        maps: Maps = "full",
        batch_size: int = 32,
        workers: int | None = None,
        strict: bool = False,
        prune: bool = False,
        commit_rows: int = building.COMMIT_ROWS,
        ray: str | Cluster | None = None,
        progress: Callable[[Progress], None] | None = None,
        storage_options: Options = None,
        spec: dict[str, Any] | None = None,
    ) -> Gallery:
        """Index photographs, or go on with that; what is indexed already is not read again.

        >>> gallery = Gallery.build(model, "photos/", "photos.lance")  # doctest: +SKIP

        Args:
            model: that embeds; later searches must come with the same one.
            sources: folders, files, globs, and tables (.csv, .parquet) with a column `path`, and
                perhaps `label` and metadata; see `listing.list_images`.
            path: the gallery's folder, or an address such as s3://bucket/photos.lance.
            maps: what is kept of contributions: "full" in float16, "pq" in an eighth of a byte a
                number, not exactly; "none" for search alone.
            batch_size: images in one forward pass.
            workers: threads that read files; as many as cores by default.
            strict: stop at the first file that cannot be read; otherwise it is set aside in
                errors.parquet with the reason.
            prune: remove rows below the sources whose file is gone.
            commit_rows: rows that are committed together, at the latest after 30 seconds or 128 MB:
                so much a kill can lose.
            ray: a Ray cluster to index on, "auto" for the one that this machine is part of,
                HOST:PORT, "local", or a `gallery.Cluster` (docs/scale.md); `workers` and
                `commit_rows` are then of each of its workers.
            progress: called with how far it is, first before anything is read.
            storage_options: of the object store, as for LanceDB.
            spec: how `whyalike.load` made the model, for the command line.

        Raises:
            GalleryError: the path is something else or another model's gallery, or cannot be
                written.
        """
        cluster = None if ray is None else cluster_of(ray, model)
        listing = list_images(sources)
        store = _store(path, storage_options)
        if maps not in get_args(Maps):
            raise GalleryError(f'maps is "none", "full" or "pq"; came {maps!r}')
        if not store.exists():
            packing = building.choose_packing(model, maps, _sample(model, listing, maps))
            store.create(manifests.describe(model, maps, spec), packing, listing.columns)
        gallery = cls(store, model)
        if gallery.manifest.maps != maps:
            raise GalleryError(
                f"the gallery keeps maps {gallery.manifest.maps!r}; came {maps!r}; make another one"
            )
        given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        settings = Settings(batch_size, workers, strict, prune, commit_rows)
        gallery._index(listing, given, settings, progress, cluster)
        return gallery

    @classmethod
    def open(
        cls,
        path: Name,
        model: EmbeddingModel | None = None,
        *,
        storage_options: Options = None,
        cache: Name | None = None,
    ) -> Gallery:
        """Open a gallery.

        Args:
            path: its folder, or address.
            model: the one that made it; needed to search and to add, not to look.
            storage_options: of the object store, as for LanceDB.
            cache: a folder for its vectors, which are mapped from files. By default it is in the
                gallery, or, where that is on object storage, a temporary one.

        Raises:
            GalleryError: there is none, or it was made with another model.
        """
        return cls(_store(path, storage_options), model, cache)

    def use(self, model: EmbeddingModel) -> None:
        """Search and add with a model, which must be the one that made the gallery."""
        manifests.check_same(self.manifest, model)
        self.model = model

    def __len__(self) -> int:
        return self._now.count()

    def __repr__(self) -> str:
        return f"Gallery({self._store.root!r}, {len(self)} images, {self.manifest.network})"

    # -- changing it -----------------------------------------------------------------------------

    def add(
        self,
        sources: Name | Iterable[Name],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        strict: bool = False,
        prune: bool = False,
        commit_rows: int = building.COMMIT_ROWS,
        ray: str | Cluster | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Report:
        """Index what is new and what has changed, by size and time of change, of some sources.

        Args:
            sources, batch_size, workers, strict, prune, commit_rows, ray, progress: as for `build`.
        """
        cluster = None if ray is None else cluster_of(ray, self._model())
        given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        settings = Settings(batch_size, workers, strict, prune, commit_rows)
        return self._index(list_images(given), given, settings, progress, cluster)

    def reindex(
        self,
        *,
        ray: str | Cluster | None = None,
        progress: Callable[[Progress], None] | None = None,
        **settings: Any,
    ) -> Report:
        """Index again what has changed of all files that the gallery has.

        Args:
            ray, progress: as for `add`.
            settings: batch_size, workers, strict, prune and commit_rows, as for `add`.
        """
        cluster = None if ray is None else cluster_of(ray, self._model())
        names = self._now.metadata
        table = self._now.table.to_table(columns=["file", "label", *names])
        columns = pa.schema([table.schema.field(name) for name in names])
        files = []
        for row in table.to_pylist():
            file, label = row.pop("file"), row.pop("label")
            files.append(Listed(file, label, row))
        there = [one for one in files if os.path.lexists(one.file)]
        listing = Listing(tuple(there), columns=columns)
        return self._index(listing, None, Settings(**settings), progress, cluster)

    def remove(self, paths: Iterable[Name] = (), *, where: str | None = None) -> int:
        """Take rows out, by the paths of their files or a condition; how many there were.

        Args:
            paths: files, and folders for all that is below them.
            where: a condition in SQL, such as "label = 'x'".

        Raises:
            GalleryError: a path that the gallery does not have, or a condition that means nothing.
        """
        gone: set[str] = set()
        listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        known = building.Known.of(self._now.table)
        for path in listed:
            file = absolute(path)
            below = file.rstrip(b"/") + b"/"
            found = {one for one, name in known.file.items() if name.startswith(below)}
            if (one := id_of(file)) in known.file:
                found.add(one)
            if not found:
                raise GalleryError(f"{path}: the gallery has no such file, nor any below it")
            gone |= found
        if where is not None:
            gone |= set(self._now.ids(where))
        stores.delete(self._store.open(), sorted(gone))
        self.refresh()
        return len(gone)

    def refresh(self) -> None:
        """See the table as it is now."""
        self._now = Snapshot(self._store.root, self._store.open(), self._folder)

    def compact(self) -> None:
        """Put small fragments together and drop what was deleted, after many changes.

        Files that only versions of more than a day ago had are removed.
        """
        with stores.writing(self._store.root):
            self._now.table.optimize.compact_files()
            self._now.table.cleanup_old_versions(older_than=timedelta(days=1))
        self.refresh()

    def files(self) -> list[str]:
        """The files that it has, to open, in the order of their names."""
        found = self._now.table.to_table(columns=["file"])["file"].to_pylist()
        return [os.fsdecode(one) for one in sorted(found)]

    def failures(self) -> dict[str, str]:
        """Files that could not be indexed, by path, and why: what errors.parquet holds."""
        return {one.path: one.reason for one in self._store.failures().values()}

    # -- searching it ----------------------------------------------------------------------------

    def ask(
        self,
        query: Source | Contributions | Query,
        region: Boxes | None = None,
        points: Points | None = None,
        mask: Masks | None = None,
        without: Boxes | Masks | None = None,
        weights: Sequence[float] | None = None,
    ) -> Query:
        """What is searched for, as a vector; the arguments are those of `search`."""
        if isinstance(query, Query):
            return query
        x = query if isinstance(query, Contributions) else self._model().explain(query)
        if len(x.embedding) != self.manifest.d:
            raise GalleryError(
                f"the gallery's embeddings have {self.manifest.d} numbers, the query's "
                f"{len(x.embedding)}; explain it with the gallery's model"
            )
        return ask(x, region, points, mask, without, weights)

    def search(
        self,
        query: Source | Contributions | Query,
        region: Boxes | None = None,
        points: Points | None = None,
        mask: Masks | None = None,
        *,
        without: Boxes | Masks | None = None,
        weights: Sequence[float] | None = None,
        k: int = 20,
        where: str | None = None,
        exact: bool = True,
    ) -> Ranking[Hit]:
        """The photographs that score highest with a region of the query, or with all of it.

        Nothing is computed again for the gallery: Σ v^q of the region, over |E^q|, is
        multiplied with every unit embedding (the paper's region search, section VII-B.1).

        >>> hits = gallery.search("query.jpg", region=(40, 30, 120, 110))  # doctest: +SKIP

        Args:
            query: an image as for `EmbeddingModel.explain`, or what that or `ask` returned.
            region: a box (x1, y1, x2, y2) of the query in pixels, or several, which are added up.
            points: a point (x, y), or several.
            mask: an array (H, W) of the query's size, or several.
            without: boxes or masks whose vectors are subtracted: "this, and not that".
            weights: one for each box, point and mask, in this order.
            k: how many hits.
            where: a condition in SQL on the columns, such as "label = 'x' AND year > 2020".
            exact: True for all rows; False for LanceDB's index, which misses some
                (`approximate` says how many), and does not tell ranks without the region.

        Raises:
            RegionError: a region that does not lie on the query.
            GalleryError: a condition that means nothing, or no index.
        """
        if k < 1:
            raise GalleryError(f"k is 1 or more; came {k}")
        asked = self.ask(query, region, points, mask, without, weights)
        if exact:
            hits = self.follow(asked.contributions, where).search(asked, k)
        else:
            hits = self._approximately(asked, k, where)
        return Ranking(hits, gallery=self, where=where, exact=exact)

    def follow(self, query: Source | Contributions, where: str | None = None) -> Following:
        """Searches by one part after another of a query, which multiply every row once each.

        >>> following = gallery.follow("query.jpg")  # doctest: +SKIP
        >>> following.search(gallery.ask(following.x, (40, 30, 120, 110)), 20)  # doctest: +SKIP

        Args:
            query: an image as for `EmbeddingModel.explain`, or what that returned.
            where: a condition in SQL on the columns.

        Raises:
            GalleryError: a condition that means nothing.
        """
        x = query if isinstance(query, Contributions) else self._model().explain(query)
        self.ask(x)  # whether it is of as many numbers
        return Following(x, self._now, self._now.among(where))

    # -- looking through it ----------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of the table, as this object sees it; each change makes another."""
        return self._now.version

    def is_current(self) -> bool:
        """Whether nothing has been changed since it was opened, by anyone."""
        return int(self._store.open().version) == self.version

    def count(self, where: str | None = None) -> int:
        """How many photographs there are, or of which a condition holds."""
        return self._now.count(where)

    def browse(self, offset: int = 0, limit: int = 60, where: str | None = None) -> list[Entry]:
        """Photographs in the table's order.

        Raises:
            GalleryError: a condition that means nothing.
        """
        return self._now.browse(where, offset=offset, limit=limit)

    def entry(self, id: str) -> Entry | None:
        """The photograph of an id; None where there is none."""
        return self._now.entry(id)

    def columns(self) -> dict[str, str]:
        """The columns that a condition may name, with their types in words."""
        return self._now.columns()

    @property
    def approximate(self) -> Approximate | None:
        """How searches with `exact=False` are done, and what recall was measured; None without."""
        return approximating.measured(self._now.table)

    def make_approximate(self, *, nprobes: int = 20, refine: int = 20) -> Approximate:
        """Make LanceDB's index for searches with `exact=False`, and measure what it misses.

        Rows that are added later are found as well. Region vectors lie far from every row, where
        such indexes are weak: look at `recall_region` of what is returned.

        Args:
            nprobes: partitions that a search looks through.
            refine: how many times as many rows as asked for it scores exactly.
        """
        regions = None
        if self.manifest.maps != "none" and len(self):
            some = approximating.spread(self._now.vectors)
            rows = self._now.take(some)
            found = self._now.contributions(some, rows, self.manifest, self._packing)
            regions = torch.stack([ask(x, _middle(x)).vector for x in found])
        made = approximating.make(
            self._store, self._now.vectors, regions, nprobes=nprobes, refine=refine
        )
        self.refresh()
        return made

    # -- explaining from it ----------------------------------------------------------------------

    def explain(self, hit: Hit) -> Pair:
        """The pair of a query and a hit, from what the gallery keeps, without the network."""
        return self.explain_ranking([hit])[0]

    def explain_ranking(self, hits: Sequence[Hit]) -> list[Pair]:
        """The pairs of the hits of a search, in their order, read together."""
        found = self.contributions(hits)
        pairs: list[Pair] = []
        for x, some in groupby(zip(hits, found, strict=True), lambda of: of[0].query.contributions):
            pairs += pairs_with(x, [reference.to(x.embedding.device) for _, reference in some])
        return pairs

    def contributions(self, hits: Sequence[Hit | Entry]) -> list[Contributions]:
        """What the cells of hits, or of listed photographs, give, from what the gallery keeps.

        Raises:
            GalleryError: it keeps none, or the hits are of a search of another state of it.
        """
        if self.manifest.maps == "none":
            raise GalleryError(NO_MAPS)
        if any(hit.version != self.version for hit in hits):
            raise GalleryError("the gallery has changed since the search; search again")
        if not hits:
            return []
        positions = self._now.vectors.positions(np.array([hit.address for hit in hits], np.int64))
        rows = [hit.row for hit in hits]
        return self._now.contributions(positions, rows, self.manifest, self._packing)

    def region_map(self, hit: Hit, reference: Contributions | None = None) -> Float[Tensor, "h w"]:
        """What each cell of a hit carries with what was searched for, in units of cosine.

        Its sum is the score, but for what the region has with the hit's bias.

        Args:
            hit: of a search.
            reference: its contributions, where they are at hand.
        """
        x = self.contributions([hit])[0] if reference is None else reference
        return x.map(hit.query.vector / x.embedding.norm().cpu())

    def contrast(self, a: Hit, b: Hit) -> Contrast:
        """Where one hit of a search beats another one."""
        first, second = self.explain_ranking([a, b])
        return contrast(first.query, first.reference, second.reference)

    # -- inside ----------------------------------------------------------------------------------

    def _model(self) -> EmbeddingModel:
        if self.model is None:
            raise GalleryError(
                "the gallery was opened without its model; Gallery.open(path, model)"
            )
        return self.model

    def _index(
        self,
        listing: Listing,
        sources: Sequence[Name] | None,
        settings: Settings,
        progress: Callable[[Progress], None] | None,
        cluster: Cluster | None,
    ) -> Report:
        self.refresh()
        self.report = building.index(
            self._store,
            listing,
            self._now.table,
            self.manifest,
            settings,
            self._work(settings, cluster),
            under=belonging_to(sources),
            progress=progress,
        )
        self.refresh()
        return self.report

    def _work(self, settings: Settings, cluster: Cluster | None) -> Work:
        model, manifest = self._model(), self.manifest
        if cluster is not None:
            return partial(clusters.work, cluster, self._store, model, manifest, settings)
        schema = self._now.table.schema
        return partial(building.here, model, self._packing, manifest.maps, schema, settings)

    def _approximately(self, asked: Query, k: int, where: str | None) -> list[Hit]:
        settings = self.approximate
        if settings is None:
            raise GalleryError(
                "the gallery has no index to search approximately; make one with "
                "gallery.make_approximate() or `whyalike index -o GALLERY --approximate`"
            )
        now = self._now
        with now.condition(where):
            best = approximating.search(self._store, now.vectors, asked.vector, k, where, settings)
        return now.hits(best, asked, now.take(best.positions))


def _store(path: Name, options: Options) -> Store:
    root = os.fspath(path)
    return Store(root if "://" in root else os.path.abspath(root), options)


def _sample(model: EmbeddingModel, listing: Listing, maps: str) -> list[Any]:
    """Some of the images, spread over the listing, to learn codes from."""
    if maps != "pq":
        return []
    assert model.preprocess is not None
    step = max(1, len(listing.files) // 128)
    found = islice(batches(listing.files[::step], model.preprocess, 32, 2), 4)
    seen = [one for good, _ in found for one in good]
    if not seen:
        raise GalleryError('maps "pq" learns codes from the images, and none of them can be read')
    return seen


def _middle(x: Contributions) -> XYXY:
    """The middle of what the network saw of a photograph, half as wide and high."""
    x0, y0, x1, y1 = x.frame.view_xyxy
    w, h = (x1 - x0) / 4, (y1 - y0) / 4
    return x0 + w, y0 + h, x1 - w, y1 - h


def open_manifest(path: Name, storage_options: Options = None) -> Manifest | None:
    """What a gallery was made with, None where there is none yet."""
    store = _store(path, storage_options or None)
    return store.manifest(store.open()) if store.exists() else None
