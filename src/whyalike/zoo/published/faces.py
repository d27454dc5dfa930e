"""The improved ResNet-152 of face verification."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from whyalike.preprocess import Preprocess
from whyalike.zoo.published.start import randomise

# ImageNet's numbers, which are for RGB, on B, G and R in this order: 0.485 goes off blue. It is so
# in the authors' demo, which says that the network was trained so.
PREPROCESS = Preprocess(size=112, interpolation="bilinear", channels="BGR")
LAYER = "bn2"

STAGES = ((64, 3), (128, 8), (256, 36), (512, 3))
"""Channels and blocks."""


class _Block(nn.Module):
    """BatchNorm, 3×3, BatchNorm, PReLU, 3×3, BatchNorm; the same PReLU after the sum."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if channels != out:
            across = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(across, nn.BatchNorm2d(out))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k H W"]:
        y = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        y = self.bn2(self.conv2(y))
        return self.prelu(y + (x if self.downsample is None else self.downsample(x)))


class IRResNet152(nn.Module):
    """(N, 3, 112, 112) → (N, 512), with the names of the authors' checkpoint.

    After J. Deng et al., "ArcFace", CVPR 2019 (its "IR" blocks, without squeeze-and-excitation):
    the whole map, 512×7×7 behind `bn2`, goes through one linear layer and `bn3`. The stem's
    convolution does not pad, so that 112 pixels become 110 and, halved four times, 7 cells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        before, branches = 64, []
        for number, (channels, count) in enumerate(STAGES, 1):
            stride = 1 if channels == before else 2
            blocks = [_Block(before, channels, stride)]
            blocks += [_Block(channels, channels, 1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            branches += [block.bn2 for block in blocks]
            before = channels
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.bn3 = nn.BatchNorm1d(512)
        randomise(self, branches)

    def forward(self, images: Float[Tensor, "n 3 112 112"]) -> Float[Tensor, "n 512"]:
        x = self.maxpool(self.prelu(self.bn1(self.conv1(images))))
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.bn3(self.fc(self.bn2(x).flatten(1)))
