"""EmbeddingModel: a network, the layer at which it is cut, and what its input looks like."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from whyalike import decomposition
from whyalike.contributions import Contributions
from whyalike.decomposition import Decomposition
from whyalike.errors import CompletenessError, ImageError, LayerError, ModelError, OutputError
from whyalike.geometry import Frame
from whyalike.heads import Split, describe, kept_as_is, recognise, trace_head
from whyalike.pooling import Kind, Pool
from whyalike.preprocess import Photograph, Preprocess, Source, all_finite, load_photograph
from whyalike.probe import (
    check_channels_first,
    check_embeddings,
    check_eval,
    check_layer_name,
    check_per_image,
    finishing_order,
    last_map,
)


class EmbeddingModel(nn.Module):
    """A network from images to embeddings, in three parts: features → pool → project.

    >>> import torch, whyalike as wa
    >>> trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU())
    >>> model = wa.EmbeddingModel(trunk, "mean", torch.nn.Linear(8, 4), wa.Preprocess(size=32))
    >>> model
    EmbeddingModel(8×8×8 map of features → mean → Linear(8→4) → embedding of 4)

    Args:
        features: images (N, 3, H, W) → feature map (N, C, h, w).
        pool: "mean" (GAP), "max" (GMP), "gem" (p = 3; for a learned p give the module), "flatten",
            or a module (N, C, h, w) → (N, ...).
        project: pooled vectors → embeddings (N, d); None for none.
        preprocess: from a photograph to the network's input; without one, only ready-made tensors
            can be explained.

    Raises:
        ModelError: from the constructor, if a preprocess says how large images are, or else at the
            first image: the network is in training mode, does not return finite (N, d), mixes the
            images of a batch, or gives no feature map.
    """

    net: nn.Module
    layer: str
    preprocess: Preprocess | None

    def __init__(
        self,
        features: nn.Module,
        pool: Kind | Pool | nn.Module = "mean",
        project: nn.Module | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__()
        project = nn.Identity() if project is None else project
        if isinstance(pool, str):
            pool = Pool(pool)
        pooling = _PoolModule(pool) if isinstance(pool, Pool) else pool
        head = nn.Sequential(OrderedDict(pool=pooling, project=project))
        net = nn.Sequential(OrderedDict(features=features, head=head))
        # What is ours has no mode; what was given says itself whether it is in eval mode.
        for module in (self, net, head, pooling):
            if module is not pool:
                module.training = False
        self._assemble(net, "features", preprocess, from_parts=True)

    @classmethod
    def from_module(
        cls, net: nn.Module, layer: str | None = None, preprocess: Preprocess | None = None
    ) -> EmbeddingModel:
        """Any network from images to embeddings, cut at a named layer.

        The head behind the layer is recognised by itself where it is a pooling (mean, max, GeM,
        flatten) and a projection; any other head is differentiated as a whole, which is exact
        as well, and slower. `repr` says what was found.

        Args:
            net: images (N, 3, H, W) → embeddings (N, d), in eval mode. It is not changed.
            layer: the name of a module whose output is a feature map (N, C, h, w), as in
                `net.named_modules()`; None for the last one that gives such a map.
            preprocess: how a photograph becomes the network's input; by default 224×224 with
                ImageNet's mean and standard deviation.

        Raises:
            LayerError: no such layer (the message names the near ones), or no map comes out of it.
        """
        if not isinstance(net, nn.Module):
            raise ModelError(
                f"a network is a torch.nn.Module; came {type(net).__name__}; wrap a function in a "
                f"module"
            )
        while isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        net = getattr(net, "_orig_mod", net)  # what torch.compile wraps
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.training = False
        model._assemble(net, layer, Preprocess() if preprocess is None else preprocess)
        return model

    def _assemble(
        self,
        net: nn.Module,
        layer: str | None,
        preprocess: Preprocess | None,
        from_parts: bool = False,
    ) -> None:
        self._from_parts = from_parts
        self.net = net
        self.preprocess = preprocess
        # By shape, type and device of the map; not modules of ours, as they share the net's.
        self._heads: dict[Any, tuple[nn.Module | None, Split | None]] = {}
        self._graph: fx.Graph | None = None
        self._found: str | None = None
        if layer is not None:
            check_layer_name(net, layer)
        self.layer = "" if layer is None else layer
        if preprocess is not None:
            self._probe(torch.Size((3, *preprocess.size_hw)))
        elif layer is None:
            raise LayerError("to find the last feature map, a preprocess must say the image size")

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """The network's own embeddings, before L2 normalisation."""
        return self.net(images)

    def __repr__(self) -> str:
        return f"EmbeddingModel({self.description})"

    @property
    def description(self) -> str:
        """What was found, from map to embedding, in one line."""
        where = "features" if self._from_parts else f"{type(self.net).__name__}.{self.layer}"
        return self._found or f"map of {where}, not run yet"

    @overload
    def explain(self, images: Source, *, batch_size: int = 32) -> Contributions: ...
    @overload
    def explain(
        self, images: list[Any] | tuple[Any, ...], *, batch_size: int = 32
    ) -> list[Contributions]: ...
    @overload
    def explain(
        self, images: list[Any] | tuple[Any, ...], *, batch_size: int = 32, strict: bool
    ) -> list[Contributions | ImageError]: ...
    def explain(
        self,
        images: Source | list[Any] | tuple[Any, ...],
        *,
        batch_size: int = 32,
        strict: bool = True,
    ) -> Contributions | list[Contributions] | list[Contributions | ImageError]:
        """What each cell of an image gives to its embedding: E = Σ v + b, checked.

        Args:
            images: a path, bytes, a PIL image, an array (H, W, 3) of uint8, or a ready-made tensor
                (3, H, W); or a list of them, which run in batches.
            batch_size: images in one forward pass.
            strict: of a list, whether an image that cannot be read is raised; otherwise its
                `ImageError` stands in its place, and the rest goes on.

        Raises:
            ImageError: an image cannot be read.
            ModelError: the network cannot be explained as it is.
            CompletenessError: the parts do not add up to what the network returned.
        """
        if not isinstance(images, list | tuple):
            return self.explain([images])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is 1 or more; came {batch_size}")
        explained: list[Contributions | ImageError] = []
        for start in range(0, len(images), batch_size):
            loaded = [self._load(source, strict) for source in images[start : start + batch_size]]
            good = self._explain_batch([one for one in loaded if isinstance(one, Photograph)])
            explained += [one if isinstance(one, ImageError) else good.popleft() for one in loaded]
        return explained

    def _load(self, source: Source, strict: bool) -> Photograph | ImageError:
        try:
            return load_photograph(source, self.preprocess)
        except ImageError as error:
            if strict:
                raise
            return error

    def _explain_batch(self, photographs: Sequence[Photograph]) -> deque[Contributions]:
        """Those of one size share a forward pass."""
        by_size: dict[torch.Size, list[int]] = {}
        for index, photograph in enumerate(photographs):
            by_size.setdefault(photograph.tensor.shape, []).append(index)
        results: dict[int, Contributions] = {}
        for members in by_size.values():
            tensors = torch.stack([photographs[i].tensor for i in members])
            v, b, E, grid_hw, taylor = self.decompose(tensors)
            for row, i in enumerate(members):
                photo = photographs[i]
                results[i] = Contributions(
                    values=v[row].unflatten(0, grid_hw),
                    bias=b[row],
                    embedding=E[row],
                    frame=Frame(photo.size_wh, photo.view_xyxy, grid_hw),
                    name=photo.name,
                    picture=photo.picture,
                    model=self.description,
                    taylor=taylor,
                )
        return deque(results[i] for i in range(len(photographs)))

    def decompose(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[
        Float[Tensor, "n cells d"],
        Float[Tensor, "n d"],
        Float[Tensor, "n d"],
        tuple[int, int],
        tuple[str, ...],
    ]:
        """v, b, E and the grid (h, w) of a batch of preprocessed images, in one forward pass.

        E is the embedding that this pass of the network returned, in float32 at least. Last come
        the names of the operations of the head that could only be expanded to first order.
        """
        if self._found is None:
            self._probe(images.shape[1:])
        check_eval(self.net)
        images = self.to_net(images)
        A, E = self._run(images)
        tolerance = decomposition.tolerance(A, E)
        *others, last = self._ways(A, images)
        for way in others:
            with suppress(CompletenessError, RuntimeError):
                return self._checked(way(), A, E, tolerance)
        return self._checked(last(), A, E, tolerance)

    def _ways(self, A: Tensor, images: Tensor) -> Iterator[Callable[[], Decomposition]]:
        """Ways to decompose the head, each to be tried if the one before did not add up.

        The first is the head as it was found. It may have been changed since (trained, replaced,
        moved), so the second finds it again. The last takes nothing for granted.
        """
        head, split = self._head_for(A)
        if split is not None:
            yield lambda: decomposition.from_split(split, A)
        elif head is not None:
            yield lambda: decomposition.from_head(head, A)

        def again() -> Decomposition:
            self._heads.clear()
            split = self._head_for(A)[1]
            return generic() if split is None else decomposition.from_split(split, A)

        def generic() -> Decomposition:
            head = self._head_for(A)[0]
            return decomposition.from_head(head or self._rerun(images), A)

        if head is not None:
            yield again
        yield generic

    def _checked(
        self, found: Decomposition, A: Tensor, E: Tensor, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], tuple[str, ...]]:
        cause = (
            f"run again, the head after {self.layer!r} does not give the embedding that the "
            f"network returned: it is not deterministic, keeps a state, or looks at more than "
            f"the map"
        )
        if found.b.shape != E.shape:
            raise CompletenessError(f"{tuple(found.b.shape)} is not {tuple(E.shape)}: {cause}")
        b = decomposition.check(found.v, found.b, E, cause, tolerance)
        grid_hw = (A.shape[-2], A.shape[-1])
        return found.v, b, E.to(found.v.dtype), grid_hw, tuple(sorted(found.taylor))

    # -- running the network -------------------------------------------------------------------

    def inspect(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n d"], Split | None]:
        """The feature map at the cut, the embedding, and the head, if it was recognised."""
        if self._found is None:
            self._probe(images.shape[1:])
        check_eval(self.net)
        A, E = self._run(self.to_net(images))
        return A, E, self._head_for(A)[1]

    def to_net(self, images: Tensor) -> Tensor:
        """Images where the network is, in its type."""
        weight = next((p for p in self.net.parameters() if p.is_floating_point()), None)
        return images if weight is None else images.to(weight.device, weight.dtype)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass of the network as it is: the map at the cut, and the embedding."""
        maps: list[Any] = []
        here = threading.get_ident()

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == here:  # another thread may run the same network
                # Cloned at once: a ReLU behind the layer may work in place.
                maps.append(output.clone() if isinstance(output, Tensor) else output)

        handle = self.net.get_submodule(self.layer).register_forward_hook(keep)
        try:
            with torch.no_grad():
                E = self.net(images)
        finally:
            handle.remove()
        E = check_embeddings(E, len(images))
        if len(maps) != 1:
            raise LayerError(
                f"layer {self.layer!r} must run once for an embedding; it ran {len(maps)} times; "
                f"choose another layer"
            )
        A = maps[0]
        if not (isinstance(A, Tensor) and A.dim() == 4 and len(A) == len(images)):
            came = tuple(A.shape) if isinstance(A, Tensor) else type(A).__name__
            raise LayerError(
                f"layer {self.layer!r} must give one feature map (N, C, h, w) for {len(images)} "
                f"images; came {came}; choose a convolutional layer"
            )
        check_channels_first(A, images, self.layer)
        if not all_finite(A):
            raise OutputError(f"the feature map of layer {self.layer!r} holds NaN or infinity")
        return A, E

    def _rerun(self, images: Tensor) -> decomposition.Head:
        """The head of a network that cannot be traced: all of it, with the map put in its place."""
        layer = self.net.get_submodule(self.layer)
        dtype = decomposition.accumulation_dtype(images.dtype)
        run = decomposition.in_dtype(self.net, dtype)

        def head(A: Tensor) -> Tensor:
            with kept_as_is(self.net), decomposition.replaced_output(layer, A):
                return run(images.to(dtype))

        return head

    def _head_for(self, A: Tensor) -> tuple[nn.Module | None, Split | None]:
        """The head as a module of the map alone, and as a known pooling and the rest, if it is."""
        key = (A.shape[1:], A.dtype, A.device)
        if key not in self._heads:
            self._heads[key] = self._find_head(A)
        return self._heads[key]

    def _find_head(self, A: Tensor) -> tuple[nn.Module | None, Split | None]:
        own = self.net.get_submodule("head") if self._from_parts else None
        pooling = None if own is None else own.get_submodule("pool")
        with torch.no_grad():
            if own is not None and isinstance(pooling, _PoolModule):
                shape = (pooling(A).shape[1],)
                return own, Split(pooling.pool, own.get_submodule("project"), shape)
            if self._graph is None:
                return own, None
            head = fx.GraphModule(self.net, self._graph)
            return head, recognise(head, A)

    # -- what must hold before anything is explained --------------------------------------------

    def _probe(self, shape: torch.Size) -> None:
        """Run the network on noise: find the layer and the head, refuse what cannot work."""
        check_eval(self.net)
        generator = torch.Generator().manual_seed(0)
        images = self.to_net(torch.randn(2, *shape, generator=generator))
        order = finishing_order(self.net, images)
        if not self.layer:
            self.layer = last_map(type(self.net).__name__, order)
        finished = [name for name, _ in order]
        before = finished[: finished.index(self.layer)] if self.layer in finished else []
        # Once, as tracing is not safe while another thread runs a network.
        self._graph = trace_head(self.net, self.layer, before)
        A, E = self._run(images)
        check_per_image(self._run(images[:1])[1], E[:1])
        _, split = self._head_for(A)
        if split is None:
            steps = "the head, differentiated as a whole"
        else:
            steps = " → ".join(filter(None, [str(split.pool), describe(split.project)]))
        size = "×".join(map(str, A.shape[1:]))
        where = "features" if self._from_parts else f"{type(self.net).__name__}.{self.layer}"
        self._found = f"{size} map of {where} → {steps} → embedding of {E.shape[1]}"


class _PoolModule(nn.Module):
    """A known pooling as a module, for a network that is put together from its parts."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, A: Tensor) -> Tensor:
        return self.pool(A)

    def extra_repr(self) -> str:
        return str(self.pool)
