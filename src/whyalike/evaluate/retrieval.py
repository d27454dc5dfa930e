"""Retrieval: who is ranked first, and how much of it is right.

Nothing here is as large as the gallery times the queries: rows are taken in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_BYTES = 64 << 20
"""Scores that are held at once take at most so much, or a row if that takes more."""


@dataclass(frozen=True)
class Interval:
    """A mean over queries and where it may lie.

    Args:
        mean: of the values.
        low, high: the ends of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well embeddings find their like, as means over the queries that have any.

    Args:
        recall: for each k, the share of queries with one of their class among the first k (R@k).
        map_at_r: MAP@R (Musgrave et al., "A Metric Learning Reality Check", ECCV 2020).
        r_precision: the share of a query's class among its first R, R being how many there are.
        queries: how many queries counted.
        lone: how many were left out, as the gallery has none of their class.
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    queries: int
    lone: int

    def __str__(self) -> str:
        recalls = ", ".join(f"R@{k} {100 * value:.1f}" for k, value in self.recall.items())
        return f"{recalls}, MAP@R {100 * self.map_at_r:.1f} ({self.queries:,} queries)"


def nearest(
    queries: Float[Tensor, "q d"],
    gallery: Float[Tensor, "n d"],
    k: int,
    own: Int[Tensor, " q"] | None = None,
) -> Int[Tensor, "q k"]:
    """The first k of a gallery for each query, by the inner product with unit embeddings.

    A query may have any length, so it may be an embedding, or the vector of a region.

    Args:
        queries: one a row.
        gallery: embeddings, which are brought to length 1 here.
        k: how many; at most n, or n − 1 where queries are of the gallery.
        own: for each query its own row in the gallery, which is left out; None where it has none.

    Returns:
        Rows of the gallery. Equal scores are in an order by lot (seeded), so that a model which
        embeds all alike gains nothing from the order of the files.
    """
    return torch.cat([ranks for _, ranks in _ranked(queries, gallery, k, own)])


def retrieval(
    embeddings: Float[Tensor, "q d"],
    labels: Sequence[object],
    gallery: Float[Tensor, "n d"] | None = None,
    gallery_labels: Sequence[object] | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
) -> Retrieval:
    """Recall@K, MAP@R and R-precision of embeddings by their cosine.

    >>> E = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> retrieval(E, ["a", "a", "b", "b"], ks=[1]).recall
    {1: 1.0}

    Args:
        embeddings: of the queries, of any length.
        labels: the class of each, anything that can be compared.
        gallery: what is searched; by default the queries themselves, each without itself.
        gallery_labels: the class of each of the gallery.
        ks: the K of Recall@K.

    Raises:
        ValueError: as many labels as embeddings are needed, and a query with one of its class.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("a gallery comes with its labels; give both, or neither")
    own = torch.arange(len(embeddings)) if gallery is None else None
    classes, gallery_classes = _classes(embeddings, labels, gallery, gallery_labels)
    counts = torch.bincount(gallery_classes, minlength=int(classes.max()) + 1)[classes]
    relevant = counts - (0 if own is None else 1)
    kept = relevant > 0
    if not kept.any():
        raise ValueError("no query has another image of its class in the gallery")
    searched = embeddings if gallery is None else gallery
    most = len(searched) - (0 if own is None else 1)
    depth = min(max(*ks, int(relevant.max()), 1), most)
    found = torch.zeros(len(ks) + 2, dtype=torch.float64)
    rows = _ranked(embeddings[kept], searched, depth, None if own is None else own[kept])
    for start, ranks in rows:
        stop = start + len(ranks)
        hits = gallery_classes[ranks] == classes[kept][start:stop, None]
        R = relevant[kept][start:stop]
        found += torch.stack(
            [
                *(hits[:, :k].any(1).double().sum() for k in ks),
                average_precision_at_r(hits, R).sum(),
                (_within(hits, R).sum(1) / R).sum(),
            ]
        )
    count = int(kept.sum())
    *recalls, map_at_r, r_precision = (found / count).tolist()
    of_k = dict(zip(map(int, ks), recalls, strict=True))
    return Retrieval(of_k, map_at_r, r_precision, count, len(embeddings) - count)


def recall_at_k(embeddings: Float[Tensor, "n d"], labels: Sequence[object], k: int = 1) -> float:
    """The share of images with one of their class among the k nearest others (R@k)."""
    return retrieval(embeddings, labels, ks=[k]).recall[k]


def map_at_r(embeddings: Float[Tensor, "n d"], labels: Sequence[object]) -> float:
    """Mean average precision at R, over images as queries for the others of their class."""
    return retrieval(embeddings, labels, ks=[1]).map_at_r


def average_precision_at_r(
    relevant: Bool[Tensor, "q k"], count: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Σ of the precision at each right hit among the first R, over R, query by query.

    Args:
        relevant: whether the hit at each rank is right; at least as many ranks as the largest R.
        count: R, how many right ones there are.
    """
    hits = _within(relevant, count).double()
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (precision * hits).sum(1) / count


