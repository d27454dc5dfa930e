"""Activation decomposition: the head of a network, from map to embedding, cell by cell.

Both ways below give v and b of E = Σ_ij v_ij + b with the head's gates frozen at this image
(Zhu, Yang, Chen, "Visual Explanation for Deep Metric Learning", IEEE TIP 2021, Eq. 4 to 7). b is
computed on its own, from the head's value and its derivative, never as what is missing: so that
`check` can fail.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whyalike.errors import CompletenessError
from whyalike.heads import Split, is_identity, leading_linear
from whyalike.surrogates import FrozenGates

Head = Callable[[Tensor], Tensor]

CHUNK_BYTES = 64 * 2**20
"""How much memory the tangents of one chunk of cells may take at the cut."""

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,  # what the network itself lost by computing in half precision
    torch.bfloat16: 5e-2,
}
"""The largest gap |Σv + b − E| / |E| that passes, by the type that the network computes in."""

TF32_TOLERANCE = 2e-3
"""The same for float32 on a GPU that is allowed to multiply with 10 bits of mantissa."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that contributions are computed in: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tolerance(A: Tensor, E: Tensor) -> float:
    """The gap that passes for a network that gave this map and this embedding."""
    found = max(TOLERANCE.get(t.dtype, 1e-4) for t in (A, E))
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return max(found, TF32_TOLERANCE) if A.is_cuda and found > 1e-9 and tf32 else found


class Decomposition(NamedTuple):
    """v and b of a batch, and the names of operations that were only expanded to first order."""

    v: Float[Tensor, "n cells d"]
    b: Float[Tensor, "n d"]
    taylor: frozenset[str] = frozenset()


@torch.no_grad()
def from_split(split: Split, A: Float[Tensor, "n c h w"]) -> Decomposition:
    """v and b of a head that is a known pooling and a projection: the fast path.

    The cells' parts of the pooled vector are known in closed form; each is a tangent of
    one forward-mode derivative of the projection, which only ever sees vectors.
    """
    dtype = accumulation_dtype(A.dtype)
    A = A.to(dtype)
    project, shape = split.project, split.shape
    first = leading_linear(project) if len(shape) == 1 else None
    if first is None:
        parts, offset = split.pool.cells(A)
    else:
        # A linear layer needs no derivative: it maps the cells' parts as it maps their sum.
        linear, project = first
        weight, shape = linear.weight.to(dtype), (linear.out_features,)
        if split.pool.kind == "flatten":
            # Not one long and mostly empty vector a cell, but the slice of the weights it meets.
            A = A.relu() if split.pool.rectify else A
            by_cell = weight.view(-1, *A.shape[1:])
            parts = torch.einsum("ochw,nchw->nhwo", by_cell, A).flatten(1, 2)
            offset = parts.new_zeros(len(A), linear.out_features)
        else:
            parts, offset = (nn.functional.linear(p, weight) for p in split.pool.cells(A))
        if linear.bias is not None:
            offset = offset + linear.bias.to(dtype)
    if is_identity(project):
        return Decomposition(parts, offset)
    n, cells, _ = parts.shape
    total = parts.sum(1)
    tangents = torch.cat([parts.transpose(0, 1), total[None]])
    value, pushed, taylor = _push(
        in_dtype(project, dtype),
        (total + offset).reshape(n, *shape),
        tangents.reshape(cells + 1, n, *shape),
    )
    return Decomposition(pushed[:-1].transpose(0, 1), value - pushed[-1], taylor)


@torch.no_grad()
def from_head(
    head: Head | nn.Module, A: Float[Tensor, "n c h w"], chunk_bytes: int = CHUNK_BYTES
) -> Decomposition:
    """v and b of any differentiable head: the generic path.

    One forward-mode derivative of the whole head for each cell, in chunks of cells whose tangents
    take at most `chunk_bytes`.
    """
    dtype = accumulation_dtype(A.dtype)
    A = A.to(dtype)
    run = in_dtype(head, dtype) if isinstance(head, nn.Module) else head
    h, w = A.shape[-2:]
    chunk = max(1, chunk_bytes // max(1, A.numel() * A.element_size()))
    value, along, taylor = _push(run, A, A[None])
    parts = []
    for start in range(0, h * w, chunk):
        cells = torch.arange(start, min(start + chunk, h * w), device=A.device)
        masks = torch.nn.functional.one_hot(cells, h * w).to(dtype).view(-1, 1, 1, h, w)
        parts.append(_push(run, A, masks * A)[1])
    return Decomposition(torch.cat(parts).transpose(0, 1), value - along[0], taylor)


def check(
    v: Float[Tensor, "n cells d"],
    b: Float[Tensor, "n d"],
    E: Float[Tensor, "n d"],
    cause: str,
    tolerance: float = 1e-4,
) -> Float[Tensor, "n d"]:
    """Hold Σv + b to the embedding that the network returned.

    Returns:
        b with the rounding gap, below the tolerance, put into it, so that the sum is exact.

    Raises:
        CompletenessError: |Σv + b − E| / |E| is larger than the tolerance, or not a number.
    """
    E = E.to(v.dtype)
    total = v.sum(1)
    gap = torch.linalg.vector_norm(total + b - E, dim=1) / torch.linalg.vector_norm(E, dim=1)
    worst = gap.max().item()
    if not worst <= tolerance:
        raise CompletenessError(
            f"the contributions and the bias should add up to the embedding that the network "
            f"returned, within {tolerance:g} of its length; the gap is {worst:.3g}; {cause}"
        )
    return E - total


_one_at_a_time = threading.RLock()
"""Forward-mode levels are the process's, not the thread's."""


def _push(run: Head, at: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, frozenset[str]]:
    """A head's value (n, d) and derivatives (k, n, d) along k tangents, with its gates frozen.

    With them come the names of the operations that are not frozen but expanded to first order.
    """
    taylor: frozenset[str] = frozenset()

    def frozen(x: Tensor) -> Tensor:
        nonlocal taylor
        x = x.clone()  # a head that works in place may do so, on its own copy
        with FrozenGates(x) as gates:
            E = run(x)
        taylor = gates.taylor(E)
        return E

    def along(tangent: Tensor) -> tuple[Tensor, Tensor]:
        value, pushed = torch.func.jvp(frozen, (at,), (tangent,))  # type: ignore[misc]
        return value, pushed

    # Only the plain form of attention has a forward-mode derivative on every device.
    with (
        _one_at_a_time,
        warnings.catch_warnings(),
        torch.no_grad(),
        torch.autocast(at.device.type, enabled=False),
        sdpa_kernel(SDPBackend.MATH),
    ):
        # torch's own, when its forward-mode rules are first loaded
        warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)
        value, pushed = torch.vmap(along, out_dims=(None, 0))(tangents)  # type: ignore[arg-type]
    return value, pushed, taylor


def in_dtype(module: nn.Module, dtype: torch.dtype) -> Head:
    """A module as a function that computes in `dtype`; its own weights are left as they are."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if all(t.dtype == dtype for t in state.values() if t.is_floating_point()):
        return module
    cast = {k: t.to(dtype) if t.is_floating_point() else t for k, t in state.items()}
    return lambda x: torch.func.functional_call(module, cast, (x,))


@contextmanager
def replaced_output(layer: nn.Module, value: Tensor) -> Iterator[None]:
    """Within it, a layer returns `value` whatever it computes, in this thread."""
    here = threading.get_ident()
    handle = layer.register_forward_hook(
        lambda module, inputs, output: value if threading.get_ident() == here else output
    )
    try:
        yield
    finally:
        handle.remove()
