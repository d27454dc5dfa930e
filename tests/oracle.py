"""Slow, obvious implementations that the fast ones are held to. Loops and full matrices only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
