"""Where models come from: the default, timm, transformers, the paper, factories, files, folders."""

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
from whyalike.zoo import default, from_file, from_timm, published, trained, trained_towers
from whyalike.zoo.checkpoints import load_checkpoint
from whyalike.zoo.exporting import export

__all__ = ["blaming", "export", "load", "load_two"]


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
            needs no download; "timm:NAME" for a network of timm with its own preprocessing;
            "transformers:NAME" for a vision network of Hugging Face's transformers by its name on
            the hub or a folder, with "#cls" or the like behind it for another of its embeddings
            (`whyalike.zoo.from_transformers.create` tells which); "published:NAME" for a network of
            the paper (`whyalike.zoo.published`), with random weights but for a checkpoint;
            "package.module:factory" for a function of yours that returns an nn.Module or an
            EmbeddingModel, or for such a module itself; "onnx:FILE" or "pt2:FILE", also a path that
            ends so, for a network in a file ("onnx:FILE#NAME" where several of its outputs may be
            the embedding); the path of a folder that `whyalike train` wrote, with "#ground" or
            "#aerial" behind it where it keeps two towers.
        layer: the layer to cut at; by default the last feature map, or what "auto" finds.
        checkpoint: a file of weights, safetensors or torch (read with `weights_only=True`), for
            the network that `spec` makes.
        pretrained: whether timm downloads its weights, not done where a checkpoint is given, and
            transformers reads its own; for a published network, False says that random weights are
            meant.
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
    elif spec.startswith("transformers:"):
        if checkpoint is not None:
            raise ModelError(
                f"{spec} has weights of its own; put those that you mean into a folder by "
                f"save_pretrained, and leave the checkpoint out"
            )
        made, own = _from_transformers(spec, pretrained, preprocess)
    elif spec.startswith("published:"):
        name = spec.removeprefix("published:")
        made, cut, own = published.create(name, checkpoint, pretrained)
        layer, checkpoint = layer or cut, None
    elif (kind := from_file.kind_of(spec)) is not None:
        if checkpoint is not None:
            raise ModelError(f"{spec} has weights of its own; leave the checkpoint out")
        made, own, layer = from_file.create(kind, spec, layer, preprocess)
    elif trained.is_folder(spec) or trained_towers.is_tower(spec):
        if checkpoint is not None:
            raise ModelError(f"{spec} has weights of its own; leave the checkpoint out")
        made, own = (trained if trained.is_folder(spec) else trained_towers).read(spec)
        layer = layer or trained.LAYER
    elif all(name.isidentifier() for name in spec.replace(":", ".", 1).split(".")) and ":" in spec:
        made, own = _call_factory(spec), None
    else:
        raise ModelError(
            f"a model is nothing (the default), timm:NAME, transformers:NAME, published:NAME, "
            f"onnx:FILE, pt2:FILE, package.module:factory, or the folder of a trained model; came "
            f"{spec!r}"
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


def load_two(
    spec: str | None = None,
    reference: str | None = None,
    *,
    layer: str | None = None,
    checkpoint: str | PathLike[str] | None = None,
    pretrained: bool = True,
    device: str | torch.device | None = None,
) -> tuple[EmbeddingModel, EmbeddingModel]:
    """The query's network and the reference's, which are one where no other is named.

    Args:
        spec: as for `load`, or "published:siamese_vgg16", or the folder of two trained towers, for
            both of them.
        reference: the reference's own network, by the same names.
        layer, checkpoint: of the query's network; towers of one published network share them.
        pretrained, device: as for `load`, of both.

    Raises:
        ModelError: as `load`.
    """
    if reference is None:
        both = published.towers(spec) or trained_towers.towers(spec)
        spec, reference = both or (spec, spec)
    shared = published.towers_of_one(spec, reference)
    model = load(spec, layer=layer, checkpoint=checkpoint, pretrained=pretrained, device=device)
    if reference == spec:
        return model, model
    if shared:  # random weights were warned of already
        return model, load(
            reference, layer=layer, checkpoint=checkpoint, pretrained=False, device=device
        )
    return model, load(reference, pretrained=pretrained, device=device)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Whatever code that is not ours raises, as a ModelError of one line that says what it was."""
    try:
        yield
    except WhyalikeError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} raised {in_one_line(error)}") from error


def _from_transformers(
    spec: str, pretrained: bool, preprocess: Preprocess | None
) -> tuple[nn.Module, Preprocess]:
    try:
        from whyalike.zoo import from_transformers
    except ImportError as error:
        raise ModelError(
            f"{spec}: the package {error.name!r} is needed; install 'whyalike[transformers]'"
        ) from error
    return from_transformers.create(spec.removeprefix("transformers:"), pretrained, preprocess)


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
