"""What an operation that keeps no more than its derivative leaves over.

With J held, y = f(x) is J·x + r at this image, and the remainder r = y − J·x is a constant. Behind
it the surrogate is linear, so r's part of the embedding is (∂E/∂y)·r, in b. To be told apart there,
it is given a presence t, which is 1: y becomes y + (t − 1)·r, and ∂E/∂t is that part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whyalike.surrogates.calls import tensors


def left_over(
    func: Callable[..., Any], args: Any, kwargs: Any, sources: Sequence[Tensor]
) -> list[Tensor]:
    """r = y − J·x of each output that has a derivative, x being all of the sources together.

    To be called before the operation, which may write into what it gets; nothing is changed.
    """
    values = tuple(source.detach() for source in sources)

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        instead = dict(zip(map(id, sources), (x.clone() for x in given), strict=True))

        def swap(part: Tensor) -> Tensor:
            return instead.get(id(part), part)

        result = func(*each(args, swap), **each(kwargs, swap))
        return tuple(y for y in tensors(result) if has_derivative(y))

    y, along = torch.func.jvp(run, values, values)  # type: ignore[misc]
    return [(one - other).detach() for one, other in zip(y, along, strict=True)]


def presented(result: Any, remainders: Sequence[Tensor], presence: Tensor) -> Any:
    """An operation's result, with its remainder as present as `presence` (1) says."""
    left = iter(remainders)

    def present(y: Tensor) -> Tensor:
        if not has_derivative(y):
            return y
        return y + (presence - 1) * next(left)

    return each(result, present)


def has_derivative(x: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers, not whole ones."""
    return x.is_floating_point() or x.is_complex()


def each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An argument or a result with each tensor in it changed, as `tensors` finds them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: each(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [each(part, change) for part in value]
        make = getattr(value, "_make", type(value))  # named tuples; torch's take a sequence
        return make(parts)
    return value
