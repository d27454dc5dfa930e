"""EmbeddingModel: a network, the layer at which it is cut, and what its input looks like."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whyalike.contributions import Contributions
from whyalike.cut import Cut, Decomposed, PoolModule, to_net
from whyalike.depth import Depth
from whyalike.errors import ImageError, LayerError, ModelError
from whyalike.geometry import Frame
from whyalike.heads import Split
from whyalike.layout import Layout
from whyalike.pooling import Kind as PoolKind
from whyalike.pooling import Pool
from whyalike.preprocess import Photograph, Preprocess, Source, load_photograph
from whyalike.probe import check_eval
from whyalike.surrogates import Biases, Kind, Surrogate

DRAWN_OWN = 0.25
"""What share each cell keeps in maps to be looked at; without any they are flat."""


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
    preprocess: Preprocess | None

    def __init__(
        self,
        features: nn.Module,
        pool: PoolKind | Pool | nn.Module = "mean",
        project: nn.Module | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__()
        project = nn.Identity() if project is None else project
        if isinstance(pool, str):
            pool = Pool(pool)
        pooling = PoolModule(pool) if isinstance(pool, Pool) else pool
        head = nn.Sequential(OrderedDict(pool=pooling, project=project))
        net = nn.Sequential(OrderedDict(features=features, head=head))
        # What is ours has no mode; what was given says itself whether it is in eval mode.
        for module in (self, net, head, pooling):
            if module is not pool:
                module.training = False
        self._assemble(net, "features", preprocess, from_parts=True)

    @classmethod
    def from_module(
        cls,
        net: nn.Module,
        layer: str | None = None,
        preprocess: Preprocess | None = None,
        *,
        surrogate: Kind = "gates",
        gamma: float = 0.05,
        biases: Biases = "residual",
        affinity: float = 0.0,
    ) -> EmbeddingModel:
        """Any network from images to embeddings, cut at a named layer.

        The head behind the layer is recognised by itself where it is a pooling (mean, max, GeM,
        flatten) and a projection; any other head is differentiated as a whole, which is exact
        as well, and slower. `repr` says what was found.

        Args:
            net: images (N, 3, H, W) → embeddings (N, d), in eval mode. It is not changed.
            layer: the name of a module, as in `net.named_modules()`, whose output is a map
                (N, C, h, w) or (N, h, w, C), or tokens (N, prefix + h·w, C). None for the last one
                that gives a map. "auto" for the deepest one whose cells carry at least 80 % of the
                embedding, which is what None means for a network that ends in tokens.
            preprocess: how a photograph becomes the network's input; by default 224×224 with
                ImageNet's mean and standard deviation.
            surrogate: how the network behind the layer is made linear: "gates" holds every gate at
                its value, "gamma" also shares each sum among its terms (see docs/sharp-maps.md),
                "taylor" is the plain derivative, whose remainder is in the bias, and "change" looks
                at the image's own pixels instead (see `change`).
            gamma: γ of "gamma", 0 or more; `math.inf` is allowed.
            biases: "residual" leaves what the network adds behind the layer in the bias, as in the
                paper; "located" counts it at the cells where it is added.
            affinity: above 0, cells that the network sees alike share what a map says that they
                carry; 2 is what `sharp` takes, larger ones share less (see docs/sharp-maps.md).

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
        preprocess = Preprocess() if preprocess is None else preprocess
        model._assemble(net, layer, preprocess, Surrogate(surrogate, gamma, biases, affinity))
        return model

    def _assemble(
        self,
        net: nn.Module,
        layer: str | None,
        preprocess: Preprocess | None,
        surrogate: Surrogate | None = None,
        from_parts: bool = False,
    ) -> None:
        self.net = net
        self.preprocess = preprocess
        # Not a module of ours: its head shares the net's.
        self._cut = Cut(net, layer or "", surrogate or Surrogate(), from_parts)
        if preprocess is not None:
            self._cut.prepare(torch.Size((3, *preprocess.size_hw)))
        elif layer is None:
            raise LayerError("to find the last feature map, a preprocess must say the image size")

    def cut(
        self,
        layer: str | None = None,
        *,
        surrogate: Kind | None = None,
        gamma: float | None = None,
        biases: Biases | None = None,
        affinity: float | None = None,
        own: float | None = None,
        cells: int | None = None,
    ) -> EmbeddingModel:
        """The same network, cut at another layer or linearised in another way.

        >>> model.cut("layer3", surrogate="gamma", biases="located")  # doctest: +SKIP

        Args:
            layer, surrogate, gamma, biases, affinity: as in `from_module`; what is left out stays.
            own: as in `sharp`.
            cells: as in `change`.
        """
        now = self._cut.surrogate
        model = type(self).__new__(type(self))
        nn.Module.__init__(model)
        model.training = False
        model._assemble(
            self.net,
            self.layer if layer is None else layer,
            self.preprocess,
            Surrogate(
                now.kind if surrogate is None else surrogate,
                now.gamma if gamma is None else gamma,
                now.biases if biases is None else biases,
                now.affinity if affinity is None else affinity,
                now.own if own is None else own,
                now.cells if cells is None else cells,
            ),
            from_parts=self._cut.from_parts and layer in (None, self.layer),
        )
        return model

    def sharp(
        self, *, gamma: float = 0.1, finer: int = 2, affinity: float = 2.0, own: float = 0.0
    ) -> EmbeddingModel:
        """The same network, cut where its maps are finer, with sums shared among their terms.

        Maps so made add up to the score as those of the last layer do, and lie closer around what
        carries it (measured in docs/sharp-maps.md). They take a few passes through the network.

        Args:
            gamma: of the surrogate; larger ones lie closer, and depend less on what is asked.
            finer: how many times as many rows as the last map's the grid is to have. Of the layers
                that everything goes through, the deepest such one is taken, or else the finest;
                where none is finer than the tokens that the network ends in, its cut stays.
            affinity: of cells that share what they carry; 0 leaves to each its own.
            own: what share each cell keeps for itself before the rest is shared, from 0 to 1.

        Raises:
            ModelError: the model has no preprocess, which says how large images are.
        """
        if self.preprocess is None:
            raise ModelError("to find a finer map, a preprocess must say the image size")
        layer = self._cut.finer(torch.Size((3, *self.preprocess.size_hw)), finer)
        return self.cut(
            layer, surrogate="gamma", gamma=gamma, biases="located", affinity=affinity, own=own
        )

    def change(self, *, cells: int = 64) -> EmbeddingModel:
        """The same network, its embedding as a grey image's and what each cell of pixels adds.

        E(x) = E(grey) + Σ v, exact as ever, and E(grey) is the bias. So maps say what the score
        loses as pixels are hidden: of all maps measured, hiding those of the largest values breaks
        it soonest (docs/sharp-maps.md). They are fine, lie on spots rather than on objects, and
        take some twenty passes through the network. Grey is zero, the mean colour.

        Args:
            cells: of pixels that are hidden together, at most so many on the longer side.
        """
        return self.cut(surrogate="change", affinity=0.0, cells=cells)

    def drawn(self) -> EmbeddingModel:
        """The form of the network that draws best, as `whyalike explain` shows it.

        That is `sharp(own=0.25)`, whose maps have more contrast than those of `sharp()`, where the
        cut is at a map of channels (N, C, h, w) or at tokens (N, prefix + h·w, C), for which that
        was measured; where channels come last, as in Swin, the network as it is.
        """
        return self if self._cut.kind == "channels last" else self.sharp(own=DRAWN_OWN)

    def depths(self, images: Source | list[Any] | tuple[Any, ...]) -> list[Depth]:
        """What carries the embeddings of some images, by the depth of the cut.

        One reverse-mode derivative of the network for all steps that everything goes through, from
        the image on, under this model's surrogate, with biases residual.

        Args:
            images: one or more, as for `explain`, all of one size for the network.
        """
        listed = images if isinstance(images, list | tuple) else [images]
        tensors = [load_photograph(source, self.preprocess).tensor for source in listed]
        if len({tensor.shape for tensor in tensors}) != 1:
            raise ModelError("depths takes images of one size; give a preprocess, or one image")
        return self._cut.depths(torch.stack(tensors))

    @property
    def layer(self) -> str:
        """The name of the module at whose output the network is cut."""
        return self._cut.layer

    @property
    def surrogate(self) -> Surrogate:
        """The linear surrogate of what lies behind the cut."""
        return self._cut.surrogate

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """The network's own embeddings, before L2 normalisation."""
        return self.net(images)

    def __repr__(self) -> str:
        return f"EmbeddingModel({self.description})"

    @property
    def description(self) -> str:
        """What was found, from map to embedding, in one line."""
        return self._cut.found or f"map of {self._cut.where}, not run yet"

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
            found = self._cut.decompose(tensors)
            remainders = found.remainders()
            for row, i in enumerate(members):
                photo = photographs[i]
                grid_hw = found.layout.grid_hw
                results[i] = Contributions(
                    found.heads[row] if found.v is None else found.v[row].unflatten(0, grid_hw),
                    bias=found.b[row],
                    embedding=found.E[row],
                    frame=Frame(photo.size_wh, photo.view_xyxy, grid_hw),
                    name=photo.name,
                    picture=photo.picture,
                    model=self.description,
                    taylor=remainders[row],
                    prefix=found.prefix[row],
                    affinity=found.affinity[row] if found.affinity else None,
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
        """v of all cells, b, E and the grid (h, w) of a batch of preprocessed images.

        E is the embedding that one forward pass of the network returned, in float32 at least; b is
        what no cell gives, prefix tokens among it. Last come the names of the operations of the
        head that could only be expanded to first order.
        """
        found = self.decomposed(images)
        rest = found.b + found.prefix.sum(1)
        names = tuple(sorted({name for one in found.taylor for name in one}))
        return found.values(), rest, found.E, found.layout.grid_hw, names

    def decomposed(self, images: Float[Tensor, "n 3 H W"]) -> Decomposed:
        """A batch of preprocessed images as sums over cells, prefix tokens and b; checked."""
        return self._cut.decompose(images)

    @torch.no_grad()
    def embeddings(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """What one forward pass of the network returns, checked to be finite embeddings (N, d)."""
        self._cut.prepare(images.shape[1:])
        check_eval(self.net)
        return self._cut.run(self.to_net(images))[1]

    def inspect(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[Tensor, Float[Tensor, "n d"], Split | None]:
        """The output of the layer at the cut, the embedding, and the head, if recognised."""
        self._cut.prepare(images.shape[1:])
        check_eval(self.net)
        A, E = self._cut.run(self.to_net(images))
        return A, E, self._cut.head(A)[1]

    def layout(self, images: Float[Tensor, "n 3 H W"], A: Tensor | None = None) -> Layout:
        """How the output of the layer at the cut lies on images, its cells and prefix tokens.

        Args:
            images: inputs of the network.
            A: that output, where it is known; otherwise the network is run.
        """
        self._cut.prepare(images.shape[1:])
        images = self.to_net(images)
        return self._cut.layout(self._cut.run(images)[0] if A is None else A, images)

    def to_net(self, images: Tensor) -> Tensor:
        """Images where the network is, in its type."""
        return to_net(self.net, images)
