"""Operations on several numbers at once, made of ones that have a chord (`surrogates.secants`).

Each gives what the operation itself does. Run within `Secants`, what it is made of is held, and so
the whole is: norms are x over its size, attention is products and a softmax, and a maximum is a
knockout of pairs, max(a, b) = a + relu(b − a). One that is asked for in a form that has none
returns NotImplemented.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OverSize = Callable[[Tensor, list[int], float, int], Tensor]
"""x / √(Σx² / count + eps), given x, the axes of the sum, eps and count."""


def _centred(over: OverSize, x: Tensor, dims: list[int], eps: float) -> Tensor:
    """(x − mean) / σ over some axes."""
    count = math.prod(x.shape[dim] for dim in dims)
    return over(x - x.mean(dims, keepdim=True), dims, eps, count)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, axes: int = 0) -> Tensor:
    """A weight and a bias for each channel, `axes` axes before the last ones."""
    shape = (-1, *(1,) * axes)
    y = y if weight is None else y * weight.view(shape if axes else weight.shape)
    return y if bias is None else y + bias.view(shape if axes else bias.shape)


def _layer_norm(
    over: OverSize, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: Any,
) -> Tensor:  # fmt: skip
    return _affine(_centred(over, x, list(range(-len(shape), 0)), eps), weight, bias)


def _group_norm(
    over: OverSize, x: Tensor, groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: Any,
) -> Tensor:  # fmt: skip
    grouped = _centred(over, x.reshape(x.shape[0], groups, -1), [-1], eps)
    return _affine(grouped.reshape(x.shape), weight, bias, x.dim() - 2)


def _rms_norm(
    over: OverSize, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = over(x, list(range(-len(shape), 0)), eps, math.prod(shape))
    return y if weight is None else y * weight


def _normalize(
    over: OverSize, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Any:
    return over(x, [dim], eps * eps, 1) if p == 2 else NotImplemented


NORMS: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "normalize": _normalize,
}


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if enable_gqa:
        return NotImplemented
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, heads: int, *args: Any,
    **kwargs: Any,
) -> Any:  # fmt: skip
    """nn.MultiheadAttention, (L, N, E), where query, key and value have one matrix."""
    order = ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p",
             "out_proj_weight", "out_proj_bias")  # fmt: skip
    given = dict(zip(order, args, strict=False)) | kwargs
    unusual = ("bias_k", "bias_v", "add_zero_attn", "use_separate_proj_weight", "key_padding_mask")
    if query.dim() != 3 or any(given.get(name) not in (None, False) for name in unusual):
        return NotImplemented
    bias = given["in_proj_bias"]
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, b).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, weight, b in zip(
            (query, key, value), given["in_proj_weight"].chunk(3), biases, strict=True
        )
    )
    mask = given.get("attn_mask")
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, heads))
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    out = F.linear((weights @ v).permute(2, 0, 1, 3).flatten(-2), given["out_proj_weight"],
                   given["out_proj_bias"])  # fmt: skip
    if not given.get("need_weights", True):
        return out, None
    return out, weights.mean(1) if given.get("average_attn_weights", True) else weights


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def larger(a: Tensor, b: Tensor) -> Tensor:
    """max(a, b), by a chord."""
    return a + (b - a).relu()


def _amax(x: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False, **_: Any) -> Tensor:
    """A knockout: half of the places against the other half, until one is left."""
    dims = [d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)] or [*range(x.dim())]
    rows = x.movedim(dims, [*range(-len(dims), 0)]).flatten(-len(dims))
    while (count := rows.shape[-1]) > 1:
        half = count // 2
        ahead = larger(rows[..., :half], rows[..., half : 2 * half])
        rows = torch.cat([ahead, rows[..., 2 * half :]], -1) if count % 2 else ahead
    y = rows[..., 0]
    for d in sorted(dims) if keepdim else ():
        y = y.unsqueeze(d)
    return y


def _max_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Over the columns of a window, then over its rows, one after the other."""
    if return_indices:
        return NotImplemented
    stride = stride or kernel_size
    k, s, p, d = ([v, v] if isinstance(v, int) else [*v] for v in (kernel_size, stride, padding,
                                                                    dilation))  # fmt: skip
    out = F.max_pool2d(x.detach(), kernel_size, stride, padding, dilation, ceil_mode).shape[2:]
    reach = [(out[i] - 1) * s[i] + (k[i] - 1) * d[i] + 1 for i in (0, 1)]
    after = [max(0, reach[i] - x.shape[2 + i] - p[i]) for i in (0, 1)]
    # What stands beside the map loses to whatever is in it.
    least = x.detach().amin().item() - 1
    x = F.pad(x, (p[1], after[1], p[0], after[0]), value=least)
    for axis in (1, 0):
        span = (out[axis] - 1) * s[axis] + 1
        steps = [slice(at, at + span, s[axis]) for at in range(0, k[axis] * d[axis], d[axis])]
        taken = [x[..., some] if axis else x[..., some, :] for some in steps]
        x = taken[0]
        for other in taken[1:]:
            x = larger(x, other)
    return x


def _adaptive_max_pool(x: Tensor, size: Any, return_indices: bool = False) -> Any:
    if return_indices or size not in (1, (1, 1), [1, 1]):
        return NotImplemented
    return _amax(x, (-2, -1), keepdim=True)


RULES: dict[str, Callable[..., Any]] = {
    "glu": _glu,
    "amax": _amax,
    "max_pool2d": _max_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "maximum": larger,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
