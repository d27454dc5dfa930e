"""What the room knows: a gallery, its model, and the queries that were last looked at.

No web here: methods take what was asked and give plain data, or raise. They are called by many
threads at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Lock, Thread, Timer
from typing import TYPE_CHECKING, Any

import torch

from whyalike.contributions import Contributions
from whyalike.errors import WhyalikeError, in_one_line
from whyalike.gallery import Gallery
from whyalike.gallery.following import Following
from whyalike.gallery.query import Query, ask
from whyalike.gallery.snapshot import Entry
from whyalike.images import printable, read_image
from whyalike.pair import Pair
from whyalike.viewer.results import fields_of
from whyalike.viewer.server.asked import Asked, RefusedError, Source
from whyalike.viewer.server.kept import Kept
from whyalike.viewer.server.pictures import SIZES, is_there, jpeg, listed_picture, shrunk

if TYPE_CHECKING:
    from whyalike.model import EmbeddingModel

QUERIES = 24
"""Queries whose contributions are kept: some 250 kB each, or a few MB of fine grids."""

FOLLOWED_BYTES = 256 * 2**20
"""Of what is kept of queries that are followed under a condition: 9 bytes a photograph."""

PICTURE_BYTES = 64 * 2**20
ENTRIES = 20_000
LONGEST_NAME = 120
FIRST_PAGE = 1.5
"""Seconds in which the pictures of the first page have come."""


@dataclass(frozen=True, eq=False)
class Looked:
    """A query that is looked at.

    Args:
        source: what it is.
        x: what its cells give, all v at hand, without its picture.
        picture: of an upload, as JPEG; photographs of the gallery are read from their files.
    """

    source: Source
    x: Contributions
    picture: bytes | None = None


class Room:
    """A gallery to look around in.

    Args:
        reopen: opens the gallery, now and when it has changed.
        load: loads its model; called once, in a thread of its own.
        max_pixels: of an upload.
    """

    def __init__(
        self, reopen: Callable[[], Gallery], load: Callable[[], EmbeddingModel], max_pixels: int
    ) -> None:
        self._reopen = reopen
        self._load = load
        self._max_pixels = max_pixels
        self.gallery = reopen()
        self.model: Future[EmbeddingModel] = Future()
        self._loader: Thread | None = None
        self._after: Timer | None = None
        self._looked: Kept[tuple[Source, int], Looked] = Kept(QUERIES)
        self._entries: Kept[str, Entry] = Kept(ENTRIES)
        self._followed: Kept[tuple[Source, int, str | None], Following] = Kept(
            FOLLOWED_BYTES, lambda one: one.nbytes
        )
        self._pictures: Kept[tuple[str, int, int], bytes] = Kept(PICTURE_BYTES, len)
        self._network, self._changing, self._following = Lock(), Lock(), Lock()
        self._starting = Lock()

    # -- the gallery and its model ---------------------------------------------------------------

    def want_model(self) -> Future[EmbeddingModel]:
        """The model; a thread begins to load it, if none has. Nothing waits for that at the end."""
        with self._starting:
            if self._loader is None:
                self._loader = Thread(target=self._load_model, daemon=True)
                self._loader.start()
        return self.model

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading the model."""
        return self._loader is not None and self._loader.is_alive()

    def _load_model(self) -> None:
        try:
            model = self._load()
            self.gallery.use(model)
        except BaseException as error:
            self.model.set_exception(error)
        else:
            self.model.set_result(model)

    def _want_model_soon(self) -> None:
        """Load the model once the first page is shown, from which it would take the cores."""
        with self._starting:
            if self._loader is None and self._after is None:
                self._after = Timer(FIRST_PAGE, self.want_model)
                self._after.daemon = True
                self._after.start()

    @property
    def model_state(self) -> tuple[str, str | None]:
        """Whether it is "loading", "ready" or "failed", and why."""
        if not self.model.done():
            return "loading", None
        error = self.model.exception()
        if error is None:
            return "ready", None
        return "failed", str(error) if isinstance(error, WhyalikeError) else in_one_line(error)

    def about(self) -> dict[str, Any]:
        """The gallery in a few words; sees what has been changed since."""
        self._follow_changes()
        gallery = self.gallery
        state, problem = self.model_state
        return {
            "images": len(gallery),
            "network": printable(gallery.manifest.network),
            "maps": gallery.manifest.maps,
            "columns": {printable(name): kind for name, kind in gallery.columns().items()},
            "version": gallery.version,
            "model": state,
            "problem": None if problem is None else printable(problem),
        }

    def _follow_changes(self) -> None:
        with self._changing:
            if self.gallery.is_current():
                return
            new = self._reopen()
            if new.manifest != self.gallery.manifest:
                raise RefusedError(409, "the gallery was made anew with another model; start again")
            new.model = self.gallery.model
            self.gallery = new

    # -- looking through it ----------------------------------------------------------------------

    def page(self, offset: int, limit: int, where: str | None) -> dict[str, Any]:
        """Some photographs in the gallery's order."""
        self._want_model_soon()
        gallery = self.gallery
        found = gallery.browse(offset, limit, where)
        total = len(gallery) if where is None else gallery.count(where)
        return {"total": total, "offset": offset, "photos": [self.photo_of(one) for one in found]}

    def photo(self, id: str) -> dict[str, Any]:
        """One photograph."""
        return self.photo_of(self.entry(id))

    def picture(self, id: str, longest: int) -> bytes:
        """A JPEG of a photograph of the gallery."""
        entry = self.entry(id)
        key = (id, longest, entry.row["mtime_ns"])
        kept = self._pictures.get(key)
        if kept is not None and is_there(entry.row):
            return kept
        return self._pictures.put(key, jpeg(listed_picture(entry.row, longest)))

    def upload_picture(self, id: str) -> bytes:
        """A JPEG of an upload that is still looked at."""
        picture = self.look(Source("upload", id)).picture
        assert picture is not None
        return picture

    def entry(self, id: str) -> Entry:
        """What the gallery lists under an id."""
        gallery = self.gallery
        found = self._entries.get(id)
        if found is None or found.version != gallery.version:
            found = gallery.entry(id)
        if found is None:
            raise RefusedError(404, "the gallery has no such photograph")
        return self._entries.put(id, found)

    def photo_of(self, entry: Entry) -> dict[str, Any]:
        """A photograph that the gallery lists, to show; it is found at once from here on."""
        self._entries.put(entry.id, entry)
        row = entry.row
        return {
            "id": entry.id,
            "name": printable(entry.path.rpartition("/")[2]),
            "path": printable(entry.path),
            "fields": fields_of(entry.label, entry.metadata),
            "missing": not is_there(row),
            "size_wh": list(row["size_wh"]),
            "view_xyxy": [float(side) for side in row["view_xyxy"]],
        }

    # -- queries ---------------------------------------------------------------------------------

    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        """Look at a photograph that is none of the gallery's; it is held in memory alone."""
        model = self._ready_model()
        source = Source("upload", hashlib.blake2b(content, digest_size=16).hexdigest())
        name = printable(name)[:LONGEST_NAME] or "photograph"
        looked = self._looked.get((source, 0))
        if looked is None:
            image = read_image(content, max_pixels=self._max_pixels)
            picture = jpeg(shrunk(image, SIZES[-1]))
            looked = Looked(source, self._explained(model, image), picture)
        if looked.x.name != name:
            looked = replace(looked, x=replace(looked.x, name=name))
        self._looked.put((source, 0), looked)
        return self.query(looked)

    def look(self, source: Source) -> Looked:
        """What is known of a query, explained where it has not been.

        A photograph of the gallery is explained from what the gallery keeps, if that is all of it.
        """
        gallery = self.gallery
        key = (source, gallery.version if source.kind == "photo" else 0)
        looked = self._looked.get(key)
        if looked is not None:
            return looked
        if source.kind == "upload":
            raise RefusedError(404, "the photograph is no longer held in memory; drop it again")
        entry = self.entry(source.id)
        if gallery.manifest.maps == "full":
            x = replace(gallery.contributions([entry])[0], picture=None)
        else:
            image = listed_picture(entry.row, max(entry.row["size_wh"]))
            x = self._explained(self._ready_model(), image)
        x = replace(x, name=printable(entry.path.rpartition("/")[2]))
        return self._looked.put(key, Looked(source, x))

    def needs_network(self, source: Source) -> bool:
        """Whether a query can only be explained by the network, which may be loading."""
        return source.kind == "photo" and self.gallery.manifest.maps != "full"

    def shown(self, source: Source) -> dict[str, Any]:
        """A query, looked at."""
        return self.query(self.look(source))

    def query(self, looked: Looked) -> dict[str, Any]:
        """A query, to show."""
        x, source = looked.x, looked.source
        place = "photos" if source.kind == "photo" else "uploads"
        there = source.kind == "upload" or is_there(self.entry(source.id).row)
        return {
            "query": {source.kind: source.id},
            "name": x.name,
            "src": f"/api/{place}/{source.id}/picture?size={SIZES[-1]}",
            "missing": not there,
            "size_wh": list(x.frame.size_wh),
            "view_xyxy": [float(side) for side in x.frame.view_xyxy],
            "grid_hw": list(x.frame.grid_hw),
        }

    def asked(self, asked: Asked) -> tuple[Looked, Query]:
        """A search as a vector."""
        looked = self.look(asked.source)
        return looked, ask(
            looked.x, asked.boxes or None, asked.points or None, list(asked.masks) or None,
            asked.without or None, stretched=True,
        )  # fmt: skip

    def follow(self, looked: Looked, where: str | None) -> Following:
        """The searches of a query under a condition."""
        gallery = self.gallery
        key = (looked.source, gallery.version, where)
        with self._following:
            found = self._followed.get(key)
            return found or self._followed.put(key, gallery.follow(looked.x, where))

    def references(self, ids: Sequence[str]) -> list[tuple[Entry, Contributions]]:
        """What the gallery keeps of some photographs."""
        gallery = self.gallery
        if gallery.manifest.maps == "none":
            raise RefusedError(
                409, "the gallery keeps no maps; index the photographs with --maps full for these"
            )
        found = [self.entry(id) for id in ids]
        kept = gallery.contributions(found)
        return [(one, replace(x, picture=None)) for one, x in zip(found, kept, strict=True)]

    def pair(self, looked: Looked, id: str) -> Pair:
        """The query and a photograph of the gallery."""
        return Pair(looked.x, self.references([id])[0][1])

    def _ready_model(self) -> EmbeddingModel:
        try:
            return self.want_model().result()
        except BaseException as error:
            problem = printable(self.model_state[1] or "")
            raise RefusedError(409, f"the network could not be loaded: {problem}") from error

    def _explained(self, model: EmbeddingModel, image: Any) -> Contributions:
        """All v at hand, so that the network's own tensors can go."""
        with self._network:
            x = model.explain(image)
            x = replace(x, source=x.values, picture=None)
        return x.to(torch.device("cpu"))
