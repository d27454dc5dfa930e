"""A network cut at a layer: what the places of that layer give to the embedding, and the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from whyalike import decomposition, depth
from whyalike.affinity import Affinity
from whyalike.change import Change, pixel_cells
from whyalike.decomposition import Decomposition, LinearHead, hooked_output, replaced_output
from whyalike.errors import CompletenessError, LayerError, OutputError
from whyalike.heads import Split, describe, kept_as_is, recognise, trace_head
from whyalike.layout import Layout
from whyalike.pooling import Pool
from whyalike.preprocess import all_finite
from whyalike.probe import (
    check_embeddings,
    check_eval,
    check_layer_name,
    check_per_image,
    find_layouts,
    finishing_order,
    last_map,
)
from whyalike.surrogates import Surrogate

AUTO = "auto"
"""The name of the layer that is chosen by how much its cells carry."""


@dataclass(frozen=True)
class Decomposed:
    """A batch of embeddings as sums over places: E = Σ_cells v + Σ_prefix v + b.

    Args:
        E: the embeddings that the network returned, (n, d), in float32 at least.
        b: what no place gives, (n, d).
        prefix: v of the prefix tokens, (n, p, d).
        layout: how the places lie on the image.
        taylor: for each image, what operations of the head that were only expanded to first order
            leave over, (d,) by name; it is in b.
        v: of the cells (n, h·w, d), where they are known in closed form.
        heads: else, for each image its head as a linear map of its places.
        affinity: for each image, of its cells, where maps are to be shared among them; else none.
    """

    E: Float[Tensor, "n d"]
    b: Float[Tensor, "n d"]
    prefix: Float[Tensor, "n p d"]
    layout: Layout
    taylor: list[dict[str, Float[Tensor, " d"]]]
    v: Float[Tensor, "n cells d"] | None
    heads: list[LinearHead]
    affinity: Sequence[Affinity] = ()

    def remainders(self) -> list[dict[str, float]]:
        """How large `taylor` is, as shares of |E|."""
        return [
            {name: (left.norm() / E.norm()).item() for name, left in of.items()}
            for E, of in zip(self.E, self.taylor, strict=True)
        ]

    def values(self) -> Float[Tensor, "n cells d"]:
        """V of all cells."""
        if self.v is not None:
            return self.v
        return torch.cat([head.values() for head in self.heads])[:, self.layout.prefix :]


class Cut:
    """A network and the layer at which it is cut.

    Args:
        net: images (N, 3, H, W) → embeddings (N, d).
        layer: the name of a module; "" for the last feature map, or for the layer that "auto" finds
            where the network ends in tokens.
        surrogate: the linear surrogate of what lies behind the layer.
        from_parts: whether the net is our own chain of features, pool and project.
    """

    def __init__(
        self, net: nn.Module, layer: str, surrogate: Surrogate, from_parts: bool = False
    ) -> None:
        self.net = net
        self.layer = layer
        self.surrogate = surrogate
        self.from_parts = from_parts
        self.found: str | None = None
        """What was found, in words."""
        self.kind = "channels first"
        """How what comes out of the layer lies on the image, as `Layout` says it, once it ran."""
        # By shape, type and device of the map.
        self._heads: dict[Any, tuple[nn.Module | None, Split | None]] = {}
        self._layers_add_b: dict[Any, bool] = {}
        self._layouts: dict[Any, dict[str, Layout]] = {}
        self._others: list[str] = []  # layers that say, beside the cut, how alike cells are
        self._graph: fx.Graph | None = None
        if layer not in ("", AUTO):
            check_layer_name(net, layer)

    @property
    def where(self) -> str:
        """The layer, in words."""
        return "features" if self.from_parts else f"{type(self.net).__name__}.{self.layer}"

    def decompose(self, images: Float[Tensor, "n 3 H W"]) -> Decomposed:
        """E, b and what the places give, in one forward pass of the network; checked."""
        self.prepare(images.shape[1:])
        check_eval(self.net)
        images = to_net(self.net, images)
        if self.surrogate.kind == "change":
            return self._changed(images)
        kept: dict[str, list[Tensor]] = {name: [] for name in self._others}
        A, E = self.run(images, kept)
        layout = self.layout(A, images)
        tolerance = decomposition.tolerance(A, E)
        *others, last = self._ways(A, images, layout, tolerance)
        for way in others:
            with suppress(CompletenessError, RuntimeError):
                found = self._checked(way(), A, E, layout, tolerance)
                break
        else:
            found = self._checked(last(), A, E, layout, tolerance)
        if not self.surrogate.affinity:
            return found
        layouts = self._layouts[A.shape[1:], images.shape[2:]]
        maps = [layout.as_map(A), *(layouts[name].as_map(x) for name, [x] in kept.items())]
        power, own = self.surrogate.affinity, self.surrogate.own
        each = zip(*(A.split(1) for A in maps), strict=True)
        return replace(found, affinity=[Affinity(of, layout.grid_hw, power, own) for of in each])

    def run(
        self, images: Tensor, kept: dict[str, list[Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One forward pass of the network as it is: the map at the cut, and the embedding.

        Args:
            kept: other layers, to each of which its output is added.
        """
        outputs: dict[str, list[Tensor]] = {self.layer: [], **(kept or {})}

        def keep(name: str) -> Callable[[Tensor], Tensor]:
            def hook(output: Tensor) -> Tensor:
                # A copy, at once: a ReLU behind the layer may work in place.
                outputs[name].append(output.clone())
                return output

            return hook

        with ExitStack() as stack, torch.no_grad():
            for name in outputs:
                stack.enter_context(hooked_output(self.net.get_submodule(name), keep(name)))
            E = self.net(images)
        E, maps = check_embeddings(E, len(images)), outputs[self.layer]
        if len(maps) != 1:
            raise LayerError(
                f"layer {self.layer!r} must run once for an embedding and give a tensor; it gave "
                f"{len(maps)}; choose another layer"
            )
        if not all_finite(maps[0]):
            raise OutputError(f"the feature map of layer {self.layer!r} holds NaN or infinity")
        return maps[0], E

    def layout(self, A: Tensor, images: Tensor) -> Layout:
        """How the layer's output lies on the images."""
        key = (A.shape[1:], images.shape[2:])
        if key not in self._layouts:
            order = finishing_order(self.net, images)
            layouts = find_layouts(self.net, order, images)
            if self.layer not in layouts and self.from_parts and A.dim() == 4:
                layouts[self.layer] = Layout("channels first", (A.shape[2], A.shape[3]))
            if self.layer not in layouts or len(A) != len(images):
                raise LayerError(
                    f"layer {self.layer!r} must give a map (N, C, h, w), (N, h, w, C) or tokens "
                    f"(N, prefix + h·w, C) for {len(images)} images; came {tuple(A.shape)}; choose "
                    f"another layer"
                )
            self._layouts[key] = layouts
        return self._layouts[key][self.layer]

    def head(self, A: Tensor) -> tuple[nn.Module | None, Split | None]:
        """The head as a module of the map alone, and as a known pooling and the rest, if it is."""
        key = (A.shape[1:], A.dtype, A.device)
        if key not in self._heads:
            self._heads[key] = self._find_head(A)
        return self._heads[key]

    def forget(self) -> None:
        """Find the head again: it may have been trained, replaced or moved."""
        self._heads.clear()
        self._layers_add_b.clear()

    def depths(self, images: Float[Tensor, "n 3 H W"]) -> list[depth.Depth]:
        """What carries the embeddings at each step that everything goes through."""
        check_eval(self.net)
        images = to_net(self.net, images)
        layouts = find_layouts(self.net, finishing_order(self.net, images), images)
        return measure_depths(self.net, images, layouts, self.surrogate)

    def finer(self, shape: torch.Size, times: int) -> str:
        """The deepest step whose grid has so many times the rows of the last map's.

        If none has, that of the finest; where that are the tokens of the last map itself, which
        prefix tokens may have read by then, the layer stays what it is.
        """
        images = to_net(self.net, noise(2, shape))
        layouts = find_layouts(self.net, finishing_order(self.net, images), images)
        steps = depth.candidates(self.net, layouts)
        last = last_map(type(self.net).__name__, layouts)
        least = layouts[last].grid_hw[0]
        rows = times * least
        # The deepest that is fine enough; then, the finest first, those that are not.
        fine = [name for name in reversed(steps) if layouts[name].grid_hw[0] >= rows]
        coarse = [name for name in reversed(steps) if layouts[name].grid_hw[0] < rows]
        coarse.sort(key=lambda name: -layouts[name].grid_hw[0])
        if layouts[last].kind == "tokens":
            last = self.layer
            coarse = [name for name in coarse if layouts[name].grid_hw[0] > least]
        for name in [*fine, *coarse]:
            if depth.carries_all(self.net, name, images):
                return name
        return last

    # -- ways to decompose a head ----------------------------------------------------------------

    def _ways(
        self, A: Tensor, images: Tensor, layout: Layout, tolerance: float
    ) -> Iterator[Callable[[], Decomposition | list[LinearHead]]]:
        """Ways to decompose the head, each to be tried if the one before did not add up.

        The first is the head as it was found. It may have been changed since, so the second finds
        it again. The last takes nothing for granted.
        """
        head, split = self._split_for(A)

        def linear(head: nn.Module | None) -> list[LinearHead]:
            def of_one(image: Tensor, A: Tensor) -> LinearHead:
                run = head or self._rerun(image)
                return LinearHead(run, A, layout, self.surrogate, tolerance)

            return [*map(of_one, images.split(1), A.split(1))]

        if split is not None:
            yield lambda: decomposition.from_split(split, A)
        elif head is not None:
            yield lambda: linear(head)

        def again() -> Decomposition | list[LinearHead]:
            self.forget()
            head, split = self._split_for(A)
            return linear(head) if split is None else decomposition.from_split(split, A)

        if head is not None:
            yield again
        yield lambda: linear(self.head(A)[0])

    def _split_for(self, A: Tensor) -> tuple[nn.Module | None, Split | None]:
        # In closed form are held gates alone; the pooled vector's biases have no place anyway.
        head, split = self.head(A)
        return head, split if self.surrogate.kind == "gates" else None

    def _checked(
        self,
        found: Decomposition | list[LinearHead],
        A: Tensor,
        E: Tensor,
        layout: Layout,
        tolerance: float,
    ) -> Decomposed:
        cause = (
            f"run again, the head after {self.layer!r} does not give the embedding that the "
            f"network returned: it is not deterministic, keeps a state, or looks at more than "
            f"the map"
        )
        heads: list[LinearHead] = []
        v = None
        if isinstance(found, Decomposition):
            v, b, remainders = found
            total, prefix = v.sum(1), v.new_zeros(len(v), 0, v.shape[2])
        else:
            heads = found
            total, prefix, b = map(torch.cat, zip(*map(self._totals, heads), strict=True))
        if b.shape != E.shape:
            raise CompletenessError(f"{tuple(b.shape)} is not {tuple(E.shape)}: {cause}")
        E = E.to(total.dtype)
        b = decomposition.check(total + prefix.sum(1), b, E, cause, tolerance)
        if heads:
            taylor = [{name: r[0] for name, r in head.remainders().items()} for head in heads]
        else:
            taylor = [{name: r[row] for name, r in remainders.items()} for row in range(len(E))]
        return Decomposed(E, b, prefix, layout, taylor, v, heads)

    def _totals(self, head: LinearHead) -> tuple[Tensor, Tensor, Tensor]:
        """Σ v of one image's cells (1, d), v of its prefix tokens (1, p, d), and b (1, d).

        Where layers' own biases are found to be all of b, later images are spared the derivative;
        each map of theirs is held to E by itself (`Contributions.map`).
        """
        p, places = head.layout.prefix, head.layout.places
        key = (head.A.shape, head.A.dtype, head.A.device)
        if self._layers_add_b.get(key):
            value, b = head.of_whole()
            return value - b, b.new_zeros(1, 0, b.shape[1]), b
        weights = head.A.new_zeros(1 + p, 1, places)
        weights[0, :, p:] = 1.0
        for token in range(p):
            weights[1 + token, :, token] = 1.0
        value, pushed = head.push(weights)
        b = value - pushed.sum(0)
        if self.surrogate.biases == "located" and not p and key not in self._layers_add_b:
            gap = (head.of_whole()[1] - b).norm() / value.norm()
            self._layers_add_b[key] = gap.item() <= decomposition.TOLERANCE[head.A.dtype] / 10
        return pushed[0], pushed[1:].transpose(0, 1), b

    def _changed(self, images: Tensor) -> Decomposed:
        """What the cells of the image's own pixels add to the embedding of a grey image."""
        with torch.no_grad():
            E = check_embeddings(self.net(images), len(images))
        dtype = decomposition.accumulation_dtype(E.dtype)

        def run_in(dtype: torch.dtype) -> decomposition.Head:
            network = decomposition.in_dtype(self.net, dtype)

            def run(x: Tensor) -> Tensor:
                with kept_as_is(self.net):
                    return network(x)

            return run

        layout = pixel_cells(images.shape[2:], self.surrogate.cells)
        tolerance = decomposition.tolerance(images, E)
        heads = [
            Change(run_in, image, layout, tolerance=tolerance)
            for image in images.to(dtype).split(1)
        ]
        # Where all has a chord, later images are spared the derivative; what is asked is checked.
        key = (images.shape[1:], images.dtype, images.device)
        parts = [head.parts(trusted=self._layers_add_b.get(key, False)) for head in heads]
        added, grey, left = map(torch.cat, zip(*parts, strict=True))
        cause = (
            "the network is not deterministic, or reads its images in another way than through "
            "operations of torch"
        )
        E = E.to(dtype)
        b = decomposition.check(added, grey + left, E, cause, tolerance)
        self._layers_add_b[key] = not any(head.taylor for head in heads)
        taylor = [head.left_over(rest) for head, rest in zip(heads, left, strict=True)]
        return Decomposed(E, b, b.new_zeros(len(b), 0, b.shape[1]), layout, taylor, None, [*heads])

    def _rerun(self, images: Tensor) -> decomposition.Head:
        """The head of a network that cannot be traced: all of it, with the map put in its place."""
        layer = self.net.get_submodule(self.layer)
        dtype = decomposition.accumulation_dtype(images.dtype)
        run = decomposition.in_dtype(self.net, dtype)
        images = images.to(dtype)

        def head(A: Tensor) -> Tensor:
            with kept_as_is(self.net), replaced_output(layer, A):
                return run(images)

        return head

    def _find_head(self, A: Tensor) -> tuple[nn.Module | None, Split | None]:
        own = self.net.get_submodule("head") if self.from_parts else None
        pooling = None if own is None else own.get_submodule("pool")
        with torch.no_grad():
            if own is not None and isinstance(pooling, PoolModule):
                shape = (pooling(A).shape[1],)
                return own, Split(pooling.pool, own.get_submodule("project"), shape)
            if self._graph is None:
                return own, None
            head = fx.GraphModule(self.net, self._graph)
            return head, recognise(head, A) if A.dim() == 4 else None

    # -- what must hold before anything is explained ---------------------------------------------

    def prepare(self, shape: torch.Size) -> None:
        """Run the network on noise: find the layer and the head, refuse what cannot work.

        Args:
            shape: of an image, (3, H, W).
        """
        if self.found is not None:
            return
        check_eval(self.net)
        images = to_net(self.net, noise(2, shape))
        order = finishing_order(self.net, images)
        auto = ""
        if self.layer in ("", AUTO):
            layouts = find_layouts(self.net, order, images)
            last = last_map(type(self.net).__name__, layouts)
            if self.layer == AUTO or layouts[last].kind == "tokens":
                chosen = choose(self.net, images, layouts, self.surrogate)
                self.layer = chosen.layer
                auto = f" (auto: cells carry {chosen.cells:.0%})"
            else:
                self.layer = last
        finished = [name for name, _, _ in order]
        several = any(name == self.layer and several for name, _, several in order)
        before = finished[: finished.index(self.layer)] if self.layer in finished else []
        # Once, as tracing is not safe while another thread runs a network.
        self._graph = trace_head(self.net, self.layer, before, several)
        A, E = self.run(images)
        layout = self.layout(A, images)
        self.kind = layout.kind
        check_per_image(self.run(images[:1])[1], E[:1])
        _, split = self._split_for(A)
        if split is None:
            steps = "the head, differentiated as a whole"
        else:
            steps = " → ".join(filter(None, [str(split.pool), describe(split.project)]))
        if str(self.surrogate) != str(Surrogate()):
            steps += f" ({self.surrogate})"
        if self.surrogate.affinity:
            layouts = self._layouts[A.shape[1:], images.shape[2:]]
            deepest = layouts[last_map(type(self.net).__name__, layouts)]
            self._others = depth.resolutions(self.net, layouts, deepest, layout)
        if self.surrogate.kind == "change":
            cells = pixel_cells(shape[-2:], self.surrogate.cells)
            self.found = f"{cells} pixels of {type(self.net).__name__} → {self.surrogate} → "
            self.found += f"embedding of {E.shape[1]}"
            return
        size = f"{layout.channels(A.shape)}×{layout}"
        self.found = f"{size} map of {self.where}{auto} → {steps} → embedding of {E.shape[1]}"


