"""Models side by side on one data set: section VI-C of the paper, and the shortcut found.

What a model finds again on its training data and on what it has not seen; whether its maps lie on
the object there; which part of the image carries its scores; where models look that do not agree;
and which places decide their wrong matches (`whyalike.evaluate.shortcuts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from whyalike.data import Dataset, Sample
from whyalike.draw import on_photograph
from whyalike.errors import DataError
from whyalike.evaluate.localization import Localization, evaluate_localization
from whyalike.evaluate.pairing import Rivals, partners, rivals
from whyalike.evaluate.photographs import Photographs, Tell, say, some
from whyalike.evaluate.retrieval import Retrieval, retrieval
from whyalike.evaluate.shortcuts import Shortcuts, find_shortcuts
from whyalike.geometry import Frame
from whyalike.images import printable
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair

BORDER = 1 / 8
"""The border is so much of each side of what the network sees."""
GRID = 32
"""Maps of different models are compared on so many cells a side of the photograph."""
DIFFERING = 6
LOCATED = ("decomposition", "decomposition+bias")
TRAIN, VALIDATION = "train", "validation"


class Shares(NamedTuple):
    """Which part of the image carries the score: means over pairs, in units of cosine.

    `objects`, `border`, `elsewhere` and `biases` add up to `score`. The border is the outermost
    eighth of each side, where the object is not. `object_area`, `border_area`: how much of what the
    network sees they are. The object's are None where a box is not known; it is in the rest then.
    """

    score: float
    objects: float | None
    border: float
    elsewhere: float
    biases: float
    object_area: float | None
    border_area: float


@dataclass(frozen=True, eq=False)
class Part:
    """What a model does with one part of the data.

    Args:
        images: so many photographs.
        retrieval: each of them searched for among the others.
        shares: what carries the score, over the pairs that all models are shown.
        maps: of each pair, what the query's cells carry, for the match or against it, with sum 1,
            on 32×32 cells of the photograph; None where they carry nothing.
    """

    images: int
    retrieval: Retrieval
    shares: Shares
    maps: tuple[Float[np.ndarray, "GRID GRID"] | None, ...]


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """What was found of one model.

    Args:
        model: it.
        parts: of the data, by name.
        located: where its maps lie on the training data; None where no boxes are known.
        shortcuts: which places decide its wrong matches.
        left_out: photographs that could not be measured, and why.
    """

    model: EmbeddingModel
    parts: dict[str, Part]
    located: Localization | None
    shortcuts: Shortcuts
    left_out: tuple[tuple[str, str], ...]


class Differing(NamedTuple):
    """A pair of photographs, and how far apart two models look: 0 for alike, 1 for elsewhere."""

    part: str
    query: Sample
    reference: Sample
    distance: float


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Some models on one data set.

    Args:
        data: by name, "train" and mostly "validation".
        models: by name.
        differing: pairs of the data where two models look most differently, those first.
        distance: the mean over all pairs, of the two models that differ most; None for one model.
        limit, seed: as they were asked for.
    """

    data: dict[str, Dataset]
    models: dict[str, Diagnosed]
    differing: tuple[Differing, ...]
    distance: float | None
    limit: int | None
    seed: int

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Photographs that could not be measured for some model, and why."""
        return tuple(dict.fromkeys(one for each in self.models.values() for one in each.left_out))


def diagnose(
    models: Mapping[str, EmbeddingModel],
    train: Dataset,
    validation: Dataset | None = None,
    *,
    limit: int | None = 300,
    most: int = 300,
    seed: int = 0,
    tell: Tell | None = None,
) -> Diagnosis:
    """Compare models on one data set, and look for what leads them astray.

    >>> seen, unseen = read("cub:CUB_200_2011").halves()  # doctest: +SKIP
    >>> diagnose({"a": a, "b": b}, seen, unseen).models["a"].shortcuts.found  # doctest: +SKIP

    Args:
        models: by the names that they are to have.
        train: what they were trained on.
        validation: what they were not; without it, only the training data is looked at.
        limit: take about so many photographs of each: ten of each class, of classes spread evenly.
            A smaller gallery is an easier one: recalls of different limits cannot be compared.
        most: look for shortcuts in so many wrong matches by lot.
        seed: of what is random.
        tell: is called as the work goes on.

    Raises:
        DataError: of some data, no photograph can be measured, or no two are of one class.
        ModelError: a model has no Preprocess.
        ValueError: no model.
    """
    if not models:
        raise ValueError("a diagnosis takes one model or more; came none")
    data = {TRAIN: train} | ({} if validation is None else {VALIDATION: validation})
    samples = {name: some(one, limit, True) for name, one in data.items()}
    seen: dict[str, dict[str, Photographs]] = {}
    for name, model in models.items():
        seen[name] = {
            part: Photographs(model, these, _telling(tell, name)) for part, these in samples.items()
        }
    pairs = {
        part: _pairs(one, [seen[name][part] for name in models], seed) for part, one in data.items()
    }
    found = {
        name: _of_model(model, train, seen[name], pairs, limit, most, seed, _telling(tell, name))
        for name, model in models.items()
    }
    differing, distance = _differing(found, pairs)
    return Diagnosis(data, found, differing, distance, limit, seed)


def _telling(tell: Tell | None, name: str) -> Tell | None:
    """What is being done, and with which model."""
    if tell is None:
        return None
    return lambda what, done, total: tell(f"{name}: {what}", done, total)


def _pairs(data: Dataset, seen: Sequence[Photographs], seed: int) -> list[tuple[Sample, Sample]]:
    """Each photograph that all models can see, with another of its class by lot."""
    shared = set.intersection(*({str(one.path) for one in each.samples} for each in seen))
    samples = [one for one in seen[0].samples if str(one.path) in shared]
    if not samples:
        reasons = sorted({reason for each in seen for _, reason in each.left_out})
        raise DataError(
            f"{printable(data.name)}: no photograph can be measured: "
            f"{'; '.join(reasons) or 'none has a class'}"
        )
    labels = np.array([one.label for one in samples])
    partner, _ = partners(torch.zeros(len(samples), 1), labels, "random", seed=seed)
    found = [(samples[i], samples[k]) for i, k in enumerate(partner) if k >= 0]
    if not found:
        raise DataError(f"{printable(data.name)}: no two photographs are of one class")
    return found


def _of_model(
    model: EmbeddingModel,
    train: Dataset,
    seen: dict[str, Photographs],
    pairs: dict[str, list[tuple[Sample, Sample]]],
    limit: int | None,
    most: int,
    seed: int,
    tell: Tell | None,
) -> Diagnosed:
    parts: dict[str, Part] = {}
    splits: dict[str, tuple[Photographs, Rivals]] = {}
    for part, found in seen.items():
        E, labels = torch.cat(found.E), [one.label for one in found.samples]
        shares, maps = _carried(found, pairs[part], tell, part)
        parts[part] = Part(len(E), retrieval(E, labels, ks=_ks(len(E))), shares, maps)
        splits[part] = found, rivals(E, np.array(labels))
    located = None
    if any(one.box_xyxy for one in seen[TRAIN].samples):
        located = evaluate_localization(model, train, LOCATED, limit=limit, seed=seed, tell=tell)
    shortcuts = find_shortcuts(model, splits, most=most, seed=seed, tell=tell)
    left_out = tuple(dict.fromkeys(one for each in seen.values() for one in each.left_out))
    return Diagnosed(model, parts, located, shortcuts, left_out)


def _ks(images: int) -> list[int]:
    return [k for k in (1, 2, 4, 8) if k < images]


def _carried(
    found: Photographs, pairs: Sequence[tuple[Sample, Sample]], tell: Tell | None, part: str
) -> tuple[Shares, tuple[Float[np.ndarray, "GRID GRID"] | None, ...]]:
    """What carries the scores of some pairs, and where their queries' maps lie."""
    index = {str(one.path): i for i, one in enumerate(found.samples)}
    sums = np.zeros(4)
    areas = np.zeros(2)
    maps = []
    boxed = all(query.box_xyxy is not None for query, _ in pairs)
    for done, (query, reference) in enumerate(pairs):
        say(tell, f"explaining pairs ({part})", done, len(pairs))
        q, r = (found.explained(index[str(one.path)]) for one in (query, reference))
        pair = Pair(q, r)
        values = pair.overall_map("query")
        weights = parts_of(q.frame, query if boxed else None)
        carried = (weights * values.detach().cpu().double().numpy()).sum((1, 2))
        sums += [*carried, pair.similarity - carried.sum()]
        areas += weights[:2].mean((1, 2))
        maps.append(spread(values, q.frame))
    say(tell, f"explaining pairs ({part})", len(pairs), len(pairs))
    objects, border, elsewhere, biases = (sums / len(pairs)).tolist()
    object_area, border_area = (areas / len(pairs)).tolist()
    score = float(sums.sum() / len(pairs))
    known = (objects, object_area) if boxed else (None, None)
    shares = Shares(score, known[0], border, elsewhere, biases, known[1], border_area)
    return shares, tuple(maps)


