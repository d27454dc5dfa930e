"""Are maps of the network, and of the pair? What becomes of them as either is another.

Maps are compared by correlation, over the cells of their own grid, before anything is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whyalike.data import Dataset, Sample
from whyalike.errors import DataError, ModelError
from whyalike.evaluate.measures import correlation, rank_correlation
from whyalike.evaluate.methods import Both, Method, named
from whyalike.evaluate.pairing import Pairing
from whyalike.evaluate.photographs import OfPairs, Tell, compared, say, some
from whyalike.images import printable
from whyalike.model import EmbeddingModel

Draw = Callable[[EmbeddingModel, Tensor, Tensor], Mapping[str, Float[Tensor, "h w"]]]
"""(model, query, reference) → maps of the query by name; the images are inputs (3, H, W). It asks
the model that it is given, not one that it keeps."""
LEVELS = (0.05, 0.1, 0.2)
"""Standard deviations of noise, in those of the image."""
STEPS = 6
USUAL = ("decomposition", "sharp", "grad-cam")
PER_CLASS = 2
"""So many photographs of each class, as impostors need several classes."""


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
    model: EmbeddingModel,
    draw: Draw,
    pairs: Sequence[tuple[Tensor, Tensor]],
    images: Float[Tensor, "n 3 H W"],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, list[Step]]:
    """Maps are compared while the weights are drawn again from the head down to the first layer.

    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. Cumulative: each step keeps
    what was forgotten before. A map that stays as it was does not explain the network; edges of the
    image would do. BatchNorm's statistics are set to those of the network as it is then, as values
    would explode or die otherwise, and a map of nothing would look as if it had changed.

    Args:
        model: is left as it is.
        draw: the maps.
        pairs: queries and references, inputs of the network.
        images: to take BatchNorm's statistics of, such as those of the pairs.
        steps: in how many to go through all layers with weights, the first being none.
        seed: of the weights.
    """
    forgetful = deepcopy(model.net)
    layers = [name for name, module in forgetful.named_modules() if _own_weights(module)]
    before = [draw(model, *pair) for pair in pairs]
    generator = torch.Generator().manual_seed(seed)
    # The cumulative share that is forgotten, and the layers that each step adds, from the top.
    edges = np.linspace(0, len(layers), steps).round().astype(int)
    reports = {name: [_compared("", name, before, before)] for name in before[0]}
    now = model.surrogate
    for start, stop in pairwise(edges):
        added = layers[::-1][start:stop]
        if not added:
            continue
        for name in added:
            forget(forgetful.get_submodule(name), generator)
        settle(forgetful, model.to_net(images))
        other = EmbeddingModel.from_module(
            forgetful, model.layer, model.preprocess, surrogate=now.kind, gamma=now.gamma,
            biases=now.biases, affinity=now.affinity,
        ).cut(own=now.own, cells=now.cells)  # fmt: skip
        after = [draw(other, *pair) for pair in pairs]
        for name, report in reports.items():
            report.append(_compared(added[-1], name, before, after))
    return reports


@torch.no_grad()
def forget(module: nn.Module, generator: torch.Generator) -> None:
    """Weights as He et al. (2015) initialise them; BatchNorm's scale 1 and shift 0."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            drawn = torch.empty(parameter.shape, dtype=parameter.dtype)
            parameter.copy_(drawn.normal_(0, (2 / fan_in) ** 0.5, generator=generator))
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


def impostors(E: Float[Tensor, "n d"], labels: np.ndarray) -> Int[np.ndarray, " n"]:
    """Of each image, the nearest of another class; −1 where there is none."""
    unit = torch.nn.functional.normalize(E.double().cpu())
    S = unit @ unit.T
    S[torch.from_numpy(labels[:, None] == labels[None])] = -torch.inf
    best, at = S.max(1)
    found: np.ndarray = torch.where(best == -torch.inf, -1, at).numpy()
    return found


