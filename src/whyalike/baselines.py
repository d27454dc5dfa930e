"""What others draw for a pair of images, to compare with: each (model, query, reference) → (h, w).

Each function gives the map of the *query*, the reference's embedding held fixed; swap the two for
the other map. For all but CAM and integrated gradients, the reference may be given as its embedding
(d,), on the network's device. Maps of a cut's features have its grid (h, w), maps of the input its
pixels (H, W). They are as published, a final ReLU included, and like everything before `draw` not
scaled to 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whyalike.errors import ModelError
from whyalike.heads import is_identity, leading_linear
from whyalike.model import EmbeddingModel
from whyalike.preprocess import Source, load_photograph

Score = Callable[[Tensor, Tensor], Tensor]
"""From embeddings (n, d) and the reference's (1, d) to scores (n,)."""


def cosine(E: Float[Tensor, "n d"], other: Float[Tensor, "1 d"]) -> Float[Tensor, " n"]:
    """The similarity itself."""
    return torch.cosine_similarity(E, other)


def unnormalised(E: Float[Tensor, "n d"], other: Float[Tensor, "1 d"]) -> Float[Tensor, " n"]:
    """E·E' / (|E||E'|) with both lengths held fixed, so that no gradient flows through them.

    "No norm" in Zhu, Yang, Chen, IEEE TIP 2021, section V, but in units of cosine.
    """
    return (E * other).sum(1) / (E.detach().norm(dim=1) * other.norm())


def grad_cam(
    model: EmbeddingModel, query: Source, reference: Source, *, score: Score = cosine
) -> Float[Tensor, "h w"]:
    """Selvaraju et al., "Grad-CAM", ICCV 2017: ReLU(Σ_c mean(G_c) A_c), G = ∂score/∂A."""
    return grad_cam_signed(model, query, reference, score=score).relu()


def grad_cam_signed(
    model: EmbeddingModel, query: Source, reference: Source, *, score: Score = cosine
) -> Float[Tensor, "h w"]:
    """Grad-CAM without its final ReLU."""
    A, G = _at_cut(model, query, reference, score)
    return (G.mean((1, 2), keepdim=True) * A).sum(0)


def grad_cam_no_norm(
    model: EmbeddingModel, query: Source, reference: Source
) -> Float[Tensor, "h w"]:
    """Grad-CAM of the product without its norms, signed.

    For mean pooling, with or without a linear layer behind it, this is the overall map with bias
    (Zhu, Yang, Chen, IEEE TIP 2021, section V-A).
    """
    return grad_cam_signed(model, query, reference, score=unnormalised)


def rectified_grad_cam(
    model: EmbeddingModel, query: Source, reference: Source
) -> Float[Tensor, "h w"]:
    """Σ_c G_c A_c, cell by cell, of the product without its norms, signed.

    "RGrad-CAM", Grad-CAM without the averaging of gradients: for flatten and max pooling heads this
    is the overall map with bias (Zhu, Yang, Chen, IEEE TIP 2021, section V-B).
    """
    A, G = _at_cut(model, query, reference, unnormalised)
    return (G * A).sum(0)


def grad_cam_plus_plus(
    model: EmbeddingModel, query: Source, reference: Source
) -> Float[Tensor, "h w"]:
    """Chattopadhyay et al., "Grad-CAM++", WACV 2018 (Eq. 19, of an exponential score)."""
    A, G = _at_cut(model, query, reference, cosine)
    denominator = 2 * G.square() + A.sum((1, 2), keepdim=True) * G.pow(3)
    alpha = torch.where(G != 0, G.square() / torch.where(denominator != 0, denominator, 1.0), 0.0)
    weights = (alpha * G.relu()).sum((1, 2), keepdim=True)
    return (weights * A).sum(0).relu()


def layer_cam(model: EmbeddingModel, query: Source, reference: Source) -> Float[Tensor, "h w"]:
    """Jiang et al., "LayerCAM", IEEE TIP 2021: ReLU(Σ_c ReLU(G_c) A_c)."""
    A, G = _at_cut(model, query, reference, cosine)
    return (G.relu() * A).sum(0).relu()


