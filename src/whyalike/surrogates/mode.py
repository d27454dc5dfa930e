"""The torch function mode under which a network is its own linear surrogate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from whyalike.surrogates.calls import CONVOLUTIONS, called, names, tensors, writes_into_its_input
from whyalike.surrogates.convolution import convolution
from whyalike.surrogates.following import OfTensors
from whyalike.surrogates.gates import (
    APART,
    BRANCHES,
    GATES,
    KEEPS_GATE,
    LINEAR,
    PRODUCTS,
    QUOTIENTS,
    RULES,
)
from whyalike.surrogates.places import Places
from whyalike.surrogates.remainders import each, has_derivative, left_over, presented
from whyalike.surrogates.spec import Surrogate
from whyalike.surrogates.units import Shared, ratio, share, size, tau

ADDS = names("add radd iadd sub isub subtract rsub")
MATRICES = names("matmul bmm rmatmul")
AVERAGES = names("mean avg_pool2d adaptive_avg_pool2d")
MULTIPLIES = names("mul multiply rmul imul")
SUMMAND_FIRST = names("addmm addmv baddbmm addbmm addcmul")

_Gate = Literal["gate", "branch", "ratio"]


@dataclass
class _Unit:
    """A sum whose surrogate waits: a BatchNorm behind it would be folded in.

    y and z without biases; `bias` as the layer has it; `at`, its places; `scale`, by which y, but
    not the bias, is still to be multiplied.
    """

    y: Tensor
    z: Callable[[], Tensor]
    bias: Tensor | None
    at: Tensor | None
    scale: Tensor | None = None
    done: Tensor | None = None


def _scaled(y: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """scale·y + bias, of which either may be missing."""
    if scale is None:
        return y if bias is None else y + bias
    return y * scale if bias is None else torch.addcmul(bias, y, scale)


class Linearised(TorchFunctionMode):
    """Within it, every operation that has a rule is linear in what comes from the image.

    Differentiation of a head under it, forward or reverse, gives the contributions. Values do not
    change and the network is not touched: the rules stand in for functions as they are called.

    Args:
        x: the head's input, from which all that follows is told apart from weights and constants;
            without one, what `follow` is told of.
        surrogate: which linear surrogate.
        at: for located biases: the presence of each number of x (its shape), of the cells
            (n, 1, h, w), and perhaps of what is added to the image as a whole, ().
        remainders: how present (1) is what operations leave over that keep no more than their
            derivative, by name; a number each, to take the derivative by.
    """

    def __init__(
        self,
        x: Tensor | None = None,
        surrogate: Surrogate | None = None,
        at: tuple[Tensor, Tensor, Tensor | None] | None = None,
        remainders: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.surrogate = surrogate or Surrogate()
        self.remainders = remainders or {}
        self.tau = tau(self.surrogate.gamma) if self.surrogate.kind == "gamma" else 0.0
        # What comes from the image, and the names of operations on the way that are only Taylor's.
        self._taylor = OfTensors[frozenset[str]]()
        self._gates = OfTensors[_Gate]()
        self._waiting = OfTensors[_Unit]()
        if x is not None:
            self.follow(x)
        self.places: Places | None = None
        if at is not None and x is not None:
            self.places = Places(*at[1:])
            self.places.of[x] = at[0]

    def follow(self, x: Tensor) -> None:
        """Let a tensor, and what is computed from it, count as coming from the image."""
        self._taylor[x] = self.taylor(x)

    def taylor(self, output: Tensor) -> frozenset[str]:
        """Names of the operations that a value went through with no more than their derivative."""
        return self._taylor.get(output, frozenset())

    def finish(self, output: Tensor) -> Tensor:
        """The head's output, with nothing left waiting."""
        return self._settle(output)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        mine = self._mine(args) + self._mine(kwargs)
        if not mine:
            return func(*args, **(kwargs or {}))
        name, args, kwargs = called(func, args, kwargs)
        if name in APART:
            return func(*args, **kwargs)
        if name != "batch_norm" and any(x in self._waiting for x in mine):
            in_place = writes_into_its_input(func, kwargs)
            args, kwargs = self._settled(args, in_place), self._settled(kwargs, in_place)
        given = args
        args = self._hold(name, args)
        mine = self._mine(args) + self._mine(kwargs)
        sources = list({id(x): x for x in mine}.values())
        rule = RULES.get(name) if self.surrogate.kind != "taylor" else None
        alone = len(mine) < 2  # of x · x, two
        divided = name in QUOTIENTS and args[0] in self._taylor and alone
        linear = name in LINEAR or (name in PRODUCTS and alone) or divided
        known = rule is not None or linear
        presence = None if known else self.remainders.get(name)
        left = [] if presence is None else left_over(func, args, kwargs, sources)
        written = None
        if presence is not None and writes_into_its_input(func, kwargs):
            # The derivative needs what the operation itself gives, not what is then made of it.
            written, args = args[0], (args[0].clone(), *args[1:])
        if rule is not None:
            with self:  # what a rule is made of is followed in its turn
                result = rule(func, *args, **kwargs)
        else:
            result = self._affine(name, func, args, kwargs)
        if presence is not None:
            result = presented(result, left, presence)
            result = result if written is None else written.copy_(result)
        new = frozenset[str]() if known else frozenset({name})
        on_the_way = new.union(*(self._taylor[t] for t in sources))
        gate = self._gate(name, given, sources, divided)
        outputs = [args[0]] if name == "setitem" else tensors(result)
        for output in outputs:
            if has_derivative(output):
                self._taylor[output] = self._taylor.get(output, frozenset()) | on_the_way
                if gate:
                    self._gates[output] = gate
        if self.places is not None:
            self.places.follow(name, func, given, kwargs, result)  # also what a held gate is of
        return result

    def _mine(self, value: Any) -> list[Tensor]:
        """The tensors in an argument that come from the image."""
        return [x for x in tensors(value) if x in self._taylor]

    def _gate(
        self, name: str, given: tuple[Any, ...], sources: list[Tensor], divided: bool
    ) -> _Gate | None:
        """What kind of a gate an operation's results are, if any."""
        if name in GATES or name in ("rdiv", "rtruediv"):
            return "gate"
        if name in QUOTIENTS and not divided:  # a constant divided by what comes from the image
            return "gate"
        if name in KEEPS_GATE and len(sources) == 1 and sources[0] in self._gates:
            return self._gates[sources[0]]
        if name in QUOTIENTS and len(self._mine(given)) > 1:
            return "ratio"
        return "branch" if name in BRANCHES else None

    def _held_factor(self, name: str, args: tuple[Any, ...], mine: list[int]) -> int | None:
        """Which factor is the gate: one that is nothing else, or the only one that may be."""
        kinds = {i: self._gates[args[i]] for i in mine if args[i] in self._gates}
        if gates := [i for i, kind in kinds.items() if kind == "gate"]:
            return gates[-1]
        if name not in MULTIPLIES:
            return None
        # A ratio scales what it is spread over, as in the global response norm; one that is as
        # large is as likely the value, as behind a norm.
        largest = max(args[i].numel() for i in mine)
        ratios = [i for i, kind in kinds.items() if kind == "ratio" and args[i].numel() < largest]
        branches = [i for i, kind in kinds.items() if kind == "branch"]
        found = ratios or branches
        return found[0] if len(found) == 1 else None

    def _hold(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of two factors that come from the image, hold the gate; of a quotient, what divides."""
        mine = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a in self._taylor]
        if name in SUMMAND_FIRST:
            mine = [i for i in mine if i > 0]
        if len(mine) < 2 or self.surrogate.kind == "taylor":
            return args
        if name in QUOTIENTS:
            held = 1
        elif name in PRODUCTS and (found := self._held_factor(name, args, mine)) is not None:
            held = found
        else:
            return args
        return (*args[:held], args[held].detach(), *args[held + 1 :])

    # -- affine operations: their biases, and what their terms carry ------------------------------

    def _affine(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation as it is, but for its constants' places and, under γ, its terms."""
        if name in CONVOLUTIONS:
            return self._layer(name, func, args, kwargs)
        if self.places is None and not self.tau:
            return func(*args, **kwargs)
        if name == "linear":
            return self._layer(name, func, args, kwargs)
        if name == "batch_norm":
            return self._batch_norm(func, *args, **kwargs)
        if name in ADDS:
            return self._add(name, func, args, kwargs)
        if name in MATRICES and self.tau and len(self._mine(args)) == 1:
            y = func(*args, **kwargs)

            def absolute() -> Tensor:
                return func(*(size(a) if isinstance(a, Tensor) else a for a in args), **kwargs)

            return share(y, absolute, self.tau)
        if name in AVERAGES and self.tau and self._is_map(args[0]):
            y = func(*args, **kwargs)
            return share(y, lambda: func(size(args[0]), *args[1:], **kwargs), self.tau)
        return func(*args, **kwargs)

    def _is_map(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.dim() > 2

    def _shares(self, x: Tensor) -> bool:
        """Whether what a place adds up by itself, of channels or branches, is a unit.

        Of tokens it is left to the gates: shared block by block, all their v turn towards E, and
        maps of points no longer depend on the point.
        """
        return bool(self.tau) and x.dim() > 3

    def _layer(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A convolution or a linear layer."""
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        if x not in self._taylor or weight in self._taylor:  # the image makes the weights
            return func(*args, **kwargs)
        rest = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}
        weight = weight.detach()

        def layer(x: Tensor, weight: Tensor) -> Tensor:
            if name in CONVOLUTIONS:
                return convolution(func, x, weight, *args[3:], **rest)
            return func(x, weight, None)

        y = layer(x, weight)
        bias = None if bias is None else bias.detach()
        if bias is not None and name in CONVOLUTIONS:
            bias = bias.view(-1, *([1] * (y.dim() - 2)))
        at = None
        if self.places is not None:
            self.places.follow(name, func, args, kwargs, y)
            at = self.places.of.get(y)
        result = y if bias is None else y + self._placed(bias, at)
        if not self.tau or not (self._shares(y) if name == "linear" else self._is_map(y)):
            return result
        unit = _Unit(y, lambda: layer(size(x), weight.abs()), bias, at)
        if name == "linear":
            return self._share(unit)
        self._waiting[result] = unit
        return result

    def _batch_norm(
        self, func: Any, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
        weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        weight, bias = (None if t is None else t.detach() for t in (weight, bias))
        at = None if self.places is None else self.places.of.get(x)
        asked = x.requires_grad or (self.places and self.places.presence(at) is not None)
        if training or running_mean is None or running_var is None or not asked:
            return func(x, running_mean, running_var, weight, bias, training, momentum, eps)
        shape = (1, -1, *([1] * (x.dim() - 2)))
        scale = (running_var + eps).rsqrt()
        scale = (scale if weight is None else scale * weight).view(shape)
        shift = -running_mean.view(shape) * scale
        shift = shift if bias is None else shift + bias.view(shape)
        unit = self._waiting.get(x)
        if unit is None or unit.done is not None:
            x = self._settle(x)
            if not self.tau or not self._is_map(x):
                return x * scale + self._placed(shift, at)
            return self._share(_Unit(x, lambda: size(x), shift, at, scale))
        whole = shift if unit.bias is None else shift + unit.bias * scale
        return self._share(_Unit(unit.y, unit.z, whole, unit.at, scale))

    def _add(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A sum of two: two branches, or a constant that may have a place."""
        if kwargs or len(args) != 2:
            return func(*args, **kwargs)
        first, second = args
        mine = [isinstance(a, Tensor) and a in self._taylor for a in args]
        of_map = any(self._is_map(a) for a, is_mine in zip(args, mine, strict=True) if is_mine)
        placed = self.places is not None and self.places.whole is not None
        if not of_map and (all(mine) or not placed):
            return func(*args)
        minus_first, minus_second = name == "rsub", name != "rsub" and "sub" in name
        y = -first if minus_first else first
        if all(mine):
            if not self._shares(first):
                return func(*args)
            y = y - second if minus_second else y + second
            y = share(y, lambda: size(first) + size(second), self.tau)
        else:
            x, constant = (first, second) if mine[0] else (second, first)
            if isinstance(constant, Tensor):
                constant = constant.detach()
            else:
                constant = torch.as_tensor(constant, dtype=x.dtype, device=x.device)
            at = None if self.places is None else self.places.of.get(x)
            if at is not None and torch.broadcast_shapes(x.shape, constant.shape) != at.shape:
                at = None
            minus_x, minus = (minus_first, minus_second) if mine[0] else (minus_second, minus_first)
            y = (-x if minus_x else x) + self._placed(-constant if minus else constant, at)
            if self._shares(x):
                y = share(y, lambda: size(x) + self._placed(constant.abs(), at), self.tau)
        return first.copy_(y) if writes_into_its_input(func, kwargs) else y

    def _placed(self, constant: Tensor, at: Tensor | None) -> Tensor:
        return constant if self.places is None else self.places.placed(constant, at)

    def _share(self, unit: _Unit) -> Tensor:
        """The surrogate of scale·y + bias, in one product each with what y and z are.

        For each derivative goes through these products, and they take as long as convolutions.
        """
        y, bias, scale = unit.y, unit.bias, unit.scale
        value = _scaled(y.detach(), scale, bias)
        presence = None
        if bias is not None and self.places is not None:
            presence = self.places.presence(unit.at)
        if not y.requires_grad and presence is None:
            return value
        z = unit.z()
        scale_size, bias_size = (None if c is None else c.abs() for c in (scale, bias))
        r = ratio(value, _scaled(z.detach(), scale_size, bias_size), self.tau)
        of_z = r * (self.tau if scale_size is None else self.tau * scale_size)
        constant = None
        if presence is not None and bias is not None and bias_size is not None:
            constant = r * (self.tau * bias_size)
        of_y = r.abs_()
        if constant is not None and bias is not None:
            constant.addcmul_(of_y, bias)
        if scale is not None:
            of_y.mul_(scale)
        own = value.clone() if scale is None and bias is None else value
        shared: Tensor = Shared.apply(own, y, z, presence, of_y, of_z, constant)
        return shared

    # -- sums that wait for a BatchNorm -----------------------------------------------------------

    def _settled(self, value: Any, in_place: bool) -> Any:
        return each(value, lambda x: self._settle(x, in_place))

    def _settle(self, x: Tensor, in_place: bool = False) -> Tensor:
        unit = self._waiting.get(x)
        if unit is None:
            return x
        if unit.done is None:
            unit.done = self._share(unit)
            self._taylor[unit.done] = self._taylor[x]
            if self.places is not None and unit.at is not None:
                self.places.of[unit.done] = unit.at
        if in_place:  # whoever holds x sees what is written into it
            del self._waiting[x]
            return x.copy_(unit.done)
        return unit.done