@dataclass(frozen=True)
class Likeness:
    """How a query's map with an impostor compares with that with one of its class.

    Args:
        pearson, spearman: mean correlation of the two maps; 1 for a map that does not look at the
            other image at all.
        told: how often the map with the one of its class has the larger sum; ties count half.
        undefined: share of queries with a constant map, left out of the correlations.
    """

    pearson: float
    spearman: float
    told: float
    undefined: float


def likeness(
    genuine: Sequence[Float[Tensor, "h w"]], impostor: Sequence[Float[Tensor, "h w"]]
) -> Likeness:
    """Maps of the same queries, with one of their class and with one of another."""
    pearson, spearman, _, undefined = _means(genuine, impostor)
    pairs = zip(genuine, impostor, strict=True)
    sums = np.array([[x.double().sum().item() for x in both] for both in pairs])
    # What differs by rounding alone is a tie.
    near = np.isclose(sums[:, 0], sums[:, 1], rtol=1e-6, atol=0)
    told = np.where(near, 0.5, sums[:, 0] > sums[:, 1])
    return Likeness(pearson, spearman, float(told.mean()), undefined)


@dataclass(frozen=True)
class Shaken:
    """What noise in the query's pixels does to its map.

    Args:
        level: standard deviation of the noise, in those of the image.
        pearson, spearman: mean correlation with the map without noise.
        change: |map with noise − map| over |map|, the largest of the draws (max-sensitivity, Yeh et
            al., NeurIPS 2019), the mean over the pairs.
        score: mean absolute change of the cosine.
        undefined: share of maps that are constant, left out of the correlations.
    """

    level: float
    pearson: float
    spearman: float
    change: float
    score: float
    undefined: float


def shaken(
    model: EmbeddingModel,
    draw: Draw,
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    levels: Sequence[float] = LEVELS,
    draws: int = 2,
    seed: int = 0,
) -> dict[str, list[Shaken]]:
    """Maps are compared with those of queries with Gaussian noise, the reference as it was.

    Args:
        model: whose maps they are.
        draw: the maps.
        pairs: queries and references, inputs of the network.
        levels: of the noise.
        draws: of noise, for each pair and level.
        seed: of the noise.
    """
    clean = [draw(model, *pair) for pair in pairs]
    found: dict[str, list[Shaken]] = {name: [] for name in clean[0]}
    for level in levels:
        generator = torch.Generator().manual_seed(seed)
        noisy, scores = [], []
        for x, y in pairs:
            for _ in range(draws):
                drawn = torch.randn(x.shape, generator=generator).to(x)
                shown = x + level * x.std() * drawn
                noisy.append(draw(model, shown, y))
                a, b, other = model.embeddings(torch.stack([x, shown, y])).double()
                two = torch.cosine_similarity(torch.stack([a, b]), other[None])
                scores.append((two[1] - two[0]).abs().item())
        before = [one for one in clean for _ in range(draws)]
        for name, reports in found.items():
            maps = [one[name] for one in before], [one[name] for one in noisy]
            pearson, spearman, _, undefined = _means(*maps)
            moved = [_change(a, b) for a, b in zip(*maps, strict=True)]
            most = np.array(moved).reshape(-1, draws).max(1).mean()
            reports.append(
                Shaken(level, pearson, spearman, float(most), float(np.mean(scores)), undefined)
            )
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Sanity(OfPairs):
    """Of every method, what becomes of its maps of one data set's pairs.

    Args:
        impostors: of each query, the nearest photograph of another class.
        randomised: as the network forgets.
        likeness: as the reference is an impostor.
        shaken: as there is noise in the query.
    """

    impostors: tuple[Sample, ...]
    randomised: dict[str, list[Step]]
    likeness: dict[str, Likeness]
    shaken: dict[str, list[Shaken]]


