"""Does a map depend on what the network has learned? (Adebayo et al., "Sanity checks", 2018)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import whyalike as wa
from benchmarks.pairs import Method, Pairs
from whyalike.evaluate.measures import correlation, rank_correlation


@dataclass(frozen=True)
class Step:
    """How alike maps are to those of the trained network, after some of it was forgotten.

    Args:
        forgotten: the name of the part that lost its weights last; "" before anything did.
        pearson, spearman: mean correlation over the pairs, signed.
        absolute: Spearman's of the absolute values.
        undefined: share of pairs with a constant map, which has no correlation and is left out.
    """

    forgotten: str
    pearson: float
    spearman: float
    absolute: float
    undefined: float


def randomised(
    model: wa.EmbeddingModel,
    method: Method,
    pairs: Pairs,
    *,
    steps: int = 8,
    seed: int = 0,
) -> list[Step]:
    """Maps are compared while the weights are drawn again from the head down to the first layer.

    Cumulative: each step keeps what was forgotten before. A map that stays as it was does not
    explain the network; edges of the image would do. BatchNorm's statistics are set to those of
    the network as it is then, on the images of the pairs, as values would explode or die otherwise,
    and a map of nothing would look as if it had changed.

    Args:
        method: it must ask the model that it is given, not one that it keeps.
        steps: in how many to go through all layers with weights, the first being none.
    """
    forgetful = deepcopy(model.net)
    layers = [name for name, module in forgetful.named_modules() if _own_weights(module)]
    before = [_map(model, method, pairs, i) for i in range(len(pairs))]
    shown = pairs.images[np.unique([*pairs.query, *pairs.reference])][:32]
    generator = torch.Generator().manual_seed(seed)
    # The cumulative share that is forgotten, and the layers that each step adds, from the top.
    edges = np.linspace(0, len(layers), steps).round().astype(int)
    reports = [_compared("", before, before)]
    for start, stop in pairwise(edges):
        added = layers[::-1][start:stop]
        for name in added:
            forget(forgetful.get_submodule(name), generator)
        settle(forgetful, shown)
        other = wa.EmbeddingModel.from_module(forgetful, model.layer, model.preprocess)
        after = [_map(other, method, pairs, i) for i in range(len(pairs))]
        reports.append(_compared(added[-1], before, after))
    return reports


@torch.no_grad()
def forget(module: nn.Module, generator: torch.Generator) -> None:
    """Weights as He et al. (2015) initialise them; BatchNorm's scale 1 and shift 0."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        else:
            parameter.fill_(1.0 if name == "weight" else 0.0)


@torch.no_grad()
def settle(net: nn.Module, images: Tensor) -> None:
    """BatchNorm's statistics from these images."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _own_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _map(model: wa.EmbeddingModel, method: Method, pairs: Pairs, index: int) -> Tensor:
    query, reference = pairs.images[pairs.query[index]], pairs.images[pairs.reference[index]]
    found = method(model, query, reference)
    return found[0] if isinstance(found, tuple) else found


def _compared(forgotten: str, before: list[Tensor], after: list[Tensor]) -> Step:
    both = list(zip(before, after, strict=True))
    found = np.array(
        [
            (correlation(a, b), rank_correlation(a, b), rank_correlation(a.abs(), b.abs()))
            for a, b in both
        ]
    )
    undefined = np.isnan(found).any(1)
    means = found[~undefined].mean(0) if not undefined.all() else [np.nan] * 3
    return Step(forgotten, *map(float, means), undefined=float(undefined.mean()))
