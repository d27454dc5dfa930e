"""Networks that a benchmark trains for itself are kept in a folder of the user's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(os.environ.get("WHYALIKE_BENCH_CACHE", "~/.cache/whyalike-bench")).expanduser()
"""Where trained weights lie; the variable WHYALIKE_BENCH_CACHE names another folder."""


def trained(name: str, net: nn.Module, train: Callable[[nn.Module], None]) -> nn.Module:
    """The network with the weights that `train` gives it, or gave it once; in eval mode.

    Args:
        name: of the file; whoever changes the network or its training changes the name.
    """
    file = FOLDER / f"{name}.pt"
    if not file.exists():
        start = time.perf_counter()
        print(f"training {name}, once, into {file}", flush=True)
        train(net.train())
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        print(f"trained {name} in {time.perf_counter() - start:.0f} s", flush=True)
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)
