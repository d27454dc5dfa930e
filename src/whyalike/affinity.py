"""Maps in which cells that a network sees alike share what they carry.

What one cell of a map carries is divided among all cells in proportion to how alike their features
are: m'_i = Σ_j P_ij m_j, with every column of P adding up to 1. So nothing is lost and the map adds
up to what it did, only over cells that stand for a part of the object rather than for a spot on it.
P knows nothing of the other image, nor of what is asked.

P is the pixel correlation of Wang et al., "Self-supervised Equivariant Attention Mechanism for
Weakly Supervised Semantic Segmentation", CVPR 2020 (Eq. 6), divided over where a value goes instead
of over where it comes from, which is what keeps the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BLOCK_BYTES = 32 * 2**20
"""How much memory a block of rows of P may take."""

KEPT_BYTES = 4 * 2**20
"""What the whole of it may take to be kept, at a thousand cells; larger ones are made each time."""


class Affinity:
    """How alike the cells of each image are: P above, for n images.

    a_ij = max(0, mean over maps of cos(F_i − F̄, F_j − F̄))^power, where F is a map brought to the
    grid and F̄ its mean over the cells; P_ij = own [i = j] + (1 − own) a_ij / Σ_k a_kj.

    Args:
        maps: features of the same images, (n, c, h, w) each, of any grids.
        grid_hw: of the cells.
        power: larger ones keep values among fewer cells, those most alike.
        own: share of its own that each cell keeps.
    """

    def __init__(
        self,
        maps: Sequence[Float[Tensor, "n c h w"]],
        grid_hw: tuple[int, int],
        power: float,
        own: float = 0.0,
    ) -> None:
        self.maps, self.grid_hw, self.power, self.own = maps, grid_hw, power, own
        self._features = [_centred(A, grid_hw) for A in maps]
        self._kept: list[tuple[slice, Tensor]] = []
        n, cells, _ = self._features[0].shape
        self._sums = self._features[0].new_zeros(n, cells)
        small = n * cells**2 * self._sums.element_size() <= KEPT_BYTES
        kept = []
        for rows, alike in self._rows():
            self._sums += alike.sum(1)
            if small:
                kept.append((rows, alike))
        self._kept = kept

    def on_grid(self, grid_hw: tuple[int, int]) -> Affinity:
        """That of the cells of another grid."""
        return Affinity(self.maps, grid_hw, self.power, self.own)

    def share(self, carried: Float[Tensor, "n cells"]) -> Float[Tensor, "n cells"]:
        """Σ_j P_ij m_j for every cell, of a map m; where it is, and in its type."""
        kept = self.own * carried.to(self._sums)
        divided = ((carried.to(self._sums) - kept) / self._sums)[..., None]
        shared = torch.cat([alike @ divided for _, alike in self._rows()], 1)[..., 0]
        return (kept + shared).to(carried)

    def matrix(self) -> Float[Tensor, "n cells cells"]:
        """P itself."""
        shared = torch.cat([alike / self._sums[:, None] for _, alike in self._rows()], 1)
        return self.own * torch.eye(shared.shape[1]).to(shared) + (1 - self.own) * shared

    def _rows(self) -> Iterator[tuple[slice, Float[Tensor, "n rows cells"]]]:
        """a, some rows at a time."""
        yield from self._kept
        if self._kept:
            return
        n, cells, _ = self._features[0].shape
        step = max(1, BLOCK_BYTES // (n * cells * self._sums.element_size()))
        for start in range(0, cells, step):
            rows = slice(start, min(start + step, cells))
            cosines = [f[:, rows] @ f.mT for f in self._features]
            alike = (sum(cosines[1:], cosines[0]) / len(cosines)).clamp(0, 1).pow(self.power)
            # A cell is like itself, even where its features are exactly the mean.
            alike.diagonal(start, 1, 2).fill_(1.0)
            yield rows, alike


def _centred(A: Float[Tensor, "n c h w"], grid_hw: tuple[int, int]) -> Float[Tensor, "n cells c"]:
    """A map's features at the cells of a grid, less their mean, of length 1 (or 0)."""
    A = A.detach().to(torch.promote_types(A.dtype, torch.float32))
    if tuple(A.shape[2:]) != grid_hw:
        finer = A.shape[2] >= grid_hw[0] and A.shape[3] >= grid_hw[1]
        A = F.interpolate(A, size=grid_hw, mode="area" if finer else "bilinear")
    rows = A.flatten(2).mT
    return F.normalize(rows - rows.mean(1, keepdim=True), dim=2)
