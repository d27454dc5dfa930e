"""Where models come from: the default one, timm, a factory of the user's, and checkpoints."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import nn

from whyalike.errors import LayerError, ModelError, WhyalikeError, in_one_line
from whyalike.model import EmbeddingModel
from whyalike.preprocess import Preprocess
from whyalike.zoo import default, from_timm
from whyalike.zoo.checkpoints import load_checkpoint

__all__ = ["blaming", "load"]


def load(
    spec: str | None = None,
    *,
    layer: str | None = None,
    checkpoint: str | PathLike[str] | None = None,
    pretrained: bool = True,
    preprocess: Preprocess | None = None,
    device: str | torch.device | None = None,
) -> EmbeddingModel:
    """Load an embedding model, ready to explain, in eval mode.

    >>> load()
    EmbeddingModel(1280×7×7 map of EfficientNet.bn2 → mean → embedding of 1280)

    Args:
        spec: nothing for the default network, EfficientNet-Lite0 with ImageNet weights, which
            needs no download; "timm:NAME" for a convolutional network of timm with its own
            preprocessing; "package.module:factory" for a function of yours that returns an
            nn.Module or an EmbeddingModel, or for such a module itself.
        layer: the layer to cut at; by default the last feature map.
        checkpoint: a file of weights, safetensors or torch (read with `weights_only=True`), for
            the network that `spec` makes.
        pretrained: whether timm downloads its weights; not done where a checkpoint is given.
        preprocess: in the place of the network's own.
        device: where to run, such as "cuda"; by default where the network is.

    Raises:
        ModelError: the spec means nothing, or the network cannot be explained.
        CheckpointError: the file cannot be read safely, or lacks weights of the network.
    """
    made: nn.Module
    if spec is None or spec == "default":
        made, own = default.efficientnet_lite0(pretrained=pretrained and checkpoint is None)
    elif spec.startswith("timm:"):
        name = spec.removeprefix("timm:")
        made, own = from_timm.create(name, pretrained=pretrained and checkpoint is None)
    elif all(name.isidentifier() for name in spec.replace(":", ".", 1).split(".")) and ":" in spec:
        made, own = _call_factory(spec), None
    else:
        raise ModelError(
            f"a model is nothing (the default), timm:NAME or package.module:factory; came {spec!r}"
        )
    if isinstance(made, EmbeddingModel):
        if layer is not None and layer != made.layer:
            raise LayerError(
                f"{spec} returns an EmbeddingModel, already cut at {made.layer!r}; leave the layer "
                f"out, or return the network itself"
            )
        if preprocess is not None:
            made.preprocess = preprocess
        net = made.net
    else:
        net = made
    if checkpoint is not None:
        load_checkpoint(net, checkpoint)
    if device is not None:
        _to(net, device)
    net.eval()
    if isinstance(made, EmbeddingModel):
        return made
    with blaming("running the network"):
        return EmbeddingModel.from_module(net, layer, preprocess or own)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Whatever code that is not ours raises, as a ModelError of one line that says what it was."""
    try:
        yield
    except WhyalikeError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} raised {in_one_line(error)}") from error


def _to(net: nn.Module, device: str | torch.device) -> None:
    try:
        net.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the network cannot go to device {str(device)!r}: {in_one_line(error)}"
        ) from error


def _call_factory(spec: str) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    try:
        with blaming(f"importing {module_name!r} for the model {spec!r}"):
            module = importlib.import_module(module_name)
    except ModelError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise ModelError(
            f"cannot import {module_name!r} for the model {spec!r}: {error.__cause__}; is it "
            f"installed, or in the folder that you are in?"
        ) from error.__cause__
    factory: Any = getattr(module, attribute, None)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ModelError(
            f"{module_name} has no function {attribute!r}; it has: {', '.join(names[:8]) or 'none'}"
        )
    _check_needs_nothing(spec, factory)
    with blaming(f"{spec}()"):
        made = factory()
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{spec} must return an nn.Module or an EmbeddingModel; came {type(made).__name__}"
        )
    return made


def _check_needs_nothing(spec: str, factory: Any) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # builtins may have none
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ModelError(
            f"{spec} is called without arguments, and {error}; name a function that needs none"
        ) from error
