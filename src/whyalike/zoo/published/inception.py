"""BN-Inception as the authors train it for image retrieval."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whyalike.preprocess import Preprocess
from whyalike.zoo.published.start import randomise

# B, G and R, of which each has its own number subtracted, in 0..255.
PREPROCESS = Preprocess(
    size=224,
    mean=(104 / 255, 117 / 255, 128 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    interpolation="bilinear",
    channels="BGR",
)
LAYER = "inception_5b_output"


class _Block(NamedTuple):
    """Channels of one inception block; a block without 1x1 halves the map's sides."""

    name: str
    one: int | None
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    project: int | None

    @property
    def stride(self) -> int:
        return 2 if self.one is None else 1

    def gives(self, channels: int) -> int:
        """Channels of the concatenation."""
        return (self.one or 0) + self.three[1] + self.double[1] + (self.project or channels)


BLOCKS = (
    _Block("3a", 64, (64, 64), (64, 96), "avg", 32),
    _Block("3b", 64, (64, 96), (64, 96), "avg", 64),
    _Block("3c", None, (128, 160), (64, 96), "max", None),
    _Block("4a", 224, (64, 96), (96, 128), "avg", 128),
    _Block("4b", 192, (96, 128), (96, 128), "avg", 128),
    _Block("4c", 160, (128, 160), (128, 160), "avg", 128),
    _Block("4d", 96, (128, 192), (160, 192), "avg", 128),
    _Block("4e", None, (128, 192), (192, 256), "max", None),
    _Block("5a", 352, (192, 320), (160, 224), "avg", 128),
    _Block("5b", 352, (192, 320), (192, 224), "max", 128),
)


class BNInception(nn.Module):
    """(N, 3, 224, 224) → (N, 512), with the names of the authors' checkpoint.

    After S. Ioffe, C. Szegedy, "Batch Normalization", ICML 2015. Each convolution has a bias, then
    BatchNorm, then ReLU. The map is pooled by its maximum and projected by `classifier.linear`;
    `classifier.bn` lies in the checkpoint and is not used. The L2 norm at the authors' end is left
    out, as the cosine does not see it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64)
        self._add("conv2_3x3", 64, 192, 3)
        channels = 192
        for block in BLOCKS:
            self._add_block(block, f"inception_{block.name}", channels)
            channels = block.gives(channels)
        norm, linear = nn.BatchNorm1d(channels), nn.Linear(channels, 512)
        self.classifier = nn.ModuleDict({"bn": norm, "linear": linear})
        randomise(self)

    def _add(self, name: str, channels: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(out))

    def _add_block(self, block: _Block, name: str, channels: int) -> None:
        if block.one is not None:
            self._add(f"{name}_1x1", channels, block.one)
        inner, out = block.three
        self._add(f"{name}_3x3_reduce", channels, inner)
        self._add(f"{name}_3x3", inner, out, 3, block.stride)
        inner, out = block.double
        self._add(f"{name}_double_3x3_reduce", channels, inner)
        self._add(f"{name}_double_3x3_1", inner, out, 3)
        self._add(f"{name}_double_3x3_2", out, out, 3, block.stride)
        if block.project is not None:
            self._add(f"{name}_pool_proj", channels, block.project)
        self.add_module(f"{name}_output", nn.Identity())  # a place to cut at

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 512"]:
        x = self._run("conv1_7x7_s2", images)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self._run("conv2_3x3_reduce", x)
        x = self._run("conv2_3x3", x)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for block in BLOCKS:
            x = self._run_block(block, f"inception_{block.name}", x)
        return self.classifier["linear"](F.adaptive_max_pool2d(x, 1).flatten(1))

    def _run(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, f"{name}_bn")(getattr(self, name)(x)).relu()

    def _run_block(self, block: _Block, name: str, x: Tensor) -> Tensor:
        three = self._run(f"{name}_3x3", self._run(f"{name}_3x3_reduce", x))
        double = self._run(f"{name}_double_3x3_1", self._run(f"{name}_double_3x3_reduce", x))
        double = self._run(f"{name}_double_3x3_2", double)
        if block.pool == "avg":
            pooled = F.avg_pool2d(x, 3, 1, padding=1)
        else:
            padding = 1 if block.stride == 1 else 0  # as in Caffe, where halving rounds up instead
            pooled = F.max_pool2d(x, 3, block.stride, padding, ceil_mode=True)
        branches = [three, double]
        if block.one is not None:
            branches.insert(0, self._run(f"{name}_1x1", x))
        if block.project is not None:
            pooled = self._run(f"{name}_pool_proj", pooled)
        return getattr(self, f"{name}_output")(torch.cat([*branches, pooled], 1))
