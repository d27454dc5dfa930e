"""How much memory a computation takes at its height, as it runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Memory(TorchDispatchMode):
    """Within it, `peak` is the most bytes that tensors made within it have taken at one time.

    It may be entered again, to follow more; `now` is what all that it followed takes at the moment.

    What a kernel takes for itself, while it runs, is not seen; on a device, nor is what its
    allocator keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.now = 0
        self._alive: dict[int, Any] = {}

    def anew(self) -> Memory:
        """The same, its peak beginning at what is taken now."""
        self.peak = self.now
        return self

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and _key(made) not in given | self._alive.keys():
                self._follow(made.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _key(x: Tensor) -> int:
    return x.untyped_storage()._cdata
