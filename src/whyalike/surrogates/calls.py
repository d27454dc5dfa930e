"""Calls of torch's functions as a torch function mode sees them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def names(text: str) -> frozenset[str]:
    """Names as torch has them, less the underscores around them.

    So functions, methods, operators and in-place forms share one.
    """
    return frozenset(text.split())


CONVOLUTIONS = names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")


def called(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A function's name, one for all its forms, and its arguments, the first two by position."""
    kwargs = dict(kwargs or {})
    if "input" in kwargs and not args:
        args = (kwargs.pop("input"),)
    if "other" in kwargs and len(args) == 1:
        args = (*args, kwargs.pop("other"))
    name = getattr(func, "__name__", str(func)).strip("_")
    return name.removeprefix("special_").removeprefix("linalg_"), args, kwargs


def writes_into_its_input(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call is in place: add_, x += y, relu(inplace=True)."""
    name = func.__name__
    operator = name.startswith("__") and name.endswith("__")
    own = name.startswith("__i") if operator else name.endswith("_")
    return own or kwargs.get("inplace") is True


def tensors(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result, however nested in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    for part in _parts(value):
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, tuple | list | dict):
            found += tensors(part)
    return found


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple | list) else ()
