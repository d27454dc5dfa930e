"""Networks that are read from a file node by node, each node a layer of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from whyalike.errors import ModelError, in_one_line

LARGEST = 2**28
"""Numbers that one value may hold on the trial images: a small file may ask for any size."""

TOLERANCE = 1e-4
"""The largest gap to another way of running a network, relative to the embedding's length."""


class _Slot(Enum):
    """Its member stays itself when a network is copied or pickled."""

    SLOT = "slot"


SLOT = _Slot.SLOT
"""Where in a call's arguments a value goes that comes from the image."""


@dataclass(frozen=True)
class _Stored:
    name: str


class Call(nn.Module):
    """A function of torch as a layer; tensors among its arguments are its buffers.

    Args:
        function: a function that can be traced.
        given: its first arguments: `SLOT`, tensors, plain values, or lists of them.
        arguments, options: the others, plain values.
    """

    def __init__(
        self, function: Callable[..., Any], given: Sequence[Any], *arguments: Any, **options: Any
    ) -> None:
        super().__init__()
        self.function, self.options = function, options
        self.template = [*(self._kept(value) for value in given), *arguments]

    def _kept(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._kept(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        name = f"constant_{len(self._buffers)}"
        self.register_buffer(name, value)
        return _Stored(name)

    def _filled(self, template: Any, moving: Any) -> Any:
        if isinstance(template, list):
            return [self._filled(part, moving) for part in template]
        if isinstance(template, _Stored):
            return getattr(self, template.name)
        return next(moving) if template is SLOT else template

    def forward(self, *moving: Tensor) -> Any:
        return self.function(*self._filled(self.template, iter(moving)), **self.options)

    def extra_repr(self) -> str:
        return str(getattr(self.function, "__name__", self.function))


def method(name: str) -> Callable[..., Any]:
    """A method of tensors as a function that can be traced."""

    def call(x: Tensor, *arguments: Any, **options: Any) -> Any:
        return getattr(x, name)(*arguments, **options)

    call.__name__ = name
    return call


@dataclass(frozen=True)
class Node:
    """One node of a file: its operator, its layer, and the values that it takes and gives.

    `given` has None for what nobody takes; `several`: whether the layer returns a tuple.
    """

    kind: str
    layer: str
    taken: list[str]
    given: list[str | None]
    several: bool = False


class NodeNetwork(nn.Module):
    """The nodes of a file that lead to its embedding, each a layer.

    Args:
        image: the name of the input.
        embedding: the name of the output.
        nodes: those that lead from one to the other, in order.
    """

    def __init__(self, image: str, embedding: str, nodes: list[Node]) -> None:
        super().__init__()
        self.last_map: str | None = None
        self.image, self.embedding, self.nodes = image, embedding, nodes
        last = {name: i for i, node in enumerate(nodes) for name in node.taken}
        self.done = [[n for n, at in last.items() if at == i] for i in range(len(nodes))]

    def forward(self, images: Tensor) -> Tensor:
        values = {self.image: images}
        for node, done in zip(self.nodes, self.done, strict=True):
            result = self.get_submodule(node.layer)(*[values[name] for name in node.taken])
            for index, name in enumerate(node.given):
                if name is not None:
                    values[name] = result[index] if node.several else result
            for name in done:  # what nobody needs any more
                if name != self.embedding:
                    del values[name]
        return values[self.embedding]


def needed(nodes: list[Node], embedding: str) -> list[Node]:
    """The nodes that lead to the embedding; outputs that nobody takes are None."""
    wanted: set[str | None] = {embedding}
    kept: list[Node] = []
    for node in reversed(nodes):
        if wanted.intersection(node.given):
            kept.append(replace(node, given=[g if g in wanted else None for g in node.given]))
            wanted |= set(node.taken)
    return kept[::-1]


_POWERS = ("Pow", "pow")
_BOUNDS = ("Clip", "Max", "clamp", "clamp_min", "maximum")
"""What a GeM pooling begins with, in the words of ONNX and of torch."""


def find_last_map(nodes: list[Node], values: Mapping[str, Tensor], image: str) -> str | None:
    """The layer of the last feature map (N, C, h, w) of the image's shape, before any pooling.

    Every node is a layer here, those within a pooling too: GeM's lower bound and power come after
    the map.
    """
    height, width = values[image].shape[2:]
    made_by = {name: node for node in nodes for name in node.given if name is not None}

    def is_map(node: Node) -> bool:
        shape = values[node.given[0]].shape if node.given[0] else torch.Size()
        if len(shape) != 4 or shape[2] * shape[3] == 1 or node.several:
            return False
        return 2 / 3 < (shape[2] / shape[3]) / (height / width) < 3 / 2

    found = next((node for node in reversed(nodes) if is_map(node)), None)
    while found is not None and found.kind in (*_POWERS, *_BOUNDS):
        before = made_by.get(found.taken[0])
        if before is None or not is_map(before):
            break
        if found.kind not in _POWERS and not _bounds_a_power(found, nodes):
            break
        found = before
    return None if found is None else found.layer


def _bounds_a_power(node: Node, nodes: list[Node]) -> bool:
    return any(other.kind in _POWERS and node.given[0] in other.taken for other in nodes)


_TAKEN = frozenset((*vars(nn.Module()), "image", "embedding", "nodes", "done", "last_map"))
"""Names that a network's attributes have."""


def layer_name(name: str) -> str:
    """A node's name as that of its layer.

    A graph of torch becomes source code, in which names stand as they are: so only letters, digits
    and a few marks are left of what a stranger wrote. Dots would mean a layer within a layer.
    """
    name = re.sub(r"[^\w/:-]", "_", name) or "node"
    return name + "_" if hasattr(NodeNetwork, name) or name in _TAKEN else name


def free_name(name: str, layers: Mapping[str, nn.Module]) -> str:
    """A name for the layer of a node that no other layer has."""
    name = layer_name(name)
    return next(
        n for n in (name, *(f"{name}_{i}" for i in range(len(layers) + 1))) if n not in layers
    )


def run_layer(layer: nn.Module, values: Sequence[Any]) -> Any:
    """What a layer gives; refused before it is made, if it would not fit."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        shapes = layer(*[fake.from_tensor(v) for v in values])
    for shape in shapes if isinstance(shapes, tuple | list) else [shapes]:
        if isinstance(shape, Tensor) and shape.numel() > LARGEST:
            raise ModelError(f"makes {'×'.join(map(str, shape.shape))} numbers, over {LARGEST:,}")
    return layer(*values)


# -- what must hold of it ------------------------------------------------------------------------


@torch.no_grad()
def check_batches(path: Path, net: nn.Module, images: Tensor, given: Tensor) -> None:
    """Refuse a network that works for the batch of the file alone."""
    more = torch.cat([images, images.flip(3), images.flip(2)])
    advice = "export it with a free batch axis"
    try:
        alone = torch.cat([net(image[None]) for image in more])
        together = net(more)
    except Exception as error:
        raise ModelError(
            f"{path}: is made for batches of {len(images)} and cannot be run on others "
            f"({in_one_line(error)}); {advice}"
        ) from error
    for found, expected in ((together, alone), (alone[: len(given)], given)):
        if found.shape != expected.shape or not gap(found, expected) <= 10 * tolerance(expected):
            raise ModelError(
                f"{path}: an image's embedding must not depend on the rest of its batch; alone it "
                f"is another one; is the network made for batches of {len(images)}? {advice}"
            )


def tolerance(embeddings: Tensor) -> float:
    """The gap that passes, by the type that a network computes in."""
    return TOLERANCE if embeddings.dtype in (torch.float32, torch.float64) else 1e-2


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest distance of two embeddings, of the length that is expected."""
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    lengths = torch.linalg.vector_norm(expected, dim=1)
    return float((torch.linalg.vector_norm(found - expected, dim=1) / lengths).max())
