"""How a feature map becomes a vector, and what each cell gives to it, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["mean", "max", "gem", "flatten"]


@dataclass(frozen=True)
class Pool:
    """One of the poolings whose contributions are known in closed form.

    Each is P = Σ_ij p_ij + offset, exactly, with the gates that the map itself sets held fixed:
    the argmax of max pooling, and (A_ij / P)^(p−1) / n of generalized-mean pooling (GeM), which
    is homogeneous of degree 1 (Euler).

    Args:
        kind: "mean" (GAP), "max" (GMP), "gem" or "flatten" (channels first, then rows, columns).
        p: the exponent of GeM, a number or a tensor of shape () or (C,).
        eps: GeM's lower bound on the values that it pools.
        rectify: whether a ReLU comes before the pooling.
    """

    kind: Kind
    p: float | Tensor = 3.0
    eps: float = 1e-6
    rectify: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"pool is one of {', '.join(get_args(Kind))} or a module; came {self.kind!r}"
            )

    def __str__(self) -> str:
        name: str = self.kind
        if name == "gem":
            p = torch.as_tensor(self.p).detach().float()
            name = f"gem(p={p.item():.4g})" if p.numel() == 1 else f"gem(p: {p.numel()} values)"
        return f"relu → {name}" if self.rectify else name

    def __call__(self, A: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """The pooled vectors: k = c, or c·h·w for "flatten"."""
        A = A.relu() if self.rectify else A
        if self.kind == "mean":
            return A.mean((2, 3))
        if self.kind == "max":
            return A.amax((2, 3))
        if self.kind == "gem":
            p = self._exponent(A)
            return A.clamp(min=self.eps).pow(p).mean((2, 3), keepdim=True).pow(1 / p).flatten(1)
        return A.flatten(1)

    def cells(
        self, A: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n cells k"], Float[Tensor, "n k"]]:
        """What each cell gives to the pooled vector, and the offset that no cell gives."""
        A = A.relu() if self.rectify else A
        n, c, h, w = A.shape
        rows = A.flatten(2).transpose(1, 2)  # (n, cells, c)
        if self.kind == "mean":
            return rows / (h * w), A.new_zeros(n, c)
        if self.kind == "max":
            # One winner a channel: a tie goes to the cell that max_pool2d picks, the first.
            best = torch.nn.functional.adaptive_max_pool2d(A, 1, return_indices=True)[1]
            winner = torch.zeros_like(rows).scatter_(1, best.view(n, 1, c), 1.0)
            return torch.where(winner > 0, rows, 0.0), A.new_zeros(n, c)
        if self.kind == "gem":
            p = self._exponent(A).flatten(1)  # (1, 1) or (1, c): alike for every cell
            pooled = self(A)[:, None]
            kept = rows.clamp(min=self.eps)
            share = kept * (kept / pooled).pow(p - 1) / (h * w)
            # What the lower bound put in the place of a value is the bound's, not the cell's.
            raised = rows < self.eps
            return share.masked_fill(raised, 0.0), share.masked_fill(~raised, 0.0).sum(1)
        own = torch.eye(h * w, dtype=A.dtype, device=A.device)
        return torch.einsum("nic,ij->nicj", rows, own).flatten(2), A.new_zeros(n, c * h * w)

    def _exponent(self, A: Tensor) -> Tensor:
        p = torch.as_tensor(self.p, device=A.device).detach().to(A.dtype)
        return p.reshape(1, -1, 1, 1)
