"""Small networks with random weights: h ≠ w everywhere, as that catches transposes."""

from __future__ import annotations

import torch
from torch import nn

from oracle import UnitLength

C, H, W, D = 8, 3, 5, 4
IMAGE_HW = (12, 20)  # the trunk's stride is 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trunk(channels: int = C, relu: bool = True) -> nn.Sequential:
    """(N, 3, 12, 20) → (N, 8, 3, 5)."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=4)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights everywhere, BatchNorm's statistics included; float64, eval mode."""
    generator = seeded(seed)
    net = net.double().eval()
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            value = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            positive = name.endswith("running_var") or (tensor.dim() == 1 and "weight" in name)
            tensor.data = (
                value.abs() + 0.5
                if positive
                else value / max(1, tensor[0].numel()) ** 0.5
                if tensor.dim()
                else value
            )
    return net


def images(n: int = 2, seed: int = 1, hw: tuple[int, int] = IMAGE_HW) -> torch.Tensor:
    return torch.randn(n, 3, *hw, generator=seeded(seed), dtype=torch.float64)


def pooled_size(pool: str) -> int:
    return C * H * W if pool == "flatten" else C


PROJECTS = {
    "none": lambda k: [],
    "linear": lambda k: [nn.Linear(k, D)],
    "linear without bias": lambda k: [nn.Linear(k, D, bias=False)],
    "batch norm": lambda k: [nn.BatchNorm1d(k)],
    "linear, batch norm": lambda k: [nn.Linear(k, D), nn.BatchNorm1d(D)],
    "relu chain": lambda k: [
        nn.Linear(k, 6),
        nn.ReLU(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, D),
    ],
    "relu in place": lambda k: [nn.Linear(k, 6), nn.ReLU(inplace=True), nn.Linear(6, D)],
    "dropout first": lambda k: [nn.Dropout(0.5), nn.Linear(k, D)],
    "layer norm": lambda k: [nn.LayerNorm(k), nn.Linear(k, D)],
    "gelu": lambda k: [nn.Linear(k, 6), nn.GELU(), nn.Linear(6, D)],
    "silu in place": lambda k: [nn.Linear(k, 6), nn.SiLU(inplace=True), nn.Linear(6, D)],
    "hard-swish, relu6": lambda k: [nn.Linear(k, 6), nn.Hardswish(), nn.Linear(6, 6), nn.ReLU6()],
    "tanh": lambda k: [nn.Linear(k, D), nn.Tanh()],
    "unit length": lambda k: [nn.Linear(k, D), UnitLength()],
}
"""From the pooled size to a chain of layers, each with its matrix in the oracle."""
