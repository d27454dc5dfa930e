"""A small network that was trained to tell handwritten digits on clutter apart, and its pairs."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import whyalike as wa
from benchmarks.pairs import Pairs, matched
from benchmarks.trained import trained
from whyalike.data.synthetic import BACKGROUND, Scene, digit_scenes

SIZE = 64
WIDTHS = (32, 32, 64, 64, 128, 128)
EMBEDDING = 64
BATCH, STEPS, POOL = 100, 500, 10_000
# The background is 0 in the network's input, so that to hide a pixel is to fill it with 0.
PREPROCESS = wa.Preprocess(size=SIZE, mean=(BACKGROUND / 255,) * 3, std=(0.25,) * 3)


def network() -> nn.Sequential:
    """Six convolutions, 32² 32² 16² 16² 8² 8², each with BatchNorm and ReLU; mean; linear."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for index, width in enumerate(WIDTHS):
        stride = 2 if index % 2 == 0 else 1
        parts[f"layer{index}"] = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        before = width
    parts["pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["project"] = nn.Linear(before, EMBEDDING)
    return nn.Sequential(parts)


def model(layer: str = "layer5") -> wa.EmbeddingModel:
    """The trained network, cut at a layer; the first call trains it, for some minutes."""
    torch.manual_seed(0)
    net = trained("digits-1", network(), train)
    return wa.EmbeddingModel.from_module(net, layer, PREPROCESS)


def train(net: nn.Module) -> None:
    """MultiSimilarity loss (Wang et al., CVPR 2019) on scenes of the first half of the digits."""
    from pytorch_metric_learning.losses import MultiSimilarityLoss

    scenes = digit_scenes(POOL, seed=1, size=SIZE, split="train")
    images, labels = tensors(scenes), torch.tensor([scene.labels[0] for scene in scenes])
    loss_of = MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss = loss_of(net(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def tensors(scenes: list[Scene]) -> Tensor:
    """The network's input, (n, 3, 64, 64)."""
    return torch.stack([PREPROCESS(Image.fromarray(scene.image))[0] for scene in scenes])


def pairs(model: wa.EmbeddingModel, count: int = 120, scenes: int = 600) -> Pairs:
    """Unseen scenes of unseen digits, each with its nearest, which is of its class."""
    known = digit_scenes(scenes, seed=2, size=SIZE)
    boxes = np.array([scene.boxes[0] for scene in known])
    labels = torch.tensor([scene.labels[0] for scene in known])
    return matched(model, tensors(known), boxes, labels, retrieved=True).take(slice(count))
