"""A model and its explanation as one network, for programs without torch's derivatives.

What is written is images (N, 3, H, W) → embedding (N, d), contributions (N, h, w, d), bias (N, d):
the network as it is, the pooling in closed form, and what is behind it as a chain of linear maps,
with gates at the values that they have for each image.
"""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn

from whyalike.decomposition import TOLERANCE, accumulation_dtype
from whyalike.errors import CompletenessError, ModelError, in_one_line
from whyalike.files import check_outputs, write_whole
from whyalike.heads import Split
from whyalike.model import EmbeddingModel
from whyalike.pooling import Pool

ENDINGS = (".onnx", ".pt2")

OPSET = 18
"""What torch's exporter writes without converting; onnxruntime reads it since 1.14 (2023)."""


def export(model: EmbeddingModel, path: str | PathLike[str]) -> Path:
    """Write a model with its explanation as an ONNX file or an exported program, checked.

    Both compute in float32, take any number of images of the preprocess's size, already
    preprocessed, and give `embedding`, `contributions` and `bias` as `model.decompose` does. The
    file appears only if it agrees with that, on random images, to 1e-4 of each output's length.

    Args:
        model: cut where the head behind is a known pooling and a chain of layers.
        path: ends in .onnx (read by onnxruntime and others) or .pt2 (by `torch.export.load`).

    Raises:
        ModelError: the head cannot be written without derivatives, or the exporter cannot write
            the network.
        CompletenessError: what was made does not give what `model.decompose` gives.
        OutputFileError: the file cannot be written.
    """
    (path,) = check_outputs([path], endings=ENDINGS)
    if model.preprocess is None:
        raise ModelError("to export a model, a preprocess must say how large images are")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, *model.preprocess.size_hw, generator=generator)
    network = explaining_network(model, images)
    write = _onnx if path.suffix.lower() == ".onnx" else _program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of what it does
        content, run = write(network, images[:2])
    _check(model, run, images)
    _check(model, run, images[:1])

    def fill(_: Path, file: BinaryIO) -> None:
        file.write(content)

    write_whole([path], fill)
    return path


def explaining_network(
    model: EmbeddingModel, images: Float[Tensor, "n 3 H W"]
) -> ExplainingNetwork:
    """A model and its explanation as one module of plain operations, in float32, on the CPU.

    Raises:
        ModelError: the head is no known pooling with a chain of layers behind, with the reason.
    """
    A, _, split = model.inspect(images)
    if split is None or A.dim() != 4:
        raise ModelError(
            f"the head behind layer {model.layer!r} is not a known pooling (mean, max, GeM, "
            f"flatten) and so has no form without derivatives; cut at the last feature map"
        )
    kind = model.surrogate.kind
    if kind != "gates":
        raise ModelError(f"only explanations with gates held can be exported; this one is {kind!r}")
    net = copy.deepcopy(model.net).float().cpu().eval()
    project = copy.deepcopy(split.project).float().cpu()
    rules = [_rule(step, name) for name, step in _steps(project) if not _does_nothing(step, split)]
    if split.pool.kind == "flatten" and not (rules and isinstance(rules[0], _Linear)):
        raise ModelError(
            "the map is flattened with no linear layer right behind; put one there, or pool"
        )
    pool = split.pool
    if isinstance(pool.p, Tensor):
        pool = replace(pool, p=pool.p.detach().float().cpu())
    return ExplainingNetwork(net, model.layer, pool, rules).eval()


class _State(NamedTuple):
    """A vector z = Σ parts + offset on its way through what is behind the pooling."""

    z: Float[Tensor, "n k"]
    parts: Float[Tensor, "n cells k"]
    offset: Float[Tensor, "n k"]


_Rule = Callable[[_State], _State]


