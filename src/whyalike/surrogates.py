"""Linear surrogates of a network: the affine map that agrees with it at one image.

`FrozenGates` holds the gates of a network at their values (for ReLU and max pooling this is Eq. 7
of Zhu, Yang, Chen, IEEE TIP 2021). Under it the derivative of the head *is* the affine map
E = Σ v + b: piecewise linear operations are left alone, for their derivative already is their
frozen form, and each of the others gets a rule below. Operations that neither rule nor list knows
keep their derivative (a first-order Taylor expansion, Eq. 6) and are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary


def _names(text: str) -> frozenset[str]:
    """Names as torch has them, less the underscores around them.

    So functions, methods, operators and in-place forms share one.
    """
    return frozenset(text.split())


# Exact as they are: linear in what comes from the image, or linear piece by piece.
_LINEAR = _names(
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
    vector_norm std
    """
)  # norm and std are homogeneous of degree 1: their derivative is exact as well (Euler)
_PRODUCTS = _names(
    """
    mul multiply rmul imul matmul rmatmul bmm mm mv einsum tensordot inner outer dot vdot addmm
    addmv baddbmm addbmm linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d
    """
)  # linear if one factor comes from the image
_QUOTIENTS = _names(
    """
    div divide true_divide truediv itruediv
    """
)
# What has no part in the image's value, whatever it is made from.
_APART = _names(
    """
    detach zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones
    new_full new_empty new_tensor size dim numel item tolist argmax argmin shape
    """
)
# Views of a gate are the gate, and so is the gate with a constant added or multiplied.
_KEEPS_GATE = _names(
    """
    view reshape reshape_as view_as flatten unflatten permute transpose t moveaxis movedim squeeze
    unsqueeze expand expand_as broadcast_to repeat repeat_interleave contiguous clone chunk split
    getitem to float double half type_as add radd sub rsub mul rmul div truediv interpolate
    dropout mean sum
    """
)


def _factor(y: Tensor, x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, y / torch.where(x == 0, 1.0, x))


def _scaled(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = x · (y / x), the factor held: for functions through the origin, such as GELU."""
    in_place = bool(kwargs.pop("inplace", False)) or func.__name__.endswith("_")
    value = x.detach()
    y = func(value.clone(), *args, **kwargs)  # a copy, as func may write into what it gets
    # The last part is zero, but for functions that are not zero at the origin.
    offset = torch.where(value == 0, y, 0.0)
    held = x * _factor(y, value) + offset
    return x.copy_(held) if in_place else held


def _secant(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Y = y(0) + x · (y − y(0)) / x, the factor held: for gates that end a head."""
    in_place = bool(kwargs.pop("inplace", False)) or func.__name__.endswith("_")
    value = x.detach()
    start = func(torch.zeros_like(value), *args, **kwargs)
    held = start + x * _factor(func(value.clone(), *args, **kwargs) - start, value)
    return x.copy_(held) if in_place else held


def _over_mean(x: Tensor, dims: list[int], eps: float) -> Tensor:
    """(x − mean) / σ over some axes, with 1/σ held and the mean linear."""
    centred = x - x.mean(dims, keepdim=True)
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
        return func(x, running_mean, running_var, weight, bias, False, momentum, eps)
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


_Rule = Callable[..., Any]
_RULES: dict[str, _Rule] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
    "normalize": _normalize,
    "glu": _glu,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
_RULES |= dict.fromkeys(
    _names(
        """
        gelu silu mish hardswish elu celu selu relu6 hardtanh tanh softsign tanhshrink hardshrink
        softshrink local_response_norm
        """
    ),
    _scaled,
)
_GATES = _names(
    """
    sigmoid expit hardsigmoid softplus softmax relu6 rsqrt reciprocal
    """
)
"""What is held when it multiplies something else that comes from the image."""
_RULES |= dict.fromkeys(("sigmoid", "expit", "hardsigmoid", "softplus"), _secant)


class FrozenGates(TorchFunctionMode):
    """Within it, every operation that has a rule is linear in what comes from the image.

    Forward-mode differentiation of a head under it gives the contributions. Values do not change
    and the network is not touched: the rules stand in for functions as they are called.

    Args:
        x: the head's input, from which all that follows is told apart from weights and constants.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        # What comes from the image, and the names of operations on the way that are only Taylor's.
        self._taylor = WeakTensorKeyDictionary()
        self._gates = WeakTensorKeyDictionary()
        self._taylor[x] = frozenset()

    def taylor(self, output: Tensor) -> frozenset[str]:
        """Names of the operations that a value went through with no more than their derivative."""
        return self._taylor.get(output, frozenset())

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if "input" in kwargs and not args:
            args = (kwargs.pop("input"),)
        name = getattr(func, "__name__", str(func)).strip("_").removeprefix("special_")
        if not self._sources((args, kwargs)) or name in _APART:
            return func(*args, **kwargs)
        args = self._hold(name, args)
        sources = self._sources((args, kwargs))
        result = _RULES.get(name, _call)(func, *args, **kwargs)
        names = frozenset[str]().union(*(self._taylor[t] for t in sources))
        known = name in _LINEAR or name in _RULES or (name in _PRODUCTS and len(sources) < 2)
        divided = name in _QUOTIENTS and any(args[0] is t for t in sources)
        if not (known or divided):
            names |= {name}
        outputs = [args[0]] if name == "setitem" else _tensors(result)
        gate = name in _GATES or (
            name in _KEEPS_GATE and len(sources) == 1 and sources[0] in self._gates
        )
        if name in ("rdiv", "rtruediv") or (name in _QUOTIENTS and not divided):
            gate = True  # a constant divided by what comes from the image
        for output in outputs:
            if output.is_floating_point():
                self._taylor[output] = names
                if gate:
                    self._gates[output] = True
        return result

    def _sources(self, value: Any) -> list[Tensor]:
        """The tensors that come from the image, each once."""
        return list({id(t): t for t in _tensors(value) if t in self._taylor}.values())

    def _hold(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of two factors that come from the image, hold the gate; of a quotient, what divides."""
        mine = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a in self._taylor]
        if len(mine) < 2:
            return args
        if name in _QUOTIENTS:
            held = 1
        elif name in _PRODUCTS and (gates := [i for i in mine if args[i] in self._gates]):
            held = gates[-1]
        else:
            return args
        return (*args[:held], args[held].detach(), *args[held + 1 :])


def _call(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result, however nested in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for part in value for tensor in _tensors(part)]
