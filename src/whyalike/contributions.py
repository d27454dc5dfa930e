"""What each cell of one image gives to its embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from whyalike.affinity import Affinity
from whyalike.errors import CompletenessError, RegionError
from whyalike.geometry import Frame, line_coverage


class Linear(Protocol):
    """A head as a linear map of its places, which computes what is asked for: n = 1 image."""

    tolerance: float
    """How far that may be from adding up to the embedding, as a share of its length."""

    def push(
        self, weights: Float[Tensor, "k n places"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "k n d"]]:
        """E, and Σ w_i v_i."""
        ...

    def pull(
        self, u: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n places"]]:
        """E, and v_i · u."""
        ...

    def values(self) -> Float[Tensor, "n places d"]:
        """All v."""
        ...


class Remainders(Mapping[str, float]):
    """What operations leave over that were only expanded to first order, by name, largest first.

    Such an operation y = f(x) counts as J·x, with its derivative J (Eq. 6). What y − J·x gives to E
    is in b; the size is its length over |E|. Several may cancel, so sizes do not add up.

    >>> print(Remainders({"exp": 0.002, "softmax": 0.031}))
    softmax (3.1% of the embedding), exp (0.2%)
    """

    def __init__(self, sizes: Mapping[str, float] | None = None) -> None:
        ordered = sorted((sizes or {}).items(), key=lambda item: (-item[1], item[0]))
        self._sizes = dict(ordered)

    def __getitem__(self, name: str) -> float:
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __repr__(self) -> str:
        return f"Remainders({self._sizes})"

    def __str__(self) -> str:
        words = [
            f"{name} ({'under 0.1%' if 0 < size < 5e-4 else f'{size:.1%}'}"
            for name, size in self.items()
        ]
        return ", ".join(
            f"{x} of the embedding)" if i == 0 else f"{x})" for i, x in enumerate(words)
        )


class _Picture:
    """A photograph; one that a function is given for is read when it is first looked at."""

    def __get__(self, instance: Any, owner: Any = None) -> Image.Image | None:
        if instance is None:  # what a dataclass takes for the default
            return None
        kept = instance.__dict__["_picture"]
        if callable(kept):
            kept = instance.__dict__["_picture"] = kept()
        return kept

    def __set__(
        self, instance: Any, value: Image.Image | Callable[[], Image.Image | None] | None
    ) -> None:
        instance.__dict__["_picture"] = value


@dataclass(frozen=True, eq=False)
class Contributions:
    """An embedding as a sum over the cells of its image: E = Σ_ij v_ij + Σ_p v_p + b.

    E is the embedding before L2 normalisation. Everything that whyalike shows of a pair is made of
    these vectors (Zhu, Yang, Chen, IEEE TIP 2021, Eq. 4 and 5).

    Where the head is known in closed form, all v are at hand. Else a map is one derivative of the
    head backwards, and the v of a point or region one forwards, taken when it is asked for;
    `values` takes one for each cell, once.

    Args:
        source: v, (h, w, d), or the head that they come from.
        bias: b, (d,): what no place gives.
        embedding: E, (d,), as the network returned it.
        frame: where the cells lie on the photograph.
        name: the photograph's file name, for display.
        picture: the photograph, at most 1600 pixels long, for display; or a function that reads it,
            called when it is first looked at.
        model: the model in words.
        taylor: operations of the head that have no frozen form and were expanded to first order
            instead (Eq. 6), by name, each with the size of what that leaves over in the bias, as a
            share of |E|.
        prefix: v of tokens that are of the whole image (class, registers), (p, d); none by default.
        affinity: of the cells, where maps are to be shared among those that the network sees alike;
            the v themselves are not.
    """

    source: Float[Tensor, "h w d"] | Linear
    bias: Float[Tensor, " d"]
    embedding: Float[Tensor, " d"]
    frame: Frame
    name: str = "image"
    picture: _Picture = _Picture()
    model: str = ""
    taylor: Mapping[str, float] = field(default_factory=Remainders)
    prefix: Float[Tensor, "p d"] | None = None
    affinity: Affinity | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        h, w = self.frame.grid_hw
        d = self.embedding.numel()
        object.__setattr__(self, "taylor", Remainders(self.taylor))
        if self.prefix is None:
            object.__setattr__(self, "prefix", self.embedding.new_zeros(0, d))
        of_values = tuple(self.source.shape) if isinstance(self.source, Tensor) else (h, w, d)
        shapes = of_values, tuple(self.bias.shape), tuple(self.embedding.shape)
        if shapes != ((h, w, d), (d,), (d,)):
            raise ValueError(
                f"values, bias and embedding have shapes {(h, w, d)}, {(d,)} and {(d,)}; came "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )

    def __repr__(self) -> str:
        (h, w), d, p = self.frame.grid_hw, len(self.embedding), len(self.prefix_values)
        tokens = f", {p} prefix token{'s' if p > 1 else ''}" if p else ""
        taylor = f"; first order only: {self.taylor}" if self.taylor else ""
        return f"Contributions({self.name!r}, {h}×{w} cells{tokens}, {d} dimensions{taylor})"

    @cached_property
    def values(self) -> Float[Tensor, "h w d"]:
        """V of every cell; from a head without a closed form this takes as many derivatives."""
        if isinstance(self.source, Tensor):
            return self.source
        return self.source.values()[0, len(self.prefix_values) :].unflatten(0, self.frame.grid_hw)

    @property
    def at_hand(self) -> bool:
        """Whether `values` costs nothing."""
        return isinstance(self.source, Tensor) or "values" in self.__dict__

    def at(self, xy: Sequence[float]) -> Float[Tensor, " d"]:
        """v at a point of the photograph, in pixels; bilinear between cell centres."""
        return self._weighted(self.frame.point_weights(xy)[None])[0]

    def at_each(self, points_xy: Sequence[Sequence[float]]) -> Float[Tensor, "k d"]:
        """v at each of several points, as `at`, in as few passes as memory allows."""
        return self._weighted(np.stack([self.frame.point_weights(xy) for xy in points_xy]))

    def within(
        self,
        xyxy: Sequence[float] | None = None,
        *,
        mask: np.ndarray | None = None,
        stretched: bool = False,
    ) -> Float[Tensor, " d"]:
        """Σ of v under a box, or under a mask (H, W) of the photograph, weighted by coverage.

        A mask of another size is `stretched` over the photograph, or refused.
        """
        if (xyxy is None) == (mask is None):
            raise RegionError("a region is either a box (x1, y1, x2, y2) or a mask; give one")
        if mask is not None:
            return self._weighted(self.frame.mask_coverage(mask, stretched=stretched)[None])[0]
        assert xyxy is not None
        return self._weighted(self.frame.box_coverage(xyxy)[None])[0]

    def within_each(self, boxes: Sequence[Sequence[float]]) -> Float[Tensor, "k d"]:
        """Σ of v under each of several boxes, as `within`, in as few passes as memory allows."""
        return self._weighted(np.stack([self.frame.box_coverage(box) for box in boxes]))

    def map(self, u: Float[Tensor, " d"]) -> Float[Tensor, "h w"]:
        """v_ij · u for every cell, for any vector u: one operation serves every map.

        With an affinity, cells that the network sees alike share it; the sum is the same.
        """
        u = u.to(self.embedding)
        if isinstance(self.source, Tensor) or self.at_hand:
            carried = (self.values.flatten(0, 1) @ u).unflatten(0, self.frame.grid_hw)
        else:
            E, places = self.source.pull(u[None])
            self._check_same(E, self.source.tolerance)
            self._check_sum(places, u, self.source.tolerance)
            carried = places[0, len(self.prefix_values) :].unflatten(0, self.frame.grid_hw)
        if self.affinity is None:
            return carried
        return self.affinity.share(carried.flatten()[None])[0].view(carried.shape)

    def total(self) -> Float[Tensor, " d"]:
        """Σ_ij v_ij."""
        return self._total

    @cached_property
    def _total(self) -> Float[Tensor, " d"]:
        if isinstance(self.source, Tensor):
            return self.source.sum((0, 1))
        return self.embedding - self.rest

    @cached_property
    def length(self) -> float:
        """|E|."""
        return self.embedding.cpu().double().norm().item()

    @cached_property
    def sums(self) -> Float[Tensor, "3 d"]:
        """E, Σ v and the rest, each over |E|, in float64 on the CPU: what scores are made of."""
        parts = torch.stack([self.embedding, self.total(), self.rest])
        return parts.cpu().double().div_(self.length)

    @cached_property
    def rest(self) -> Float[Tensor, " d"]:
        """What no cell gives: the prefix tokens' v and b."""
        return self.prefix_values.sum(0) + self.bias

    def on_grid(self, grid_hw: tuple[int, int]) -> Contributions:
        """The same contributions summed into the cells of a coarser grid, all v at hand.

        A cell that lies in several of the new ones is shared among them by area.
        """
        (h, w), (rows, columns) = self.frame.grid_hw, grid_hw
        if not (1 <= rows <= h and 1 <= columns <= w):
            raise RegionError(f"a coarser grid than {h}×{w} is needed; came {rows}×{columns}")
        if (rows, columns) == (h, w) and self.at_hand:
            return self
        by_row, by_column = line_coverage(rows, h), line_coverage(columns, w)
        weights = np.einsum("ah,bw->abhw", by_row, by_column).reshape(-1, h, w)
        summed = self._weighted(weights).unflatten(0, grid_hw)
        return replace(
            self,
            source=summed,
            frame=replace(self.frame, grid_hw=grid_hw),
            affinity=None if self.affinity is None else self.affinity.on_grid(grid_hw),
        )

    def to(self, device: torch.device) -> Contributions:
        """The same contributions on another device, all v at hand if it is another one."""
        if device == self.embedding.device:
            return self
        return replace(
            self,
            source=self.values.to(device),
            bias=self.bias.to(device),
            embedding=self.embedding.to(device),
            prefix=self.prefix_values.to(device),
        )

    @property
    def prefix_values(self) -> Float[Tensor, "p d"]:
        """`prefix`, which has no rows where there are no such tokens."""
        assert self.prefix is not None
        return self.prefix

    def _weighted(self, weights: Float[np.ndarray, "k h w"]) -> Float[Tensor, "k d"]:
        """Σ w_ij v_ij for k weightings of the cells."""
        of_cells = torch.from_numpy(weights).to(self.embedding).flatten(1)
        if isinstance(self.source, Tensor) or self.at_hand:
            return of_cells @ self.values.flatten(0, 1)
        none = of_cells.new_zeros(len(of_cells), len(self.prefix_values))
        E, pushed = self.source.push(torch.cat([none, of_cells], 1)[:, None])
        self._check_same(E, self.source.tolerance)
        return pushed[:, 0]

    def _check_sum(self, places: Tensor, u: Tensor, tolerance: float) -> None:
        """Hold the map of all places, and b, to E along u."""
        gap = (places.sum() + (self.bias - self.embedding) @ u).abs()
        size = self.embedding.norm() * u.norm()
        if not gap <= tolerance * size:
            raise CompletenessError(
                f"{self.name!r}: a map and the bias should add up to E · u; the gap is "
                f"{(gap / size).item():.2g} of |E||u|; the head computes in another way backwards "
                f"than forwards"
            )

    def _check_same(self, E: Tensor, tolerance: float) -> None:
        gap = (E[0] - self.embedding).norm() / self.embedding.norm()
        if not gap <= tolerance:
            raise CompletenessError(
                f"{self.name!r} was explained with other weights than the network has now; its "
                f"embedding differs by {gap.item():.2g} of its length; explain it again"
            )