class ExplainingNetwork(nn.Module):
    """Images → embedding (n, d), contributions (n, h, w, d) and bias (n, d).

    Args:
        net: the network.
        layer: the name of the layer at which it is cut.
        pool: how its map is pooled.
        rules: what is behind, in order, each with gates held.
    """

    def __init__(self, net: nn.Module, layer: str, pool: Pool, rules: list[_Rule]) -> None:
        super().__init__()
        self.net, self.layer, self.pool, self.rules = net, layer, pool, rules

    def forward(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n h w d"], Float[Tensor, "n d"]]:
        maps: list[Tensor] = []
        # Cloned, as what follows may work in place.
        hook = self.net.get_submodule(self.layer).register_forward_hook(
            lambda module, inputs, output: maps.append(output.clone())
        )
        try:
            embedding = self.net(images)
        finally:
            hook.remove()
        (A,) = maps
        rules = list(self.rules)
        if self.pool.kind == "flatten":
            state = _flattened(self.pool, A, rules.pop(0))
        else:
            state = _pooled(self.pool, A)
        for rule in rules:
            state = rule(state)
        h, w = A.shape[2:]
        return embedding, state.parts.unflatten(1, (h, w)), state.offset


def _pooled(pool: Pool, A: Tensor) -> _State:
    if pool.kind == "max":  # as in Pool.cells, by operations that every runtime has
        A = A.relu() if pool.rectify else A
        rows = A.flatten(2)
        first = rows.argmax(2, keepdim=True)  # a tie goes to the first cell
        cells = torch.arange(rows.shape[2], device=A.device)
        parts = torch.where(cells == first, rows, torch.zeros_like(rows)).transpose(1, 2)
        return _State(rows.amax(2), parts, torch.zeros_like(rows[:, :, 0]))
    parts, offset = pool.cells(A)
    return _State(parts.sum(1) + offset, parts, offset)


def _flattened(pool: Pool, A: Tensor, first: _Rule) -> _State:
    """Each cell meets its own slice of the linear layer behind, so no vector is long and empty."""
    A = A.relu() if pool.rectify else A
    assert isinstance(first, _Linear)
    by_cell = first.weight.view(-1, *A.shape[1:]).permute(2, 3, 1, 0).flatten(0, 1)  # cells c d
    rows = A.flatten(2).permute(2, 0, 1)  # (cells, n, c)
    parts = (rows @ by_cell).transpose(0, 1)
    offset = torch.zeros_like(parts[:, 0]) + first.bias
    return _State(parts.sum(1) + offset, parts, offset)


# -- what is behind the pooling, one step at a time ----------------------------------------------


@dataclass(frozen=True)
class _Linear:
    weight: Tensor
    bias: Tensor

    def __call__(self, state: _State) -> _State:
        return _State(
            F.linear(state.z, self.weight, self.bias),
            state.parts @ self.weight.T,
            F.linear(state.offset, self.weight, self.bias),
        )


@dataclass(frozen=True)
class _Scale:
    """Each number times one of its own, plus one of its own."""

    scale: Tensor
    shift: Tensor

    def __call__(self, state: _State) -> _State:
        return _State(
            state.z * self.scale + self.shift,
            state.parts * self.scale,
            state.offset * self.scale + self.shift,
        )


@dataclass(frozen=True)
class _Gate:
    """A function through the origin, one number at a time: y = z · (y / z), the factor held."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, state: _State) -> _State:
        y, zero = self.function(state.z), state.z == 0
        factor = torch.where(zero, torch.zeros_like(y), y / torch.where(zero, 1.0, state.z))
        return _State(y, state.parts * factor[:, None], state.offset * factor)


@dataclass(frozen=True)
class _LayerNorm:
    """(z − mean) / σ, with 1/σ held."""

    eps: float
    weight: Tensor
    bias: Tensor

    def __call__(self, state: _State) -> _State:
        centred = [x - x.mean(-1, keepdim=True) for x in state]
        sigma = (centred[0].square().mean(1, keepdim=True) + self.eps).sqrt()
        z, parts, offset = centred
        return _State(
            z / sigma * self.weight + self.bias,
            parts / sigma[:, None] * self.weight,
            offset / sigma * self.weight + self.bias,
        )


@dataclass(frozen=True)
class _UnitLength:
    """z / |z|, with 1/|z| held."""

    eps: float

    def __call__(self, state: _State) -> _State:
        length = state.z.square().sum(1, keepdim=True).sqrt().clamp_min(self.eps)
        return _State(state.z / length, state.parts / length[:, None], state.offset / length)


class _Step(NamedTuple):
    """A function of a chain: its name, and its arguments but for the value that goes through."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def _steps(project: nn.Module) -> Iterator[tuple[str, nn.Module | _Step]]:
    """The steps of a projection that is a chain, with a name for each."""
    if type(project) is nn.Sequential:
        for module in project:
            yield from _steps(module)
    elif not isinstance(project, fx.GraphModule):
        yield type(project).__name__, project
    else:
        yield from _steps_of_graph(project)


def _steps_of_graph(project: fx.GraphModule) -> Iterator[tuple[str, nn.Module | _Step]]:
    constants: dict[fx.Node, Any] = {}
    previous: fx.Node | None = None
    for node in project.graph.nodes:
        if node.op == "placeholder":
            previous = node
            continue
        if node.op == "get_attr":
            constants[node] = _attribute(project, str(node.target))
            continue
        arguments = node.args if node.op != "output" else (node.args[0],)
        sources = [n for n in node.all_input_nodes if n not in constants]
        if sources != [previous] or arguments[0] is not previous:
            raise ModelError(
                f"the head behind the pooling is not a chain: {node.name!r} takes "
                f"{len(sources)} values; write it as a sequence of layers (F.normalize for a "
                f"division by the length)"
            )
        if node.op == "output":
            return
        if node.op == "call_module":
            for _, step in _steps(project.get_submodule(str(node.target))):
                yield str(node.target), step
        else:
            fixed = fx.node.map_arg((node.args[1:], dict(node.kwargs)), constants.__getitem__)
            function = node.target
            if node.op == "call_method":
                function = getattr(Tensor, str(node.target))
            yield node.name, _Step(function, tuple(fixed[0]), dict(fixed[1]))
        previous = node


def _attribute(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name)
    return module.detach() if isinstance(module, Tensor) else module


_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)
_THROUGH_ORIGIN = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.ELU, nn.CELU, nn.SELU, nn.Tanh, nn.Hardtanh, nn.Softsign),
)
_RESHAPING = frozenset(
    ("flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "dropout", "clone")
)
_GATES = frozenset(
    ("relu", "leaky_relu", "relu6", "gelu", "silu", "mish", "hardswish", "elu", "celu", "selu",
     "tanh", "hardtanh", "prelu")
)  # fmt: skip


def _does_nothing(step: nn.Module | _Step, split: Split) -> bool:
    """Whether a step leaves the numbers and their order as they are."""
    if not isinstance(step, _Step):
        return isinstance(step, _NOTHING)
    one_cell = len(split.shape) == 3  # (k, 1, 1): its axes have no order to change
    return _kind(step) in _RESHAPING or (one_cell and _kind(step) in ("permute", "transpose"))


def _kind(step: _Step) -> str:
    return str(getattr(step.function, "__name__", step.function)).strip("_")


def _rule(step: nn.Module | _Step, name: str) -> _Rule:
    """A step with its gates held."""
    if isinstance(step, _Step):
        return _rule_of_function(step, name)
    if isinstance(step, nn.Linear):
        return _linear(step.weight, step.bias)
    if type(step) is nn.Conv2d and math.prod(step.kernel_size) == step.groups == 1:
        return _linear(step.weight.flatten(1), step.bias)  # of a map of one cell
    if isinstance(step, nn.modules.batchnorm._BatchNorm):
        return _batch_norm(step.running_mean, step.running_var, step.weight, step.bias, step.eps)
    if type(step) is nn.LayerNorm:
        return _layer_norm(step.weight, step.bias, step.eps, len(step.normalized_shape))
    if isinstance(step, _THROUGH_ORIGIN):
        return _Gate(_out_of_place(step))
    raise ModelError(
        f"layer {name!r} ({type(step).__name__}) behind the pooling has no form without "
        f"derivatives here; there are some for linear layers, BatchNorm, LayerNorm, F.normalize, "
        f"and ReLU and its kin"
    )


def _out_of_place(step: nn.Module) -> Callable[[Tensor], Tensor]:
    if hasattr(step, "inplace"):
        vars(step)["inplace"] = False
    return step


def _rule_of_function(step: _Step, name: str) -> _Rule:
    kind = _kind(step)
    arguments, options = step.arguments, {k: v for k, v in step.options.items() if k != "inplace"}
    if kind in _GATES:
        if kind not in ("prelu", "leaky_relu", "elu", "celu", "hardtanh", "gelu"):
            arguments = ()  # all that is left is whether to work in place
        function: Any = F.relu if kind == "relu" else step.function
        return _Gate(lambda z: function(z, *arguments, **options))
    if kind == "linear":
        weight, bias = (*arguments, *options.values(), None)[:2]
        return _linear(weight, bias)
    if kind == "batch_norm" and not options.get("training", False):
        mean, variance, weight, bias = (*arguments, None, None)[:4]
        weight, bias = options.get("weight", weight), options.get("bias", bias)
        eps = options.get("eps", arguments[6] if len(arguments) > 6 else 1e-5)
        return _batch_norm(mean, variance, weight, bias, eps)
    if kind == "layer_norm":
        shape, weight, bias, eps = (*arguments, *(None, None, 1e-5)[len(arguments) - 1 :])[:4]
        weight, bias = options.get("weight", weight), options.get("bias", bias)
        return _layer_norm(weight, bias, options.get("eps", eps), len(shape))
    if kind == "normalize":
        p, dim, eps = (*arguments, *(2.0, 1, 1e-12)[len(arguments) :])[:3]
        if options.get("p", p) == 2 and options.get("dim", dim) in (1, -1):
            return _UnitLength(options.get("eps", eps))
    raise ModelError(
        f"the operation {name!r} behind the pooling has no form without derivatives here; there "
        f"are some for linear layers, BatchNorm, LayerNorm, F.normalize, and ReLU and its kin"
    )


def _linear(weight: Tensor, bias: Tensor | None) -> _Rule:
    weight = weight.detach()
    return _Linear(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach())


def _batch_norm(
    mean: Tensor | None, variance: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    eps: float,
) -> _Rule:  # fmt: skip
    if mean is None or variance is None:
        raise ModelError("a BatchNorm keeps no running statistics and so mixes a batch's images")
    scale = (variance.double() + eps).rsqrt() * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    return _Scale(scale.float().detach(), shift.float().detach())


def _layer_norm(weight: Tensor | None, bias: Tensor | None, eps: float, axes: int) -> _Rule:
    if axes != 1:
        raise ModelError("a LayerNorm behind the pooling is over several axes")
    return _LayerNorm(
        eps,
        torch.ones(()) if weight is None else weight.detach(),
        torch.zeros(()) if bias is None else bias.detach(),
    )


# -- writing and checking ------------------------------------------------------------------------

_Run = Callable[[Tensor], list[Tensor]]

NAMES = ("embedding", "contributions", "bias")


def _exported(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1, max=2**20)}
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=(batch,))
    except Exception as error:  # whatever a network's own code cannot do in a trace
        raise ModelError(
            f"torch cannot export the network ({in_one_line(error)}); torch.export.export of it "
            f"must work with a free batch axis"
        ) from error


