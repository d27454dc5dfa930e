"""The four networks of the paper that the method is from, as their authors published them.

S. Zhu, T. Yang, C. Chen, "Visual Explanation for Deep Metric Learning", IEEE TIP 2021. The weights
are not here: each function takes the authors' file, whose names are the network's own, or gives
random weights. Photographs are shrunk smoothly, where the authors' OpenCV skips pixels; to have
their numbers to the last digit, preprocess as they do and explain the tensors.

| name | task | head |
|---|---|---|
| bn_inception | image retrieval | max, linear |
| reid_baseline | person re-identification | mean, BatchNorm |
| ir_resnet152 | face verification | flatten, linear, BatchNorm |
| siamese_vgg16 | cross-view geo-localization, two towers | mean, linear |
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

from whyalike.errors import ModelError
from whyalike.model import EmbeddingModel
from whyalike.preprocess import Preprocess
from whyalike.zoo.checkpoints import load_checkpoint
from whyalike.zoo.published import crossview, faces, inception, reid
from whyalike.zoo.published.start import seeded

File = str | PathLike[str]

NETWORKS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "bn_inception": inception.BNInception,
        "reid_baseline": reid.ReidBaseline,
        "ir_resnet152": faces.IRResNet152,
        "siamese_vgg16": crossview.SiameseVGG16,
    }
)
"""What each checkpoint fits."""

SPECS: Mapping[str, str] = MappingProxyType(
    {
        "bn_inception": "image retrieval",
        "reid_baseline": "person re-identification",
        "ir_resnet152": "face verification",
        "siamese_vgg16": "a ground view (QUERY) and an aerial one (REFERENCE)",
        "siamese_vgg16/ground": "its network for the ground view",
        "siamese_vgg16/aerial": "its network for the aerial view",
    }
)
"""What may follow `published:`, and what it is for."""


class Towers(NamedTuple):
    """The two networks of a cross-view model, whose embeddings can be compared.

    Use as `explain_pair(towers.ground, query, reference, reference_model=towers.aerial)`.
    """

    ground: EmbeddingModel
    aerial: EmbeddingModel


def bn_inception(path: File | None = None) -> EmbeddingModel:
    """BN-Inception for image retrieval: 1024×7×7 map → max → Linear(1024→512).

    Args:
        path: the authors' `Multi_similarity.pth.tar`, or safetensors; None for random weights,
            the same each time.

    Raises:
        CheckpointError: the file cannot be read safely, or is another network's.
    """
    return _model("bn_inception", path)


def reid_baseline(path: File | None = None) -> EmbeddingModel:
    """ResNet-50 for person re-identification: 2048×16×8 map → mean → BatchNorm1d.

    Args:
        path: the authors' `baseline.pkl`, or safetensors; None for random weights.

    Raises:
        CheckpointError: the file cannot be read safely, or is another network's.
    """
    return _model("reid_baseline", path)


def ir_resnet152(path: File | None = None) -> EmbeddingModel:
    """IR-ResNet-152 for faces: 512×7×7 map → flatten → Linear(25088→512) → BatchNorm1d.

    Args:
        path: the authors' `parameters.pth`, or safetensors; None for random weights.

    Raises:
        CheckpointError: the file cannot be read safely, or is another network's.
    """
    return _model("ir_resnet152", path)


def siamese_vgg16(path: File | None = None) -> Towers:
    """Two VGG-16 for ground and aerial views: 512×h×w maps → mean → one Linear(512→4096).

    Args:
        path: safetensors that `whyalike import-checkpoint` made of the authors' TensorFlow
            checkpoint; None for random weights.

    Raises:
        CheckpointError: the file cannot be read safely, or is another network's.
    """
    net = _network("siamese_vgg16", path)
    return Towers(
        *(
            EmbeddingModel.from_module(_part(net, tower), *_cut("siamese_vgg16", tower))
            for tower in crossview.TOWERS
        )
    )


def create(
    spec: str, path: File | None = None, pretrained: bool = True
) -> tuple[nn.Module, str, Preprocess]:
    """A network by what follows `published:`, its layer to cut at, and its preprocessing.

    Args:
        spec: one of SPECS.
        path: its checkpoint.
        pretrained: whether weights are expected, so that random ones are warned of.
    """
    if spec not in SPECS:
        raise ModelError(f"no published network {spec!r}; there are: {', '.join(SPECS)}")
    name, _, tower = spec.partition("/")
    if name == "siamese_vgg16" and not tower:
        both = " and ".join(f"published:{name}/{tower}" for tower in crossview.TOWERS)
        raise ModelError(
            f"published:{name} is two networks, one for each image: load {both}, or name it alone "
            f"on the command line"
        )
    net = _network(name, path)
    if path is None and pretrained:
        warnings.warn(
            f"published:{name} has random weights, with which its maps say nothing of the images; "
            f"give the authors' checkpoint",
            stacklevel=3,
        )
    return _part(net, tower), *_cut(name, tower)


def towers(spec: str | None) -> tuple[str, str] | None:
    """The specs for query and reference that one spec stands for, if it stands for two."""
    if spec != "published:siamese_vgg16":
        return None
    ground, aerial = (f"{spec}/{tower}" for tower in crossview.TOWERS)
    return ground, aerial


def towers_of_one(spec: str | None, other: str | None) -> bool:
    """Whether two specs name towers of the same network, whose weights lie in one checkpoint."""
    networks = {(each or "").partition("/")[0] for each in (spec, other)}
    return networks == {"published:siamese_vgg16"}


def _model(name: str, path: File | None) -> EmbeddingModel:
    return EmbeddingModel.from_module(_network(name, path), *_cut(name))


def _network(name: str, path: File | None) -> nn.Module:
    net = seeded(NETWORKS[name])
    if path is not None:
        load_checkpoint(net, path)
    return net


def _part(net: nn.Module, tower: str) -> nn.Module:
    return net.tower(tower) if isinstance(net, crossview.SiameseVGG16) else net


def _cut(name: str, tower: str = "") -> tuple[str, Preprocess]:
    """The layer to cut at, and the preprocessing."""
    if name == "siamese_vgg16":
        return crossview.LAYER, crossview.preprocess(tower)
    module = {"bn_inception": inception, "reid_baseline": reid, "ir_resnet152": faces}[name]
    return module.LAYER, module.PREPROCESS