def evaluate_sanity(
    model: EmbeddingModel,
    data: Dataset,
    methods: Sequence[str] = USUAL,
    *,
    pairing: Pairing = "nearest",
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Sanity:
    """Measure what becomes of maps as the network, the pair or the pixels are others.

    >>> birds = read("cub:CUB_200_2011")  # doctest: +SKIP
    >>> found = evaluate_sanity(model, birds, limit=10)  # doctest: +SKIP
    >>> found.likeness["decomposition"].pearson  # doctest: +SKIP

    Args:
        model: whose maps are measured, at its cut; it is left as it is.
        data: photographs of two classes at least.
        methods, pairing, seed, tell: as for `evaluate_faithfulness`.
        limit: measure about so many photographs, two of each class; by default all.

    Raises:
        DataError: no photograph of the data set can be measured, or all are of one class.
        ModelError: a method cannot be had of this model.
        ValueError: a name that is no method, or no pairing.
    """
    chosen = named(methods)
    samples = some(data, limit, True, PER_CLASS)
    told = compared(model, data, samples, pairing, limit=limit, seed=seed, tell=tell)
    found, queries = told.photographs, told.queries
    other = impostors(torch.cat(found.E), told.labels)
    if (other < 0).any():
        raise DataError(
            f"{printable(data.name)}: an impostor is of another class; there is one class alone"
        )
    draw = _drawing(chosen, seed)
    pairs = [(found.tensor(i), found.tensor(int(told.partner[i]))) for i in queries]
    with_impostors = [(x, found.tensor(int(other[i]))) for (x, _), i in zip(pairs, queries,
                                                                          strict=True)]  # fmt: skip
    say(tell, "comparing maps", 0, 3)
    genuine, false = ([draw(model, *pair) for pair in some] for some in (pairs, with_impostors))
    alike = {name: likeness([x[name] for x in genuine], [x[name] for x in false])
             for name in chosen}  # fmt: skip
    say(tell, "comparing maps", 1, 3)
    noisy = shaken(model, draw, pairs, seed=seed)
    say(tell, "comparing maps", 2, 3)
    shown = np.unique([*queries, *told.partner[queries]])[:32]
    images = torch.stack([found.tensor(int(i)) for i in shown])
    forgot = randomised(model, draw, pairs, images, seed=seed)
    say(tell, "comparing maps", 3, 3)
    return Sanity(
        **told.of_pairs,
        impostors=tuple(found.samples[i] for i in other[queries]),
        randomised=forgot,
        likeness=alike,
        shaken=noisy,
    )


def _drawing(chosen: Mapping[str, Method], seed: int) -> Draw:
    """All the maps of a pair, each network made sharp once."""
    sharpened = cache(lambda model: cache(model.sharp))

    def draw(model: EmbeddingModel, query: Tensor, reference: Tensor) -> Mapping[str, Tensor]:
        both = Both(model, sharpened(model), query, reference, seed=seed)
        maps = {}
        for name, method in chosen.items():
            try:
                maps[name] = method(both).detach().cpu()
            except ModelError as error:
                raise ModelError(f"{name}: {error}; leave it out of the methods") from error
        return maps

    return draw


def _change(before: Tensor, after: Tensor) -> float:
    before, after = before.detach().double(), after.detach().double()
    return ((after - before).norm() / before.norm()).item()


def _own_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _compared(
    forgotten: str,
    name: str,
    before: Sequence[Mapping[str, Tensor]],
    after: Sequence[Mapping[str, Tensor]],
) -> Step:
    maps = [one[name] for one in before], [one[name] for one in after]
    pearson, spearman, absolute, undefined = _means(*maps)
    return Step(forgotten, pearson, spearman, absolute, undefined=undefined)


def _means(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[float, float, float, float]:
    """Pearson's, Spearman's and that of absolute values; and what share has none of them."""
    found = np.array(
        [
            (correlation(a, b), rank_correlation(a, b), rank_correlation(a.abs(), b.abs()))
            for a, b in zip(before, after, strict=True)
        ]
    )
    undefined: Bool[np.ndarray, " n"] = np.isnan(found).any(1)
    means = found[~undefined].mean(0) if not undefined.all() else [np.nan] * 3
    pearson, spearman, absolute = map(float, means)
    return pearson, spearman, absolute, float(undefined.mean())
