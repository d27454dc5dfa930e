"""An embedding as what is left of it without the image, and what each cell of pixels adds.

E(x) = E(grey) + Σ v: on the way from the image to mean grey, the cells that carry the embedding
most are hidden first, in a few steps, and each step's change, E of one image less E of another, is
divided among the cells hidden in it by chords (`whyalike.surrogates.secants`). So the v are what
hiding takes away, and they add up to it. A path that looks at the values on its way is that of
Kapishnikov et al., "Guided Integrated Gradients", CVPR 2021, who hide what matters least first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whyalike.decomposition import LinearHead, differentiating
from whyalike.layout import Layout
from whyalike.surrogates.secants import Secants

STEPS = 3
"""Images between which chords are taken; a step hides four times as much as all before it."""
GROWTH = 4


class Change(LinearHead):
    """The change of one image's embedding as a linear map of the places of its pixels.

    E(x) − E(grey) = Σ_i s_i v_i at s = 1, with s_i the presence of cell i.

    Args:
        run: from images to embeddings (n, d); deterministic, image by image.
        image: (1, 3, H, W); zero is the mean colour.
        layout: the cells that are hidden as a whole.
    """

    def __init__(
        self, run: Callable[[Tensor], Tensor] | nn.Module, image: Tensor, layout: Layout
    ) -> None:
        super().__init__(run, image, layout)
        with differentiating(image):
            hidden = self._path()
            visible = torch.stack([hidden >= k for k in range(STEPS + 1)]).to(self.A)
            stages = self.A * self._spread(visible)
            self._from, self._to = stages[:-1], stages[1:]
            self.ends = self.run(stages[[0, -1]])
            """E(x) and E(grey), (2, d)."""

    def __call__(
        self,
        presence: Float[Tensor, "1 places"],
        remainders: Mapping[str, Tensor] | None = None,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "1 d"]:
        """E(grey) + Σ_i s_i v_i."""
        with torch.no_grad(), Secants(self._to) as there:
            after = self.run(self._to)
        x = self._from + (self._from - self._to) * (self._spread(presence) - 1)
        with Secants(x, there.inputs) as here:
            before = self.run(x)
        self.taylor = frozenset(here.first_order)
        return before.sum(0, keepdim=True) - after[:-1].sum(0, keepdim=True)

    def parts(
        self, trusted: bool = False
    ) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "1 d"], Float[Tensor, "1 d"]]:
        """Σ v, E(grey), and what operations without a chord leave over, nothing where none did.

        Args:
            trusted: whether every operation is known to have its chord; Σ v is the change then.
        """
        x, grey = self.ends.split(1)
        added = x - grey if trusted else self.sum()[1]
        return added, grey, x - grey - added if self.taylor else torch.zeros_like(grey)

    def left_over(self, rest: Float[Tensor, " d"]) -> dict[str, Float[Tensor, " d"]]:
        """The last of `parts` by the names of the operations, which are not told apart."""
        return {", ".join(sorted(self.taylor)): rest} if self.taylor else {}

    def _spread(self, places: Float[Tensor, "k places"]) -> Float[Tensor, "k 1 H W"]:
        """A number of each cell, at its pixels."""
        H, W = self.A.shape[2:]
        h, w = self.layout.grid_hw
        rows = torch.arange(H, device=self.A.device) * h // H
        columns = torch.arange(W, device=self.A.device) * w // W
        return places.unflatten(1, (1, h, w))[..., rows[:, None], columns]

    def _path(self) -> Int[Tensor, " places"]:
        """The step in which each cell is hidden."""
        places = self.layout.places
        step = torch.full((places,), STEPS - 1, device=self.A.device)
        visible = self.A.new_ones(places)
        own = None
        for k in range(STEPS - 1):
            with torch.enable_grad():
                presence = visible[None].clone().requires_grad_()
                E = self.run(self.A * self._spread(presence))
                own = E.detach() if own is None else own
                (carried,) = torch.autograd.grad(E, presence, own)
            count = round(places / GROWTH ** (STEPS - 1 - k)) - int((visible == 0).sum())
            carried = carried[0].masked_fill(visible == 0, -torch.inf)
            hide = carried.argsort(descending=True, stable=True)[: max(0, count)]
            step[hide], visible[hide] = k, 0.0
        return step


def pixel_cells(size_hw: Sequence[int], most: int) -> Layout:
    """Cells of whole pixels, as square as may be, at most so many on the longer side."""
    side = -(-max(size_hw) // most)
    h, w = (-(-pixels // side) for pixels in size_hw)
    return Layout("channels first", (h, w))
