"""What is found out about a network before it is explained, and what must hold of it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from whyalike.decomposition import TOLERANCE
from whyalike.errors import LayerError, ModelError, OutputError, TrainingModeError
from whyalike.preprocess import all_finite


def check_layer_name(net: nn.Module, layer: str) -> None:
    """Refuse a layer that the network does not have, with the names that are near."""
    names = [name for name, _ in net.named_modules(remove_duplicate=False) if name]
    if layer in names:
        return
    near = difflib.get_close_matches(layer, names, n=4, cutoff=0.3)
    hint = f"near ones: {', '.join(near)}" if near else f"it has: {', '.join(names[:8])}"
    raise LayerError(f"{type(net).__name__} has no layer {layer!r}; {hint}")


def finishing_order(net: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Names of the net's modules in the order in which they finish, and what each gave.

    That is "map" for (N, C, h, w) of more than one cell, "tokens" for (N, tokens, C), else "".
    """
    order: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            shape = output.shape if isinstance(output, Tensor) else torch.Size()
            is_map = len(shape) == 4 and shape[2] * shape[3] > 1
            order.append((name, "map" if is_map else "tokens" if len(shape) == 3 else ""))

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in net.named_modules() if name]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return order


def last_map(net_name: str, order: list[tuple[str, str]]) -> str:
    """The layer to cut at where none is named: the last that gives a map."""
    runs = Counter(name for name, _ in order)
    maps = [i for i, (name, kind) in enumerate(order) if kind == "map" and runs[name] == 1]
    if not maps:
        raise LayerError(
            f"{net_name} has no module that gives a feature map (N, C, h, w) of more than one cell"
        )
    layer = order[maps[-1]][0]
    later = [name for name, kind in order[maps[-1] :] if kind == "tokens"]
    if len(later) > 3:  # a pooling may work on tokens; a transformer's blocks are many
        raise LayerError(
            f"{net_name} turns its last feature map, {layer!r}, into tokens for {len(later)} more "
            f"layers, and explaining from there says little; choose a convolutional network, or "
            f"name the layer if that is what you want"
        )
    return layer


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


def check_channels_first(A: Tensor, images: Tensor, layer: str) -> None:
    """Refuse maps (N, h, w, C): the first two axes have the image's shape, the last two not."""

    def fits(h: int, w: int) -> bool:
        return 2 / 3 < (h / w) / (images.shape[-2] / images.shape[-1]) < 3 / 2

    a, b, c = A.shape[1:]
    if fits(a, b) and not fits(b, c):
        raise LayerError(
            f"layer {layer!r} must give maps with channels first, (N, C, h, w); {tuple(A.shape)} "
            f"looks like channels last; permute it in a module of your own"
        )


def check_per_image(alone: Tensor, together: Tensor) -> None:
    """Refuse a network that gives an image another embedding in another batch."""
    gap = (alone - together).float().norm() / together.float().norm()
    if not gap <= 10 * TOLERANCE.get(alone.dtype, 1e-4):
        raise OutputError(
            f"an image's embedding must not depend on the rest of its batch; alone and together "
            f"with another it differs by {gap:.2g} of its length; is there a BatchNorm on batch "
            f"statistics, dropout, or a reshape that mixes the batch?"
        )
