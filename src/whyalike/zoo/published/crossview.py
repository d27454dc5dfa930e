"""Two VGG-16 for cross-view geo-localization: one for the ground, one for the aerial view."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from whyalike.preprocess import Preprocess
from whyalike.zoo.published.start import randomise

TOWERS = ("ground", "aerial")
LAYER = "trunk.relu5_3"

STAGES = (("1", 64, 2), ("2", 128, 2), ("3", 256, 3), ("4", 512, 3), ("5", 512, 3))
"""Names, channels and convolutions."""


def preprocess(tower: str) -> Preprocess:
    """Ground panoramas at 224×1232, aerial photographs at 512×512: B, G and R, in 0..255."""
    return Preprocess(
        size=(224, 1232) if tower == "ground" else 512,
        mean=(103.939 / 255, 116.779 / 255, 123.6 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        interpolation="bilinear",
        channels="BGR",
    )


class Tower(nn.Module):
    """(N, 3, H, W) → (N, 4096): a trunk of its own, and the layer that both towers share."""

    def __init__(self, trunk: nn.Module, fc1: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc1 = fc1

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 4096"]:
        return self.fc1(self.trunk(images).mean((2, 3)))


class SiameseVGG16(nn.Module):
    """Both towers, as they lie in one checkpoint.

    The convolutional part of VGG-16 (K. Simonyan, A. Zisserman, ICLR 2015) without its last
    pooling, the mean of the map, and one linear layer, 512 → 4096. It is not run itself: `tower`
    gives the network of each view. The L2 norm at the authors' end is left out, as the cosine does
    not see it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ground = vgg16()
        self.aerial = vgg16()
        self.fc1 = nn.Linear(512, 4096)
        randomise(self)

    def tower(self, name: str) -> Tower:
        """The network of one view, "ground" or "aerial", in this one's mode."""
        return Tower(self.get_submodule(name), self.fc1).train(self.training)


def vgg16() -> nn.Sequential:
    """conv1_1 … conv5_3, each with its ReLU, and the four poolings between the stages."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for stage, out, count in STAGES:
        if layers:
            # TensorFlow's "SAME": what is left over at the right and bottom is pooled as well.
            layers[f"pool{int(stage) - 1}"] = nn.MaxPool2d(2, ceil_mode=True)
        for number in range(1, count + 1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(channels, out, 3, padding=1)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            channels = out
    return nn.Sequential(layers)
