"""Why two images are alike: the similarity of a pair, as a sum over regions of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whyalike.contributions import Contributions, Remainders
from whyalike.errors import CompletenessError, ImageError, ModelError, RegionError
from whyalike.geometry import XYXY
from whyalike.model import EmbeddingModel
from whyalike.preprocess import Source
from whyalike.ranking import Ranking

Side = Literal["query", "reference"]


class Terms(NamedTuple):
    """The four terms of a similarity, in units of cosine; they add up to it (Eq. 5).

    Prefix tokens of a transformer count as bias here; `Pair.ledger` has an entry of their own.

    pairs: Σ v^q·v^r, what the regions of both carry together.
    query_bias: b^q·Σ v^r, the query's bias met by the reference's regions.
    reference_bias: Σ v^q·b^r, the query's regions meeting the reference's bias.
    bias_bias: b^q·b^r, what no region carries.
    """

    pairs: float
    query_bias: float
    reference_bias: float
    bias_bias: float


class Match(NamedTuple):
    """A link between a region of the query and one of the reference.

    query_xyxy, reference_xyxy: boxes in pixels of the photographs.
    value: what the two carry together, in units of cosine; below zero it speaks against the match.
    share: value / similarity; NaN where that is exactly zero.
    """

    query_xyxy: XYXY
    reference_xyxy: XYXY
    value: float
    share: float


@dataclass(frozen=True, eq=False)
class Pair:
    """The similarity of two images and the regions that carry it.

    Everything is signed and in units of cosine: divided by |E^q||E^r|, so that the matrix and the
    three terms with a bias add up to the similarity. Values below zero are evidence against the
    match. Nothing is clamped or scaled before it is drawn.
    """

    query: Contributions
    reference: Contributions

    def __post_init__(self) -> None:
        d_q, d_r = self.query.embedding.numel(), self.reference.embedding.numel()
        if d_q != d_r:
            raise ModelError(
                f"two embeddings can be compared if they have one length; the query's has {d_q} "
                f"dimensions, the reference's {d_r}"
            )
        gap = abs(sum(self.terms) - self.similarity)
        if not gap <= 1e-4:
            raise CompletenessError(
                f"the four terms should add up to the cosine; the gap is {gap:.3g}; the values "
                f"and the bias of {self.query!r} or {self.reference!r} do not belong to its "
                f"embedding, or are too large for float32"
            )

    def __repr__(self) -> str:
        return (
            f"Pair({self.query.name!r}, {self.reference.name!r}, "
            f"similarity={self.similarity:.4f}, "
            + ", ".join(
                f"{n}={round(value, 4) + 0.0:+.4f}" for n, value in self.terms._asdict().items()
            )
            + ")"
        )

    @cached_property
    def similarity(self) -> float:
        """S = E^q·E^r / (|E^q||E^r|), the cosine of the embeddings that the network returned."""
        return self._products[0][0]

    @cached_property
    def terms(self) -> Terms:
        """The four terms of Eq. 5; `sum(pair.terms)` is the similarity."""
        (pairs, reference_bias), (query_bias, bias_bias) = (row[1:] for row in self._products[1:])
        return Terms(pairs, query_bias, reference_bias, bias_bias)

    @cached_property
    def ledger(self) -> dict[str, dict[str, float]]:
        """What carries the similarity, by part of the query and part of the reference.

        The parts are "cells", "prefix tokens" (of a transformer, which are of no place) and "bias";
        the nine entries, in units of cosine, add up to the similarity. The terms of Eq. 5 count
        prefix tokens as bias.
        """
        q, r = (
            {
                "cells": c.total().cpu().double() / length,
                "prefix tokens": (c.rest - c.bias).cpu().double() / length,
                "bias": c.bias.cpu().double() / length,
            }
            for c, length in zip(self._both, self._lengths, strict=True)
        )
        return {mine: {other: (q[mine] @ r[other]).item() for other in r} for mine in q}

    @property
    def taylor(self) -> Mapping[str, float]:
        """Operations that were only expanded to first order, by name, largest remainder first.

        Each with the size of what it leaves over in the bias, as a share of the embedding's length;
        of the two images, that of the one with the larger.
        """
        q, r = self.query.taylor, self.reference.taylor
        return Remainders({name: max(q.get(name, 0.0), r.get(name, 0.0)) for name in {*q, *r}})

    @property
    def model(self) -> str:
        """The network in words (both, where query and reference have one each)."""
        q, r = self.query.model, self.reference.model
        words = q if q == r else f"query: {q}; reference: {r}"
        if any(len(c.prefix_values) for c in self._both):
            words += "; prefix tokens counted as bias"
        return words + (f"; first order only: {self.taylor}" if self.taylor else "")

    def overall_map(self, side: Side = "reference", bias: bool = False) -> Float[Tensor, "h w"]:
        """What each cell of one image carries of the similarity.

        Args:
            side: the image whose cells are asked for, "query" or "reference".
            bias: False for v·Σv' ("Decomposition"), whose sum is `terms.pairs`; True for v·E'
                ("Decomposition+Bias"), which adds what the cell has with the other image's bias.
        """
        mine, other = self._sides(side)
        return self._map(mine, other.embedding if bias else other.total())

    def point_map(
        self, query_xy: Sequence[float] | None = None, reference_xy: Sequence[float] | None = None
    ) -> Float[Tensor, "h w"]:
        """What one point of an image carries together with each cell of the other one.

        Args:
            query_xy: a point of the query, in pixels; the map is over the reference.
            reference_xy: a point of the reference; the map is over the query. Give one of the two.
        """
        if (query_xy is None) == (reference_xy is None):
            raise RegionError("a point map starts from one point; give query_xy or reference_xy")
        if query_xy is not None:
            return self._map(self.reference, self.query.at(query_xy))
        assert reference_xy is not None
        return self._map(self.query, self.reference.at(reference_xy))

    def region_map(
        self,
        query_xyxy: Sequence[float] | None = None,
        reference_xyxy: Sequence[float] | None = None,
        *,
        query_mask: np.ndarray | None = None,
        reference_mask: np.ndarray | None = None,
    ) -> Float[Tensor, "h w"]:
        """What one region of an image carries together with each cell of the other one.

        Args:
            query_xyxy, query_mask: a box in pixels, or a mask (H, W), of the query; the map is
                over the reference. Regions that tile the image give maps that add up to
                `overall_map("reference")`.
            reference_xyxy, reference_mask: the other way. Give one of the four.
        """
        given = [x is not None for x in (query_xyxy, query_mask, reference_xyxy, reference_mask)]
        if sum(given) != 1:
            raise RegionError("a region map starts from one region; give one box or one mask")
        if given[0] or given[1]:
            u = self.query.within(query_xyxy, mask=query_mask)
            return self._map(self.reference, u)
        u = self.reference.within(reference_xyxy, mask=reference_mask)
        return self._map(self.query, u)

    def matrix(self) -> Float[Tensor, "hq wq hr wr"]:
        """v^q_ij·v^r_xy for all pairs of cells; its sum is `terms.pairs`.

        Of each cell's own, also where maps are shared among like cells.
        """
        q, r = (c.values / length for c, length in zip(self._both, self._lengths, strict=True))
        return torch.einsum("ijd,xyd->ijxy", q, r)

    def matches(self, k: int = 10) -> list[Match]:
        """The strongest links between regions, strongest first, each region used once.

        A region is a block of cells, about a fifth of the grid in each direction; its link is
        the sum of the matrix over both blocks, for the match or (below zero) against it. Blocks of
        the query do not overlap, nor do those of the reference, so the shares of different links
        count nothing twice.
        """
        both = self.at_hand()._both
        sizes = [tuple(math.ceil(n / 5) for n in c.frame.grid_hw) for c in both]
        blocks_q, blocks_r = (
            _block_sums(c.values / norm, size)
            for c, size, norm in zip(both, sizes, self._lengths, strict=True)
        )
        links = blocks_q.flatten(0, 1) @ blocks_r.flatten(0, 1).T
        found: list[Match] = []
        while len(found) < k:
            best = int(links.abs().argmax())
            value = links.flatten()[best].item()
            if value == 0:
                break
            boxes = []
            for axis, (c, blocks, size) in enumerate(
                zip(both, (blocks_q, blocks_r), sizes, strict=True)
            ):
                cell = best // links.shape[1] if axis == 0 else best % links.shape[1]
                row, column = divmod(cell, blocks.shape[1])
                boxes.append(c.frame.cell_xyxy(row, column, *size))
                near = _overlapping(row, column, size, blocks.shape[:2]).to(links.device)
                links[near if axis == 0 else slice(None), slice(None) if axis == 0 else near] = 0
            share = value / self.similarity if self.similarity else math.nan
            found.append(Match(boxes[0], boxes[1], value, share))
        return found

    def at_hand(self, rows: int = 14) -> Pair:
        """The same pair with all v at hand, for what needs every link between cells.

        Where v take a derivative of the head for each cell, cells are summed on a grid of at most
        so many rows and columns; else nothing is computed.
        """
        return Pair(
            *(
                c if c.at_hand else c.on_grid((min(h, rows), min(w, rows)))
                for c in self._both
                for h, w in [c.frame.grid_hw]
            )
        )

    def save(self, *paths: str | PathLike[str], **options: Any) -> None:
        """Write the pair by the file's ending: .html (interactive), .png or .pdf, .npz.

        See `whyalike.save.save_pair` for the options, such as `points=[(96, 128)]`.
        """
        from whyalike.save import save_pair  # the one door upward, for `pair.save` to read well

        save_pair(self, *paths, **options)

    def show(self) -> None:
        """Open the interactive page in the web browser."""
        from whyalike.save import show_pair  # as above

        show_pair(self)

    def view(self) -> Any:
        """The pair in a notebook: its `point` and `region` are those chosen in the picture.

        >>> view = pair.view()  # doctest: +SKIP
        >>> view.region = (40, 30, 120, 110)  # doctest: +SKIP

        Returns:
            A `whyalike.viewer.widget.PairView`. A pair that stands last in a cell shows one by
            itself; without the package anywidget, a figure.

        Raises:
            ViewError: anywidget is not installed.
        """
        from whyalike.save import view_pair  # as above

        return view_pair(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from whyalike.save import pair_in_notebook  # as above

        return pair_in_notebook(self)

    @property
    def _both(self) -> tuple[Contributions, Contributions]:
        return self.query, self.reference

    @cached_property
    def _products(self) -> list[list[float]]:
        """E, Σ v and the rest of the query with those of the reference, in units of cosine."""
        products: list[list[float]] = (self.query.sums @ self.reference.sums.T).tolist()
        return products

    @property
    def _lengths(self) -> tuple[float, float]:
        return self.query.length, self.reference.length

    def _map(self, mine: Contributions, u: Tensor) -> Tensor:
        """v·u / (|E||E'|), each divided by its own length first, as products may overflow."""
        length, length_u = self._lengths if mine is self.query else self._lengths[::-1]
        return mine.map(u / length_u) / length

    def _sides(self, side: Side) -> tuple[Contributions, Contributions]:
        if side not in ("query", "reference"):
            raise RegionError(f'side is "query" or "reference"; came {side!r}')
        return self._both if side == "query" else (self.reference, self.query)


def pairs_with(query: Contributions, references: Sequence[Contributions]) -> list[Pair]:
    """The pairs of one query and many references, whose sums are multiplied together.

    Each is checked as any other pair.
    """
    if any(len(r.embedding) != len(query.embedding) for r in references):
        return [Pair(query, r) for r in references]  # which says of what lengths they are
    found = []
    for start in range(0, len(references), 16):  # so few that memory is used again, and is at hand
        some = references[start : start + 16]
        parts = torch.stack([part for r in some for part in (r.embedding, r.total(), r.rest)])
        products = (parts.cpu().double() @ query.sums.T).view(-1, 3, 3).mT
        lengths = torch.tensor([r.length for r in some], dtype=torch.float64)
        scaled = (products / lengths[:, None, None]).tolist()
        for reference, three in zip(some, scaled, strict=True):
            pair = object.__new__(Pair)
            pair.__dict__.update(query=query, reference=reference, _products=three)
            pair.__post_init__()
            found.append(pair)
    return found


def explain_pair(
    model: EmbeddingModel,
    query: Source,
    reference: Source,
    *,
    reference_model: EmbeddingModel | None = None,
) -> Pair:
    """Explain why a model finds two images alike.

    >>> pair = explain_pair(model, "query.jpg", "reference.jpg")  # doctest: +SKIP
    >>> pair.similarity, pair.overall_map("reference")  # doctest: +SKIP

    Args:
        model: the embedding model; images of one size run in one forward pass.
        query, reference: paths, bytes, PIL images, arrays (H, W, 3) of uint8, or ready-made
            tensors (3, H, W).
        reference_model: the reference's own network, where the two have one each (cross-view
            towers); both must give embeddings of one length.

    Raises:
        WhyalikeError: as `EmbeddingModel.explain`.
    """
    _check_model(model)
    if reference_model is None or reference_model is model:
        return Pair(*model.explain([query, reference]))
    _check_model(reference_model)
    q, r = model.explain(query), reference_model.explain(reference)
    return Pair(q, r.to(q.embedding.device))


@overload
def explain_ranking(
    model: EmbeddingModel,
    query: Source,
    references: Sequence[Source],
    *,
    reference_model: EmbeddingModel | None = None,
    batch_size: int = 32,
) -> list[Pair]: ...
@overload
def explain_ranking(
    model: EmbeddingModel,
    query: Source,
    references: Sequence[Source],
    *,
    reference_model: EmbeddingModel | None = None,
    batch_size: int = 32,
    strict: bool,
) -> list[Pair | ImageError]: ...
def explain_ranking(
    model: EmbeddingModel,
    query: Source,
    references: Sequence[Source],
    *,
    reference_model: EmbeddingModel | None = None,
    batch_size: int = 32,
    strict: bool = True,
) -> list[Pair] | list[Pair | ImageError]:
    """Explain one query against many references, which run in batches, in the order given.

    The list shows itself in a notebook.

    With `strict=False`, a reference that cannot be read is given as its `ImageError`, in its place.
    """
    if isinstance(references, str | bytes):
        raise ImageError(
            f"references are a list of images; came one, {references!r}; use explain_pair"
        )
    tower = model if reference_model is None else reference_model
    _check_model(model)
    _check_model(tower)
    q = model.explain(query)
    explained = tower.explain(list(references), batch_size=batch_size, strict=strict)
    device = q.embedding.device
    return Ranking(r if isinstance(r, ImageError) else Pair(q, r.to(device)) for r in explained)


def _check_model(model: EmbeddingModel) -> None:
    if not isinstance(model, EmbeddingModel):
        raise ModelError(
            f"a model is an EmbeddingModel; came {type(model).__name__}; make one with "
            f"whyalike.load(...) or EmbeddingModel.from_module(network)"
        )


def _block_sums(
    values: Float[Tensor, "h w d"], size: tuple[int, ...]
) -> Float[Tensor, "rows columns d"]:
    """Sums of v over all blocks of `size` cells, one for each place that a block can take."""
    rows = values.unfold(0, size[0], 1).sum(-1)
    return rows.unfold(1, size[1], 1).sum(-1)


def _overlapping(row: int, column: int, size: tuple[int, ...], places: Sequence[int]) -> Tensor:
    """Which places of a block overlap the one at (row, column), as a flat mask."""
    rows = (torch.arange(places[0]) - row).abs() < size[0]
    columns = (torch.arange(places[1]) - column).abs() < size[1]
    return (rows[:, None] & columns[None, :]).flatten()
