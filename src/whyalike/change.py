"""An embedding as what is left of it without the image, and what each cell of pixels adds.

E(x) = E(grey) + Σ v: on the way from the image to mean grey, the cells that carry the embedding
most are hidden first, in a few steps, and each step's change, E of one image less E of another, is
divided among the cells hidden in it by chords (`whyalike.surrogates.secants`). So the v are what
hiding takes away, and they add up to it. A path that looks at the values on its way is that of
Kapishnikov et al., "Guided Integrated Gradients", CVPR 2021, who hide what matters least first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whyalike.decomposition import CHUNK_BYTES, Head, LinearHead, differentiating
from whyalike.errors import CompletenessError
from whyalike.layout import Layout
from whyalike.surrogates.secants import Secants

STEPS = 3
"""Images between which chords are taken; a step hides four times as much as all before it."""
GROWTH = 4

WITHIN = 1e-4
"""How far the parts may be from adding up, as a share of the embedding's length."""


class Change(LinearHead):
    """The change of one image's embedding as a linear map of the places of its pixels.

    E(x) − E(grey) = Σ_i s_i v_i at s = 1, with s_i the presence of cell i. Where each operation has
    its chord, whatever is asked for is held to that sum. Chords divide small differences, and in
    single precision that may, now and then, lose the sum: then double precision takes its place.

    Args:
        run_in: from a type to the network in it, from images to embeddings (n, d); deterministic,
            image by image.
        image: (1, 3, H, W); zero is the mean colour.
        layout: the cells that are hidden as a whole.
        hidden: the step in which each of them is; by default found here.
        tolerance: as of `LinearHead`.
    """

    def __init__(
        self,
        run_in: Callable[[torch.dtype], Head],
        image: Tensor,
        layout: Layout,
        hidden: Int[Tensor, " places"] | None = None,
        tolerance: float = WITHIN,
    ) -> None:
        super().__init__(run_in(image.dtype), image, layout, tolerance=tolerance)
        self._run_in = run_in
        self._lost = False  # whether single precision was found not to do
        self._trusted = False  # whether Σ v was said to be the change
        with differentiating(image):
            self._hidden = self._path() if hidden is None else hidden
            visible = torch.stack([self._hidden >= k for k in range(STEPS + 1)]).to(self.A)
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
            trusted: whether every operation is known to have its chord; Σ v is the change then, and
                what is asked for later is held to it.
        """
        self._trusted = trusted
        x, grey = self.ends.split(1)
        added = x - grey if trusted else self.sum()[1]
        if not self.taylor:
            return x - grey, grey, torch.zeros_like(grey)
        return added, grey, x - grey - added

    def pull(
        self, u: Float[Tensor, "1 d"]
    ) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "1 places"]]:
        """As `LinearHead.pull`."""
        if not self._lost:
            E, along = super().pull(u)
            if self._adds_up(along.sum(1), u):
                return E, along
        E, along = self._double.pull(u.double())
        return E.to(self.A), along.to(self.A)

    def push(
        self, weights: Float[Tensor, "k 1 places"], chunk_bytes: int = CHUNK_BYTES
    ) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "k 1 d"]]:
        """As `LinearHead.push`, with the sum of all beside."""
        if not self._lost:
            everything = self.A.new_ones(1, 1, self.layout.places)
            E, pushed = super().push(torch.cat([weights.to(self.A), everything]), chunk_bytes)
            if self._adds_up(pushed[-1]):
                return E, pushed[:-1]
        E, pushed = self._double.push(weights.double(), chunk_bytes)
        return E.to(self.A), pushed.to(self.A)

    def values(self, chunk_bytes: int = CHUNK_BYTES) -> Float[Tensor, "1 places d"]:
        """As `LinearHead.values`."""
        if not self._lost:
            v = super().values(chunk_bytes)
            if self._adds_up(v.sum(1)):
                return v
        return self._double.values(chunk_bytes).to(self.A)

    def _adds_up(self, total: Tensor, u: Tensor | None = None) -> bool:
        """Whether Σ v, or Σ v·u, is the change, which without all chords it is not said to be.

        Raises:
            CompletenessError: not even in double precision.
        """
        change, size = self.ends[:1] - self.ends[1:], self.ends[0].norm()
        if u is not None:
            change, size = (change * u.to(change)).sum(1), size * u.norm().to(size)
        if (self.taylor and not self._trusted) or (total - change).norm() <= WITHIN * size:
            return True
        if self.A.dtype == torch.float64:
            raise CompletenessError(
                f"the parts should add up to the change of the embedding within {WITHIN:g} of its "
                f"length; the gap is {((total - change).norm() / size).item():.2g}; "
                + (
                    f"the network does with this image what it did not do with the first one "
                    f"({', '.join(sorted(self.taylor))}); explain it with a model of its own"
                    if self.taylor
                    else "the network is not deterministic, or reads its images in another way "
                    "than through operations of torch"
                )
            )
        self._lost = True
        return False

    @cached_property
    def _double(self) -> Change:
        """The same in double precision, along the same path."""
        double = Change(self._run_in, self.A.double(), self.layout, self._hidden)
        double._trusted = self._trusted
        return double

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
