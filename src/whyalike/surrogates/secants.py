"""Chords: a network as the linear map between its values at two images.

Frozen gates say what a network makes of an image; a chord says what it makes of the *difference* of
two. Every operation y = f(x) of one number is held at its secant slope, (f(x) − f(x')) / (x − x'),
where x' is what it gets for the other image, and a product of two factors at their means, as
Δ(ab) = ā Δb + b̄ Δa. So E(X) − E(X') = J (X − X') exactly, with J the derivative under the mode: the
rescale rule of Shrikumar et al., "Learning Important Features Through Propagating Activation
Differences" (DeepLIFT, ICML 2017), for any network of such operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from whyalike.errors import ModelError
from whyalike.surrogates.calls import CONVOLUTIONS, called, names, tensors, writes_into_its_input
from whyalike.surrogates.compound import NORMS, RULES
from whyalike.surrogates.convolution import convolution
from whyalike.surrogates.following import OfTensors
from whyalike.surrogates.gates import APART, PRODUCTS, QUOTIENTS
from whyalike.surrogates.remainders import has_derivative

NEAR = 1e-4
"""Two inputs that differ by less than this share of their size have no chord but a tangent."""

# Linear in what comes from the image, whatever its values.
AFFINE = names(
    """
    batch_norm add radd iadd sub rsub isub subtract neg negative positive sum mean cumsum
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout view reshape reshape_as
    view_as flatten unflatten permute transpose t moveaxis movedim swapaxes swapdims squeeze
    unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile contiguous clone cat
    concat concatenate stack hstack vstack chunk split tensor_split unbind getitem index_select
    gather take_along_dim masked_fill where narrow select diagonal flip roll rot90 pad
    constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle unfold fold interpolate upsample
    to float double half bfloat16 type type_as cpu cuda copy get identity requires_grad
    """
)
# Of one number at a time.
CURVED = names(
    """
    relu leaky_relu prelu relu6 hardtanh threshold clamp clip clamp_min clamp_max abs absolute gelu
    silu mish hardswish elu celu selu tanh softsign tanhshrink hardshrink softshrink sigmoid expit
    hardsigmoid softplus logsigmoid exp exp2 expm1 log log1p log2 sqrt rsqrt reciprocal square pow
    erf sin cos
    """
)


class Secants(TorchFunctionMode):
    """Within it, what curves is held at its chord between this run of a network and another one.

    Values do not change and the network is not touched.

    Args:
        x: the network's input, from which what comes from the image is told apart.
        other: `inputs` of the same network's run on other images; without them nothing is held.
    """

    def __init__(self, x: Tensor, other: Sequence[tuple[Tensor, ...]] | None = None) -> None:
        super().__init__()
        self.inputs: list[tuple[Tensor, ...]] = []
        """What each curved operation got, in the order in which they ran."""
        self.first_order: set[str] = set()
        """Names of operations without a chord, which keep their derivative at this image."""
        self._other = other
        self._followed = OfTensors[None]()
        self._followed[x] = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, args, kwargs = called(func, args, kwargs)
        if not self._mine((args, kwargs)) or name in APART:
            return func(*args, **kwargs)
        result = self._held(name, func, args, kwargs)
        if writes_into_its_input(func, kwargs) and result is not args[0]:
            result = args[0].copy_(result)
        for output in [args[0]] if name == "setitem" else tensors(result):
            self._followed[output] = None
        return result

    def _mine(self, value: Any) -> list[Tensor]:
        """The arguments that come from the image."""
        return [t for t in tensors(value) if t in self._followed]

    def _held(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        mine = self._mine((args, kwargs))
        if all(t.is_floating_point() for t in mine):
            if name in RULES:
                with self:  # what a rule is made of is held in its turn
                    result = RULES[name](*args, **kwargs)
                if result is not NotImplemented:
                    return result
            elif name == "softmax" and mine[0] is args[0]:
                return self._softmax(func, args, kwargs)
            elif name in CURVED and len(mine) == 1 and mine[0] is args[0]:
                return self._chord(func, args, kwargs)
            elif name in CONVOLUTIONS and len(mine) == 1:
                return _convolution(func, *args, **kwargs)
            elif name in PRODUCTS and len(self._mine(args)) == len(mine) == 2:
                return self._product(func, args, kwargs)
            elif name in QUOTIENTS and not kwargs and self._mine(args[1]):
                return self._quotient(*args)
            elif name in ("rdiv", "rtruediv"):
                return self._quotient(args[1], args[0])
            elif name in ("norm", "vector_norm") and (given := _euclidean(*args, **kwargs)):
                return self._length(*given)
            elif name in NORMS:
                result = NORMS[name](self._over_size, *args, **kwargs)
                if result is not NotImplemented:
                    return result
            elif name in AFFINE or (name in PRODUCTS | QUOTIENTS and len(mine) == 1):
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if any(has_derivative(t) for t in tensors(result)):
            self.first_order.add(name)
        return result

    def _elsewhere(self, *values: Tensor) -> tuple[Tensor, ...] | None:
        """What the same operation got in the other run; this run's values are kept for others."""
        at = len(self.inputs)
        # Copies, as a network may write into what it has done with.
        self.inputs.append(tuple(value.detach().clone() for value in values))
        if self._other is None:
            return None
        found = self._other[at] if at < len(self._other) else ()
        if [t.shape for t in found] != [t.shape for t in values]:
            raise ModelError(
                "the network does other things with an image of which parts are hidden; its change "
                "cannot be told apart; explain it without"
            )
        return found

    def _chord(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """f(x) + (x − x held) · (f(x) − f(x')) / (x − x')."""
        x, *rest = args
        other = self._elsewhere(x)
        rest_kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}

        def f(value: Tensor) -> Tensor:
            return func(value.clone(), *rest, **rest_kwargs)

        if other is None:
            return f(x)
        value, there = x.detach(), other[0]
        y = f(value)
        change = value - there
        near = change.abs() <= NEAR * torch.maximum(value.abs(), there.abs())
        slope = (y - f(there)) / torch.where(near, 1.0, change)
        if near.any():
            with torch.enable_grad():
                at = value.clone().requires_grad_()
                (tangent,) = torch.autograd.grad(f(at).sum(), at)
            slope = torch.where(near, tangent, slope)
        return y.detach() + slope.detach() * (x - value)

    def _product(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Both factors that come from the image, each with the other at its mean of the two."""
        first, second = (i for i, arg in enumerate(args) if self._mine(arg))
        a, b = args[first], args[second]
        other = self._elsewhere(a, b)

        def f(a: Tensor, b: Tensor) -> Tensor:
            given = [*args]
            given[first], given[second] = a, b
            # Not in place: what is written into it is made of three.
            return _apart(func)(*given, **kwargs)

        if other is None:
            return f(a, b)
        a_, b_ = a.detach(), b.detach()
        mean_a, mean_b = ((x + y) / 2 for x, y in zip((a_, b_), other, strict=True))
        return f(a_, b_) + f(a - a_, mean_b) + f(mean_a, b - b_)

    def _quotient(self, a: Any, b: Tensor) -> Tensor:
        """Δ(a/b) = Δa / b − (a'/b') Δb / b, with no small divisor but where a' is as small."""
        a = a if isinstance(a, Tensor) else torch.as_tensor(a, dtype=b.dtype, device=b.device)
        other = self._elsewhere(a, b)
        if other is None:
            return a / b
        a_, b_ = a.detach(), b.detach()
        return a_ / b_ + (a - a_) / b_ - other[0] / other[1] * (b - b_) / b_

    def _over_size(self, x: Tensor, dims: list[int], eps: float, count: int) -> Tensor:
        """x r with r = 1 / √(Σx² / count + eps): Δ(x r) = r Δx + x' Δr.

        Δr is a chord of the sum of squares, −r² r'² / (r + r') times its change, and x' r' is never
        large: so nothing grows where the other image is flat.
        """
        other = self._elsewhere(x)
        value = x.detach()

        def scale(x: Tensor) -> Tensor:
            return (x.square().sum(dims, keepdim=True) / count + eps).rsqrt()

        r = scale(value)
        if other is None:
            return x * r
        there, r_there = other[0], scale(other[0])
        change = x - value
        squares = ((value + there) * change).sum(dims, keepdim=True) / count
        return (
            value * r + change * r - there * r_there * (r * r * r_there / (r + r_there)) * squares
        )

    def _length(self, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
        """√Σx², whose change is Σ(x + x')Δx over the sum of both lengths."""
        other = self._elsewhere(x)
        value = x.detach()
        length = value.square().sum(dims, keepdim=keepdim).sqrt()
        if other is None:
            return x.square().sum(dims, keepdim=keepdim).sqrt()
        there = other[0]
        both = length + there.square().sum(dims, keepdim=keepdim).sqrt()
        grown = ((value + there) * (x - value)).sum(dims, keepdim=keepdim)
        return length + torch.where(both == 0, 0.0, grown / both)

    def _softmax(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """e / Σe with e = exp(x): a chord, a sum, a chord and a product."""
        x = args[0]
        # What is masked out by -inf has no change to speak of.
        x = torch.where(x.isinf(), torch.finfo(x.dtype).min / 2, x)
        other = self._elsewhere(x)
        y = func(*args, **kwargs)
        if other is None:
            return y
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        value, there = x.detach(), other[0]
        # Moved by the same for both, which changes neither.
        top = torch.maximum(value, there).amax(dim, keepdim=True)
        e, e_there = (value - top).exp(), (there - top).exp()
        total, total_there = (part.sum(dim, keepdim=True) for part in (e, e_there))
        change = value - there
        near = change.abs() <= NEAR
        slope = torch.where(near, (e + e_there) / 2, (e - e_there) / torch.where(near, 1.0, change))
        grown = slope * (x - value)
        over = (1 / total + 1 / total_there) / 2
        sinking = grown.sum(dim, keepdim=True) / (total * total_there)
        return y.detach() + grown * over - (e + e_there) / 2 * sinking


def _apart(func: Any) -> Any:
    """The form of a product that writes into none of its factors."""
    return torch.mul if func.__name__ in ("mul_", "multiply_", "__imul__") else func


def _convolution(func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None,
                 *args: Any, **kwargs: Any) -> Tensor:  # fmt: skip
    y = convolution(func, x, weight.detach(), *args, **kwargs)
    return y if bias is None else y + bias.detach().view(-1, *([1] * (y.dim() - 2)))


def _euclidean(
    x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **other: Any
) -> tuple[Tensor, list[int], bool] | None:
    """What x.norm(...) or torch.linalg.vector_norm(...) asks for, if it is a Euclidean length."""
    p = other.pop("ord", p)
    if p not in (2, None, "fro") or any(value is not None for value in other.values()):
        return None
    dims = [*range(x.dim())] if dim is None else [dim] if isinstance(dim, int) else [*dim]
    return x, dims, keepdim
