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

import torch
from torch import Tensor


def tau(gamma: float) -> float:
    """τ = γ / (2 + γ)."""
    return 1.0 if math.isinf(gamma) else gamma / (2 + gamma)


def factors(y: Tensor, z: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """What y = Σt and z = Σ|t| are multiplied with, held, in the surrogate of y; equal to it here.

    Its denominator is never smaller than |y|; where y is zero, so is what the terms carry.
    """
    size = y.abs()
    # Where both are zero, so is what the terms carry: 0 / tiny.
    held = size / torch.add(size, z, alpha=tau).clamp_min_(torch.finfo(y.dtype).tiny)
    return held, (held * tau).copysign_(y)


def share(y: Tensor, absolute: Callable[[], Tensor], tau: float) -> Tensor:
    """The surrogate of y = Σt, given z = Σ|t|, both linear in the image.

    z is only computed where y, and so z, is differentiated.
    """
    if not y.requires_grad:
        return y
    z = absolute()
    of_y, of_z = factors(y.detach(), z.detach(), tau)
    return torch.addcmul(of_y * y, of_z, z)


def size(x: Tensor) -> Tensor:
    """|x|, linear in x with its signs held; as abs, but x itself may be written over afterwards."""
    return x * x.detach().sign()
