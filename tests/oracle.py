"""Slow, obvious implementations that the fast ones are held to. Loops and full matrices only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import timm.layers.activations as timm_activations
import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

GATES = nn.GELU | timm_activations.GELU | nn.SiLU | nn.ReLU6 | nn.Hardswish


def jacobian_decomposition(head, A: Tensor) -> tuple[Tensor, Tensor]:
    """V (h, w, d) and b (d,) of one map A (C, h, w) from the head's full Jacobian (Taylor, Eq. 6).

    For heads of piecewise linear layers and GeM this *is* the frozen form.
    """
    J = torch.autograd.functional.jacobian(lambda x: head(x[None])[0], A)  # (d, C, h, w)
    d, C, h, w = J.shape
    v = torch.zeros(h, w, d, dtype=A.dtype)
    for i in range(h):
        for j in range(w):
            for c in range(C):
                v[i, j] += J[:, c, i, j] * A[c, i, j]
    return v, head(A[None])[0].detach() - v.sum((0, 1))


def frozen_matrix(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """W and b with W x + b = layer(x) for one vector x, every gate written out as a matrix."""
    n = len(x)
    eye = torch.eye(n, dtype=x.dtype)
    none = torch.zeros(n, dtype=x.dtype)
    match layer:
        case nn.Identity() | nn.Dropout() | nn.Flatten():
            return eye, none
        case nn.Linear():
            bias = torch.zeros(layer.out_features, dtype=x.dtype)
            return layer.weight, bias if layer.bias is None else layer.bias
        case nn.BatchNorm1d():
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            return torch.diag(scale), layer.bias - layer.running_mean * scale
        case nn.ReLU():
            return torch.diag((x > 0).to(x.dtype)), none
        case nn.LayerNorm():
            sigma = (((x - x.mean()) ** 2).mean() + layer.eps).sqrt()
            return layer.weight[:, None] * (eye - 1 / n) / sigma, layer.bias
        case nn.GELU() | nn.SiLU() | nn.Hardswish() | nn.Tanh() | nn.ReLU6() | nn.ELU():
            return torch.diag(torch.where(x == 0, 0.0, layer(x.clone()) / x)), none
        case UnitLength():
            return eye / x.norm(), none
    raise NotImplementedError(type(layer).__name__)


class UnitLength(nn.Module):
    """L2 normalisation inside a head."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1)


def frozen_decomposition(pool: str, layers: list[nn.Module], A: Tensor) -> tuple[Tensor, Tensor]:
    """V (h, w, d) and b (d,) of pooling and a chain of layers, by multiplying their matrices."""
    C, h, w = A.shape
    cells = {}
    for i in range(h):
        for j in range(w):
            if pool == "mean":
                cells[i, j] = A[:, i, j] / (h * w)
            elif pool == "max":
                cells[i, j] = torch.zeros(C, dtype=A.dtype)
                for c in range(C):
                    if A[c].flatten().argmax() == i * w + j:
                        cells[i, j][c] = A[c, i, j]
            elif pool == "gem":  # p = 3
                g = (A.clamp(min=1e-6) ** 3).mean((1, 2)) ** (1 / 3)
                cells[i, j] = A[:, i, j].clamp(min=1e-6) ** 3 / (g**2 * h * w)
            elif pool == "flatten":
                alone = torch.zeros_like(A)
                alone[:, i, j] = A[:, i, j]
                cells[i, j] = alone.flatten()
    x = sum(cells.values())
    W, b = torch.eye(len(x), dtype=A.dtype), torch.zeros(len(x), dtype=A.dtype)
    for layer in layers:
        W_layer, b_layer = frozen_matrix(layer, x)
        W, b = W_layer @ W, W_layer @ b + b_layer
        x = W_layer @ x + b_layer
    v = torch.stack([torch.stack([W @ cells[i, j] for j in range(w)]) for i in range(h)])
    return v.detach(), b.detach()


