"""Gates held at their values: which operations are linear as they are, and a rule for each other.

Piecewise linear operations are left alone, for their derivative already is their frozen form (for
ReLU and max pooling this is Eq. 7 of Zhu, Yang, Chen, IEEE TIP 2021). The rules write the others as
products with a held factor, in operations that are linear themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whyalike.surrogates.calls import names, writes_into_its_input

# Exact as they are: linear in what comes from the image, or linear piece by piece.
LINEAR = names(
    """
    batch_norm add radd iadd sub rsub isub subtract neg negative positive sum mean cumsum
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool2d_with_indices adaptive_max_pool2d_with_indices amax amin max min maximum minimum
    boolean_dispatch fn sort topk median relu leaky_relu prelu rrelu threshold clamp clip
    clamp_min clamp_max abs absolute dropout dropout1d dropout2d dropout3d feature_dropout
    alpha_dropout view reshape reshape_as view_as flatten unflatten permute transpose t moveaxis
    movedim swapaxes swapdims squeeze unsqueeze expand expand_as broadcast_to repeat
    repeat_interleave tile contiguous clone cat concat concatenate stack hstack vstack chunk split
    tensor_split unbind getitem index_select gather take_along_dim masked_fill masked_select where
    narrow select diagonal flip roll rot90 pad constant_pad_nd pixel_shuffle pixel_unshuffle
    channel_shuffle unfold fold interpolate upsample to float double half bfloat16 type type_as
    cpu cuda setitem scatter scatter_add index_add index_copy copy get identity requires_grad norm
    vector_norm std fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_rfft fft_irfft
    fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_fftshift fft_ifftshift view_as_real
    view_as_complex real imag conj
    """
)  # norm and std are homogeneous of degree 1: their derivative is exact as well (Euler)
PRODUCTS = names(
    """
    mul multiply rmul imul matmul rmatmul bmm mm mv einsum tensordot inner outer dot vdot addmm
    addmv baddbmm addbmm addcmul linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d
    """
)  # linear if one factor comes from the image
QUOTIENTS = names(
    """
    div divide true_divide truediv itruediv
    """
)
# What has no part in the image's value, whatever it is made from.
APART = names(
    """
    detach zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones
    new_full new_empty new_tensor size dim numel item tolist argmax argmin shape
    """
)
# Views of a gate are the gate, and so is the gate with a constant added or multiplied.
KEEPS_GATE = names(
    """
    view reshape reshape_as view_as flatten unflatten permute transpose t moveaxis movedim squeeze
    unsqueeze expand expand_as broadcast_to repeat repeat_interleave contiguous clone chunk split
    getitem to float double half type_as add radd sub rsub mul rmul div truediv interpolate
    dropout mean sum
    """
)


def _factor(y: Tensor, x: Tensor) -> Tensor:
    """Y / x, and 0 where x is 0. Not by masks, which take ten times as long as this does."""
    return (y / x).nan_to_num_(0.0, 0.0, 0.0)


def _scaled(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = x · (y / x), the factor held: for functions through the origin, such as GELU."""
    in_place = writes_into_its_input(func, kwargs)
    value, origin = x.detach(), _at_zero(func, *args, **kwargs)
    if not (x.requires_grad or origin):  # nothing is differentiated
        y = func(value, *args, **kwargs)
        return x if in_place else y
    y = func(value.clone() if in_place else value, *args, **kwargs)
    held = x * _factor(y, value)
    if origin:  # with an alpha, as γ is not to take it for a branch
        held = torch.add(held, torch.where(value == 0, origin, 0.0).to(y), alpha=1)
    return x.copy_(held) if in_place else held


@functools.lru_cache(maxsize=256)
def _at_zero(func: Any, *args: Any, **kwargs: Any) -> float:
    """A function's value at zero; its other arguments are numbers and words."""
    value: float = func(torch.zeros(1, 1, 1), *args, **kwargs).item()
    return value


