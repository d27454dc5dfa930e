"""What each cell of one image gives to its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from whyalike.errors import RegionError
from whyalike.geometry import Frame


@dataclass(frozen=True, eq=False)
class Contributions:
    """An embedding as a sum over the cells of its image: E = Σ_ij v_ij + b.

    E is the embedding before L2 normalisation. Everything that whyalike shows of a pair is made of
    these vectors (Zhu, Yang, Chen, IEEE TIP 2021, Eq. 4 and 5).

    Args:
        values: v, (h, w, d).
        bias: b, (d,): what no cell gives.
        embedding: E, (d,), as the network returned it.
        frame: where the cells lie on the photograph.
        name: the photograph's file name, for display.
        picture: the photograph, at most 1600 pixels long, for display.
        model: the model in words.
        taylor: names of operations of the head that have no frozen form and were expanded to first
            order instead (Eq. 6); what that leaves over is in the bias.
    """

    values: Float[Tensor, "h w d"]
    bias: Float[Tensor, " d"]
    embedding: Float[Tensor, " d"]
    frame: Frame
    name: str = "image"
    picture: Image.Image | None = field(default=None, repr=False)
    model: str = ""
    taylor: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        h, w = self.frame.grid_hw
        d = self.embedding.numel()
        shapes = tuple(self.values.shape), tuple(self.bias.shape), tuple(self.embedding.shape)
        if shapes != ((h, w, d), (d,), (d,)):
            raise ValueError(
                f"values, bias and embedding have shapes {(h, w, d)}, {(d,)} and {(d,)}; came "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )

    def __repr__(self) -> str:
        h, w, d = self.values.shape
        taylor = f"; first order only: {', '.join(self.taylor)}" if self.taylor else ""
        return f"Contributions({self.name!r}, {h}×{w} cells, {d} dimensions{taylor})"

    def at(self, xy: Sequence[float]) -> Float[Tensor, " d"]:
        """v at a point of the photograph, in pixels; bilinear between cell centres."""
        return self._weighted(self.frame.point_weights(xy))

    def within(
        self, xyxy: Sequence[float] | None = None, *, mask: np.ndarray | None = None
    ) -> Float[Tensor, " d"]:
        """Σ of v under a box, or under a mask (H, W) of the photograph, weighted by coverage."""
        if (xyxy is None) == (mask is None):
            raise RegionError("a region is either a box (x1, y1, x2, y2) or a mask; give one")
        if mask is not None:
            return self._weighted(self.frame.mask_coverage(mask))
        assert xyxy is not None
        return self._weighted(self.frame.box_coverage(xyxy))

    def map(self, u: Float[Tensor, " d"]) -> Float[Tensor, "h w"]:
        """v_ij · u for every cell, for any vector u: one operation serves every map."""
        return self.values @ u.to(self.values)

    def total(self) -> Float[Tensor, " d"]:
        """Σ_ij v_ij."""
        return self.values.sum((0, 1))

    def to(self, device: torch.device) -> Contributions:
        """The same contributions on another device."""
        return replace(
            self,
            values=self.values.to(device),
            bias=self.bias.to(device),
            embedding=self.embedding.to(device),
        )

    def _weighted(self, weights: Float[np.ndarray, "h w"]) -> Float[Tensor, " d"]:
        return torch.einsum("hw,hwd->d", torch.from_numpy(weights).to(self.values), self.values)