def bilinear(values: Tensor, x: float, y: float) -> Tensor:
    """A map (h, w, ...) at the point (x, y) in cells, between the four cell centres around it."""
    h, w = values.shape[:2]
    x, y = min(max(x - 0.5, 0), w - 1), min(max(y - 0.5, 0), h - 1)
    x0, y0 = min(int(x), w - 2) if w > 1 else 0, min(int(y), h - 2) if h > 1 else 0
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    fx, fy = x - x0, y - y0
    top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
    bottom = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


class Held(nn.Module):
    """A function of one branch at the factor by which it scaled its input."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class HeldNorm(nn.Module):
    """A LayerNorm over some axis at its 1/σ."""

    def __init__(self, norm: nn.LayerNorm, x: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        sigma = (x.var(axis, keepdim=True, correction=0) + norm.eps).sqrt()
        shape = [1] * x.dim()
        shape[axis] = -1
        self.scale = norm.weight.detach().view(shape) / sigma
        self.bias = norm.bias.detach().view(shape)

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(self.axis, keepdim=True)) * self.scale + self.bias


class HeldAttention(nn.Module):
    """Timm's attention, of a ViT or of Swin's windows, with the weights that it gave."""

    def __init__(self, attention: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.qkv, self.proj, self.weights = attention.qkv, attention.proj, weights

    def forward(self, x: Tensor, *_, **__) -> Tensor:
        n, tokens, channels = x.shape
        v = self.qkv(x)[..., 2 * channels :]
        v = v.view(n, tokens, self.weights.shape[1], -1).transpose(1, 2)
        return self.proj((self.weights @ v).transpose(1, 2).reshape(n, tokens, channels))


def held_network(net: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network of timm in which each gate is what it was at these images.

    Its attention must not be fused. What remains is affine but for ReLU and max pooling, whose
    derivative is their mask.
    """
    net = copy.deepcopy(net)
    inputs_of: dict[str, Tensor] = {}
    weights_of: dict[str, Tensor] = {}
    handles = []
    for name, module in net.named_modules():

        def note(_, inputs, name=name):
            inputs_of[name] = inputs[0].detach().clone()

        def note_weights(_, inputs, name=name):
            weights_of[name] = inputs[0].detach().clone()

        if isinstance(module, GATES | nn.LayerNorm):
            handles.append(module.register_forward_pre_hook(note))
        if isinstance(module, Attention | WindowAttention):
            assert not module.fused_attn
            # behind the softmax, and nothing in eval mode: what it gets is the weights
            handles.append(module.attn_drop.register_forward_pre_hook(note_weights))
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    for name, module in list(net.named_modules()):
        held: nn.Module | None = None
        if name in weights_of:
            held = HeldAttention(module, weights_of[name])
        elif name not in inputs_of:
            continue
        elif isinstance(module, GATES):
            x = inputs_of[name]
            held = Held(torch.where(x == 0, 0.0, module(x.clone()) / x))
        else:
            x = inputs_of[name]
            held = HeldNorm(module, x, 1 if "2d" in type(module).__name__ and x.dim() == 4 else -1)
        if held is not None:
            parent = net.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], held)
    return net.eval()


def held_decomposition(
    net: nn.Module, layer: str, images: Tensor, hold=held_network
) -> tuple[Tensor, Tensor]:
    """v and b of one image by the full Jacobian of a held network: v of each number, A's shape.

    v is (d, *A.shape[1:]): what each number of the layer's output gives.
    """
    held = hold(net, images)
    kept: list[Tensor] = []
    hook = held.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    E = held(images)
    hook.remove()
    torch.testing.assert_close(E, net(images), rtol=1e-9, atol=1e-9)

    def head(A: Tensor) -> Tensor:
        hook = held.get_submodule(layer).register_forward_hook(lambda m, i, o: A)
        out = held(images)[0]
        hook.remove()
        return out

    v = torch.autograd.functional.jacobian(head, kept[0])[:, 0] * kept[0][0]
    return v.detach(), (E[0] - v.flatten(1).sum(1)).detach()