def cam(model: EmbeddingModel, query: Source, reference: Source) -> Float[Tensor, "h w"]:
    """Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

    For networks of mean pooling and one linear layer whose outputs are classes: Σ_c w_kc A_c, with
    k the class that the reference is taken for.

    Raises:
        ModelError: the head is another one.
    """
    A, _, split = model.inspect(_tensor(model, query)[None])
    _, of_reference, _ = model.inspect(_tensor(model, reference)[None])
    first = None if split is None else leading_linear(split.project)
    if split is None or split.pool.kind != "mean" or first is None or not is_identity(first[1]):
        raise ModelError(f"CAM needs a head of mean pooling and one linear layer; came {model!r}")
    weights = first[0].weight[of_reference[0].argmax()].detach()
    return torch.einsum("c,chw->hw", weights.to(A), A[0])


def gradient_times_input(
    model: EmbeddingModel, query: Source, reference: Source
) -> Float[Tensor, "H W"]:
    """Shrikumar et al., 2016: Σ over colours of x ∂cos/∂x."""
    x, other = _tensor(model, query), _embedding(model, reference)
    return (_input_gradient(model, x, other) * x).sum(0)


def integrated_gradients(
    model: EmbeddingModel, query: Source, reference: Source, *, steps: int = 20
) -> Float[Tensor, "H W"]:
    """Sundararajan et al., ICML 2017, of the cosine, as both images grow from the mean colour.

    The query's share of the path integral; with the reference's (swap the two) it adds up to the
    difference of the cosine between the images and the end of the path, up to the steps taken. The
    cosine of two equal images is 1 at every point of the path, and their maps are zero.
    """
    x, y = _tensor(model, query), _tensor(model, reference)
    total = torch.zeros_like(x)
    for step in range(steps):
        t = (step + 0.5) / steps  # the midpoint rule
        total += _input_gradient(model, t * x, _embed(model, t * y[None]))
    return (total * x / steps).sum(0)


def occlusion(
    model: EmbeddingModel,
    query: Source,
    reference: Source,
    *,
    window: int = 32,
    stride: int = 16,
    batch_size: int = 32,
) -> Float[Tensor, "H W"]:
    """Similarity-based saliency maps (Dong et al., CVPR Workshops 2019): what hiding squares costs.

    Each pixel gets the mean fall of the cosine over the squares, filled with the mean colour, that
    cover it.
    """
    x, other = _tensor(model, query), _embedding(model, reference)
    height, width = x.shape[1:]
    places = [
        (top, left)
        for top in range(stride - window, height, stride)
        for left in range(stride - window, width, stride)
    ]
    whole = cosine(_embed(model, x[None]), other).item()
    falls, counts = x.new_zeros(height, width), x.new_zeros(height, width)
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        squares = [
            (slice(max(top, 0), top + window), slice(max(left, 0), left + window))
            for top, left in some
        ]
        hidden = x.repeat(len(some), 1, 1, 1)
        for image, (rows, columns) in zip(hidden, squares, strict=True):
            image[:, rows, columns] = 0.0
        for score, (rows, columns) in zip(
            cosine(_embed(model, hidden), other).tolist(), squares, strict=True
        ):
            falls[rows, columns] += whole - score
            counts[rows, columns] += 1
    return falls / counts


def _at_cut(
    model: EmbeddingModel, query: Source, reference: Source, score: Score
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
    """The cells of the query's layer at the cut, and the score's gradient with respect to them."""
    images, other = _tensor(model, query)[None], _embedding(model, reference)
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # what follows may work in place

    layer = model.net.get_submodule(model.layer)
    handle = layer.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(model.net(images), other).sum(), leaves)
    finally:
        handle.remove()
    layout = model.layout(images, leaves[0].detach())
    return layout.as_map(leaves[0].detach())[0], layout.as_map(gradient)[0]


def _input_gradient(model: EmbeddingModel, x: Tensor, other: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(cosine(model.net(leaf.clone()), other).sum(), leaf)
    return gradient[0]


def _tensor(model: EmbeddingModel, source: Source) -> Float[Tensor, "c H W"]:
    return model.to_net(load_photograph(source, model.preprocess).tensor)


def _embed(model: EmbeddingModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def _embedding(model: EmbeddingModel, source: Source) -> Float[Tensor, "1 d"]:
    if isinstance(source, Tensor) and source.ndim == 1:
        return source.detach()[None]
    return _embed(model, _tensor(model, source)[None])