def precision_at_k(relevant: Bool[Tensor, "q n"], k: int) -> Float[Tensor, " q"]:
    """The share of right ones among the first k, query by query.

    >>> precision_at_k(torch.tensor([[True, False, True, True]]), 3)
    tensor([0.6667], dtype=torch.float64)

    Args:
        relevant: whether the hit at each rank is right, as `nearest` ranks them.
        k: at most as many as there are ranks.

    Raises:
        ValueError: there are fewer ranks than k.
    """
    if not 1 <= k <= relevant.shape[1]:
        raise ValueError(f"k is from 1 to the {relevant.shape[1]} ranks that are there; came {k}")
    return relevant[:, :k].double().mean(1)


def bootstrap(
    values: Float[Tensor, " q"] | Float[np.ndarray, " q"],
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of values and its percentile interval, as queries are drawn anew with replacement.

    Of two searches, give the differences query by query: where the interval does not hold 0, one of
    them is better on queries such as these.

    Args:
        values: one for each query.
        groups: queries of one group are drawn together, as those of one photograph should be.
        level: how much of the draws the interval holds.
        draws: how many times.
        seed: of the draws.

    Raises:
        ValueError: there are no values, or another number of groups.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("an interval takes one finite number for each query, and at least one")
    names = range(len(numbers)) if groups is None else groups
    if len(names) != len(numbers):
        raise ValueError(f"{len(numbers)} values have as many groups; came {len(names)}")
    _, of = np.unique(np.array([str(one) for one in names]), return_inverse=True)
    sums, sizes = np.bincount(of, numbers), np.bincount(of)
    random = np.random.default_rng(seed)
    rows = max(1, 1_000_000 // len(sums))
    drawn = np.concatenate(
        [
            sums[chosen].sum(1) / sizes[chosen].sum(1)
            for start in range(0, draws, rows)
            for chosen in [random.integers(len(sums), size=(min(rows, draws - start), len(sums)))]
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high))


def _classes(
    embeddings: Tensor,
    labels: Sequence[object],
    gallery: Tensor | None,
    gallery_labels: Sequence[object] | None,
) -> tuple[Int[Tensor, " q"], Int[Tensor, " n"]]:
    """Labels of any kind as numbers."""
    pairs = [(embeddings, labels)]
    if gallery is not None and gallery_labels is not None:
        pairs.append((gallery, gallery_labels))
    numbers: dict[object, int] = {}
    found = []
    for rows, names in pairs:
        if len(rows) != len(names) or not len(rows):
            raise ValueError(
                f"each embedding has one label, and there is at least one; came {len(rows)} "
                f"embeddings and {len(names)} labels"
            )
        plain = names.tolist() if isinstance(names, Tensor | np.ndarray) else names
        found.append(torch.tensor([numbers.setdefault(x, len(numbers)) for x in plain]))
    return found[0], found[-1]


def _within(hits: Bool[Tensor, "q k"], count: Int[Tensor, " q"]) -> Bool[Tensor, "q k"]:
    """Hits among the first R."""
    return hits & (torch.arange(hits.shape[1], device=hits.device) < count[:, None])


def _ranked(
    queries: Float[Tensor, "q d"],
    gallery: Float[Tensor, "n d"],
    k: int,
    own: Int[Tensor, " q"] | None,
) -> Iterator[tuple[int, Int[Tensor, "rows k"]]]:
    """Chunks of queries: the first row of each, and the ranks."""
    n = len(gallery)
    if not 1 <= k <= n - (own is not None):
        raise ValueError(
            f"k is from 1 to the {n - (own is not None)} others that a query is ranked with; "
            f"came {k}"
        )
    lot = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    mixed = F.normalize(gallery[lot.to(gallery.device)])
    place = torch.empty_like(lot).scatter_(0, lot, torch.arange(n))
    rows = max(1, CHUNK_BYTES // (n * queries.element_size()))
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ mixed.T
        if own is not None:
            at = place[own[start : start + rows]].to(scores.device)
            scores.scatter_(1, at[:, None], -torch.inf)
        yield start, lot[scores.topk(k).indices.cpu()]
