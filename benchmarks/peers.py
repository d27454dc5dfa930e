"""What do other ways to explain the same pair cost, on the same network in the same rounds?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

import whyalike as wa
from benchmarks import networks, pair
from benchmarks.tables import Table
from benchmarks.timing import alternate, milliseconds, ratio

ROUNDS = 8
STEPS = 20

ABOUT = f"""\
Maps of both images of one pair, ResNet-50 with a linear head to 512 at {networks.SIZE} px; ratios
to embedding the two images, in the same {ROUNDS} rounds. Grad-CAM is pytorch-grad-cam's, cut at
`layer4[-1]`, both images in one batch, the target of each being the cosine to the other image's
embedding, held fixed. As it comes, the gradients of all weights are computed as well; with all
weights before the layer frozen, none are that it does not need. Integrated gradients are captum's,
{STEPS} steps from a black image, 8 images at a time (the fastest of the sizes tried), towards the
same cosine. The embeddings that both need as targets are given to them for nothing; counting them
would add 1 to each. Checked before the timing: how many images went through the network, that
Grad-CAM's maps are what they should be on it (whyalike's map along ∂cos/∂E, clamped at zero), and
that integrated gradients are the average of the gradients along the way."""


def run() -> Table:
    """Time ours and theirs."""
    net, images = networks.resnet50(), networks.two_images()
    model = wa.EmbeddingModel.from_module(net)
    E = pair.embed(net, images)
    check(net, model, images, E)
    tasks: dict[str, Callable[[], Any]] = {
        "embedding the two images": lambda: pair.embed(net, images),
        "whyalike: both maps and the pair matrix": lambda: pair.explain(model, images),
        "Grad-CAM, weights before the layer frozen": lambda: frozen_grad_cam(net, images, E),
        "Grad-CAM, as it comes": lambda: grad_cam(net, images, E),
        f"integrated gradients, {STEPS} steps": lambda: integrated_gradients(net, images, E),
    }
    seconds = alternate(*tasks.values(), rounds=ROUNDS, warmups=1)
    rows = [
        [name, milliseconds(of_task), str(ratio(of_task, seconds[0]))]
        for name, of_task in zip(tasks, seconds, strict=True)
    ]
    columns = ["explanation of a pair", "ms", "/ embedding"]
    return Table("Explaining a pair, beside other methods", ABOUT, columns, rows)


def cosine_to(other: Tensor) -> Callable[[Tensor], Tensor]:
    """Grad-CAM's target: how alike an image's embedding is to the other's, which is held."""
    return lambda output: F.cosine_similarity(output, other, dim=0)


def grad_cam(net: nn.Module, images: Tensor, E: Tensor) -> np.ndarray:
    """Grad-CAM of both images, (2, H, W), each from 0 to 1."""
    with GradCAM(model=net, target_layers=[net.layer4[-1]]) as cam:
        return cam(images, targets=[cosine_to(E[1]), cosine_to(E[0])])


def frozen_grad_cam(net: nn.Module, images: Tensor, E: Tensor) -> np.ndarray:
    """The same where no gradient is computed before the layer: the least that it can cost."""
    with only_trainable(net, net.layer4[-1]):
        return grad_cam(net, images, E)


def integrated_gradients(net: nn.Module, images: Tensor, E: Tensor) -> Tensor:
    """Integrated gradients of both images, (2, 3, H, W); images × steps in batches of 8."""
    towards = IntegratedGradients(lambda x, other: F.cosine_similarity(net(x), other))
    return towards.attribute(
        images, additional_forward_args=(E.flip(0),), n_steps=STEPS, internal_batch_size=8
    )


def check(net: nn.Module, model: wa.EmbeddingModel, images: Tensor, E: Tensor) -> None:
    """Each ran on this network, on both images, and gave what it should."""
    with images_through(net) as seen:
        ours = pair.explain(model, images)
    assert sum(seen) == 2, seen
    pair.check(ours, E)

    for method in (grad_cam, frozen_grad_cam):
        with images_through(net) as seen:
            cams = method(net, images, E)
        assert sum(seen) == 2, seen
        expected = np.stack([_grad_cam_by_hand(c, o) for c, o in _sides(ours.pair)])
        assert cams.shape == (2, networks.SIZE, networks.SIZE)
        assert np.abs(cams - expected).max() < 0.02, np.abs(cams - expected).max()

    with images_through(net) as seen:
        attributions = integrated_gradients(net, images, E)
    assert sum(seen) == 2 * STEPS, seen
    expected = _integrated_gradients_by_hand(net, images, E)
    gap = (attributions - expected).abs().max() / expected.abs().max()
    assert attributions.shape == images.shape
    assert gap < 0.01, gap


@contextmanager
def images_through(net: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that go through a network."""
    seen: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def only_trainable(net: nn.Module, part: nn.Module) -> Iterator[None]:
    """Within it, only the weights of one part of the network ask for gradients."""
    before = [(p, p.requires_grad) for p in net.parameters()]
    net.requires_grad_(False)
    part.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _sides(explained: wa.Pair) -> list[tuple[wa.Contributions, wa.Contributions]]:
    q, r = explained.query, explained.reference
    return [(q, r), (r, q)]


def _grad_cam_by_hand(mine: wa.Contributions, other: wa.Contributions) -> np.ndarray:
    """Behind a mean and a linear layer Grad-CAM is v·∂cos/∂E, clamped, scaled and enlarged."""
    E = mine.embedding.clone().requires_grad_()
    F.cosine_similarity(E, other.embedding, dim=0).backward()
    cam = mine.map(E.grad).clamp(min=0)
    cam = F.interpolate(cam[None, None], size=networks.SIZE, mode="bilinear")[0, 0]
    cam = cam - cam.min()
    return (cam / cam.max()).numpy()


def _integrated_gradients_by_hand(net: nn.Module, images: Tensor, E: Tensor) -> Tensor:
    """The image times the mean gradient between black and the image, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    mean = torch.zeros_like(images)
    for node, weight in zip(nodes, weights, strict=True):
        x = (images * (node + 1) / 2).requires_grad_()
        cosines = F.cosine_similarity(net(x), E.flip(0))
        mean += torch.autograd.grad(cosines.sum(), x)[0] * weight / 2
    return images * mean
