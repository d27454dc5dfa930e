"""What runs on a machine of a cluster: a process with the network, that turns files into rows."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions
from types import ModuleType
from typing import NamedTuple

import lance
import pyarrow as pa

from whyalike import __version__
from whyalike.errors import GalleryError, ModelError, WhyalikeError, in_one_line
from whyalike.gallery import fragments, manifest
from whyalike.gallery.build import Settings, embed
from whyalike.gallery.listing import Failed, Listed
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.reading import batches
from whyalike.gallery.store import Store
from whyalike.images import printable
from whyalike.model import EmbeddingModel


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
