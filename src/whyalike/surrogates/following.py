"""What is known of the tensors that come from the image, for as long as they live."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar, overload

from torch import Tensor

T = TypeVar("T")


class _Reference(weakref.ref[Tensor]):
    """To a tensor, and which one it was."""

    key: int


class OfTensors(Generic[T]):
    """A dictionary whose keys are tensors, themselves and not their values; forgotten with them.

    A mode asks for each argument of each call of a network. torch.utils.weak's makes a new object
    for each question, which took a third of the time of a small network.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[_Reference, T]] = {}
        self_reference = weakref.ref(self)

        def forget(reference: Any) -> None:
            if (still := self_reference()) is not None:
                still._kept.pop(reference.key, None)

        self._forget = forget

    def __setitem__(self, tensor: Tensor, value: T) -> None:
        reference = _Reference(tensor, self._forget)
        reference.key = id(tensor)
        self._kept[reference.key] = (reference, value)

    @overload
    def get(self, tensor: Tensor) -> T | None: ...
    @overload
    def get(self, tensor: Tensor, default: T) -> T: ...
    def get(self, tensor: Tensor, default: T | None = None) -> T | None:
        """What is known of a tensor."""
        entry = self._kept.get(id(tensor))
        return default if entry is None or entry[0]() is not tensor else entry[1]

    def __getitem__(self, tensor: Tensor) -> T:
        if tensor not in self:
            raise KeyError("a tensor of which nothing is known")
        return self._kept[id(tensor)][1]

    def __contains__(self, tensor: object) -> bool:
        entry = self._kept.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def __delitem__(self, tensor: Tensor) -> None:
        del self._kept[id(tensor)]

    def __len__(self) -> int:
        return len(self._kept)
