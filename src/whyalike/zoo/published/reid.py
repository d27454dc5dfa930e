"""The strong baseline of person re-identification."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet50

from whyalike.preprocess import Preprocess
from whyalike.zoo.published.start import randomise

PREPROCESS = Preprocess(size=(256, 128), interpolation="bilinear")  # ImageNet's mean and std
LAYER = "resnet_conv.6"


class ReidBaseline(nn.Module):
    """(N, 3, 256, 128) → (N, 2048), with the names of the authors' checkpoint.

    ResNet-50 whose last stage does not halve the map, without a ReLU behind the stem's BatchNorm;
    the mean of its map through one more BatchNorm (BNNeck: H. Luo et al., "Bag of Tricks and a
    Strong Baseline for Deep Person Re-Identification", CVPRW 2019). `classifier.classifier`, to
    751 people, lies in the checkpoint and has no part in the embedding.
    """

    def __init__(self) -> None:
        super().__init__()
        net = resnet50(weights=None)
        first = net.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        self.resnet_conv = nn.Sequential(net.conv1, net.bn1, net.maxpool, *stages)
        self.gap = nn.AdaptiveAvgPool2d(1)
        neck, people = nn.BatchNorm1d(2048), nn.Linear(2048, 751, bias=False)
        self.classifier = nn.ModuleDict({"bn": neck, "classifier": people})
        randomise(self, [block.bn3 for stage in stages for block in stage])

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 2048"]:
        return self.classifier["bn"](self.gap(self.resnet_conv(images)).flatten(1))
