"""Indexing on many machines: workers of a Ray cluster read, embed and write, this process commits.

Ray's actors, not Ray Data: what a lost worker held has to go back to the others in the batches of a
run on one machine, for the same rows, and a file that ends every worker has to be found and set
aside; Ray Data keeps both to itself, and brings pandas.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from whyalike import __version__
from whyalike.errors import GalleryError, in_one_line
from whyalike.gallery import manifest
from whyalike.gallery.build import Done, Settings
from whyalike.gallery.listing import Listed
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.pool import Pool
from whyalike.gallery.store import Store
from whyalike.gallery.worker import Worker, pickled
from whyalike.images import printable
from whyalike.model import EmbeddingModel

ADDRESS = re.compile(r"auto|local|(?:[\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", re.ASCII)


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
    """The cluster that an argument names, with the device that the model is on; it answers."""
    manifest.check_model(model)
    cluster = given
    if not isinstance(cluster, Cluster):
        device = next((x.device.type for x in model.net.parameters()), "cpu")
        cluster = Cluster(cluster, device)
    _check_reachable(cluster.address)
    return cluster


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
            wanted = f"{cpus} CPU{'' if cpus == 1 else 's'}"
            wanted += " and a GPU" if cluster.device == "cuda" else ""
            raise GalleryError(
                f"no machine of the cluster has {wanted} for a worker; ask for fewer threads or "
                f"another device, or give Cluster(workers=...) to wait for such machines"
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
    """Ray, as a part of the cluster; a program that is part of it already stays so."""
    ray = _ray()
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if cluster.address not in ("auto", there):
            raise GalleryError(
                f"this program is part of the Ray cluster {there} already; came "
                f"{cluster.address!r}; give 'auto', or leave it first, with ray.shutdown()"
            )
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
        reason = getattr(error, "strerror", None) or error
        raise GalleryError(
            f"nothing answers at {printable(address)}: {reason}; give HOST:PORT as `ray start "
            f"--head` printed it"
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
