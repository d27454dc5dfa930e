"""The unit embeddings of a gallery as one float32 matrix, mapped from files, and its best rows."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import lance
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whyalike.errors import GalleryError, in_one_line

CHUNK_BYTES = 64 * 2**20
"""Rows that are looked through at a time: what is done between them finds its own data cold."""


@dataclass(frozen=True, eq=False)
class Part:
    """The embeddings of one fragment of the table, which never change.

    Args:
        fragment: its number, the upper half of its rows' addresses.
        matrix: a row for each that was ever in the fragment.
        live: which of them have not been deleted; None for all.
    """

    fragment: int
    matrix: Float[Tensor, "n d"]
    live: Bool[np.ndarray, " n"] | None


@dataclass(frozen=True, eq=False)
class Best:
    """The best rows of a search, best first.

    Args:
        positions: of the rows in the matrix, those that were deleted counted as well.
        scores: their products with the vector.
    """

    positions: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """All embeddings of one version of the table."""

    parts: tuple[Part, ...]

    @cached_property
    def starts(self) -> Int[np.ndarray, " parts"]:
        """The position of the first row of each part, and one behind the last."""
        return np.cumsum([0, *(len(part.matrix) for part in self.parts)])

    def addresses(self, positions: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Where Lance finds the rows."""
        if not len(positions):
            return positions
        part = np.searchsorted(self.starts, positions, side="right") - 1
        fragments = np.array([part.fragment for part in self.parts], np.int64)
        return (fragments[part] << 32) | (positions - self.starts[part])

    def positions(self, addresses: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Where the rows of some addresses are in the matrix."""
        order = {part.fragment: start for part, start in zip(self.parts, self.starts, strict=False)}
        fragments, offsets = addresses >> 32, addresses & 0xFFFFFFFF
        return np.array([order[int(f)] for f in fragments], np.int64) + offsets

    def offsets(self, positions: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The rows' numbers among those that have not been deleted."""
        found = positions.copy()
        for part, start in zip(self.parts, self.starts, strict=False):
            if part.live is not None:
                gone = start + np.flatnonzero(~part.live)
                found -= np.searchsorted(gone, positions)
        return found

    def rows(self, positions: Int[np.ndarray, " k"]) -> Float[Tensor, "k d"]:
        """The embeddings at some positions."""
        part = np.searchsorted(self.starts, positions, side="right") - 1
        found = [
            self.parts[p].matrix[at - self.starts[p]] for p, at in zip(part, positions, strict=True)
        ]
        return torch.stack(found) if found else torch.zeros(0, 0)

    def best(
        self, u: Float[Tensor, " d"], k: int, among: Bool[np.ndarray, " n"] | None = None
    ) -> Best:
        """The k rows whose products with u are largest; of equal ones, the first.

        Every row is multiplied: what comes out is exact. Memory is that of the products of some
        rows, and of what the system keeps of the mapped files.

        Args:
            u: what to search by.
            k: how many.
            among: which rows may be found; None for all.
        """
        top = _Top(k)
        for part, start in zip(self.parts, self.starts, strict=False):
            allowed = part.live
            if among is not None:
                here = among[start : start + len(part.matrix)]
                allowed = here if allowed is None else allowed & here
            rows = max(1, CHUNK_BYTES // (4 * part.matrix.shape[1]))
            for first, chunk in enumerate(part.matrix.split(rows)):
                first *= rows
                scores = torch.mv(chunk, u).numpy()
                if allowed is not None:
                    scores[~allowed[first : first + rows]] = -np.inf
                top.add(scores, start + first)
        return top.found()

    def products(
        self, u: Float[Tensor, " d"], among: Bool[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """What every row has with a vector; −∞ for those that were deleted, or are not `among`."""
        found = np.empty(int(self.starts[-1]), np.float32)
        for part, start in zip(self.parts, self.starts, strict=False):
            here = slice(start, start + len(part.matrix))
            torch.mv(part.matrix, u, out=torch.from_numpy(found[here]))
            for ok in (part.live, None if among is None else among[here]):
                if ok is not None:
                    found[here][~ok] = -np.inf
        return found

    def top(self, products: Float[np.ndarray, " n"], k: int) -> Best:
        """The k rows whose products are largest, as `best` finds them."""
        top = _Top(k)
        top.add(products, 0)
        return top.found()


class _Top:
    """The largest numbers so far of many that come in turn."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.positions = np.zeros(0, np.int64)
        self.scores = np.zeros(0, np.float32)

    def add(self, scores: Float[np.ndarray, " n"], start: int) -> None:
        full = len(self.scores) == self.k  # then, of equal ones, the first stays
        least = self.scores[-1] if full else np.float32(-np.inf)
        near = np.flatnonzero(scores > least)
        if len(near) > 4 * self.k:
            some = scores[near]
            near = near[some >= np.partition(some, -self.k)[-self.k]]
        positions = np.concatenate([self.positions, near + start])
        both = np.concatenate([self.scores, scores[near]])
        order = np.lexsort((positions, -both))[: self.k]
        self.positions, self.scores = positions[order], both[order]

    def found(self) -> Best:
        return Best(self.positions, self.scores)


def map_vectors(table: lance.LanceDataset, folder: Path | None) -> Vectors:
    """The embeddings of a table, mapped from files that are written here when they are missing.

    Lance's fragments never change, so a file serves for ever; those of fragments that are no more
    are removed.

    Args:
        table: at one version.
        folder: where the files lie. None, or where nothing can be written there: in memory.
    """
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            folder = None
    parts, names = [], set()
    for fragment in table.get_fragments():
        name = _name(fragment)
        names.add(name)
        n, d = fragment.physical_rows, table.schema.field("embedding").type.list_size
        if n == 0:
            continue
        matrix = _mapped(folder, name, (n, d), partial(_read, fragment))
        gone = fragment.deletion_file() is not None
        live = None
        if gone:
            live = np.zeros(n, bool)
            live[_offsets(fragment)] = True
        parts.append(Part(fragment.fragment_id, matrix, live))
    if folder is not None:
        _remove_others(folder, names)
    return Vectors(tuple(parts))


def _mapped(
    folder: Path | None, name: str, shape: tuple[int, int], read: Callable[[], np.ndarray]
) -> Float[Tensor, "n d"]:
    if folder is None:
        return torch.from_numpy(read())
    path = folder / name
    size = 4 * shape[0] * shape[1]
    if not path.is_file() or path.stat().st_size != size:
        temporary = path.with_suffix(f".{secrets.token_hex(4)}")
        values = read()
        try:
            values.tofile(temporary)
            os.replace(temporary, path)
        except OSError:  # read-only, or full: then in memory
            temporary.unlink(missing_ok=True)
            return torch.from_numpy(values)
    try:
        # Copy on write, so that the file stays as it is. Not by numpy, whose maps each hold a file
        # open: of a thousand fragments, that is more than most systems let a process have.
        return torch.from_file(str(path), shared=False, size=shape[0] * shape[1]).view(shape)
    except RuntimeError as error:
        raise GalleryError(
            f"the vectors of a part of the gallery cannot be mapped: {in_one_line(error)[:200]}; "
            f"each commit leaves a part of its own, and gallery.compact() puts them together"
        ) from error


def _name(fragment: lance.LanceFragment) -> str:
    files = " ".join(file.path for file in fragment.data_files())
    return f"{hashlib.blake2b(files.encode(), digest_size=12).hexdigest()}.f32"


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.glob("*.f32"):
        if path.name not in names:
            try:
                path.unlink()
            except OSError:
                return


def _offsets(fragment: lance.LanceFragment) -> Int[np.ndarray, " n"]:
    table = fragment.to_table(columns=[], with_row_address=True)
    found: np.ndarray = table["_rowaddr"].to_numpy() & 0xFFFFFFFF
    return found


def _read(fragment: lance.LanceFragment) -> Float[np.ndarray, "n d"]:
    """Rows that have been deleted are zero."""
    d = fragment.schema.field("embedding").type.list_size
    matrix = np.zeros((fragment.physical_rows, d), np.float32)
    for batch in fragment.to_batches(columns=["embedding"], with_row_address=True):
        offsets = batch.column("_rowaddr").to_numpy() & 0xFFFFFFFF
        values = batch.column("embedding")
        if values.null_count:
            raise GalleryError("a row of the gallery has no embedding; make the gallery anew")
        matrix[offsets] = values.flatten().to_numpy().reshape(-1, d)
    return matrix


def temporary_folder(owner: object) -> Path:
    """A folder for the vectors of a gallery that lies elsewhere; removed with its owner."""
    folder = tempfile.mkdtemp(prefix="whyalike-vectors-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
