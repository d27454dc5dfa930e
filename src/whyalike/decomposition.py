"""Activation decomposition: the head of a network, from map to embedding, cell by cell.

Both ways below give v and b of E = Σ_ij v_ij + b with the head's gates frozen at this image
(Zhu, Yang, Chen, "Visual Explanation for Deep Metric Learning", IEEE TIP 2021, Eq. 4 to 7). b is
computed on its own, from the head's value and its derivative, never as what is missing: so that
`check` can fail.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whyalike.errors import CompletenessError
from whyalike.heads import Split, is_identity, leading_linear
from whyalike.layout import Layout
from whyalike.memory import Memory
from whyalike.surrogates import Linearised, Surrogate

Head = Callable[[Tensor], Tensor]

Presence = Mapping[str, Tensor]
"""How present remainders are, by the names of the operations that leave them over."""

CHUNK_BYTES = 64 * 2**20
"""How much memory the tensors of one derivative, of many cells at a time, may take."""

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
    """v and b of a batch, and what in b is left over by operations expanded to first order.

    taylor: by name, Σ (∂E/∂y)·(y − J·x) over the operations y = f(x) that only keep their
        derivative J.
    """

    v: Float[Tensor, "n cells d"]
    b: Float[Tensor, "n d"]
    taylor: Mapping[str, Float[Tensor, "n d"]]


@torch.no_grad()
def from_split(split: Split, A: Float[Tensor, "n c h w"]) -> Decomposition:
    """v and b of a head that is a known pooling and a projection: the fast path.

    The cells' parts of the pooled vector are known in closed form; each is a tangent of
    one derivative of the projection, which only ever sees vectors.
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
        return Decomposition(parts, offset, {})
    n, cells, _ = parts.shape
    total = parts.sum(1)
    tangents = torch.cat([parts.transpose(0, 1), total[None]])
    run, at = in_dtype(project, dtype), (total + offset).reshape(n, *shape)
    value, pushed, names = _push(run, at, tangents.reshape(cells + 1, n, *shape))
    taylor = _remainders(lambda x, presence: _frozen(run, x, presence)[0], at, names)
    return Decomposition(pushed[:-1].transpose(0, 1), value - pushed[-1], taylor)


