"""Which model made a gallery, so that no other one's queries are answered."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import nn

from whyalike.cut import noise
from whyalike.errors import GalleryError, ModelError
from whyalike.images import printable
from whyalike.model import EmbeddingModel

Maps = Literal["none", "full", "pq"]
"""How contributions are kept: not, in float16, or by product quantisation."""

KEY = b"whyalike"
"""Under this key of the table's schema lies the manifest."""


@dataclass(frozen=True)
class Manifest:
    """What a gallery was made with, and how its rows are to be read.

    Args:
        weights: hash of all parameters and buffers, by name, type and shape.
        network: the network in words, with layer and head.
        layer: where it is cut.
        surrogate: how what lies behind the cut was made linear.
        preprocess: how photographs became inputs.
        d: length of an embedding.
        grid_hw: rows and columns of cells.
        prefix: how many prefix tokens there are.
        maps: how contributions are kept, "none", "full" or "pq".
        arrays: the name of the table of what the rows share, where there is one.
        spec: the arguments of `whyalike.load` that made the model, where they are known.
    """

    weights: str
    network: str
    layer: str
    surrogate: str
    preprocess: str
    d: int
    grid_hw: tuple[int, int]
    prefix: int
    maps: Maps
    arrays: str | None = None
    spec: dict[str, Any] | None = None

    def to_json(self) -> bytes:
        """As it lies in the table's schema."""
        return json.dumps({"version": 1, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """What `to_json` wrote.

        Raises:
            GalleryError: it is none, or of a later version.
        """
        try:
            found = json.loads(text)
            if found.pop("version") != 1:
                raise GalleryError("a gallery of a later version of whyalike; upgrade it")
            made = cls(**{field.name: found[field.name] for field in fields(cls)})
            h, w = made.grid_hw
            counts = (int(made.d), int(h), int(w), int(made.prefix) + 1)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GalleryError("a gallery whose manifest is damaged; make it anew") from error
        named = made.arrays is None or re.fullmatch(r"arrays-[0-9a-f]{16}\.lance", str(made.arrays))
        if min(counts) < 1 or not named or made.maps not in get_args(Maps):
            raise GalleryError("a gallery whose manifest is damaged; make it anew")
        object.__setattr__(made, "grid_hw", (h, w))
        return made


def describe(model: EmbeddingModel, maps: Maps, spec: dict[str, Any] | None = None) -> Manifest:
    """The manifest of a gallery that a model is to make; runs the network on noise.

    Raises:
        ModelError: the model has no preprocess, without which no file can be read.
    """
    check_model(model)
    assert model.preprocess is not None
    found = model.decomposed(noise(1, torch.Size((3, *model.preprocess.size_hw))))
    return Manifest(
        **fingerprint(model),
        d=found.E.shape[1],
        grid_hw=found.layout.grid_hw,
        prefix=found.layout.prefix,
        maps=maps,
        spec=spec,
    )


def check_model(model: EmbeddingModel) -> None:
    """Refuse what is no model, or one that cannot read files."""
    if not isinstance(model, EmbeddingModel):
        raise ModelError(
            f"a model is an EmbeddingModel; came {type(model).__name__}; make one with "
            f"whyalike.load(...) or EmbeddingModel.from_module(network)"
        )
    if model.preprocess is None:
        raise ModelError("a gallery reads files, for which the model needs a Preprocess; give one")


def fingerprint(model: EmbeddingModel) -> dict[str, str]:
    """What two models must have in common for a gallery to be of both."""
    return {
        "layer": model.layer,
        "surrogate": str(model.surrogate),
        "preprocess": str(model.preprocess),
        "network": model.description,
        "weights": weights_hash(model.net),
    }


def check_same(gallery: Manifest, model: EmbeddingModel) -> None:
    """Refuse a model that is not the one that made a gallery.

    Raises:
        GalleryError: which part of it differs.
    """
    check_model(model)
    words = {"preprocess": "preprocessing", "weights": "weights' hash"}
    for name, here in fingerprint(model).items():
        there = getattr(gallery, name)
        if there != here:
            raise GalleryError(
                f"the gallery was made with another model: its {words.get(name, name)} is "
                f"{printable(str(there))}, this one's {here}; use that model, or index "
                f"the photographs with this one"
            )


def weights_hash(net: nn.Module) -> str:
    """A hash of all parameters and buffers by name, type, shape and value."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(net.state_dict().items()):
        if not isinstance(tensor, torch.Tensor) or name.endswith("num_batches_tracked"):
            continue  # what a quantised module keeps; a counter that no output depends on
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
