"""Where the numbers inside a network lie on the image: for biases that are counted at their place.

Each cell of the cut is given a presence s, all of them 1. Every tensor that comes from the image
has a companion that says how present the place of each of its numbers is: the presence, moved as
the tensor was moved. A constant that a layer adds is written as constant · companion, and so the
derivative of the network with respect to s counts it at the cells where it was added.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from whyalike.surrogates.calls import names, tensors
from whyalike.surrogates.following import OfTensors

# What only moves numbers: the companion is moved along.
MOVES = names(
    """
    view reshape reshape_as view_as flatten unflatten permute transpose t moveaxis movedim swapaxes
    swapdims squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile
    contiguous cat concat concatenate stack hstack vstack chunk split tensor_split unbind getitem
    index_select gather take_along_dim narrow select diagonal flip roll rot90 pad constant_pad_nd
    pixel_shuffle pixel_unshuffle channel_shuffle
    """
)
# What looks over a neighbourhood of a map (N, C, h, w) and gives a map, perhaps of other cells.
GRIDS = names(
    """
    conv2d conv_transpose2d avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d
    max_pool2d_with_indices adaptive_max_pool2d_with_indices boolean_dispatch fn interpolate
    upsample lp_pool2d
    """
)
# What mixes the last axis and leaves the places of the others: of two factors, the first one's.
ROWS = names(
    """
    linear matmul bmm rmatmul scaled_dot_product_attention
    """
)
# Sums over axes; the places survive where these are the channels.
REDUCES = names("mean sum var std amax amin norm vector_norm")


class Places:
    """The companions of what comes from the image.

    Args:
        cells: the presence of the cells of the cut, (n, 1, h, w).
        whole: the presence, (), of what is added to the image as a whole: to its vectors.
    """

    def __init__(self, cells: Tensor, whole: Tensor | None = None) -> None:
        self.cells = cells
        self.whole = whole
        self.of = OfTensors[Tensor]()
        self._on: dict[tuple[int, int], Tensor] = {}  # the presence of the cells, by grid

    def follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Find the companions of an operation's results."""
        outputs = [result] if isinstance(result, Tensor) else tensors(result)
        outputs = [out for out in outputs if out.is_floating_point() and out not in self.of]
        if not outputs:
            return
        found: list[Tensor | None]
        if name in MOVES:
            moved = self._moved(func, args, kwargs)
            found = [moved] if isinstance(result, Tensor) else [*tensors(moved)]
            if len(found) != len(outputs):
                return
        else:
            found = [self._companion(name, args, kwargs, out) for out in outputs]
        for out, companion in zip(outputs, found, strict=True):
            # A vector (n, c) is of the whole image: what is added to it has no place.
            if companion is not None and out.dim() > 2 and companion.shape == out.shape:
                self.of[out] = companion

    def placed(self, constant: Tensor, at: Tensor | None) -> Tensor:
        """A constant as it is added to a tensor: at its places, as far as it has any."""
        presence = self.presence(at)
        if presence is None:
            return constant
        if presence is self.whole:
            return constant * presence
        # 1 in all, by value; what lies outside of the image (padding) has no place.
        return constant * (presence - presence.detach() + 1)

    def presence(self, at: Tensor | None) -> Tensor | None:
        """Of a constant that is added to a tensor with these places, if it is asked for."""
        found = self.whole if at is None else at
        if found is None or not found.requires_grad:
            return None
        # Where it is the same for all channels, one of them is enough, and quicker.
        return found[:, :1] if found.dim() > 1 and found.stride(1) == 0 else found

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        def swap(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                companion = self.of.get(value)
                return torch.zeros_like(value) if companion is None else companion
            if isinstance(value, tuple | list):
                return type(value)(swap(part) for part in value)
            return value

        if not any(t in self.of for t in tensors((args, kwargs))):
            return None
        if "view" in func.__name__:  # a companion is spread out, and cannot always be viewed so
            shape = args[1].shape if isinstance(args[1], Tensor) else args[1:]
            return swap(args[0]).reshape(*shape) if shape else None
        if func.__name__ == "pad":  # whatever is put there is not the image's
            return func(swap(args[0]), args[1])
        return func(*swap(args), **{k: swap(v) for k, v in kwargs.items()})

    def _companion(self, name: str, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        if name in GRIDS:
            return self._on_grid(out, args)
        known = [t for t in tensors((args, kwargs)) if t in self.of]
        if name in REDUCES:
            return self._reduced(args, kwargs, out)
        if name in ROWS:
            first = args[0] if isinstance(args[0], Tensor) else None
            if first is None or first not in self.of:
                return None
            companion = self.of[first]
            if companion.shape[:-1] != out.shape[:-1]:
                return None
            return companion.mean(-1, keepdim=True).expand(out.shape)
        for t in known:
            if t.shape == out.shape:
                return self.of[t]
        for t in known:
            try:
                return self.of[t].expand(out.shape)
            except RuntimeError:  # not the shape of it
                continue
        return None

    def _on_grid(self, out: Tensor, args: Any) -> Tensor | None:
        """The presence of the cells, averaged over what each cell of another grid covers."""
        n, _, h, w = self.cells.shape
        if out.dim() != 4 or out.shape[2] * out.shape[3] == 1:
            return None
        if len(out) == n:
            grid_hw = (out.shape[2], out.shape[3])
            if grid_hw not in self._on:
                rows = coverage(grid_hw[0], h).to(self.cells)
                columns = coverage(grid_hw[1], w).to(self.cells)
                self._on[grid_hw] = rows @ self.cells @ columns.T
            return self._on[grid_hw].expand(out.shape)
        # Windows of an image stand in the batch: a convolution that keeps their shape is followed.
        companion = self.of.get(args[0]) if isinstance(args[0], Tensor) else None
        if companion is None or (len(companion), *companion.shape[2:]) != (
            len(out),
            *out.shape[2:],
        ):
            return None
        return companion.mean(1, keepdim=True).expand(out.shape)

    def _reduced(self, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        companion = self.of.get(args[0]) if isinstance(args[0], Tensor) else None
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = dims if isinstance(dims, tuple | list) else [dims]
        if companion is None or len(dims) != 1 or not isinstance(dims[0], int):
            return None
        dim = dims[0] % companion.dim()
        channels = (1, 3) if companion.dim() == 4 else (companion.dim() - 1,)
        if dim not in channels:
            return None
        keepdim = out.dim() == companion.dim()
        return companion.mean(dim, keepdim=keepdim)


@functools.lru_cache(maxsize=256)
def coverage(parts: int, cells: int) -> Tensor:
    """How much of each of `parts` equal parts of a line each of `cells` equal cells takes up.

    (parts, cells), rows summing to 1.
    """
    edges = torch.arange(parts + 1, dtype=torch.float64) * cells / parts
    at = torch.arange(cells, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], at[None])
    high = torch.minimum(edges[1:, None], at[None] + 1)
    return (high - low).clamp(min=0) * parts / cells
