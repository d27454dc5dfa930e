"""Finding the head of a network: what lies between a layer and the embedding.

The head is read off a symbolic trace (torch.fx), so the network's own code and weights are used
and nothing is rewritten by hand. Whether it begins with a pooling known in closed form is decided
by what it *computes* on random maps, not by the names of its modules.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from whyalike.pooling import Kind, Pool


@dataclass(frozen=True)
class Split:
    """A head known as pooling and projection: E = project(pool(A)).

    Args:
        pool: the pooling, in closed form.
        project: from the pooled vector, of shape `shape`, to the embedding.
        shape: the trailing axes that `project` takes: (k,), or (k, 1, 1) where the network flattens
            later.
    """

    pool: Pool
    project: nn.Module
    shape: tuple[int, ...]


class _Tracer(fx.Tracer):
    """Traces through everything but torch's own layers, and the modules given to it as whole.

    While it traces, every module of the process is called by way of the tracer: fx replaces the
    methods of `nn.Module` itself. Networks that other threads run meanwhile are left alone.
    """

    def __init__(self, whole: set[nn.Module]) -> None:
        super().__init__()
        self.whole = whole
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


# Two at once would put back each other's replacements of `nn.Module`'s methods.
_one_at_a_time = threading.RLock()


def trace_head(
    net: nn.Module, layer: str, before: Collection[str] = (), several: bool = False
) -> fx.Graph | None:
    """The part of a network that runs from a layer's output to its own, or None.

    None where the network cannot be traced (its control flow looks at values), where the layer is
    hidden in a module of torch's own or runs more than once, or where the output also depends on
    something that goes around the layer.

    Args:
        net: the network.
        layer: the name of the module to cut behind.
        before: names of modules that finish before the layer does, which need not be traceable.
        several: whether the layer gives a tuple or list, of which the first is meant.

    Returns:
        A graph of one input; `fx.GraphModule(net, graph)` runs it with the weights of the moment.
    """
    module = net.get_submodule(layer)
    whole = {module, *map(net.get_submodule, before)}
    graph = _trace(net, whole)
    if graph is None:  # a layer may look at sizes, as one does that pads by them
        graph = _trace(net, whole | {m for m in net.modules() if not any(m.children())})
    if graph is None:
        return None
    cuts = [
        n for n in graph.nodes if n.op == "call_module" and net.get_submodule(n.target) is module
    ]
    return _tail(graph, cuts[0], several) if len(cuts) == 1 else None


def _trace(net: nn.Module, whole: set[nn.Module]) -> fx.Graph | None:
    try:
        with _one_at_a_time, kept_as_is(net):
            graph = _Tracer(whole).trace(net)
    except Exception:  # whatever a stranger's forward raises on a proxy: it is just not traceable
        return None
    # A tensor that was made while tracing is a number of the moment, not of the network.
    made = any(
        n.op == "get_attr" and str(n.target).startswith("_tensor_const") for n in graph.nodes
    )
    return None if made else graph


@contextmanager
def kept_as_is(net: nn.Module) -> Iterator[None]:
    """Undo what a network's forward leaves on its modules, such as `self.last = x`.

    Within it, x may be a stand-in for a tensor, which must not be met outside.
    """
    kept = [(m, dict(m.__dict__), dict(m._buffers)) for m in net.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _tail(graph: fx.Graph, start: fx.Node, several: bool = False) -> fx.Graph | None:
    """The part of a graph after one node as a graph of one input, if it needs no other.

    Of several values that the node gives, the input is the first, and no other may be needed.
    """
    (output,) = (node for node in graph.nodes if node.op == "output")
    tail = fx.Graph()
    picked = [n for n in start.users if n.target is operator.getitem] if several else []
    unused = {n for n in picked if not n.users}
    firsts = [n for n in picked if n.args[1] == 0] if several else [start]
    copied: dict[fx.Node, fx.Node] = dict.fromkeys(firsts, tail.placeholder("A"))
    downstream, constants = {start, *firsts}, set()
    for node in graph.nodes:
        if node in downstream or node in unused or node is output or node.op == "placeholder":
            continue
        sources = node.all_input_nodes
        if any(source in downstream for source in sources):
            downstream.add(node)
        elif all(source in constants for source in sources) and node.op != "call_module":
            constants.add(node)  # weights, and what is computed from them, such as 1 / p
        else:
            continue
        if any(source not in copied for source in sources):
            return None  # something goes around the layer
        copied[node] = tail.node_copy(node, lambda source: copied[source])
    if any(source not in copied for source in output.all_input_nodes):
        return None
    tail.output(fx.node.map_arg(output.args[0], lambda source: copied[source]))
    # Only constants are dropped: what looks unused may be called for what it does in place.
    for node in reversed(list(graph.nodes)):
        if node in constants and not copied[node].users:
            tail.erase_node(copied[node])
    return tail


def recognise(head: fx.GraphModule, A: Float[Tensor, "n c h w"]) -> Split | None:
    """The split of a head into a known pooling and the rest, or None.

    The head runs once on a random map of A's shape, type and device. Of the values that everything
    after them depends on alone, the last that equals a known pooling of the map is the split; so
    flattening, dropout (in eval mode) and identities fall to the pooling's side.

    Args:
        head: a traced head.
        A: a map (n, c, h, w) of the kind that the head takes; its values are not looked at.
    """
    if A.shape[-1] * A.shape[-2] == 1:
        return None  # every pooling of one cell is the same
    # At several sizes, as a clamp or GeM's lower bound shows itself at some only.
    scales = (1e-2, 1.0, 1e2) if A.element_size() < 4 else (1e-5, 1e-2, 1.0, 1e2, 1e4)
    probes = [_random_like(A) * scale for scale in scales]
    runs = []
    for probe in probes:
        values = _Values(head)
        try:
            with kept_as_is(head):
                values.run(probe.clone())
        except Exception:  # the network's own forward will say what is wrong, not this trial
            return None
        runs.append(values.seen)
    numbers = list(_scalars(head))
    found: tuple[fx.Node, Pool] | None = None
    for node in _bottlenecks(head.graph):
        if all(node in seen for seen in runs):
            pool = _which_pool(probes, [seen[node] for seen in runs], numbers)
            found = found if pool is None else (node, pool)
    if found is None:
        return None
    node, pool = found
    shape = tuple(runs[0][node].shape[1:])
    tail = _tail(head.graph, node)
    if tail is None:
        return None
    return Split(pool, _as_chain(fx.GraphModule(head, tail)), shape)


def leading_linear(project: nn.Module) -> tuple[nn.Linear, nn.Module] | None:
    """The linear layer that a projection of flat vectors begins with and what follows it, if so."""
    steps = list(_steps(project))
    while steps and isinstance(steps[0], _NOTHING):
        steps.pop(0)
    if steps and type(steps[0]) is nn.Linear:
        return steps[0], nn.Sequential(*steps[1:])
    return None


_NOTHING = (nn.Identity, nn.Dropout, nn.Flatten)
"""Layers that leave a flat vector as it is, in eval mode."""


def is_identity(project: nn.Module) -> bool:
    """Whether a projection of flat vectors leaves them as they are."""
    return all(isinstance(step, _NOTHING) for step in _steps(project))


def _steps(project: nn.Module) -> Iterator[nn.Module]:
    if type(project) is nn.Sequential:
        for step in project:
            yield from _steps(step)
    else:
        yield project


def describe(project: nn.Module) -> str:
    """The projection in a few words, for a model's repr."""
    names: list[str] = []
    if isinstance(project, fx.GraphModule):
        for node in project.graph.nodes:
            if node.op == "call_module":
                names += _step_name(project.get_submodule(str(node.target)))
            elif node.op in ("call_function", "call_method"):
                name = str(getattr(node.target, "__name__", node.target))
                names += [] if name in _RESHAPING else [name]
    else:
        names = [name for step in _steps(project) for name in _step_name(step)]
    return " → ".join(names) if len(names) <= 6 else f"{len(names)} operations"