class LinearHead:
    """A head as the linear map of the places of its input: E = Σ_i s_i v_i + b at s = 1.

    s_i says how present place i of the map is, and v_i = ∂E/∂s_i under the head's surrogate. So a
    map v_i·u is one derivative backwards (Jᵀu), the sum of the v under a region one forwards (J·t),
    and the v themselves are only computed where they are asked for.

    Args:
        run: from the map at the cut to embeddings (n, d); deterministic.
        A: the map, or tokens, that the head is linearised at; `n` images.
        layout: which number of A is where.
        surrogate: the linear surrogate.
        tolerance: how far what is asked for may be from adding up, as a share of |E|.
    """

    def __init__(
        self,
        run: Head | nn.Module,
        A: Tensor,
        layout: Layout | None = None,
        surrogate: Surrogate | None = None,
        tolerance: float = TOLERANCE[torch.float32],
    ) -> None:
        dtype = accumulation_dtype(A.dtype)
        self.run = in_dtype(run, dtype) if isinstance(run, nn.Module) else run
        self.A = A.detach().to(dtype)
        self.layout = layout or Layout("channels first", (A.shape[-2], A.shape[-1]))
        self.surrogate = surrogate or Surrogate()
        self.tolerance = tolerance
        self.taylor: frozenset[str] = frozenset()
        """Names of the operations that were only expanded to first order, once it has run."""

    def __call__(
        self,
        presence: Float[Tensor, "n places"],
        remainders: Presence | None = None,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "n d"]:
        """E, for places that are present (1) or not (0): linear, as everything else is held.

        Args:
            presence: of the places.
            remainders: of what first-order operations leave over, by name.
            whole: of what is added to the image as a whole, where biases are located.
        """
        spread, cells = self.layout.spread(presence, self.A.shape)
        x = self.A * spread
        at = (spread, cells, whole) if self.surrogate.biases == "located" else None
        with Linearised(x, self.surrogate, at, remainders) as mode:
            E = mode.finish(self.run(x))
        self.taylor = mode.taylor(E)
        return E

    def push(
        self, weights: Float[Tensor, "k n places"], chunk_bytes: int = CHUNK_BYTES
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "k n d"]]:
        """E, and Σ_i w_i v_i for k weightings of the places: derivatives forwards."""
        return self._in_chunks(len(weights), lambda some: weights[some], chunk_bytes)

    def pull(
        self, u: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n places"]]:
        """E, and v_i · u for every place: one derivative backwards."""
        with differentiating(self.A), torch.enable_grad():
            presence = self.A.new_ones(len(self.A), self.layout.places).requires_grad_()
            E = self(presence)
            (found,) = torch.autograd.grad(E, presence, u.to(self.A), allow_unused=True)
        return E.detach(), torch.zeros_like(presence) if found is None else found

    def sum(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """E, and Σ_i v_i."""
        value, along = self.push(self.A.new_ones(1, len(self.A), self.layout.places))
        return value, along[0]

    def of_whole(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """E, and what layers add to the image as a whole, where biases are located.

        That is b, unless something else adds to a vector or to what lies outside of the image. Only
        what lies behind the pooling is differentiated, so it costs little more than E does.
        """
        ones = self.A.new_ones(len(self.A), self.layout.places)
        with differentiating(self.A):
            derivative = Derivative(lambda t: self(ones, whole=t), ones.new_ones(()))
            return derivative.value, derivative.along(ones.new_ones(1))[0]

    def remainders(self) -> dict[str, Float[Tensor, "n d"]]:
        """By name, what operations that only keep their derivative leave over, in b.

        It takes one derivative for each, once the head has run, and none without such.
        """
        return _remainders(self, self.A.new_ones(len(self.A), self.layout.places), self.taylor)

    def values(self, chunk_bytes: int = CHUNK_BYTES) -> Float[Tensor, "n places d"]:
        """All v, in chunks of places whose tensors take at most `chunk_bytes` at a time.

        One place at a time is the least, whatever it takes; what is returned is beside it.
        """
        n, places = len(self.A), self.layout.places

        def alone(some: slice) -> Tensor:
            at = torch.arange(some.start, some.stop, device=self.A.device)
            return nn.functional.one_hot(at, places)[:, None].expand(-1, n, -1)

        return self._in_chunks(places, alone, chunk_bytes)[1].transpose(0, 1)

    def _in_chunks(
        self, count: int, weights: Callable[[slice], Tensor], chunk_bytes: int
    ) -> tuple[Tensor, Tensor]:
        """`push` for many weightings, each pass as many as its memory allows."""
        ones = self.A.new_ones(len(self.A), self.layout.places)
        few = count <= 1 + self.layout.prefix  # Σ v and the prefix tokens: never too many
        memory = Memory()
        pushed: Tensor | None = None  # made once: small parts, kept, tear the heap to pieces
        start, took = 0, 0  # weightings done, and those of the last pass that was measured
        with differentiating(self.A):
            with nullcontext() if few else memory:
                derivative = Derivative(self, ones)
            kept = memory.now
            k = count if few else 1
            while start < count:
                some = slice(start, min(start + k, count))
                # Measuring takes time; it is left out where it would change little.
                measured, before = not few and k > 1.25 * took, memory.now
                with memory.anew() if measured else nullcontext():
                    found = derivative.along(weights(some).to(self.A))
                if pushed is None:
                    pushed = found.new_empty(count, *found.shape[1:])
                pushed[some] = found
                start += k
                if measured:
                    # What a pass of k takes at its height is the largest of sums a + b·k, so a
                    # larger one takes no more than in proportion.
                    took = k
                    k = max(1, k * max(0, chunk_bytes - kept) // max(1, memory.peak - before))
        assert pushed is not None
        return derivative.value, pushed


def from_head(
    head: Head | nn.Module,
    A: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    layout: Layout | None = None,
    surrogate: Surrogate | None = None,
) -> Decomposition:
    """v and b of any differentiable head, of any layout: the generic path."""
    linear = LinearHead(head, A, layout, surrogate)
    value, total = linear.sum()
    return Decomposition(linear.values(chunk_bytes), value - total, linear.remainders())


def check(
    total: Float[Tensor, "n d"],
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
    gap = torch.linalg.vector_norm(total + b - E, dim=1) / torch.linalg.vector_norm(E, dim=1)
    worst = gap.max().item()
    if not worst <= tolerance:
        raise CompletenessError(
            f"the contributions and the bias should add up to the embedding that the network "
            f"returned, within {tolerance:g} of its length; the gap is {worst:.3g}; {cause}"
        )
    return E - total


_one_at_a_time = threading.RLock()
"""The levels of torch's forward mode, which remainders need, are the process's."""


def _frozen(
    run: Head, x: Tensor, remainders: Presence | None = None
) -> tuple[Tensor, frozenset[str]]:
    """A head's value with its gates frozen, and the names of those that have no frozen form."""
    x = x.clone()  # a head that works in place may do so, on its own copy
    with Linearised(x, remainders=remainders) as mode:
        E = run(x)
    return E, mode.taylor(E)


def _push(run: Head, at: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, frozenset[str]]:
    """A head's value (n, d) and derivatives (k, n, d) along k tangents, with its gates frozen.

    With them come the names of the operations that are not frozen but expanded to first order.
    """
    names: frozenset[str] = frozenset()

    def frozen(x: Tensor) -> Tensor:
        nonlocal names
        E, names = _frozen(run, x)
        return E

    with differentiating(at):
        derivative = Derivative(frozen, at)
        return derivative.value, derivative.along(tangents), names


def _remainders(
    run: Callable[[Tensor, Presence], Tensor], at: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    """What operations leave over in a head's value, (n, d) by name: a derivative by its presence.

    Args:
        run: the head, of its input and of how present the remainders are.
        at: its input, which stays as it is.
        names: of the operations; without any, nothing is run.
    """
    if not names:
        return {}
    order = sorted(names)

    def present(presence: Tensor) -> Tensor:
        return run(at, dict(zip(order, presence.unbind(), strict=True)))

    with differentiating(at):
        derivative = Derivative(present, at.new_ones(len(order)))
        found = derivative.along(torch.eye(len(order), dtype=at.dtype, device=at.device))
    return dict(zip(order, found, strict=True))


class Derivative:
    """The derivative J of a function at one point, both ways, from one run of the function.

    u → Jᵀu is linear in u, so *its* derivative along a tangent t, transposed, is J·t (Townsend, "A
    new trick for calculating Jacobian vector products", 2017). What torch keeps for going backwards
    then serves for going forwards as often as asked, which costs a tenth of forward mode here: that
    carries tensors of zeros along for whatever is held.

    Args:
        run: from a tensor to a tensor.
        at: where; not changed.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], at: Tensor) -> None:
        with torch.enable_grad():
            self._at = at.detach().clone().requires_grad_()
            self._value = run(self._at)
            self._u = torch.zeros_like(self._value, requires_grad=True)
            self._transposed = self._back(self._u, create_graph=True)

    @property
    def value(self) -> Tensor:
        """What the function gives."""
        return self._value.detach()

    def along(self, tangents: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """J·t for k tangents t."""

        def one(tangent: Tensor) -> Tensor:
            if not self._transposed.requires_grad:
                return torch.zeros_like(self._u)
            (found,) = torch.autograd.grad(
                self._transposed, self._u, tangent, retain_graph=True, allow_unused=True
            )
            return torch.zeros_like(self._u) if found is None else found

        if len(tangents) == 1:  # spared the overhead of many
            return one(tangents[0])[None]
        return torch.vmap(one)(tangents)

    def _back(self, u: Tensor, create_graph: bool = False) -> Tensor:
        if not self._value.requires_grad:  # nothing of it depends on where
            return torch.zeros_like(self._at)
        (found,) = torch.autograd.grad(
            self._value, self._at, u, create_graph=create_graph, allow_unused=True
        )
        return torch.zeros_like(self._at) if found is None else found


@contextmanager
def differentiating(at: Tensor) -> Iterator[None]:
    """Within it, one thread at a time may take derivatives of a network, on the device of `at`."""
    # Only the plain form of attention has derivatives of its derivative on every device.
    with (
        _one_at_a_time,
        warnings.catch_warnings(),
        torch.no_grad(),
        torch.autocast(at.device.type, enabled=False),
        sdpa_kernel(SDPBackend.MATH),
    ):
        # torch's own, when its forward-mode rules are first loaded
        warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)
        # once in a head it makes no difference
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def in_dtype(module: nn.Module, dtype: torch.dtype) -> Head:
    """A module as a function that computes in `dtype`; its own weights are left as they are."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if all(t.dtype == dtype for t in state.values() if t.is_floating_point()):
        return module
    cast = {k: t.to(dtype) if t.is_floating_point() else t for k, t in state.items()}
    return lambda x: torch.func.functional_call(module, cast, (x,))


@contextmanager
def hooked_output(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, a layer's output is what `change` makes of it, in this thread.

    Of a tuple or list of outputs, as transformers' blocks give, the first is meant.
    """
    here = threading.get_ident()

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if threading.get_ident() != here:  # another thread may run the same network
            return output
        if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
            return type(output)([change(output[0]), *output[1:]])
        return change(output) if isinstance(output, Tensor) else output

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_output(layer: nn.Module, value: Tensor) -> Iterator[None]:
    """Within it, a layer returns `value` whatever it computes, in this thread."""
    with hooked_output(layer, lambda output: value):
        yield
