"""Convolution with held weights, whose derivative is cheap to take in both directions.

torch's own, differentiated twice, also computes what the weights would get, one group after the
other, and throws it away: for depthwise convolutions that is nearly all of the time.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """What torch calls the arguments of a convolution besides input, weight and bias."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


def convolution(func: Any, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """func(x, weight, None, *args, **kwargs), a function of torch, with the weight held."""
    form = _form(func.__name__, weight.dim() - 2, *args, **kwargs)
    if form is None or x.dim() != weight.dim():
        return func(x, weight, None, *args, **kwargs)
    return _Forwards.apply(x, weight, form)


def _form(
    name: str, axes: int, stride: Any = 1, padding: Any = 0, *args: Any, **kwargs: Any
) -> Form | None:
    """The form of a call; None of one that pads by name."""
    transposed = "transpose" in name
    order = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    given = dict(zip(order, args, strict=False)) | kwargs
    if isinstance(padding, str):
        return None

    def each(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else [*value]
        return values * axes if len(values) == 1 else values

    return Form(
        each(stride),
        each(padding),
        each(given.get("dilation", 1)),
        transposed,
        each(given.get("output_padding", 0)),
        given.get("groups", 1),
    )


class _Forwards(torch.autograd.Function):
    """y = w ∗ x, linear in x."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, form: Form) -> Tensor:
        return torch.ops.aten.convolution(x, weight, None, *form)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Form], output: Tensor) -> None:
        x, weight, ctx.form = inputs
        ctx.save_for_backward(weight)
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None]:
        return _Backwards.apply(u, *ctx.saved_tensors, ctx.form, ctx.shape), None, None

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, weight: Tensor, form: Form) -> tuple[Tensor, int]:
        x = x.movedim(dims[0], 0)
        return _Forwards.apply(x.flatten(0, 1), weight, form).unflatten(0, x.shape[:2]), 0


class _Backwards(torch.autograd.Function):
    """Its transpose, u → wᵀu, linear in u."""

    @staticmethod
    def forward(u: Tensor, weight: Tensor, form: Form, shape: torch.Size) -> Tensor:
        x = u.new_empty(()).expand(shape)  # its values are not looked at
        wanted = [True, False, False]
        return torch.ops.aten.convolution_backward(u, x, weight, None, *form, wanted)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, weight, ctx.form, ctx.shape = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple[Tensor, None, None, None]:
        return _Forwards.apply(t, *ctx.saved_tensors, ctx.form), None, None, None

    @staticmethod
    def vmap(
        info: Any, dims: Any, u: Tensor, weight: Tensor, form: Form, shape: torch.Size
    ) -> tuple[Tensor, int]:
        u = u.movedim(dims[0], 0)
        whole = torch.Size((len(u) * shape[0], *shape[1:]))
        return _Backwards.apply(u.flatten(0, 1), weight, form, whole).unflatten(0, u.shape[:2]), 0


# torch binds the arguments of each call to the signature, which takes most of it to find out.
for _forward in (_Forwards.forward, _Backwards.forward):
    setattr(_forward, "__signature__", inspect.signature(_forward))  # noqa: B010
