"""Networks that are written to files: small ones with random weights, of all the usual heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import whyalike as wa
from nets import randomise

H, W = 24, 40


class GeM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class Face(nn.Module):
    """The form of the published ArcFace networks: iresnet's blocks, then flatten, fc, BatchNorm."""

    def __init__(self, height: int = H, width: int = W) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.block = nn.Sequential(
            nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1), nn.PReLU(8), nn.Conv2d(8, 8, 3, 4, 1)
        )
        self.down = nn.Sequential(nn.Conv2d(8, 8, 1, 4), nn.BatchNorm2d(8))
        self.bn2, self.dropout = nn.BatchNorm2d(8), nn.Dropout(0.4)
        self.fc = nn.Linear(8 * (height // 4) * (width // 4), 6)
        self.features = nn.BatchNorm1d(6)

    def forward(self, x):
        x = self.stem(x)
        x = self.bn2(self.block(x) + self.down(x))
        return self.features(self.fc(self.dropout(torch.flatten(x, 1))))


class Mixed(nn.Module):
    """Operators that convolutional networks have now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.ZeroPad2d((0, 1, 1, 0)), nn.Conv2d(3, 8, 4, 4), nn.SiLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=4), nn.GroupNorm(2, 8), nn.GELU())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.Hardswish(), nn.Conv2d(4, 8, 1)
        )
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.a(x)
        left, right = x.chunk(2, 1)
        x = torch.cat([right, torch.tanh(left)], 1) + self.b(x)
        x = x * self.squeeze(x).sigmoid()
        x = nn.functional.max_pool2d(nn.functional.leaky_relu(x, 0.1), 2, ceil_mode=True)
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = nn.functional.avg_pool2d(x, 3, 2, 1)
        return nn.functional.normalize(x[:, 1:].mean((2, 3)))


def pooled(pool: nn.Module, *project: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), pool, *project)


SMALL: dict[str, Callable[[], nn.Module]] = {
    "mean": lambda: pooled(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    "max": lambda: pooled(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    "gem": lambda: pooled(GeM(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)),
    "flatten": lambda: pooled(nn.Flatten(), nn.Linear(8 * 60, 4), nn.BatchNorm1d(4)),
    "layer norm": lambda: pooled(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4)
    ),
    "face": Face,
    "mixed": Mixed,
}


def small(name: str) -> nn.Module:
    net = randomise(SMALL[name]()).float()
    for module in net.modules():
        if isinstance(module, GeM):
            module.p.data.fill_(3.0)
    return net


def images(n: int = 3, height: int = H, width: int = W) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def check_explained(model: wa.EmbeddingModel, x: torch.Tensor, expected: torch.Tensor) -> None:
    """Several images in one batch: E as expected, v and b complete, nothing only first-order."""
    for c, E in zip(model.explain(list(x)), expected, strict=True):
        torch.testing.assert_close(c.embedding, E, rtol=1e-4, atol=1e-4 * float(E.norm()))
        torch.testing.assert_close(c.values.sum((0, 1)) + c.bias, c.embedding, rtol=1e-4, atol=1e-4)
        assert not c.taylor