def held_biases(net: nn.Module, layer: str, images: Tensor, tokens: int) -> Tensor:
    """What the biases behind a layer of a ViT give at each token, (tokens, d), held as above."""
    held = held_network(net, images)
    shapes: dict[str, torch.Size] = {}  # in the order that they finish

    def note(name: str):
        return lambda m, i, o: shapes.update({name: o.shape})

    hooks = [m.register_forward_hook(note(name)) for name, m in held.named_modules()]
    held(images)
    for hook in hooks:
        hook.remove()
    order = list(shapes)
    later = order[order.index(layer) + 1 :]
    total = 0
    for name in later:
        module = held.get_submodule(name)
        bias = getattr(module, "bias", None)
        if bias is None:
            continue
        shape = shapes[name]
        if len(shape) != 3 or shape[1] != tokens:
            continue  # of the pooled vector

        def head(added: Tensor, module: nn.Module = module) -> Tensor:
            hook = module.register_forward_hook(lambda m, i, o: o + added)
            out = held(images)[0]
            hook.remove()
            return out

        zero = torch.zeros(shape, dtype=images.dtype)
        J = torch.autograd.functional.jacobian(head, zero)[:, 0]  # (d, tokens, channels)
        total = total + (J @ bias.detach().flatten()).T
    return total


