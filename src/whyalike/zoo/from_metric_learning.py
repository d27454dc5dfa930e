"""Networks as pytorch-metric-learning and open-metric-learning keep them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from whyalike.errors import ModelError
from whyalike.model import EmbeddingModel
from whyalike.preprocess import Preprocess


def from_trunk(
    trunk: Any,
    embedder: nn.Module | None = None,
    *,
    layer: str | None = None,
    preprocess: Preprocess | None = None,
) -> EmbeddingModel:
    """A trunk and an embedder, as pytorch-metric-learning trains them, or its `InferenceModel`.

    >>> model = from_trunk(InferenceModel(trunk, embedder))  # doctest: +SKIP
    >>> model = from_trunk(trunk, embedder, layer="layer4")  # doctest: +SKIP

    The embedding is what the embedder makes of the trunk's output; an `InferenceModel` divides it
    by its length, which changes no cosine.

    Args:
        trunk: a network, or an `InferenceModel`, which brings its embedder and is put into eval
            mode, as it does itself whenever it is used.
        embedder: what follows the trunk; none for the trunk alone.
        layer: of the trunk, to cut at; by default the last feature map.
        preprocess: how a photograph becomes the trunk's input.

    Raises:
        ModelError: neither a network nor an `InferenceModel`, or the network cannot be explained;
            a trunk or embedder in training mode.
    """
    if not isinstance(trunk, nn.Module):
        inner, own = getattr(trunk, "trunk", None), getattr(trunk, "embedder", None)
        if not isinstance(inner, nn.Module) or not isinstance(own, nn.Module):
            raise ModelError(
                f"a trunk is a torch.nn.Module, or an InferenceModel with trunk and embedder; came "
                f"{type(trunk).__name__}"
            )
        if embedder is not None:
            raise ModelError("an InferenceModel has its embedder; leave the other one out")
        trunk, embedder = inner.eval(), own.eval()
    parts = OrderedDict(trunk=_bare(trunk), embedder=_bare(embedder or nn.Identity().eval()))
    net = nn.Sequential(parts)
    net.training = False  # what was given says itself whether it is in eval mode
    return EmbeddingModel.from_module(net, layer and f"trunk.{layer}", preprocess)


def from_extractor(
    extractor: nn.Module, *, layer: str | None = None, preprocess: Preprocess | None = None
) -> EmbeddingModel:
    """An extractor of open-metric-learning: a network whose `extract` gives embeddings.

    >>> model = from_extractor(ViTExtractor.from_pretrained("vits16_dino"))  # doctest: +SKIP

    Args:
        extractor: a `torch.nn.Module` with the method `extract`, in eval mode. Where it divides
            embeddings by their length, that is a gate of the head, and held at its value.
        layer: of the extractor, to cut at, such as "model.layer4"; by default the last feature map,
            or what "auto" finds among tokens.
        preprocess: how a photograph becomes its input; its own transforms cannot be read, so give
            what they do.

    Raises:
        ModelError: it is no extractor, or cannot be explained.
    """
    if not isinstance(extractor, nn.Module) or not callable(getattr(extractor, "extract", None)):
        raise ModelError(
            f"an extractor is a torch.nn.Module with a method `extract`; came "
            f"{type(extractor).__name__}"
        )
    net = _Extracting(extractor)
    net.training = False
    return EmbeddingModel.from_module(net, layer and f"extractor.{layer}", preprocess)


class _Extracting(nn.Module):
    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor.extract(images)  # type: ignore[operator]


def _bare(net: nn.Module) -> nn.Module:
    """Without what spreads it over devices, as pytorch-metric-learning's examples wrap it."""
    while isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        net = net.module
    return net
