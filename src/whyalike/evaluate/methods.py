"""The maps that can be measured, by their names, each of the query of a pair."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from whyalike import baselines
from whyalike.contributions import Contributions
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair, explain_pair


class Both:
    """Two images and the model that compares them; what several maps need is computed once.

    Args:
        model: cut where its maps are measured.
        sharp: gives the same model as `model.sharp()` makes it.
        query, reference: inputs of the network, (3, H, W).
        seed: of what is random.
        explained: gives what is known of both images already.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        sharp: Callable[[], EmbeddingModel],
        query: Float[Tensor, "3 H W"],
        reference: Float[Tensor, "3 H W"],
        *,
        seed: int = 0,
        explained: Callable[[], tuple[Contributions, Contributions]] | None = None,
    ) -> None:
        self.model, self.query, self.reference, self.seed = model, query, reference, seed
        self._sharp, self._explained = sharp, explained

    @cached_property
    def pair(self) -> Pair:
        """The pair, explained."""
        if self._explained is None:
            return explain_pair(self.model, self.query, self.reference)
        return Pair(*self._explained())

    @cached_property
    def sharp_pair(self) -> Pair:
        """The pair, explained by the sharp model."""
        return explain_pair(self._sharp(), self.query, self.reference)

    @cached_property
    def change_pair(self) -> Pair:
        """The pair, explained as changes from grey images."""
        return explain_pair(self.model.change(), self.query, self.reference)

    @property
    def embedding(self) -> Float[Tensor, " d"]:
        """The reference's."""
        return self.pair.reference.embedding


Method = Callable[[Both], Float[Tensor, "h w"]]


def random_map(both: Both) -> Float[Tensor, "H W"]:
    """Noise in each pixel, other noise for other images."""
    seed = zlib.crc32(both.query.cpu().numpy().tobytes() + both.reference.cpu().numpy().tobytes())
    generator = torch.Generator().manual_seed(seed + both.seed)
    return torch.rand(both.query.shape[1:], generator=generator)


def centre_box(both: Both) -> Float[Tensor, "H W"]:
    """Boxes in the middle: what is above the threshold t has 1 − t of each side of the image."""
    height, width = both.query.shape[1:]
    y, x = (1 - ((torch.arange(n) + 0.5) / n * 2 - 1).abs() for n in (height, width))
    return torch.minimum(y[:, None], x[None])


def _of(baseline: Callable[..., Tensor]) -> Method:
    return lambda both: baseline(both.model, both.query, both.embedding)


def _of_images(baseline: Callable[..., Tensor]) -> Method:
    return lambda both: baseline(both.model, both.query, both.reference)


METHODS: dict[str, Method] = {
    "decomposition": lambda both: both.pair.overall_map("query"),
    "decomposition+bias": lambda both: both.pair.overall_map("query", bias=True),
    "sharp": lambda both: both.sharp_pair.overall_map("query"),
    "sharp+bias": lambda both: both.sharp_pair.overall_map("query", bias=True),
    "change": lambda both: both.change_pair.overall_map("query", bias=True),
    "grad-cam": _of(baselines.grad_cam),
    "grad-cam-signed": _of(baselines.grad_cam_signed),
    "grad-cam-no-norm": _of(baselines.grad_cam_no_norm),
    "rectified-grad-cam": _of(baselines.rectified_grad_cam),
    "grad-cam++": _of(baselines.grad_cam_plus_plus),
    "layer-cam": _of(baselines.layer_cam),
    "cam": _of_images(baselines.cam),
    "gradient-times-input": _of(baselines.gradient_times_input),
    "integrated-gradients": _of_images(baselines.integrated_gradients),
    "occlusion": _of(baselines.occlusion),
    "centre-box": centre_box,
    "random": random_map,
}
ALWAYS = ("centre-box", "random")
"""What knows nothing of the images, and is in every table, to compare with."""
USUAL = ("decomposition", "decomposition+bias", "sharp", "grad-cam", "grad-cam-no-norm",
         "rectified-grad-cam", "layer-cam")  # fmt: skip
"""What is measured where nothing is named: of each kind, and none that takes minutes."""


def named(names: Sequence[str]) -> dict[str, Method]:
    """Methods by their names, those that know nothing of the images among them.

    Raises:
        ValueError: a name that is none, with the near ones.
    """
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, 3)
            hint = f"; near ones: {', '.join(near)}" if near else ""
            raise ValueError(f"a method is one of {', '.join(METHODS)}; came {name!r}{hint}")
    return {name: METHODS[name] for name in dict.fromkeys([*names, *ALWAYS])}
