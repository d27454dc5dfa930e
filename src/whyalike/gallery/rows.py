"""A row of a gallery: from what a network gave for an image to columns, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.cut import Decomposed
from whyalike.errors import GalleryError
from whyalike.gallery.codes import Codes
from whyalike.gallery.listing import Listed
from whyalike.gallery.manifest import Manifest
from whyalike.geometry import XYXY, Frame

PRIMARY = {"lance-schema:unenforced-primary-key": "true"}
"""Lance then sees that two writers add a row of one id at once, and lets one of them try again."""

BLOB = {"lance-encoding:blob": "true"}
"""Kept apart from the other columns, and read by row."""


REMAINDER = pa.struct([("name", pa.string()), ("size", pa.float64())])
"""An operation that was expanded to first order only, and the share of |E| that it leaves over."""

DAMAGED = "a row of the gallery is damaged; index its file again"


NO_MAPS = (
    'the gallery keeps no maps; index the photographs with maps "full" or "pq" to explain without '
    "the network"
)


class Seen(NamedTuple):
    """A file as it was read, and where the network's input lies on it."""

    listed: Listed
    tensor: Float[Tensor, "3 h w"]
    size_wh: tuple[int, int]
    view_xyxy: XYXY
    content: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Packing:
    """How contributions become bytes.

    Args:
        basis: orthonormal rows that span all contributions, where they are fewer than d.
        codes: product quantisation, for maps "pq".
    """

    basis: Float[Tensor, "r d"] | None = None
    codes: Codes | None = None


