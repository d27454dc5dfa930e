"""What does it cost to explain a pair, compared with embedding its two images?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import whyalike as wa
from benchmarks import networks
from benchmarks.tables import Table, verdict
from benchmarks.timing import alternate, milliseconds, ratio

AIM = 1.06
ROUNDS = 40

ABOUT = f"""\
Explaining: `explain_pair` of two ready-made tensors at {networks.SIZE} px (one batch of two), both
overall maps and the pair matrix. Embedding: the bare network on the same batch, without gradients.
The two take turns for {ROUNDS} rounds; a ratio is of one round; medians, and the 10th to the 90th
percentile. "Embedding again" is the ratio of the bare network to itself, in the same rounds: the
noise of the measurement. The aim is {AIM} for ResNet-50 with a mean and a linear head."""


class Explained(NamedTuple):
    """All that is timed: the pair, both overall maps and the matrix."""

    pair: wa.Pair
    query_map: Tensor
    reference_map: Tensor
    matrix: Tensor


def explain(model: wa.EmbeddingModel, images: Tensor) -> Explained:
    """Why two images are alike."""
    pair = wa.explain_pair(model, images[0], images[1])
    return Explained(pair, pair.overall_map("query"), pair.overall_map("reference"), pair.matrix())


def embed(net: nn.Module, images: Tensor) -> Tensor:
    """The bare network."""
    with torch.no_grad():
        return net(images)


CASES: dict[str, tuple[Callable[[], wa.EmbeddingModel], str]] = {
    "ResNet-50, mean, linear": (lambda: _model(networks.resnet50()), "→ mean → Linear"),
    "ResNet-50, max, linear": (
        lambda: _model(networks.resnet50(nn.AdaptiveMaxPool2d(1))),
        "→ max → Linear",
    ),
    "ResNet-50, GeM, linear": (
        lambda: _model(networks.resnet50(networks.GeM())),
        "→ gem(p=3) → Linear",
    ),
    "VGG-16, flatten, linear": (lambda: _model(networks.vgg16()), "→ flatten → Linear"),
    "EfficientNet-Lite0, mean (the default)": (wa.load, "→ mean → embedding"),
}


def run() -> Table:
    """Time every network."""
    rows = []
    for name, (make, head) in CASES.items():
        model, images = make(), networks.two_images()
        assert head in model.description, model  # the fast path is what is timed
        check(explain(model, images), embed(model.net, images))
        base, again, ours = alternate(
            lambda net=model.net, images=images: embed(net, images),
            lambda net=model.net, images=images: embed(net, images),
            lambda model=model, images=images: explain(model, images),
            rounds=ROUNDS,
        )
        cost = ratio(ours, base)
        aim = verdict(cost.median, AIM) if name.startswith("ResNet-50, mean") else ""
        rows.append([name, milliseconds(base), str(ratio(again, base)), str(cost), aim])
    columns = ["network and head", "embedding, ms", "embedding again", "explaining", "aim"]
    return Table("Explaining a pair / embedding it", ABOUT, columns, rows)


def check(explained: Explained, E: Tensor) -> None:
    """Hold what is timed to the bare network's embeddings."""
    pair, query_map, reference_map, matrix = explained
    cosine = torch.cosine_similarity(E[0], E[1], dim=0).item()
    assert abs(pair.similarity - cosine) < 1e-4, (pair, cosine)
    assert abs(sum(pair.terms) - cosine) < 1e-4, (pair, cosine)
    for values in (query_map, reference_map, matrix):
        assert abs(values.sum().item() - pair.terms.pairs) < 1e-3, (values.sum(), pair)


def _model(net: nn.Module) -> wa.EmbeddingModel:
    return wa.EmbeddingModel.from_module(net)
