"""Rows that were written elsewhere: fragments, and the commits that make them the table's.

A fragment is a file of rows that no reader sees. One that is never committed, as its writer or the
driver was killed, stays without effect until `Gallery.compact` finds it old enough to be removed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, LanceFragment, write_fragments
from pyarrow import compute

from whyalike.errors import GalleryError
from whyalike.gallery.store import ATTEMPTS, TABLE, Store, one_of, writing


def write(
    batches: Iterable[pa.RecordBatch], store: Store, schema: pa.Schema
) -> list[FragmentMetadata]:
    """Write rows, as they come, as fragments that belong to the table once `Commits` has them.

    Args:
        batches: of rows; they are asked for on a thread of Lance's, and none is kept.
        store: of the gallery.
        schema: of its table.
    """
    with writing(store.root):
        return write_fragments(
            pa.RecordBatchReader.from_batches(schema, iter(batches)),
            store.at(TABLE),
            schema=schema,
            data_storage_version="2.1",
            storage_options=store.options,
        )


class Commits:
    """The commits of one run, which leave each id once, whoever else writes meanwhile.

    What `merge` leaves to Lance is looked for here: Lance lets two writers append rows of one id.

    Args:
        store: of the gallery.
        table: as it was when the run was planned.
        there: the ids of its rows.
    """

    def __init__(self, store: Store, table: lance.LanceDataset, there: Container[str]) -> None:
        self._store = store
        self._there = there
        self._since: set[str] = set()
        self._looked_at = _numbers(table)

    def add(self, fragments: Sequence[FragmentMetadata], ids: Sequence[str]) -> None:
        """Commit fragments; rows that have their ids make way in the same commit.

        Args:
            fragments: as `write` returned them, from any machine.
            ids: of their rows.

        Raises:
            GalleryError: the table cannot be written, or other writers were first, again and again.
        """
        wanted = pa.array(ids, pa.string())
        with writing(self._store.root):
            for _ in range(ATTEMPTS):
                table = self._store.open()
                self._look_at_others(table)
                replaced = any(one in self._there or one in self._since for one in ids)
                found = _without(table.get_fragments(), wanted) if replaced else ([], [])
                try:
                    made = self._commit(table.version, *found, fragments)
                    break
                except CommitConflictError:
                    continue
            else:
                raise GalleryError(
                    f"{self._store.root}: other writers changed the same rows {ATTEMPTS} times "
                    f"over; index again, when they are through"
                )
            self._yield_to(made, _numbers(table), fragments, wanted)

    def _look_at_others(self, table: lance.LanceDataset) -> None:
        """Which ids others have added since."""
        for one in table.get_fragments():
            if one.fragment_id not in self._looked_at:
                self._since.update(_ids(one).to_pylist())
                self._looked_at.add(one.fragment_id)

    def _yield_to(
        self,
        made: lance.LanceDataset,
        before: set[int],
        fragments: Sequence[FragmentMetadata],
        wanted: pa.Array,
    ) -> None:
        """Of ids that another writer added just before this commit, its rows stay and ours go."""
        files = {file.path for one in fragments for file in one.files}
        new = [one for one in made.get_fragments() if one.fragment_id not in before]
        ours = {one.fragment_id for one in new if files & {f.path for f in one.data_files()}}
        self._looked_at |= ours
        others = [_ids(one) for one in new if one.fragment_id not in ours]
        twice = [ids.filter(compute.is_in(ids, value_set=wanted)) for ids in others]
        if not any(len(one) for one in twice):
            return
        gone = pa.chunked_array([chunk for one in twice for chunk in one.chunks], pa.string())
        for _ in range(ATTEMPTS):
            table = self._store.open()
            mine = [one for one in table.get_fragments() if one.fragment_id in ours]
            try:
                self._commit(table.version, *_without(mine, gone), [])
                return
            except CommitConflictError:
                continue
        raise GalleryError(f"{self._store.root}: rows are there twice; index again to mend it")

    def _commit(
        self,
        version: int,
        updated: list[FragmentMetadata],
        removed: list[int],
        new: Sequence[FragmentMetadata],
    ) -> lance.LanceDataset:
        operation = lance.LanceOperation
        return lance.LanceDataset.commit(
            self._store.at(TABLE),
            operation.Update(
                removed_fragment_ids=removed, updated_fragments=updated, new_fragments=list(new)
            )
            if updated or removed
            else operation.Append(list(new)),
            read_version=version,
            storage_options=self._store.options,
        )


def each_once(table: lance.LanceDataset) -> None:
    """Of rows with one id, the first stays.

    There are such where two drivers added a file at once and the later one was killed before it
    took its row back.
    """
    found = table.to_table(columns=["id"], with_row_id=True)
    first = found.group_by("id").aggregate([("_rowid", "min")])["_rowid_min"]
    later = found["_rowid"].filter(
        compute.invert(compute.is_in(found["_rowid"], value_set=first.combine_chunks()))
    )
    with writing(table.uri):
        for start in range(0, len(later), 1000):
            some = ", ".join(map(str, later[start : start + 1000].to_pylist()))
            table.delete(f"_rowid IN ({some})")


def _numbers(table: lance.LanceDataset) -> set[int]:
    return {one.fragment_id for one in table.get_fragments()}


def _ids(fragment: LanceFragment) -> pa.ChunkedArray:
    return fragment.to_table(columns=["id"])["id"]


def _without(
    fragments: Iterable[LanceFragment], gone: pa.Array | pa.ChunkedArray
) -> tuple[list[FragmentMetadata], list[int]]:
    """Fragments as they are without rows of some ids, and the numbers of those that are empty."""
    updated, removed = [], []
    for one in fragments:
        ids = _ids(one)
        mine = ids.filter(compute.is_in(ids, value_set=gone)).to_pylist()
        if not mine:
            continue
        left = one.delete(one_of(mine))
        if left is None:
            removed.append(one.fragment_id)
        else:
            updated.append(left)
    return updated, removed
