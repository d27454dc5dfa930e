"""The γ family of surrogates: each affine unit shared among the terms that it sums.

For y = Σ_i t_i, a bias among the terms, let P be the sum of the terms above zero and N of those
below. For y > 0 a term carries y · t(1 + γ[t > 0]) / ((1 + γ)P + N), for y < 0 the mirror image:
the γ rule of layer-wise relevance propagation (Montavon et al. 2019) for both signs, with its bias
kept. With z = Σ|t| and τ = γ / (2 + γ) this is

    Σ_i  |y| / (|y| + τz) · (t_i + τ sgn(y) |t_i|),

since P and N are (z ± y) / 2: so one more layer, of absolute weights and inputs, is all that it
takes. τ runs from 0 (the gates' own surrogate) to 1 (γ = ∞: only terms of y's own sign carry it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def tau(gamma: float) -> float:
    """τ = γ / (2 + γ)."""
    return 1.0 if math.isinf(gamma) else gamma / (2 + gamma)


def ratio(y: Tensor, z: Tensor, tau: float) -> Tensor:
    """r = y / (|y| + τz), a new tensor. y carries |r| · t, and z τr · |t|: together y.

    The denominator is never smaller than |y|; where y is zero, so is what the terms carry.
    """
    whole = y.abs().add_(z, alpha=tau)
    # Where both are zero, so is what the terms carry: 0 / tiny.
    whole.clamp_min_(torch.finfo(y.dtype).tiny)
    return torch.div(y, whole, out=whole)


class Shared(torch.autograd.Function):
    """of_y · y + of_z · z + constant · at, with the factors held, whose value is known beforehand.

    A sum of products says the same; this is spared half of the operations on whole maps, which take
    as long as convolutions. Derivatives may be taken again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        y: Tensor,
        z: Tensor,
        at: Tensor | None,
        of_y: Tensor,
        of_z: Tensor,
        constant: Tensor | None,
    ) -> Tensor:
        """The value, itself.

        Args:
            value: of the whole, which does not depend on how it is divided; a tensor of its own.
            y, z: of a unit.
            at: how present the place of the constant is, 1, of a shape that spreads over y's.
            of_y, of_z, constant: held.
        """
        ctx.save_for_backward(of_y, of_z, constant)
        ctx.shape = None if at is None else at.shape
        ctx.mark_dirty(value)  # so that it is not a view, and may be written into
        return value

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        """What y, z and at get."""
        of_y, of_z, constant = ctx.saved_tensors
        _, to_y, to_z, to_at, *_ = ctx.needs_input_grad
        placed = None
        if to_at and constant is not None:
            placed = (u * constant).sum_to_size(ctx.shape)
        return None, u * of_y if to_y else None, u * of_z if to_z else None, placed, *[None] * 3


def share(y: Tensor, absolute: Callable[[], Tensor], tau: float) -> Tensor:
    """The surrogate of y = Σt, given z = Σ|t|, both linear in the image.

    z is only computed where y, and so z, is differentiated.
    """
    if not y.requires_grad:
        return y
    z = absolute()
    r = ratio(y.detach(), z.detach(), tau)
    of_z = r * tau
    shared: Tensor = Shared.apply(y.detach().clone(), y, z, None, r.abs_(), of_z, None)
    return shared


def size(x: Tensor) -> Tensor:
    """|x|, linear in x with its signs held; as abs, but x itself may be written over afterwards."""
    return x * x.detach().sign()
