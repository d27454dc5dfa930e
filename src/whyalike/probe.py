"""What is found out about a network before it is explained, and what must hold of it."""

from __future__ import annotations

import difflib
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whyalike.decomposition import TOLERANCE
from whyalike.errors import LayerError, ModelError, OutputError, TrainingModeError
from whyalike.layout import Layout, find_layout
from whyalike.preprocess import all_finite


def check_layer_name(net: nn.Module, layer: str) -> None:
    """Refuse a layer that the network does not have, with the names that are near."""
    names = [name for name, _ in net.named_modules(remove_duplicate=False) if name]
    if layer in names:
        return
    near = difflib.get_close_matches(layer, names, n=4, cutoff=0.3)
    hint = f"near ones: {', '.join(near)}" if near else f"it has: {', '.join(names[:8])}"
    raise LayerError(f"{type(net).__name__} has no layer {layer!r}; {hint}")


class Finished(NamedTuple):
    """A module that ran: its name, and what it gave.

    shape: of its output, or of the first of several; empty where it is not a tensor.
    several: whether it gave a tuple or list.
    """

    name: str
    shape: torch.Size
    several: bool


def finishing_order(net: nn.Module, images: Tensor) -> list[Finished]:
    """The net's modules in the order in which they finish."""
    order: list[Finished] = []
    here = threading.get_ident()

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() != here:  # another thread may run the same network
                return
            several = isinstance(output, tuple | list) and len(output) > 0
            first = output[0] if several else output
            shape = first.shape if isinstance(first, Tensor) else torch.Size()
            order.append(Finished(name, shape, several))

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in net.named_modules() if name]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return order


def find_layouts(net: nn.Module, order: list[Finished], images: Tensor) -> dict[str, Layout]:
    """How the outputs of modules lie on the image, of those that run once and whose do."""
    runs = Counter(name for name, _, _ in order)
    prefix = getattr(net, "num_prefix_tokens", None)
    image_hw = (images.shape[-2], images.shape[-1])
    grids: list[tuple[int, int]] = []
    found = {}
    for name, shape, _ in order:
        if len(shape) < 3 or shape[0] != len(images):
            continue
        layout = find_layout(shape, image_hw, grids, prefix if isinstance(prefix, int) else None)
        if layout is not None:
            if len(shape) == 4:
                grids.append(layout.grid_hw)
            if runs[name] == 1:
                found[name] = layout
    return found


def last_map(net_name: str, layouts: dict[str, Layout]) -> str:
    """The layer to cut at where none is named: the last that gives a map or tokens."""
    if not layouts:
        raise LayerError(
            f"{net_name} has no module that gives a feature map (N, C, h, w) of more than one "
            f"cell, or tokens"
        )
    last = list(layouts)[-1]
    maps = [name for name, layout in layouts.items() if layout.kind != "tokens"]
    if layouts[last].kind == "tokens" and maps:
        after = list(layouts)[list(layouts).index(maps[-1]) + 1 :]
        if len(after) <= 3:  # a pooling may work on tokens; a transformer's blocks are many
            return maps[-1]
    return last


def check_eval(net: nn.Module) -> None:
    """Refuse training mode and BatchNorm on batch statistics, naming the module."""
    for name, module in _with_own_behaviour(net):
        if module.training:
            raise TrainingModeError(
                f"the network must be in eval mode; {name or 'it'} ({type(module).__name__}) is in "
                f"training mode; call .eval() first"
            )
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and module.running_mean is None:
            raise ModelError(
                f"{name} ({type(module).__name__}) keeps no running statistics and so mixes the "
                f"images of a batch; a head must treat each image by itself"
            )


def _with_own_behaviour(net: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules whose output depends on the mode: BatchNorm, dropout, and whatever is not torch's."""
    for name, module in net.named_modules():
        ours = type(module).__module__.startswith("torch.nn")
        kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        if not ours or isinstance(module, kinds):
            yield name, module


def check_embeddings(E: Any, n: int) -> Tensor:
    """Refuse what is not n finite embeddings of some length."""
    if not isinstance(E, Tensor):
        raise OutputError(
            f"the network must return embeddings (N, d); came {type(E).__name__}; wrap it in a "
            f"module that picks the embedding"
        )
    if E.dim() != 2 or len(E) != n or not E.is_floating_point():
        raise OutputError(
            f"the network must return embeddings (N, d) for {n} images; came "
            f"{tuple(E.shape)} of {E.dtype}; flatten or pool its output"
        )
    if not all_finite(E):
        raise OutputError("the network returned NaN or infinity; check its weights and input")
    if not E.any(dim=1).all():
        raise OutputError("the network returned an embedding of length zero: no cosine exists")
    return E


def check_per_image(alone: Tensor, together: Tensor) -> None:
    """Refuse a network that gives an image another embedding in another batch."""
    gap = (alone - together).float().norm() / together.float().norm()
    if not gap <= 10 * TOLERANCE.get(alone.dtype, 1e-4):
        raise OutputError(
            f"an image's embedding must not depend on the rest of its batch; alone and together "
            f"with another it differs by {gap:.2g} of its length; is there a BatchNorm on batch "
            f"statistics, dropout, or a reshape that mixes the batch?"
        )
