"""The networks that are timed: their weights are random, as the time does not depend on them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models

SIZE = 224
"""Pixels on each side of an image."""


class GeM(nn.Module):
    """Generalized-mean pooling with a learned exponent, as retrieval networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, A: Tensor) -> Tensor:
        """From a map (n, c, h, w) to vectors that keep their two trailing axes."""
        return A.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def resnet50(pool: nn.Module | None = None) -> nn.Module:
    """ResNet-50 with a linear head to 512 dimensions, its pooling replaced if one is given."""
    torch.manual_seed(0)
    net = models.resnet50(weights=None, num_classes=512)
    if pool is not None:
        net.avgpool = pool
    return net.eval()


def vgg16() -> nn.Module:
    """The convolutions of VGG-16, whose 512×7×7 map is flattened and projected to 512."""
    torch.manual_seed(0)
    trunk = models.vgg16(weights=None).features
    embed = nn.Linear(512 * 7 * 7, 512)
    parts = OrderedDict(features=trunk, flatten=nn.Flatten(), embed=embed)
    return nn.Sequential(parts).eval()


def two_images() -> Tensor:
    """A batch of two ready-made inputs (2, 3, H, W)."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