def parts_of(frame: Frame, sample: Sample | None) -> Float[np.ndarray, "3 h w"]:
    """How much of each cell is object, border and elsewhere; the three add up to 1.

    Args:
        frame: of the cells.
        sample: whose box is the object; None for no object.
    """
    x0, y0, x1, y1 = frame.view_xyxy
    dx, dy = BORDER * (x1 - x0), BORDER * (y1 - y0)
    inner = frame.box_coverage((x0 + dx, y0 + dy, x1 - dx, y1 - dy))
    objects = np.zeros_like(inner)
    if sample is not None and sample.box_xyxy is not None:
        objects = frame.box_coverage(sample.box_xyxy)
    return np.stack([objects, (1 - objects) * (1 - inner), (1 - objects) * inner])


def spread(
    values: Float[torch.Tensor, "h w"], frame: Frame
) -> Float[np.ndarray, "GRID GRID"] | None:
    """A map's absolute values, as shares of their sum, on a grid over the photograph."""
    big = np.abs(np.nan_to_num(on_photograph(values, frame, (GRID, GRID))))
    total = big.sum()
    return big / total if total > 0 else None


def distance(a: Float[np.ndarray, "h w"], b: Float[np.ndarray, "h w"]) -> float:
    """Total variation: how much of one map would have to be moved to make it the other, 0 to 1."""
    return float(np.abs(a - b).sum() / 2)


def _differing(
    found: Mapping[str, Diagnosed], pairs: Mapping[str, Sequence[tuple[Sample, Sample]]]
) -> tuple[tuple[Differing, ...], float | None]:
    """The pairs of photographs where two models look most differently, and the mean distance."""
    if len(found) < 2:
        return (), None
    apart: dict[tuple[str, str], list[float]] = {}
    most: list[Differing] = []
    for part, these in pairs.items():
        for at, (query, reference) in enumerate(these):
            maps = {name: one.parts[part].maps[at] for name, one in found.items()}
            far = []
            for a, b in combinations(maps, 2):
                first, second = maps[a], maps[b]
                if first is not None and second is not None:
                    far.append(distance(first, second))
                    apart.setdefault((a, b), []).append(far[-1])
            if far:
                most.append(Differing(part, query, reference, max(far)))
    most.sort(key=lambda one: -one.distance)
    mean = max((float(np.mean(one)) for one in apart.values()), default=None)
    return tuple(most[:DIFFERING]), mean