def _secant(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = y(0) + x · (y − y(0)) / x, the factor held: for gates that end a head."""
    in_place = writes_into_its_input(func, kwargs)
    value = x.detach()
    start = func(torch.zeros_like(value), *args, **kwargs)
    y = func(value.clone() if in_place else value, *args, **kwargs)
    held = start + x * _factor(y - start, value)
    return x.copy_(held) if in_place else held


def _over_mean(x: Tensor, dims: list[int], eps: float) -> Tensor:
    """(x − mean) / σ over some axes, with 1/σ held and the mean linear."""
    count = math.prod(x.shape[dim] for dim in dims)
    # Written so that γ does not take the mean for an average of places, nor for a branch.
    centred = torch.sub(x, x.sum(dims, keepdim=True) / count, alpha=1)
    sigma = (centred.detach().square().mean(dims, keepdim=True) + eps).sqrt()
    return centred / sigma


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int) -> Tensor:
    """A weight and a bias for each channel, axis 1 of `dims` axes."""
    shape = (1, -1) + (1,) * (dims - 2)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


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
    return _affine(_over_mean(grouped, [-1], eps).reshape(x.shape), weight, bias, x.dim())


def _instance_norm(
    func: Any, x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, *_: Any,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_over_mean(x, list(range(2, x.dim())), eps), weight, bias, x.dim())


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


def _glu(func: Any, x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * gate.detach().sigmoid()


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
    return scores.softmax(-1) @ value


def _multi_head_attention(
    func: Any, query: Tensor, key: Tensor, value: Tensor, embed_dim: int, heads: int, *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """nn.MultiheadAttention: its weights from the values, its value path by hand, (L, N, E)."""
    names = ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p",
             "out_proj_weight", "out_proj_bias")  # fmt: skip
    given = dict(zip(names, args, strict=False)) | kwargs
    asked = {**given, "need_weights": True, "average_attn_weights": False}
    still = (t.detach() for t in (query, key, value))
    _, weights = func(*still, embed_dim, heads, **asked)
    if given.get("use_separate_proj_weight"):
        weight = given["v_proj_weight"]
    else:
        weight = given["in_proj_weight"].chunk(3)[2]
    bias = None if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)[2]
    v = F.linear(value, weight, bias)
    if given["bias_v"] is not None:
        v = torch.cat([v, given["bias_v"].flatten().expand(1, *v.shape[1:])])
    if given["add_zero_attn"]:
        v = torch.cat([v, v.new_zeros(1, *v.shape[1:])])
    v = v.unflatten(-1, (heads, -1)).movedim(0, -2)  # (..., heads, S, E / heads)
    mixed = (weights @ v).movedim(-2, 0).flatten(-2)
    out = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
    if not given.get("need_weights", True):
        return out, None
    return out, weights.mean(-3) if given.get("average_attn_weights", True) else weights


def _addcmul(
    func: Any, x: Tensor, first: Tensor, second: Tensor, *, value: float = 1, out: None = None
) -> Tensor:
    y = x + (first * second if value == 1 else value * (first * second))
    return x.copy_(y) if func.__name__.endswith("_") else y


def _amax(
    func: Any, x: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False, out: None = None
) -> Tensor:
    """Of equal values the first one, as max pooling has it; torch divides among them."""
    dims = [d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)] or [*range(x.dim())]
    last = [*range(-len(dims), 0)]
    rows = x.detach().movedim(dims, last)
    flat = rows.flatten(-len(dims))
    best = (flat.argmax if "max" in func.__name__ else flat.argmin)(-1, keepdim=True)
    winner = torch.zeros_like(flat).scatter(-1, best, 1.0).view(rows.shape).movedim(last, dims)
    return torch.where(winner > 0, x, 0.0).sum(dims, keepdim=keepdim)


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
    "normalize": _normalize,
    "glu": _glu,
    "addcmul": _addcmul,
    "amax": _amax,
    "amin": _amax,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
RULES |= dict.fromkeys(
    names(
        """
        gelu silu mish hardswish elu celu selu relu6 hardtanh tanh softsign tanhshrink hardshrink
        softshrink local_response_norm
        """
    ),
    _scaled,
)
GATES = names(
    """
    sigmoid expit hardsigmoid softplus softmax relu6 rsqrt reciprocal erf tanh
    """
)
"""What is held when it multiplies something else that comes from the image."""
BRANCHES = names("silu gelu mish hardswish")
"""The same, where neither factor is such a gate: the squashed branch of SwiGLU and GEGLU."""
RULES |= dict.fromkeys(("sigmoid", "expit", "hardsigmoid", "softplus"), _secant)
