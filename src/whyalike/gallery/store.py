"""The table of a gallery: opened, made, added to and taken from, in commits that are whole or not.

A gallery is a LanceDB database, a folder here or on object storage, with the table `images`,
perhaps one of what its rows share, and errors.parquet. Everything goes through Lance's object
store, so `storage_options` are those of LanceDB.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import torch
from lance.file import LanceFileSession
from pyarrow import parquet

from whyalike.errors import GalleryError, in_one_line
from whyalike.gallery import rows
from whyalike.gallery.codes import Codes
from whyalike.gallery.listing import Failed
from whyalike.gallery.manifest import KEY, Manifest
from whyalike.images import printable

TABLE, ERRORS, VECTORS = "images.lance", "errors.parquet", "vectors"

ATTEMPTS = 20
"""How often a commit is tried again when other writers were first."""

Options = dict[str, str] | None


@dataclass(frozen=True)
class Store:
    """Where a gallery lies.

    Args:
        root: a folder, or an address such as s3://bucket/photos.lance.
        options: of the object store, as LanceDB takes them.
    """

    root: str
    options: Options = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies on object storage."""
        return "://" in self.root

    def at(self, name: str) -> str:
        """The address of a part of the gallery."""
        return f"{self.root.rstrip('/')}/{name}"

    def open(self) -> lance.LanceDataset:
        """The table as it is now.

        Raises:
            GalleryError: there is none.
        """
        try:
            with reading(self.root):
                return lance.dataset(self.at(TABLE), storage_options=self.options)
        except FileNotFoundError as error:
            raise GalleryError(
                f"{printable(self.root)}: there is no gallery; make one with `whyalike index "
                f"PHOTOS -o {printable(self.root)}`"
            ) from error

    def exists(self) -> bool:
        """Whether there is a table."""
        try:
            lance.dataset(self.at(TABLE), storage_options=self.options)
        except (ValueError, OSError) as error:
            if _is_missing(error):
                return False
            raise GalleryError(
                f"{printable(self.root)}: cannot be opened: {in_one_line(error)}"
            ) from error
        return True

    def create(self, manifest: Manifest, packing: rows.Packing, metadata: pa.Schema) -> None:
        """An empty table with its manifest; the last step of which makes the gallery exist.

        Raises:
            GalleryError: something else is there, or nothing can be written.
        """
        self._check_place()
        if packing.basis is not None or packing.codes is not None:
            manifest = replace(manifest, arrays=f"arrays-{secrets.token_hex(8)}.lance")
        schema = rows.schema(manifest.d, metadata).with_metadata({KEY: manifest.to_json()})
        with writing(self.root):
            if not self.is_remote:
                os.makedirs(self.root, exist_ok=True)
            if manifest.arrays is not None:
                self._write_arrays(manifest.arrays, packing)
            try:
                lance.write_dataset(
                    schema.empty_table(),
                    self.at(TABLE),
                    mode="create",
                    data_storage_version="2.1",
                    storage_options=self.options,
                )
            except OSError as error:
                if "already exists" not in str(error):  # another writer was first
                    raise

    def manifest(self, table: lance.LanceDataset) -> Manifest:
        """What the table was made with."""
        kept = (table.schema.metadata or {}).get(KEY)
        if kept is None:
            raise GalleryError(f"{printable(self.root)}: is a table of Lance, but no gallery")
        return Manifest.from_json(kept)

    def packing(self, manifest: Manifest) -> rows.Packing:
        """What the rows' contributions were packed with."""
        if manifest.arrays is None:
            return rows.Packing()
        try:
            with reading(self.root):
                place = self.at(manifest.arrays)
                table = lance.dataset(place, storage_options=self.options).to_table()
        except FileNotFoundError as error:
            raise GalleryError(f"{printable(self.root)}: {manifest.arrays} is missing") from error
        arrays = {
            name: torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).view(*shape)
            for name, data, shape in zip(
                *(table[column].to_pylist() for column in ("name", "data", "shape")), strict=True
            )
        }
        codes = Codes(arrays["centres"], manifest.d) if "centres" in arrays else None
        return rows.Packing(arrays.get("basis"), codes)

    def _write_arrays(self, name: str, packing: rows.Packing) -> None:
        """Under a name of their own, so that of two writers neither has the other's."""
        arrays = {} if packing.basis is None else {"basis": packing.basis}
        if packing.codes is not None:
            arrays["centres"] = packing.codes.centres
        data = [array.numpy().astype("<f4").tobytes() for array in arrays.values()]
        table = pa.table(
            {
                "name": list(arrays),
                "data": pa.array(data, pa.large_binary()),
                "shape": [list(array.shape) for array in arrays.values()],
            }
        )
        lance.write_dataset(table, self.at(name), mode="create", storage_options=self.options)

    def _check_place(self) -> None:
        """A folder that is something else is not written into."""
        if self.is_remote or not os.path.lexists(self.root):
            return
        if not os.path.isdir(self.root):
            raise GalleryError(f"{printable(self.root)}: is not a folder; give another name")
        strangers = {
            name
            for name in os.listdir(self.root)
            if name not in (TABLE, ERRORS, VECTORS) and not name.startswith(("arrays-", ERRORS))
        }
        if strangers:
            raise GalleryError(
                f"{printable(self.root)}: is a folder that is no gallery (it holds "
                f"{printable(min(strangers))}); give another name"
            )

    # -- files that could not be read --------------------------------------------------------------

    def failures(self) -> dict[bytes, Failed]:
        """What errors.parquet lists, by file."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(self.at(ERRORS))
            try:
                if self.is_remote:
                    local = Path(folder, ERRORS)
                    self._session().download_file(ERRORS, str(local))
                if not local.exists():
                    return {}
                table = parquet.read_table(local)
                pairs = zip(table["file"].to_pylist(), table["reason"].to_pylist(), strict=True)
                return {file: Failed(file, reason) for file, reason in pairs}
            except (OSError, pa.ArrowException, KeyError) as error:
                if _is_missing(error):
                    return {}
                raise GalleryError(f"{ERRORS} cannot be read: {in_one_line(error)}") from error

    def write_failures(self, failed: Iterable[Failed]) -> None:
        """Write errors.parquet, whole: path, file (as the system has it) and reason."""
        listed = sorted(failed, key=lambda one: one.file)
        table = pa.table(
            {
                "path": pa.array([one.path for one in listed], pa.string()),
                "file": pa.array([one.file for one in listed], pa.binary()),
                "reason": pa.array([one.reason for one in listed], pa.string()),
            }
        )
        with (
            writing(self.root),
            tempfile.TemporaryDirectory(
                dir=None if self.is_remote else self.root, prefix=f"{ERRORS}."
            ) as folder,
        ):
            local = Path(folder, ERRORS)
            parquet.write_table(table, local)
            if self.is_remote:
                self._session().upload_file(str(local), ERRORS)
            else:
                os.replace(local, self.at(ERRORS))

    def _session(self) -> LanceFileSession:
        return LanceFileSession(self.root, storage_options=self.options)


def merge(table: lance.LanceDataset, batches: Sequence[pa.RecordBatch]) -> None:
    """Commit rows: those whose id is there already take the place of the old ones.

    One commit; two writers that add a row of one id at once leave one of it.
    """
    with writing(table.uri):
        table.merge_insert(
            "id"
        ).when_matched_update_all().when_not_matched_insert_all().conflict_retries(
            ATTEMPTS
        ).execute(pa.Table.from_batches(batches))


def delete(table: lance.LanceDataset, ids: Sequence[str]) -> None:
    """Commit that rows are gone."""
    for start in range(0, len(ids), 1000):
        with writing(table.uri):
            table.delete(one_of(ids[start : start + 1000]))


def one_of(ids: Sequence[str]) -> str:
    """The condition that a row has one of some ids, in SQL."""
    quoted = (one.replace("'", "''") for one in ids)
    listed = ", ".join(f"'{one}'" for one in quoted)
    return f"id IN ({listed})"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What goes wrong while a gallery is read, as a GalleryError; that it is missing, as is."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        if _is_missing(error):
            raise FileNotFoundError(str(error)) from error
        raise GalleryError(f"{printable(name)}: cannot be read: {_reason(error)}") from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """What goes wrong while a gallery is written, as a GalleryError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise GalleryError(
            f"{printable(name)}: cannot be written: {_reason(error)}; what was committed before is "
            f"whole, and indexing goes on from there"
        ) from error


def _is_missing(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, FileNotFoundError) or "not found" in text or "NotFound" in text


def _reason(error: BaseException) -> str:
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return "no space left on the device"
    return in_one_line(error)[:300]
