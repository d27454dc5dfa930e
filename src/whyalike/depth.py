"""How much of an embedding the image's cells carry, by the depth of the cut."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whyalike.decomposition import differentiating, hooked_output, in_dtype, replaced_output
from whyalike.layout import Layout
from whyalike.surrogates import Linearised, Surrogate

ENOUGH = 0.8
"""The share of the embedding that the cells of a cut that is chosen by itself are to carry."""


class Depth(NamedTuple):
    """What carries an embedding at one cut, as shares of |E|² that add up to 1.

    layer: the module whose output is cut.
    layout: how that lies on the image.
    cells: Σ_ij v_ij · E / |E|², averaged over the images.
    prefix: the same of the tokens that are of no place (class, registers).
    bias: b · E / |E|².
    """

    layer: str
    layout: Layout
    cells: float
    prefix: float
    bias: float


def candidates(net: nn.Module, layouts: dict[str, Layout]) -> list[str]:
    """Layers to cut at that are steps of the network: its blocks, in the order that they finish.

    A step is a module in a chain (nn.Sequential, nn.ModuleList), or one of the network's own; a
    network that only wraps another one has that one's.
    """
    whole = net
    while len(children := list(whole.children())) == 1:
        (whole,) = children
    found = []
    for name in layouts:
        parent = net.get_submodule(name.rpartition(".")[0]) if "." in name else net
        if parent in (net, whole) or isinstance(parent, nn.Sequential | nn.ModuleList):
            found.append(name)
    return found


def resolutions(
    net: nn.Module, layouts: dict[str, Layout], last: Layout, layout: Layout
) -> list[str]:
    """Steps that see an image at other resolutions than a cut, coarse to fine.

    The deepest ones with at least two, four and eight times as many rows as the last map has.

    Args:
        last: of the last map.
        layout: of the cut.
    """
    steps, found = candidates(net, layouts), dict[tuple[int, int], str]()
    for times in (2, 4, 8):
        rows = times * last.grid_hw[0]
        fine = [name for name in steps if layouts[name].grid_hw[0] >= rows]
        if fine:
            found.setdefault(layouts[fine[-1]].grid_hw, fine[-1])
    return [name for grid_hw, name in found.items() if grid_hw != layout.grid_hw]


@torch.no_grad()
def carries_all(net: nn.Module, layer: str, images: Float[Tensor, "n 3 H W"]) -> bool:
    """Whether everything from the image to the embedding goes through a layer's output.

    If so, with one and the same output put in its place, all images have one embedding.
    """
    module = net.get_submodule(layer)
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        return output

    with hooked_output(module, keep):
        net(images[:1])
    if len(kept) != 1:
        return False
    same = kept[0].expand(len(images), *kept[0].shape[1:]).clone()
    try:
        with replaced_output(module, same):
            E = net(images)
    except RuntimeError:  # its output is of another form than what follows can take
        return False
    spread = (E - E[:1]).float().norm(dim=1).max() / E.float().norm(dim=1).max()
    return bool(spread < 1e-5)


def measure(
    net: nn.Module,
    images: Float[Tensor, "n 3 H W"],
    layouts: dict[str, Layout],
    surrogate: Surrogate,
) -> list[Depth]:
    """What carries the embeddings of some images at several cuts, by one reverse-mode derivative.

    Each place of each cut has a presence of its own; under the surrogate, E·E / |E|² is linear in
    those of one cut, and its derivatives are v·E / |E|². Biases stay in b.

    Args:
        net: the network.
        images: that it takes.
        layouts: the layers to cut at, in the order that they finish.
        surrogate: the linear surrogate; where its biases would lie makes no difference here.
    """
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), images.dtype)
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    run, images = in_dtype(net, dtype), images.to(dtype)
    presence = {
        name: torch.ones(len(images), layout.places, dtype=dtype, device=images.device)
        for name, layout in layouts.items()
    }
    with differentiating(images), torch.enable_grad(), ExitStack() as stack:
        for values in presence.values():
            values.requires_grad_()
        mode = Linearised(surrogate=Surrogate(surrogate.kind, surrogate.gamma))

        def present(name: str) -> Any:
            def hook(output: Tensor) -> Tensor:
                output = mode.finish(output)
                present = output * layouts[name].spread(presence[name], output.shape)[0]
                mode.follow(present)
                return present

            return hook

        for name in layouts:
            stack.enter_context(hooked_output(net.get_submodule(name), present(name)))
        with mode:
            E = mode.finish(run(images))
        u = (E / E.square().sum(1, keepdim=True)).detach()
        found = torch.autograd.grad(E, list(presence.values()), u)
    depths = []
    for (name, layout), values in zip(layouts.items(), found, strict=True):
        prefix = values[:, : layout.prefix].sum(1).mean().item()
        cells = values[:, layout.prefix :].sum(1).mean().item()
        depths.append(Depth(name, layout, cells, prefix, 1 - cells - prefix))
    return depths


def deepest(depths: Sequence[Depth]) -> Depth:
    """The deepest cut whose cells carry enough; if there is none, the one whose carry most."""
    enough = [depth for depth in depths if depth.cells >= ENOUGH]
    return enough[-1] if enough else max(depths, key=lambda depth: depth.cells)
