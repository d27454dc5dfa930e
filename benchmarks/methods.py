"""Maps of a pair to be measured: this package's, other packages', and those that know nothing.

Each is `(model, query, reference) → map`, the query's, with the reference's embedding held fixed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, Occlusion
from jaxtyping import Float
from pytorch_grad_cam import EigenCAM, GradCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor

import whyalike as wa
from benchmarks.pairs import Method, PointMethod, embed
from benchmarks.peers import cosine_to, only_trainable
from whyalike.evaluate import methods as evaluated

IG_STEPS = 20
BATCH = 32


def decomposition(
    model: wa.EmbeddingModel, query: Tensor, reference: Tensor
) -> tuple[Float[Tensor, "h w"], float]:
    """v·Σv' at the model's cut, and the three terms with a bias."""
    pair = wa.explain_pair(model, query, reference)
    return pair.overall_map("query"), sum(pair.terms) - pair.terms.pairs


def decomposition_of_point(
    model: wa.EmbeddingModel, query: Tensor, reference: Tensor, query_xy: tuple[float, float]
) -> Float[Tensor, "h w"]:
    """v at the point, times v' of each cell."""
    return wa.explain_pair(model, query, reference).point_map(query_xy=query_xy)


@functools.lru_cache(maxsize=16)
def sharpened(
    model: wa.EmbeddingModel, gamma: float, finer: int, affinity: float, own: float
) -> wa.EmbeddingModel:
    """The model as `model.sharp` makes it, once."""
    return model.sharp(gamma=gamma, finer=finer, affinity=affinity, own=own)


def sharp(
    gamma: float = 0.1, finer: int = 2, affinity: float = 2.0, own: float = 0.0
) -> tuple[Method, PointMethod]:
    """The decomposition of `model.sharp`, and its map of a point."""

    def method(
        model: wa.EmbeddingModel, query: Tensor, reference: Tensor
    ) -> tuple[Float[Tensor, "h w"], float]:
        return decomposition(sharpened(model, gamma, finer, affinity, own), query, reference)

    def of_point(
        model: wa.EmbeddingModel, query: Tensor, reference: Tensor, query_xy: tuple[float, float]
    ) -> Float[Tensor, "h w"]:
        cut = sharpened(model, gamma, finer, affinity, own)
        return decomposition_of_point(cut, query, reference, query_xy)

    return method, of_point


def shared_at_cut(
    model: wa.EmbeddingModel, query: Tensor, reference: Tensor
) -> tuple[Float[Tensor, "h w"], float]:
    """The decomposition at the model's own cut, gates held, as `model.drawn` shares it."""
    return decomposition(shared(model), query, reference)


@functools.lru_cache(maxsize=4)
def shared(model: wa.EmbeddingModel) -> wa.EmbeddingModel:
    """The model, its maps shared among like cells, once."""
    return model.cut(biases="located", affinity=2.0, own=0.25)


