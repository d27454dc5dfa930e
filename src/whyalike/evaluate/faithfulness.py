"""Do scores hang on what maps show? Pixels of many pairs are hidden, and scores measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whyalike.data import Dataset
from whyalike.errors import ModelError, OutputError
from whyalike.evaluate import perturbation as perturb
from whyalike.evaluate.measures import to_image
from whyalike.evaluate.methods import Both, Method, named
from whyalike.evaluate.pairing import Pairing
from whyalike.evaluate.perturbation import Fill
from whyalike.evaluate.photographs import OfPairs, Tell, compared, say, some
from whyalike.model import EmbeddingModel

USUAL = ("decomposition", "sharp", "grad-cam")
"""Methods that are measured where nothing is named; each takes hundreds of passes a pair."""
FILLS: tuple[Fill, ...] = ("grey", "blur")
BOXES = 64
VECTORS = ("v removed", "v replaced")
"""Predictions of the decomposition that are no map's: the cosine of E − Σv, taken anew; and the
same with Σv of what is seen instead."""


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What becomes of the scores as a method's maps say what to hide.

    Args:
        curves: scores as pixels go and as they come, of the query alone and of both images:
            (pairs, fills, query or both, going or coming, steps).
        road: the score without the least pixels less that without the most, imputed.
        predicted: by how much the score changes as boxes are hidden, by the map.
    """

    curves: Float[np.ndarray, "pairs fills 2 2 steps"]
    road: Float[np.ndarray, " pairs"]
    predicted: Float[np.ndarray, "pairs boxes"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Faithfulness(OfPairs):
    """Of every method, how the scores of one data set's pairs hang on what its maps show.

    Args:
        methods: by name.
        fills: what was put in place of hidden pixels, in the order of the curves.
        measured: by how much scores change as boxes are hidden, with each fill.
        vectors: the same as the decomposition predicts it, see `VECTORS`.
    """

    methods: dict[str, Perturbed]
    fills: tuple[Fill, ...]
    measured: Float[np.ndarray, "pairs fills boxes"]
    vectors: dict[str, Float[np.ndarray, "pairs fills boxes"]]

    def areas(self, method: str, fill: Fill) -> dict[str, float]:
        """Mean areas under the score, and ROAD.

        deletion, insertion: of the query, the reference held fixed. deletion_both, insertion_both:
        of both images at once, each by its own map.
        """
        one = self.methods[method]
        curves = torch.from_numpy(one.curves[:, self.fills.index(fill)])
        (deletion, insertion), both = perturb.area(curves).mean(0).tolist()
        return {"deletion": deletion, "insertion": insertion, "deletion_both": both[0],
                "insertion_both": both[1], "road": float(one.road.mean())}  # fmt: skip

    def agreements(self, fill: Fill) -> dict[str, dict[str, float | None]]:
        """How well changes are predicted, by each method's map and by the decomposition's vectors.

        Means over the pairs, of those of which the measure is defined; None if that is none.
        """
        at = self.fills.index(fill)
        said = {name: self.vectors[name][:, at] for name in self.vectors}
        said |= {name: one.predicted for name, one in self.methods.items()}
        return {name: _mean_agreement(one, self.measured[:, at]) for name, one in said.items()}


def evaluate_faithfulness(
    model: EmbeddingModel,
    data: Dataset,
    methods: Sequence[str] = USUAL,
    *,
    fills: Sequence[Fill] = FILLS,
    pairing: Pairing = "nearest",
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Faithfulness:
    """Measure how scores hang on what maps show.

    >>> birds = read("cub:CUB_200_2011")  # doctest: +SKIP
    >>> found = evaluate_faithfulness(model, birds, ["decomposition"], limit=20)  # doctest: +SKIP
    >>> found.areas("decomposition", "blur"), found.agreements("blur")  # doctest: +SKIP

    Args:
        model: whose maps are measured, at its cut.
        data: photographs with labels.
        methods: their names in `whyalike.evaluate.methods`; those that know nothing of the images
            are always measured, too.
        fills: what is put in place of hidden pixels, see `perturbation.filling`.
        pairing: the reference of each query, as for `evaluate_localization`.
        limit: measure about so many photographs; by default all.
        seed: of what is random.
        tell: is called as the work goes on.

    Raises:
        DataError: no photograph of the data set can be measured.
        ModelError: a method cannot be had of this model.
        ValueError: a name that is no method, no fill or no pairing.
    """
    chosen, kinds = named(methods), tuple(dict.fromkeys(fills))
    for fill in kinds:
        perturb.filling(torch.zeros(3, 1, 1), fill)  # its name, before anything takes time
    samples = some(data, limit, pairing != "self")
    told = compared(model, data, samples, pairing, limit=limit, seed=seed, tell=tell)
    found = told.photographs
    pairs = [(int(i), int(told.partner[i])) for i in told.queries]
    sharp = cache(model.sharp)
    rows: dict[str, list[tuple[np.ndarray, float, np.ndarray]]] = {name: [] for name in chosen}
    measured, vectors = [], []
    for done, (query, reference) in enumerate(pairs):
        say(tell, "hiding pixels", done, len(pairs))
        both, back = (found.both(sharp, *of, seed) for of in ((query, reference),
                                                              (reference, query)))  # fmt: skip
        asked = _Asked(model, both, back, kinds, seed)
        measured.append(asked.changes())
        vectors.append(asked.by_vectors())
        for name, method in chosen.items():
            rows[name].append(asked.of(name, method))
    say(tell, "hiding pixels", len(pairs), len(pairs))
    return Faithfulness(
        **told.of_pairs,
        methods={name: _stacked(some_rows) for name, some_rows in rows.items()},
        fills=kinds,
        measured=np.stack(measured),
        vectors={name: np.stack([one[name] for one in vectors]) for name in VECTORS},
    )


class _Asked:
    """One pair, of which pixels are hidden."""

    def __init__(
        self, model: EmbeddingModel, both: Both, back: Both, fills: Sequence[Fill], seed: int
    ) -> None:
        self.model, self.both, self.back, self.seed = model, both, back, seed
        self.x, self.y = both.query, both.reference
        self.E = self.embed(self.y[None])
        self.hidden = {f: (perturb.filling(self.x, f), perturb.filling(self.y, f)) for f in fills}
        self.boxes = perturb.random_boxes(self.x.shape[1:], BOXES, perturb.seed_of(self.x, seed))

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "k 3 H W"]) -> Float[Tensor, "k d"]:
        """Of hidden images, too, of which nothing may be left: the cosine of that is 0."""
        found = [self.model(self.model.to_net(part)) for part in images.split(perturb.BATCH)]
        return torch.cat(found).double().cpu()

    def score(self, images: Float[Tensor, "k 3 H W"]) -> Float[Tensor, " k"]:
        return torch.cosine_similarity(self.embed(images), self.E)

    def changes(self) -> Float[np.ndarray, "fills boxes"]:
        """Measured, as boxes of the query are hidden."""
        return np.stack([
            perturb.measured_changes(self.score, self.x, self.boxes, hidden)
            for hidden, _ in self.hidden.values()
        ])  # fmt: skip

    def by_vectors(self) -> Mapping[str, Float[np.ndarray, "fills boxes"]]:
        """As the decomposition predicts it: with Σv gone, and with another in its place."""
        query, other = self.both.pair.query, self.both.embedding
        gone = perturb.changes_by_vectors(query, other, self.boxes)
        replaced = []
        for hidden, _ in self.hidden.values():
            try:
                seen = self.model.explain(hidden)
            except OutputError:  # nothing can be said of it, such as where it has no embedding
                replaced.append(np.full(len(self.boxes), np.nan))
            else:
                replaced.append(perturb.changes_by_vectors(query, other, self.boxes, seen))
        return dict(zip(VECTORS, (np.stack([gone] * len(replaced)), np.stack(replaced)),
                        strict=True))  # fmt: skip

    def of(self, name: str, method: Method) -> tuple[np.ndarray, float, np.ndarray]:
        """Curves, ROAD and predicted changes of one method."""
        try:
            values, others = method(self.both), method(self.back)
        except ModelError as error:
            raise ModelError(f"{name}: {error}; leave it out of the methods") from error
        maps = [to_image(v, x.shape[1:]) for v, x in ((values, self.x), (others, self.y))]
        curves = []
        for hidden in self.hidden.values():
            queries, references = (
                self.embed(perturb.stages(x, m, h).flatten(0, 1))
                for x, m, h in zip((self.x, self.y), maps, hidden, strict=True)
            )
            scores = [torch.cosine_similarity(queries, to) for to in (self.E, references)]
            curves.append(torch.stack(scores).unflatten(1, (2, -1)).numpy())
        road = perturb.road(self.score, self.x, maps[0], seed=self.seed)
        predicted = perturb.changes_by_map(values, self.boxes, self.x.shape[1:])
        return np.stack(curves), road, predicted


def _stacked(rows: Sequence[tuple[np.ndarray, float, np.ndarray]]) -> Perturbed:
    curves, road, predicted = zip(*rows, strict=True)
    return Perturbed(np.stack(curves), np.array(road), np.stack(predicted))


def _mean_agreement(
    predicted: Float[np.ndarray, "pairs boxes"], measured: Float[np.ndarray, "pairs boxes"]
) -> dict[str, float | None]:
    each = np.array([perturb.agreement(p, m) for p, m in zip(predicted, measured, strict=True)])
    found: dict[str, float | None] = {}
    for name, column in zip(perturb.Agreement._fields, each.T, strict=True):
        known = column[~np.isnan(column)]
        found[name] = float(known.mean()) if len(known) else None
    return found
