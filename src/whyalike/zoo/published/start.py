"""Random weights to start from, with which even a deep network tells two images apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def seeded(build: Callable[[], Net]) -> Net:
    """A network in eval mode whose random weights are the same each time.

    The generator that the user's own code draws from is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build().eval()


def randomise(net: nn.Module, last_of_branch: Sequence[nn.Module] = ()) -> None:
    """Weights that keep the size of what flows through (K. He et al., ICCV 2015).

    Args:
        net: its convolutions and linear layers are drawn anew.
        last_of_branch: the BatchNorm that each residual branch ends in. With statistics that were
            never learned it lets all through, and n blocks would double what flows n times over;
            scaled by 1 / √n, it grows e-fold at most.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            # Behind the pooling, where one that has learned nothing would be no layer at all.
            nn.init.normal_(module.get_buffer("running_mean"))
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    for norm in last_of_branch:
        nn.init.constant_(norm.get_parameter("weight"), len(last_of_branch) ** -0.5)
