"""Indexing on many machines: workers of a Ray cluster read, embed and write, this process commits.

Ray's actors, not Ray Data: what a lost worker held has to go back to the others in the batches of a
run on one machine, for the same rows, and a file that ends every worker has to be found and set
aside; Ray Data keeps both to itself, and brings pandas.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from types import ModuleType
from typing import Any, NamedTuple

import lance
import pyarrow as pa

from whyalike import __version__
from whyalike.errors import GalleryError, ModelError, WhyalikeError, in_one_line
from whyalike.gallery import fragments, manifest
from whyalike.gallery.build import Done, Settings, embed
from whyalike.gallery.listing import Failed, Listed
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.reading import batches
from whyalike.gallery.store import Store
from whyalike.images import printable
from whyalike.model import EmbeddingModel

ADDRESS = re.compile(r"auto|local|(?:[\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}")

DEATHS = 3
"""Workers that some files may cost before they are halved, and one alone is set aside."""

PATIENCE = 60.0
"""Seconds without any answer, after which it is said that there is no room."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster to index on.

    Its machines see the photographs and the gallery under the names that they have here, and have
    whyalike installed.

    Args:
        address: "auto" for the cluster that this machine is part of, HOST:PORT of its head, or
            "local" to start one on this machine alone.
        device: "cpu", or "cuda" for a GPU for each worker.
        workers: how many at most; None for as many as there is room for.

    Raises:
        GalleryError: an address of another form, or Ray is not installed.
    """

    address: str = "auto"
    device: str = "cpu"
    workers: int | None = None

    def __post_init__(self) -> None:
        if not ADDRESS.fullmatch(self.address):
            raise GalleryError(
                f"a Ray cluster is 'auto', HOST:PORT or 'local'; came {printable(self.address)!r}"
            )
        if self.device not in ("cpu", "cuda"):
            raise GalleryError(
                f"on a Ray cluster the device is cpu, or cuda for a GPU for each worker; came "
                f"{printable(self.device)!r}"
            )
        if self.workers is not None and self.workers < 1:
            raise GalleryError(f"workers of a cluster are 1 or more; came {self.workers}")
        _ray()


def cluster_of(given: str | Cluster, model: EmbeddingModel) -> Cluster:
    """The cluster that an argument names, with the device that the model is on."""
    manifest.check_model(model)
    if isinstance(given, Cluster):
        return given
    return Cluster(given, next((x.device.type for x in model.net.parameters()), "cpu"))


def work(
    cluster: Cluster,
    store: Store,
    model: EmbeddingModel,
    made_with: Manifest,
    settings: Settings,
    files: Sequence[Listed],
) -> Generator[Done, None, None]:
    """Files that the workers of a cluster read, embed and write as fragments.

    Args:
        cluster: where.
        store: of the gallery, which exists and lies where all machines reach it.
        model: that made it; it travels once, to each worker.
        made_with: the gallery's manifest.
        settings: how; `workers` are threads that read, and CPUs, of each worker.
        files: that are to be embedded.

    Raises:
        GalleryError: there is no cluster or no room on it, a machine does not see the gallery or
            the photographs, or workers die one after another.
    """
    if not files:
        return
    with _joined(cluster) as ray:
        cpus, room = _room(ray.nodes(), cluster.device, settings.workers)
        size = cluster.workers or room
        if not size:
            a_gpu = " and a GPU" if cluster.device == "cuda" else ""
            raise GalleryError(
                f"no machine of the cluster has {cpus} CPUs{a_gpu} for a worker; ask for fewer "
                f"threads, or say how many workers there are to be, to wait for such machines"
            )
        gpus = 1 if cluster.device == "cuda" else 0
        employed = ray.remote(Worker).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        about = (store, made_with, settings, cpus, cluster.device, __version__)
        arguments = (ray.put(pickled(model)), *about)
        pool = Pool(ray, lambda: employed.remote(*arguments), size, chunks(files, settings, size))
        yield from pool.results()


def chunks(files: Sequence[Listed], settings: Settings, workers: int) -> list[Sequence[Listed]]:
    """What a worker is given at a time: whole batches of a run on one machine, some for each."""
    share = min(settings.commit_rows, -(-len(files) // (4 * workers)))
    step = settings.batch_size * max(1, round(share / settings.batch_size))
    return [files[start : start + step] for start in range(0, len(files), step)]


# -- on the workers --------------------------------------------------------------------------------


class Written(NamedTuple):
    """What a worker did with some files."""

    fragments: list[lance.FragmentMetadata]
    failed: list[Failed]
    sees_none: bool
    """None of the files is there, for this machine."""
    machine: str


class Worker:
    """A process on some machine that has the network, and turns files into fragments.

    Args:
        blob: the model, as `pickled` made it.
        store, made_with, settings: as for `work`.
        threads: that read.
        device: where the network runs.
        version: of the driver's whyalike.
    """

    model: EmbeddingModel
    schema: pa.Schema

    def __init__(
        self,
        blob: bytes,
        store: Store,
        made_with: Manifest,
        settings: Settings,
        threads: int,
        device: str,
        version: str,
    ) -> None:
        self.blob = blob
        self.store, self.manifest, self.settings = store, made_with, settings
        self.threads, self.device, self.version = threads, device, version
        self.machine = socket.gethostname()

    def ready(self) -> WhyalikeError | None:
        """Load the network and open the gallery; what is wrong with that."""
        try:
            self._load()
            self._open()
        except WhyalikeError as error:
            return GalleryError(f"{self.machine}, of the cluster: {error}")
        return None

    def embed(self, files: Sequence[Listed]) -> Written | WhyalikeError:
        """Read files, embed them, and write their rows as a fragment, batch by batch."""
        failed: list[Failed] = []
        raised: list[BaseException] = []
        try:
            written = fragments.write(self._rows(files, failed, raised), self.store, self.schema)
        except WhyalikeError as error:
            cause = raised[0] if raised else error  # Lance wraps what the rows raise
            if isinstance(cause, WhyalikeError):
                return cause
            raise cause from None
        sees_none = not any(os.path.lexists(one.file) for one in files)
        return Written(written, failed, sees_none, self.machine)

    def _rows(
        self, files: Sequence[Listed], failed: list[Failed], raised: list[BaseException]
    ) -> Iterator[pa.RecordBatch]:
        assert self.model.preprocess is not None
        size, maps = self.settings.batch_size, self.manifest.maps
        try:
            for seen, bad in batches(files, self.model.preprocess, size, self.threads):
                failed.extend(bad)
                if bad and self.settings.strict:
                    return
                if seen:
                    yield embed(self.model, seen, self.packing, maps, self.schema)
        except BaseException as error:
            raised.append(error)
            raise

    def _load(self) -> None:
        if self.version != __version__:
            raise GalleryError(
                f"has whyalike {__version__}, this machine {self.version}; install the same"
            )
        try:
            self.model = pickle.loads(self.blob)
            self.model.net.to(self.device)
        except Exception as error:
            raise ModelError(
                f"the network cannot be loaded: {in_one_line(error)}; what it is made of has to be "
                f"installed on every machine"
            ) from error
        self.blob = b""

    def _open(self) -> None:
        try:
            table = self.store.open()
            there = self.store.manifest(table)
        except GalleryError as error:
            raise GalleryError(
                f"it has to reach the gallery as this machine does; {error}"
            ) from error
        if there != self.manifest:
            raise GalleryError(
                f"{printable(self.store.root)} is another gallery there; put it where all machines "
                f"reach the same one"
            )
        manifest.check_same(there, self.model)
        self.packing = self.store.packing(there)
        self.schema = table.schema


# -- on the driver ---------------------------------------------------------------------------------


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


def pickled(model: EmbeddingModel) -> bytes:
    """A model on its way to the workers, with the code of modules that are not installed.

    A factory may lie in the folder that one is in, which other machines do not have.
    """
    from ray import cloudpickle

    if any(x.is_cuda for x in model.net.parameters()):
        model = copy.deepcopy(model)
        model.net.cpu()  # this machine may be the only one with that device
    loose = _loose_modules()
    for module in loose:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(model)
    except Exception as error:
        raise ModelError(
            f"the network cannot be sent to other machines: {in_one_line(error)}; make it of "
            f"modules that can be pickled"
        ) from error
    finally:
        for module in loose:
            cloudpickle.unregister_pickle_by_value(module)


def _loose_modules() -> list[ModuleType]:
    """What was imported from files that belong to no installed package."""
    known = {"whyalike", "__main__", *sys.stdlib_module_names, *packages_distributions()}
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in known and getattr(module, "__file__", None)
    ]


def _room(nodes: list[dict[str, Any]], device: str, threads: int | None) -> tuple[int, int]:
    """How many CPUs a worker takes, and how many workers the machines have room for."""
    alive = [one["Resources"] for one in nodes if one["Alive"]]
    if device == "cpu":
        cpus = threads or 1
        return cpus, sum(int(one.get("CPU", 0) // cpus) for one in alive)
    with_gpus = [one for one in alive if one.get("GPU", 0) >= 1]
    shares = [int(one.get("CPU", 0) // one["GPU"]) for one in with_gpus]
    cpus = threads or max(1, min(shares, default=1))
    return cpus, sum(int(min(one["GPU"], one.get("CPU", 0) // cpus)) for one in with_gpus)


@contextmanager
def _joined(cluster: Cluster) -> Iterator[ModuleType]:
    """Ray, as a part of the cluster; a program that is part of one already stays so."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    _check_reachable(cluster.address)
    options = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        with warnings.catch_warnings():
            # Lance says so of every fork; here another program takes its place at once.
            warnings.filterwarnings("ignore", "lance is not fork-safe")
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:
        raise GalleryError(
            f"the Ray cluster {cluster.address!r} cannot be joined: {in_one_line(error)[:300]}; "
            f"start one with `ray start --head`, on each other machine with `ray start --address "
            f"HOST:PORT`, or give 'local'"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes, and then may end the process."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise GalleryError(
            f"nothing answers at {printable(address)}: {in_one_line(error)}; give HOST:PORT as "
            f"`ray start --head` printed it"
        ) from error


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise GalleryError(
            f"indexing on a cluster needs the package {error.name!r}; install 'whyalike[ray]' on "
            f"every machine"
        ) from error
    return ray