def remainders_of_a_chain(
    steps: list[tuple[str | None, Callable[[Tensor], Tensor]]], x: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """What each step of a chain leaves over in its output, by name, and the same of nameless ones.

    A step y = f(x) of one vector leaves over y − J x, which the Jacobian of all later steps takes
    to the end. Nameless steps are affine; what they leave over are constants.
    """
    found: dict[str, Tensor] = {}
    constants: Tensor | float = 0.0
    for i, (name, step) in enumerate(steps):
        y = step(x).detach()
        r = y - torch.autograd.functional.jacobian(step, x) @ x

        def rest(y: Tensor, later: list = steps[i + 1 :]) -> Tensor:
            for _, f in later:
                y = f(y)
            return y

        part = torch.autograd.functional.jacobian(rest, y) @ r
        if name is None:
            constants = constants + part
        else:
            found[name] = found.get(name, 0.0) + part
        x = y
    return found, torch.as_tensor(constants, dtype=x.dtype)


def remainders_by_patching(
    head: Callable[[Tensor], Tensor], A: Tensor, inputs: dict[str, int]
) -> dict[str, Tensor]:
    """What functions of torch.nn.functional leave over in head(A), (d,) by name.

    Each call is looked at by itself: its full Jacobian by its first arguments, and that of the head
    by what is added to its result.

    Args:
        inputs: names, and how many of their first arguments come from the image.
    """
    calls: list[tuple[str, tuple[Tensor, ...], Callable[..., Tensor]]] = []
    added_to: int | None = None
    added: Tensor | None = None
    count = 0

    def patched(name: str, func: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args, **kwargs):
            nonlocal count
            k = inputs[name]
            if added is None:
                calls.append((name, tuple(a.detach() for a in args[:k]),
                              lambda *xs: func(*xs, *args[k:], **kwargs)))  # fmt: skip
            y = func(*args, **kwargs)
            if added is not None and count == added_to:
                y = y + added
            count += 1
            return y

        return call

    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in inputs:
            func = getattr(nn.functional, name)
            stack.enter_context(mock.patch.object(nn.functional, name, patched(name, func)))
        head(A)
        for i, (name, xs, func) in enumerate(list(calls)):
            y = func(*xs).detach()
            r = y.clone()
            for x, J in zip(xs, torch.autograd.functional.jacobian(func, xs), strict=True):
                r -= (J.flatten(y.dim()) @ x.flatten()).view(y.shape)

            def told(extra: Tensor, i: int = i) -> Tensor:
                nonlocal count, added, added_to
                count, added, added_to = 0, extra, i
                return head(A)[0]

            J = torch.autograd.functional.jacobian(told, torch.zeros_like(y))
            found[name] = found.get(name, 0.0) + J.flatten(1) @ r.flatten()
    return found


class Replayed(TorchFunctionMode):
    """Runs of one network on one image: the first notes its gates, later ones have them as numbers.

    Args:
        branches: activations that are a factor themselves, as in SwiGLU, and not y/x of one branch.
    """

    def __init__(self, branches: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.notes: list[Tensor] = []
        self.at: int | None = None
        # The root of what a global response norm divides is no more than a number either.
        self.numbers = {"softmax", "sigmoid", "norm", *branches}
        self.factors = {"gelu", "silu", "relu6", "hardswish", "tanh"} - self.numbers

    def run(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.at = 0 if self.notes else None
        with self:
            E = network(x)
        assert self.at in (None, len(self.notes))
        return E

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name == "layer_norm":
            return self._norm(*args, **kwargs)
        if name not in self.numbers | self.factors:
            return func(*args, **kwargs)
        x, kwargs = args[0], {k: v for k, v in kwargs.items() if k != "inplace"}

        def gate() -> Tensor:
            y = func(x.detach().clone(), *args[1:], **kwargs)
            return y if name in self.numbers else torch.where(x == 0, 0.0, y / x)

        held = self._held(gate)
        return held if name in self.numbers else x * held

    def _norm(self, x, shape, weight=None, bias=None, eps=1e-5):
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        y = centred * self._held(lambda: (centred.square().mean(dims, keepdim=True) + eps).rsqrt())
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def _held(self, gate: Callable[[], Tensor]) -> Tensor:
        if self.at is None:
            self.notes.append(gate().detach())
            return self.notes[-1]
        self.at += 1
        return self.notes[self.at - 1]


def replayed_decomposition(
    net: nn.Module, layer: str, images: Tensor, branches: tuple[str, ...] = ()
) -> tuple[Tensor, Tensor]:
    """As `held_decomposition`, for whatever network: by its functions, not by its modules."""
    mode = Replayed(branches)
    kept: list[Tensor] = []
    module = net.get_submodule(layer)
    hook = module.register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    E = mode.run(net, images).detach()
    hook.remove()

    def head(A: Tensor) -> Tensor:
        hook = module.register_forward_hook(lambda m, i, o: A.clone())
        out = mode.run(net, images)[0]
        hook.remove()
        return out

    v = torch.autograd.functional.jacobian(head, kept[0])[:, 0] * kept[0][0]
    return v.detach(), E[0] - v.flatten(1).sum(1).detach()


def ranking(query: Tensor, gallery: Tensor, own: int | None = None) -> list[int]:
    """Rows of a gallery by cosine, one by one; the query's own left out."""
    cosines = [float(query @ row / query.norm() / row.norm()) for row in gallery]
    order = sorted(range(len(gallery)), key=lambda row: -cosines[row])
    return [row for row in order if row != own]


def retrieval(E: Tensor, labels: list, ks: list[int]) -> tuple[list[float], float, float]:
    """Recall@K, MAP@R and R-precision by the words of their definitions, a query at a time."""
    recalls, aps, r_precisions = [], [], []
    for i in range(len(E)):
        right = [labels[row] == labels[i] for row in ranking(E[i], E, i)]
        R = sum(right)
        if R == 0:
            continue
        recalls.append([float(any(right[:k])) for k in ks])
        precisions = [sum(right[: rank + 1]) / (rank + 1) for rank in range(R)]
        aps.append(sum(p for p, hit in zip(precisions, right, strict=False) if hit) / R)
        r_precisions.append(sum(right[:R]) / R)
    n = len(aps)
    return (
        [sum(column) / n for column in zip(*recalls, strict=True)],
        sum(aps) / n,
        sum(r_precisions) / n,
    )
