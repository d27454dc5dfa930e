"""Linear surrogates of a network: the affine map that agrees with it at one image.

`frozen_gates` holds the gates of a network at their values (DESIGN: "Frozen gates"; for ReLU and
max pooling this is Eq. 7 of Zhu, Yang, Chen, IEEE TIP 2021). Under it the derivative of the head
*is* the affine map E = Σ v + b: piecewise linear operations are left alone, for their derivative
already is their frozen form, and each of the others gets a rule below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _scaled(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = x · (y / x), the factor held: for functions through the origin, such as GELU."""
    in_place = bool(kwargs.pop("inplace", False)) or func.__name__.endswith("_")
    value = x.detach()
    y = func(value.clone(), *args, **kwargs)  # a copy, as func may write into what it gets
    factor = torch.where(value == 0, 0.0, y / torch.where(value == 0, 1.0, value))
    return x.mul_(factor) if in_place else x * factor


def _constant(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """The whole value is a gate: attention weights, the squashed branch of a product, a norm."""
    return func(*args, **kwargs).detach()


def _over_mean(x: Tensor, dims: list[int], eps: float, groups: int | None = None) -> Tensor:
    """(x − mean) / σ over some axes, with 1/σ held and the mean linear."""
    centred = x - x.mean(dims, keepdim=True)
    sigma = (centred.detach().square().mean(dims, keepdim=True) + eps).sqrt()
    return centred / sigma


def _layer_norm(
    func: Any, x: Tensor, shape: Iterable[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: Any,
) -> Tensor:  # fmt: skip
    y = _over_mean(x, list(range(-len(tuple(shape)), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(
    func: Any, x: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: Any,
) -> Tensor:  # fmt: skip
    grouped = x.reshape(x.shape[0], num_groups, -1)
    y = _over_mean(grouped, [-1], eps).reshape(x.shape)
    per_channel = (1, -1) + (1,) * (x.dim() - 2)
    y = y if weight is None else y * weight.reshape(per_channel)
    return y if bias is None else y + bias.reshape(per_channel)


def _rms_norm(
    func: Any, x: Tensor, shape: Iterable[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    dims = list(range(-len(tuple(shape)), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x / (x.detach().square().mean(dims, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight


def _normalize(
    func: Any, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    return x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps).expand_as(x)


def _attention(
    func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The weights that attention gives are held; the values that it mixes stay linear."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = query.detach() @ key.detach().transpose(-2, -1)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).detach() @ value


_RULES: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.normalize: _normalize,
    F.scaled_dot_product_attention: _attention,
}
if hasattr(F, "rms_norm"):
    _RULES[F.rms_norm] = _rms_norm
_RULES |= dict.fromkeys(
    [
        *(F.gelu, F.silu, F.mish, F.hardswish, F.elu, F.celu, F.selu, F.relu6, F.hardtanh),
        *(F.tanh, torch.tanh, Tensor.tanh, torch.tanh_, Tensor.tanh_, F.softsign, F.tanhshrink),
    ],
    _scaled,
)
_RULES |= dict.fromkeys(
    [
        *(torch.sigmoid, Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_, F.sigmoid, F.hardsigmoid),
        *(torch.softmax, Tensor.softmax, F.softmax),
        *(torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm),
    ],
    _constant,
)


class frozen_gates(TorchFunctionMode):  # noqa: N801  (used as a verb: `with frozen_gates():`)
    """Within it, every operation that has a rule is linear in its input, its value unchanged.

    Forward-mode differentiation of a head under it gives the contributions. The network is not
    touched: the rules stand in for functions as they are called, and go when the block ends.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        return func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)