class PoolModule(nn.Module):
    """A known pooling as a module, for a network that is put together from its parts."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, A: Tensor) -> Tensor:
        return self.pool(A)

    def extra_repr(self) -> str:
        return str(self.pool)


def choose(
    net: nn.Module, images: Tensor, layouts: dict[str, Layout], surrogate: Surrogate
) -> depth.Depth:
    """The layer at which a network that ends in tokens is best cut."""
    depths = measure_depths(net, images, layouts, surrogate)
    if not depths:
        raise LayerError(
            f"{type(net).__name__} has no layer through which everything goes from image to "
            f"embedding; name a layer"
        )
    chosen = depth.deepest(depths)
    if chosen.cells < depth.ENOUGH:
        warnings.warn(
            f"at no layer do the image's cells carry {depth.ENOUGH:.0%} of the embedding; at "
            f"{chosen.layer!r} they carry most, {chosen.cells:.0%}",
            stacklevel=2,
        )
    return chosen


def measure_depths(
    net: nn.Module, images: Tensor, layouts: dict[str, Layout], surrogate: Surrogate
) -> list[depth.Depth]:
    """What carries the embedding at each step of a network that everything goes through."""
    names = [
        name
        for name in depth.candidates(net, layouts)
        if depth.carries_all(net, name, to_net(net, noise(2, images.shape[1:])))
    ]
    return depth.measure(net, images, {name: layouts[name] for name in names}, surrogate)


def noise(n: int, shape: torch.Size) -> Tensor:
    """Seeded images of noise whose power falls with frequency, as that of photographs does."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(n, *shape, generator=generator)
    height, width = shape[-2:]
    fy = torch.fft.fftfreq(height)[:, None] * height
    fx = torch.fft.rfftfreq(width)[None] * width
    fall = 1 / (fx.square() + fy.square()).sqrt().clamp(min=1.0)
    coloured = torch.fft.irfft2(torch.fft.rfft2(white) * fall, s=(height, width))
    return coloured / coloured.std((1, 2, 3), keepdim=True)


def to_net(net: nn.Module, images: Tensor) -> Tensor:
    """Images where the network is, in its type."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    return images if weight is None else images.to(weight.device, weight.dtype)