_RESHAPING = (
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("size", "getattr", "getitem", "dropout"),
)


def _step_name(step: nn.Module) -> list[str]:
    if isinstance(step, _NOTHING):
        return []
    if isinstance(step, nn.Linear):
        return [f"Linear({step.in_features}→{step.out_features})"]
    return [type(step).__name__]


class _Values(fx.Interpreter):
    """Runs a graph and keeps a copy of each value, as later steps may write into it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.seen: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[n] = value.detach().clone()
        return value


def _random_like(A: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, *A.shape[1:], generator=generator, dtype=torch.float64)
    return probe.to(A.dtype).to(A.device)


def _bottlenecks(graph: fx.Graph) -> Iterator[fx.Node]:
    """Nodes that every path from the input to the output goes through, in order."""
    (start,) = (node for node in graph.nodes if node.op == "placeholder")
    live = {start}  # computed from the input, and still needed later
    order = list(graph.nodes)
    position = {node: index for index, node in enumerate(order)}
    last_use = {n: max((position[user] for user in n.users), default=-1) for n in order}
    for index, node in enumerate(order):
        if node.op == "output":
            return
        if node is start or any(source in live for source in node.all_input_nodes):
            live = {n for n in live if last_use[n] > index} | {node}
            if len(live) == 1:
                yield node
        else:
            live = {n for n in live if last_use[n] > index}


def _scalars(head: fx.GraphModule) -> Iterator[float | Tensor]:
    """Numbers and small parameters that a head computes with: candidates for GeM's exponent."""
    for node in head.graph.nodes:
        if node.op == "get_attr":
            value: Any = head
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor) and value.dim() <= 1 and value.is_floating_point():
                yield value.detach()  # shares the parameter's memory: training it is seen
        for argument in [*node.args, *node.kwargs.values()]:
            if isinstance(argument, int | float) and not isinstance(argument, bool):
                yield float(argument)


