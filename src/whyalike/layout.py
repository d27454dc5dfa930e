"""How the output of a layer lies on the image: a map or tokens, and which number is where."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The places of a layer's output: a grid of cells, and tokens that stand before it.

    Args:
        kind: "channels first" (N, C, h, w), "channels last" (N, h, w, C) or "tokens"
            (N, prefix + h·w, C).
        grid_hw: rows and columns of cells.
        prefix: tokens that are of the image as a whole (class, registers), first in order.
    """

    kind: Literal["channels first", "channels last", "tokens"]
    grid_hw: tuple[int, int]
    prefix: int = 0

    @property
    def places(self) -> int:
        """Prefix tokens and cells together."""
        return self.prefix + self.grid_hw[0] * self.grid_hw[1]

    def __str__(self) -> str:
        h, w = self.grid_hw
        return f"{self.prefix} + {h}×{w} tokens" if self.prefix else f"{h}×{w}"

    def channels(self, shape: torch.Size) -> int:
        """Channels of an output (N, ...) that lies so."""
        return shape[1] if self.kind == "channels first" else shape[-1]

    def as_map(self, output: Tensor) -> Float[Tensor, "n c h w"]:
        """The cells of an output (N, ...) as a map with channels first, without prefix tokens."""
        match self.kind:
            case "channels first":
                return output
            case "channels last":
                return output.movedim(-1, 1)
            case "tokens":
                return output[:, self.prefix :].unflatten(1, self.grid_hw).movedim(-1, 1)

    def spread(
        self, presence: Float[Tensor, "n places"], shape: torch.Size
    ) -> tuple[Tensor, Float[Tensor, "n 1 h w"]]:
        """A number for each place as a tensor of the output's shape, and for the cells as a map."""
        cells = presence[:, self.prefix :].unflatten(1, self.grid_hw)
        match self.kind:
            case "channels first":
                spread = cells[:, None]
            case "channels last":
                spread = cells[..., None]
            case "tokens":
                spread = presence[..., None]
        return spread.expand(shape), cells[:, None]


def find_layout(
    shape: torch.Size,
    image_hw: tuple[int, int],
    grids: Collection[tuple[int, int]] = (),
    prefix: int | None = None,
) -> Layout | None:
    """How an output (N, ...) lies on images of some height and width, or None if it cannot be told.

    A map has the image's proportions, nearly. Tokens are a grid that was seen before as a map's, or
    else one of the image's proportions, behind the fewest prefix tokens.

    Args:
        shape: of the output.
        image_hw: height and width of the network's input.
        grids: of maps that ran before, the latest last.
        prefix: how many prefix tokens the network says that it has.
    """
    if len(shape) == 4:
        a, b, c = shape[1:]
        if _fits(a, b, image_hw) and not _fits(b, c, image_hw):
            return Layout("channels last", (a, b)) if a * b > 1 else None
        return Layout("channels first", (b, c)) if b * c > 1 else None
    if len(shape) != 3 or shape[2] == 1:  # one number each: channels that were pooled
        return None
    tokens = shape[1]
    for h, w in reversed(list(grids)):
        before = tokens - h * w
        expected = 0 <= before <= 16 if prefix is None else before in (0, prefix)
        if h * w > 1 and expected:
            return Layout("tokens", (h, w), before)
    for before in range(min(17, tokens - 3)) if prefix is None else (prefix, 0):
        cells = tokens - before
        h = round(math.sqrt(cells * image_hw[0] / image_hw[1]))
        if h > 1 and cells % h == 0 and cells // h > 1 and _fits(h, cells // h, image_hw):
            return Layout("tokens", (h, cells // h), before)
    return None


def _fits(h: int, w: int, image_hw: tuple[int, int]) -> bool:
    return 2 / 3 < (h / w) / (image_hw[0] / image_hw[1]) < 3 / 2
