"""Why one image is ranked above another: where the first one beats the second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.pair import Pair


@dataclass(frozen=True, eq=False)
class Contrast:
    """The difference of two similarities of one query, and the regions that make it.

    Signed and in units of cosine: above zero speaks for a, below zero for b.
    """

    query: Contributions
    a: Contributions
    b: Contributions

    def __repr__(self) -> str:
        return (
            f"Contrast({self.query.name!r}: {self.a.name!r} over {self.b.name!r}, "
            f"difference={self.difference:+.4f})"
        )

    @cached_property
    def pairs(self) -> tuple[Pair, Pair]:
        """The query with a, and with b."""
        return Pair(self.query, self.a), Pair(self.query, self.b)

    @property
    def difference(self) -> float:
        """S(query, a) − S(query, b)."""
        first, second = self.pairs
        return first.similarity - second.similarity

    @property
    def bias(self) -> float:
        """What of the difference no cell of the query carries: b^q·(e_a − e_b) / |E^q|."""
        first, second = (pair.terms for pair in self.pairs)
        return (first.query_bias + first.bias_bias) - (second.query_bias + second.bias_bias)

    def map(self) -> Float[Tensor, "h w"]:
        """v^q·(e_a − e_b) / |E^q| for each cell of the query, where e = E/|E|.

        The sum and `bias` add up to `difference`. One map answers "why is a ranked above b", and
        "what separates this pair from the nearest impostor".
        """
        first, second = (pair.overall_map("query", bias=True) for pair in self.pairs)
        return first - second

    def maps(self) -> tuple[Float[Tensor, "ha wa"], Float[Tensor, "hb wb"]]:
        """What each cell of a, and each of b, has with the query, on one scale."""
        first, second = (pair.overall_map("reference", bias=True) for pair in self.pairs)
        return first, second


def contrast(query: Contributions, a: Contributions, b: Contributions) -> Contrast:
    """Contrast two references of one query.

    >>> query, a, b = model.explain(["query.jpg", "a.jpg", "b.jpg"])  # doctest: +SKIP
    >>> contrast(query, a, b).map()  # doctest: +SKIP

    Args:
        query, a, b: what `EmbeddingModel.explain` returned, or what a pair or gallery holds.

    Raises:
        ModelError: their embeddings are not of one length.
    """
    return Contrast(query, a.to(query.embedding.device), b.to(query.embedding.device))