def change(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """What the query's pixels add to the similarity of a grey image, and that of the grey image."""
    x = explained_as_change(model).explain(query)
    E = embed(model, reference[None])[0]
    u = E / (E.norm() * x.embedding.norm())
    return x.map(u), (x.rest @ u).item()


@functools.lru_cache(maxsize=4)
def explained_as_change(model: wa.EmbeddingModel) -> wa.EmbeddingModel:
    """The model as `model.change` makes it, once."""
    return model.change()


def random_map(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Float[Tensor, "H W"]:
    """Noise in each pixel, other noise for other images."""
    return evaluated.random_map(evaluated.Both(model, model.sharp, query, reference))


def centre_blob(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Float[Tensor, "H W"]:
    """A Gaussian in the middle, its σ a quarter of the image."""
    y, x = (torch.linspace(-1, 1, side) for side in query.shape[1:])
    return torch.exp(-2 * (y[:, None].square() + x[None].square()))


def centre_box(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Float[Tensor, "H W"]:
    """A box in the middle, 75 % of the image in each direction."""
    box = torch.zeros(query.shape[1:])
    top, left = (side // 8 for side in box.shape)
    box[top : len(box) - top, left : box.shape[1] - left] = 1
    return box


def class_activation(cam: type[BaseCAM]) -> Method:
    """One of pytorch-grad-cam's, at the model's cut, weights before it frozen."""

    def method(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Tensor:
        layer = model.net.get_submodule(model.layer)
        target = cosine_to(embed(model, reference[None])[0])
        progress = redirect_stderr(io.StringIO())
        with only_trainable(model.net, layer), cam(model.net, [layer]) as maps, progress:
            return torch.from_numpy(maps(query[None], targets=[target])[0])

    return method


def integrated_gradients(
    model: wa.EmbeddingModel, query: Tensor, reference: Tensor
) -> Float[Tensor, "H W"]:
    """captum's, from the mean colour, the sum over colours."""
    towards = IntegratedGradients(_cosine(model))
    given = towards.attribute(
        query[None],
        additional_forward_args=(embed(model, reference[None]),),
        n_steps=IG_STEPS,
        internal_batch_size=BATCH,
    )
    return given[0].sum(0).float()


def occlusion(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Float[Tensor, "H W"]:
    """captum's: squares of an eighth of the image, half overlapping, of the mean colour."""
    window, stride = _window(query)
    with torch.no_grad():
        given = Occlusion(_cosine(model)).attribute(
            query[None],
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            additional_forward_args=(embed(model, reference[None]),),
            perturbations_per_eval=BATCH,
        )
    return given[0].mean(0)


def sbsm(model: wa.EmbeddingModel, query: Tensor, reference: Tensor) -> Float[Tensor, "H W"]:
    """xaitk-saliency's SBSM (Dong et al., 2019), squares as those of `occlusion`."""
    from smqtk_descriptors.interfaces.image_descriptor_generator import ImageDescriptorGenerator
    from xaitk_saliency.impls.gen_image_similarity_blackbox_sal.sbsm import SBSMStack

    preprocess = model.preprocess
    assert preprocess is not None
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (preprocess.mean, preprocess.std))

    class Network(ImageDescriptorGenerator):
        def generate_arrays_from_images(
            self, img_mat_iter: Iterable[np.ndarray]
        ) -> Iterator[np.ndarray]:
            batch: list[np.ndarray] = []
            for image in img_mat_iter:
                batch.append(image)
                if len(batch) == BATCH:
                    yield from self.embed(batch)
                    batch = []
            if batch:
                yield from self.embed(batch)

        def embed(self, batch: list[np.ndarray]) -> np.ndarray:
            pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
            return embed(model, (pixels - mean) / std).numpy()

        def get_config(self) -> dict[str, object]:
            return {}

    x, y = (np.asarray(preprocess.to_picture(image)) for image in (query, reference))
    window, stride = _window(query)
    fill = [round(255 * value) for value in preprocess.mean]
    stack = SBSMStack((window, window), (stride, stride), "cosine", fill=fill)
    return torch.from_numpy(stack(x, [y], Network())[0])


def attention_rollout(
    model: wa.EmbeddingModel, query: Tensor, reference: Tensor
) -> Float[Tensor, "h w"]:
    """Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, of timm's blocks.

    What the class token sees of each cell, through all blocks, each half attention (the mean of the
    heads) and half the tokens themselves; the same for any reference.
    """
    seen: list[Tensor] = []  # of each block the queries, then the keys
    blocks: Any = model.net.blocks
    norms = [norm for block in blocks for norm in (block.attn.q_norm, block.attn.k_norm)]
    handles = [norm.register_forward_hook(lambda *of: seen.append(of[2])) for norm in norms]
    try:
        embed(model, query[None])
    finally:
        for handle in handles:
            handle.remove()
    rolled = torch.eye(seen[0].shape[2])
    for block, q, k in zip(blocks, seen[::2], seen[1::2], strict=True):
        weights = (q @ k.mT * block.attn.scale).softmax(-1)[0].mean(0)
        rolled = (weights + torch.eye(len(weights))) / 2 @ rolled
    layout = model.layout(query[None])
    return rolled[0, layout.prefix :].unflatten(0, layout.grid_hw)


def of_packages() -> list[tuple[str, Method]]:
    """What the packages give that are installed, cheap ones first."""
    methods: list[tuple[str, Method]] = [
        ("Grad-CAM, pytorch-grad-cam", class_activation(GradCAM)),
        ("LayerCAM, pytorch-grad-cam", class_activation(LayerCAM)),
        ("EigenCAM, pytorch-grad-cam", class_activation(EigenCAM)),
        (f"integrated gradients, {IG_STEPS} steps, captum", integrated_gradients),
        ("ScoreCAM, pytorch-grad-cam", class_activation(ScoreCAM)),
        ("occlusion, captum", occlusion),
    ]
    try:
        import xaitk_saliency  # noqa: F401
    except ModuleNotFoundError:
        return methods
    return [*methods, ("SBSM, xaitk-saliency", sbsm)]


def _cosine(model: wa.EmbeddingModel) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, other: F.cosine_similarity(model(images), other)


def _window(image: Tensor) -> tuple[int, int]:
    side = max(image.shape[1:]) // 8
    return side, side // 2