def _program(network: nn.Module, images: Tensor) -> tuple[bytes, _Run]:
    program = _exported(network, images)
    file = io.BytesIO()
    torch.export.save(program, file)
    run = program.module()
    return file.getvalue(), lambda x: list(run(x))


def _onnx(network: nn.Module, images: Tensor) -> tuple[bytes, _Run]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter's
    except ImportError as error:
        raise ModelError(
            f"to write ONNX, the package {error.name!r} is needed; install 'whyalike[onnx]'"
        ) from error
    program = _exported(network, images)
    try:
        made = torch.onnx.export(
            program, (), input_names=["images"], output_names=list(NAMES), opset_version=OPSET,
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        assert made is not None
        content = made.model_proto.SerializeToString()
    except Exception as error:
        raise ModelError(
            f"torch cannot write the network as ONNX ({in_one_line(error)})"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot run what torch wrote ({in_one_line(error)})"
        ) from error

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(a) for a in session.run(list(NAMES), {"images": x.numpy()})]

    return content, run


def _check(model: EmbeddingModel, run: _Run, images: Tensor) -> None:
    """Hold what was made to the model's own decomposition."""
    v, b, E, (h, w), _ = model.decompose(images)
    expected = dict(zip(NAMES, (E, v.unflatten(1, (h, w)), b), strict=True))
    with torch.no_grad():
        found = dict(zip(NAMES, run(images), strict=True))
    weight = next(iter(model.net.parameters()), images)
    tolerance = max(TOLERANCE[torch.float32], TOLERANCE.get(weight.dtype, 0.0))
    for name in NAMES:
        ours = expected[name].to("cpu", accumulation_dtype(torch.float32))
        # A bias may be nothing but rounding; it is measured by what it is a part of.
        length = max(float(ours.norm()), float(E.float().norm()) if name == "bias" else 0.0)
        same = found[name].shape == ours.shape
        gap = float((found[name] - ours).norm()) / length if same else math.inf
        if not gap <= tolerance:
            raise CompletenessError(
                f"what was made gives another {name} than the model; the gap is {gap:.2g} of its "
                f"length, {tolerance:g} is allowed; nothing was written"
            )