def _which_pool(
    maps: list[Tensor], values: list[Tensor], numbers: list[float | Tensor]
) -> Pool | None:
    """The pooling that some maps' values are, judged by their numbers."""
    n, c, h, w = maps[0].shape
    if values[0].shape[0] != n or not values[0].is_floating_point():
        return None
    size = values[0][0].numel()
    kinds: tuple[Kind, ...]
    if size == c:
        kinds = ("mean", "max")
    elif size == c * h * w and values[0].dim() == 2:
        kinds = ("flatten",)
    else:
        return None
    candidates = [Pool(kind, rectify=r) for kind in kinds for r in (False, True)]
    if size == c:
        exponents = [p for p in numbers if _is_exponent(p, c)]
        bounds = {1e-6} | {x for x in numbers if isinstance(x, float) and 0 < x < 0.1}
        candidates += [Pool("gem", p=p, eps=eps) for p in exponents for eps in sorted(bounds)]
    pairs = list(zip(maps, values, strict=True))
    return next((pool for pool in candidates if all(_agree(pool(A), v) for A, v in pairs)), None)


def _agree(expected: Tensor, value: Tensor) -> bool:
    exact = {torch.float64: 1e-9, torch.float32: 1e-5}
    tolerance = max(exact.get(t.dtype, 1e-2) for t in (expected, value))
    found = value.flatten(1).to(expected.dtype)
    atol = tolerance * float(expected.abs().max())
    return torch.allclose(found, expected, rtol=tolerance, atol=atol)


def _is_exponent(p: float | Tensor, channels: int) -> bool:
    if isinstance(p, float):
        return p > 0.5
    return p.numel() in (1, channels) and bool((p > 0.5).all())


def _as_chain(project: fx.GraphModule) -> nn.Module:
    """A graph that is a plain chain of modules as nn.Sequential, which says what it is."""
    steps: list[nn.Module] = []
    (previous,) = (node for node in project.graph.nodes if node.op == "placeholder")
    for node in project.graph.nodes:
        if node.op == "output":
            return nn.Sequential(*steps) if node.args[0] is previous else project
        if node.op == "placeholder":
            continue
        if node.op != "call_module" or node.args != (previous,) or node.kwargs:
            return project
        steps.append(project.get_submodule(str(node.target)))
        previous = node
    return project