def schema(d: int, metadata: pa.Schema) -> pa.Schema:
    """The columns of a gallery of embeddings of d numbers, with its columns of metadata."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=PRIMARY),
            pa.field("path", pa.string()),
            pa.field("file", pa.binary()),
            pa.field("content", pa.string()),  # blake2b of the file's bytes, in hexadecimal
            pa.field("bytes", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("label", pa.string()),
            *metadata,
            pa.field("embedding", pa.list_(pa.float32(), d)),  # of length 1
            pa.field("length", pa.float64()),  # of the embedding that the network returned
            pa.field("size_wh", pa.list_(pa.int32(), 2)),
            pa.field("view_xyxy", pa.list_(pa.float64(), 4)),
            pa.field("dims", pa.int32()),  # numbers of a contribution, as it is kept
            pa.field("exponent", pa.int16()),  # what is kept is v / 2^exponent
            pa.field("taylor", pa.list_(REMAINDER)),
            pa.field("maps", pa.large_binary(), metadata=BLOB),
        ]
    )


def encode(
    seen: Sequence[Seen],
    found: Decomposed | Float[Tensor, "n d"],
    packing: Packing,
    into: pa.Schema,
) -> pa.RecordBatch:
    """The rows of a batch of images.

    Args:
        seen: the files.
        found: what the network gave for them, or its embeddings alone where no maps are kept.
        packing: how contributions become bytes.
        into: the table's schema.

    Raises:
        GalleryError: an embedding of length zero, which has no direction to search by.
    """
    E = found if isinstance(found, Tensor) else found.E
    E = E.detach().cpu().double()
    length = E.norm(dim=1)
    if not bool((length > 0).all()):
        at = seen[int((length > 0).int().argmin())].listed.path
        raise GalleryError(
            f"{at}: its embedding is zero, so it is alike to nothing; check the model"
        )
    unit = (E / length[:, None]).float().numpy()
    columns: dict[str, Any] = {
        "id": [one.listed.id for one in seen],
        "path": [one.listed.path for one in seen],
        "file": [one.listed.file for one in seen],
        "content": [one.content for one in seen],
        "bytes": [one.bytes for one in seen],
        "mtime_ns": [one.mtime_ns for one in seen],
        "label": [one.listed.label for one in seen],
        "embedding": pa.FixedSizeListArray.from_arrays(unit.ravel(), unit.shape[1]),
        "length": length.numpy(),
        "size_wh": [one.size_wh for one in seen],
        "view_xyxy": [one.view_xyxy for one in seen],
    }
    if isinstance(found, Tensor):
        columns |= dict.fromkeys(("dims", "exponent", "taylor", "maps"), [None] * len(seen))
    else:
        places = torch.cat([found.prefix, found.values()], 1).detach().cpu().float()
        packed = [pack(one, packing, found.layout.prefix) for one in places]
        columns |= {name: [getattr(one, name) for one in packed] for name in Packed._fields}
        columns["taylor"] = [
            [{"name": name, "size": size} for name, size in of.items()] or None
            for of in found.remainders()
        ]
    own = {
        one.name: [row.listed.metadata.get(one.name) for row in seen]
        for one in into
        if one.name not in columns
    }
    arrays = []
    for one in into:
        values = columns.get(one.name, own.get(one.name))
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, one.type))
    return pa.RecordBatch.from_arrays(arrays, schema=into)


# -- contributions as bytes ----------------------------------------------------------------------


class Packed(NamedTuple):
    """The contributions of one image as they are kept."""

    dims: int
    exponent: int
    maps: bytes


def pack(v: Float[Tensor, "places d"], packing: Packing, prefix: int) -> Packed:
    """The contributions of one image's prefix tokens, which come first, and cells as bytes.

    In float16 of v / 2^e, where 2^e brings the largest into its upper range: what comes back
    differs by at most 2^-11 of each number, and none is lost that is above 2^-29 of the largest.
    In a basis, the same holds of coordinates; where v do not lie in it, they are kept whole.
    """
    kept = v
    if packing.basis is not None:
        inside = v @ packing.basis.T
        gap = (inside @ packing.basis - v).abs().max()
        if gap <= 1e-5 * v.abs().max():
            kept = inside
    if packing.codes is not None:
        tokens = kept[:prefix].numpy().astype("<f4").tobytes()
        return Packed(kept.shape[1], 0, tokens + packing.codes.encode(kept[prefix:]))
    exponent = exponent_of(kept)
    half = torch.ldexp(kept, torch.tensor(-exponent)).half()
    return Packed(kept.shape[1], exponent, half.numpy().tobytes())


def unpack(packed: Packed, places: int, packing: Packing, prefix: int) -> Float[Tensor, "places d"]:
    """The contributions that `pack` made bytes of.

    Raises:
        GalleryError: the bytes are not as many as they should be.
    """
    dims, exponent, maps = packed
    if packing.codes is not None:
        tokens = np.frombuffer(maps[: 4 * prefix * dims], "<f4").astype(np.float32)
        cells = packing.codes.decode(maps[4 * prefix * dims :], places - prefix)
        if tokens.size != prefix * dims or dims != packing.codes.dims:
            raise GalleryError(DAMAGED)
        kept = torch.cat([torch.from_numpy(tokens).view(prefix, dims), cells])
    else:
        if len(maps) != places * dims * 2:
            raise GalleryError(DAMAGED)
        half = torch.frombuffer(bytearray(maps), dtype=torch.float16)  # a copy that may be written
        kept = half.float().mul_(2.0 ** _checked(exponent)).view(places, dims)
    if packing.basis is not None and dims == len(packing.basis):
        return kept @ packing.basis
    return kept


def exponent_of(v: Tensor) -> int:
    """The power of two by which the largest number comes to lie in 2^14 ... 2^15."""
    largest = v.abs().max().item()
    return max(-126, min(126, math.frexp(largest)[1] - 15)) if largest > 0 else 0


def decode(
    rows: Sequence[dict[str, Any]],
    units: Float[Tensor, "n d"],
    maps: Sequence[bytes | None],
    manifest: Manifest,
    packing: Packing,
    pictures: Sequence[Callable[[], Image.Image | None]],
) -> list[Contributions]:
    """The contributions of some rows, without running the network.

    Σ v + b is the embedding, as ever: what float16 rounded off is in b.

    Args:
        rows: their columns, but for
        units: their embeddings, of length 1, and
        maps: their contributions as they are kept.
        manifest, packing: of the gallery.
        pictures: functions that read their photographs.

    Raises:
        GalleryError: a row has no maps, or is damaged.
    """
    h, w = manifest.grid_hw
    v, totals = _unpack_all(rows, maps, manifest, packing)
    lengths = torch.tensor([row["length"] for row in rows], dtype=torch.float64)
    # For all rows at once, as each step takes longer to start than to do.
    E = (units * lengths[:, None]).float()
    prefix = v[:, : manifest.prefix]
    cells = v[:, manifest.prefix :].unflatten(1, (h, w))
    rests = E - totals
    biases = rests - prefix.sum(1) if manifest.prefix else rests
    words = manifest.network + (", maps quantised" if packing.codes is not None else "")
    of_rows = zip(
        rows, pictures, *(one.unbind() for one in (cells, prefix, biases, E, totals, rests)),
        strict=True,
    )  # fmt: skip
    found = []
    for row, picture, values, tokens, bias, embedding, total, rest in of_rows:
        x = Contributions(
            values,
            bias=bias,
            embedding=embedding,
            frame=Frame(tuple(row["size_wh"]), tuple(row["view_xyxy"]), (h, w)),
            name=row["path"].rpartition("/")[2],
            picture=picture,
            model=words,
            taylor={of["name"]: of["size"] for of in row["taylor"] or ()},
            prefix=tokens,
        )
        # What is computed when it is first asked for, and is at hand here.
        x.__dict__.update(_total=total, rest=rest, length=row["length"])
        found.append(x)
    return found


def _unpack_all(
    rows: Sequence[dict[str, Any]],
    maps: Sequence[bytes | None],
    manifest: Manifest,
    packing: Packing,
) -> tuple[Float[Tensor, "n places d"], Float[Tensor, "n d"]]:
    """All v, and Σ v of each row's cells."""
    h, w = manifest.grid_hw
    places, d = manifest.prefix + h * w, manifest.d
    for row, one in zip(rows, maps, strict=True):
        if one is None:
            raise GalleryError(f"{row['path']}: {NO_MAPS}")
    whole = packing.codes is None and packing.basis is None
    if whole and all(len(one or b"") == 2 * places * d for one in maps):
        return _widen(rows, maps, places, manifest)
    found = [
        unpack(Packed(row["dims"], row["exponent"], one or b""), places, packing, manifest.prefix)
        for row, one in zip(rows, maps, strict=True)
    ]
    if any(v.shape[1] != d for v in found):
        raise GalleryError(DAMAGED)
    v = torch.stack(found)
    return v, v[:, manifest.prefix :].sum(1)


def _widen(
    rows: Sequence[dict[str, Any]], maps: Sequence[bytes | None], places: int, manifest: Manifest
) -> tuple[Float[Tensor, "n places d"], Float[Tensor, "n d"]]:
    """float16 to float32, row by row: what a step does is in the cache when the next one comes."""
    # numpy asks for large pages, which new memory of this size takes its time to fill without
    v = torch.from_numpy(np.empty((len(maps), places, manifest.d), np.float32))
    totals = torch.empty(len(maps), 1, manifest.d)
    half = np.empty((places, manifest.d), "<f2")  # torch wants memory that could be written
    kept, as_bytes = torch.from_numpy(half), half.data.cast("B")
    is_cell = torch.cat([torch.zeros(manifest.prefix), torch.ones(places - manifest.prefix)])[None]
    for row, one, values, total in zip(rows, maps, v.unbind(), totals.unbind(), strict=True):
        as_bytes[:] = one or b""
        values.copy_(kept).mul_(2.0 ** _checked(row["exponent"]))
        torch.mm(is_cell, values, out=total)  # several times as fast as a sum over rows
    return v, totals[:, 0]


def _checked(exponent: int) -> int:
    if abs(exponent) > 126:
        raise GalleryError(DAMAGED)
    return exponent
