"""Networks that a file holds whole: ONNX and exported programs, by their specs."""

from __future__ import annotations

import os
from typing import Literal

from torch import nn

from whyalike.errors import ModelError
from whyalike.preprocess import Preprocess
from whyalike.zoo import from_pt2

Kind = Literal["onnx", "pt2"]
KINDS: tuple[Kind, ...] = ("onnx", "pt2")


def kind_of(spec: str) -> Kind | None:
    """What kind of file a spec names, if it names one: "onnx:FILE", or a path that ends so."""
    path = _without_output(spec)
    for kind in KINDS:
        if spec.startswith(f"{kind}:") or path.lower().endswith(f".{kind}"):
            return kind
    return None


def create(
    kind: Kind, spec: str, layer: str | None, preprocess: Preprocess | None
) -> tuple[nn.Module, Preprocess, str | None]:
    """The network in a file, its preprocess, and the layer to cut at.

    Args:
        kind: what kind of file it is.
        spec: "onnx:FILE", "onnx:FILE#OUTPUT", "pt2:FILE", or without what comes before the colon.
        layer: a name in the file; None for the last feature map.
        preprocess: the user's, which says how large the input is where the file does not.

    Raises:
        CheckpointError: not such a file, or a damaged one.
        ModelError: what it holds is not known here, or the package to read it is missing.
    """
    named = spec.removeprefix(f"{kind}:")
    if kind == "pt2":
        return from_pt2.load_network(named, layer)
    try:
        from whyalike.zoo import from_onnx
        from whyalike.zoo.nodes import layer_name
    except ImportError as error:
        raise ModelError(
            f"{named}: to read ONNX, the package {error.name!r} is needed; install 'whyalike[onnx]'"
        ) from error
    path = _without_output(named)
    output = named[len(path) + 1 :] or None
    size_hw = None if preprocess is None else preprocess.size_hw
    net, own, last = from_onnx.load_network(path, output, size_hw)
    return net, own, last if layer is None else layer_name(layer)


def _without_output(spec: str) -> str:
    """The path of "FILE#OUTPUT"; a file whose own name holds a # is found as it is."""
    path = spec.removeprefix("onnx:")
    return path if os.path.exists(path) else path.partition("#")[0]
