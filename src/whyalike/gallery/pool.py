"""Workers of a cluster that come and go, and what they are given to do."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from whyalike.errors import GalleryError, WhyalikeError, in_one_line
from whyalike.gallery.build import Done
from whyalike.gallery.listing import Failed, Listed

DEATHS = 3
"""Workers that some files may cost before they are halved, and one alone is set aside."""

PATIENCE = 60.0
"""Seconds without any answer, after which it is said that there is no room."""


@dataclass(frozen=True)
class _Chunk:
    files: Sequence[Listed]
    deaths: int = 0


class Pool:
    """Workers that come and go, and the files that they are given.

    Ray could restart them and give them their calls again. Here a worker is given files once it is
    there, so that nothing waits for a machine that is lost, and another worker goes on with them.

    Args:
        ray: the module.
        employ: asks the cluster for a worker, which comes when there is room.
        size: how many at most.
        files: for one call each.
    """

    def __init__(
        self,
        ray: ModuleType,
        employ: Callable[[], Any],
        size: int,
        files: Sequence[Sequence[Listed]],
    ) -> None:
        self._ray, self._employ, self._size = ray, employ, size
        self._todo = deque(_Chunk(some) for some in files)
        self._coming: dict[Any, Any] = {}  # by what they will answer
        self._busy: dict[Any, tuple[Any, _Chunk]] = {}
        self._idle: list[Any] = []
        self._lost = 0  # since one has done its work

    def results(self) -> Iterator[Done]:
        """What comes of the files, in the order in which it comes."""
        try:
            while self._todo or self._busy:
                self._staff()
                calls = [*self._busy, *self._coming]
                answers, _ = self._ray.wait(calls, timeout=PATIENCE)
                if not answers and not self._busy:
                    warnings.warn(
                        f"no worker has come in {PATIENCE:.0f} s; the cluster has no room now, and "
                        f"indexing waits for it",
                        stacklevel=2,
                    )
                for answer in answers:
                    if answer in self._coming:
                        self._welcome(answer)
                    else:
                        yield from self._take(answer)
        finally:
            for worker in (
                *self._coming.values(),
                *(w for w, _ in self._busy.values()),
                *self._idle,
            ):
                self._dismiss(worker)

    def _staff(self) -> None:
        """Ask for workers that are wanting, and give files to those that have none."""
        here = len(self._coming) + len(self._busy) + len(self._idle)
        for _ in range(min(self._size, len(self._todo) + len(self._busy)) - here):
            worker = self._employ()
            self._coming[worker.ready.remote()] = worker
        while self._idle and self._todo:
            worker, chunk = self._idle.pop(), self._todo.popleft()
            self._busy[worker.embed.remote(chunk.files)] = worker, chunk

    def _welcome(self, answer: Any) -> None:
        worker = self._coming.pop(answer)
        try:
            wrong = self._answer(answer)
        except _LostError as error:
            self._lose(worker, error)
            return
        if wrong is not None:
            raise wrong
        self._idle.append(worker)

    def _take(self, answer: Any) -> Iterator[Done]:
        worker, chunk = self._busy.pop(answer)
        try:
            written = self._answer(answer)
        except _LostError as error:
            self._lose(worker, error)
            yield from self._again(chunk)
            return
        self._idle.append(worker)
        self._lost = 0
        if isinstance(written, WhyalikeError):
            raise written
        if written.sees_none and any(os.path.lexists(one.file) for one in chunk.files):
            raise GalleryError(
                f"{written.machine}, of the cluster, does not see {chunk.files[0].path} and others "
                f"that are here; put photographs where all machines reach them by the same names"
            )
        failed = {one.file for one in written.failed}
        ids = [one.id for one in chunk.files if one.file not in failed]
        yield Done(ids if written.fragments else [], written.failed, [], written.fragments)

    def _answer(self, call: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except errors.RayTaskError as error:
            raise GalleryError(
                f"a worker of the cluster raised {in_one_line(error.cause)}"
            ) from error
        except errors.RayError as error:  # the worker, its machine, or what it answered
            raise _LostError(error) from error

    def _lose(self, worker: Any, error: _LostError) -> None:
        self._dismiss(worker)
        self._lost += 1
        if self._lost > max(20, 3 * self._size):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise GalleryError(
                f"workers of the cluster die one after another, {self._lost} by now: "
                f"{lines[-1][:300] if lines else 'Ray does not say why'}; see Ray's logs there"
            ) from error

    def _dismiss(self, worker: Any) -> None:
        """Whether it is lost or only out of reach: what it may yet write is not committed."""
        with suppress(Exception):
            self._ray.kill(worker)

    def _again(self, chunk: _Chunk) -> Iterator[Done]:
        """Files whose worker died: again, by halves where it happens too often, or set aside."""
        deaths, count = chunk.deaths + 1, len(chunk.files)
        if deaths < DEATHS:
            self._todo.appendleft(_Chunk(chunk.files, deaths))
        elif count > 1:
            halves = chunk.files[: count // 2], chunk.files[count // 2 :]
            self._todo.extendleft(_Chunk(half, deaths - 1) for half in halves)
        else:
            reason = "each worker of the cluster that was given it ended; index it by itself"
            yield Done([], [Failed(chunk.files[0].file, reason)], [], [])


class _LostError(Exception):
    """A worker that does not answer any more."""
