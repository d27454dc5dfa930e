"""What each ONNX operator is in torch: its own layer where there is one, else its own function.

Only torch's own layers and functions are used, so that a network can be traced, cut, and its gates
held as in any other. The meaning of the operators is that of the ONNX specification, in all opsets
from 7 on: `axes` and the like are attributes in old ones and inputs in new ones.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from whyalike.errors import ModelError
from whyalike.zoo.nodes import SLOT, Call, method


@dataclass(frozen=True)
class Step:
    """One node of the file, with what it meets on the trial images.

    Args:
        kind: the operator.
        opset: the version of the operators that the file is written in.
        attributes: its attributes, as Python values.
        values: its inputs on the trial images; None where one is left out.
        moving: which of them come from the images.
        batch: how many trial images there are.
    """

    kind: str
    opset: int
    attributes: dict[str, Any]
    values: list[Tensor | None]
    moving: list[bool]
    batch: int

    @property
    def x(self) -> Tensor:
        """The first input."""
        if not self.values or self.values[0] is None:
            raise ModelError("its first input is missing")
        return self.values[0]

    def optional(self, index: int) -> Tensor | None:
        """An input that is a weight or a constant, or None where it is left out."""
        if index >= len(self.values):
            return None
        if self.moving[index]:
            raise ModelError(f"its input {index} depends on the image; a constant is expected")
        return self.values[index]

    def constant(self, index: int) -> Tensor:
        """An input that must be a weight or a constant."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"its input {index} is missing")
        return value

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that are an attribute in old opsets and an input in new ones."""
        if name in self.attributes:
            return [int(n) for n in self.attributes[name]]
        value = self.optional(index)
        return None if value is None else [int(n) for n in value.flatten().tolist()]

    def number(self, name: str, index: int) -> float | None:
        """A number that is an attribute in old opsets and an input in new ones."""
        if name in self.attributes:
            return float(self.attributes[name])
        value = self.optional(index)
        return None if value is None else float(value)

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> nn.Module:
        """A function of all inputs, and of further arguments, as a layer."""
        given = zip(self.values, self.moving, strict=True)
        return Call(function, [SLOT if m else v for v, m in given], *arguments, **options)


# -- layers with weights -------------------------------------------------------------------------


def _weights(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """A layer with these weights in the place of its own, in their type."""
    for name, value in tensors.items():
        if value is None:
            continue
        if name in layer._buffers:
            layer._buffers[name] = value.clone()
        else:
            setattr(layer, name, nn.Parameter(value.clone(), requires_grad=False))
    return layer


def _convolution(step: Step) -> nn.Module:
    weight, bias = step.constant(1), step.optional(2)
    n = weight.dim() - 2
    kinds: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
    if n not in kinds or step.x.dim() != n + 2:
        raise ModelError(f"of {n} axes over an input of {step.x.dim() - 2}; 1 or 2 are expected")
    group = int(step.attributes.get("group", 1))
    stride = step.attributes.get("strides", [1] * n)
    dilation = step.attributes.get("dilations", [1] * n)
    if weight.shape[1] * group != step.x.shape[1] or weight.shape[0] % group:
        raise ModelError(f"has weights {tuple(weight.shape)}, its input is {tuple(step.x.shape)}")
    pads = _pads(step, list(weight.shape[2:]), stride, dilation)
    options: dict[str, Any] = {"stride": tuple(stride), "dilation": tuple(dilation)}
    even = pads[:n] == pads[n:]
    with torch.device("meta"):  # its own weights are never made
        layer = kinds[n](
            weight.shape[1] * group, weight.shape[0], tuple(weight.shape[2:]),
            padding=tuple(pads[:n]) if even else 0, groups=group, bias=bias is not None, **options,
        )  # fmt: skip
    layer = _weights(layer, weight=weight, bias=bias)
    return layer if even else nn.Sequential(_padding(pads), layer)


def _pads(step: Step, kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """How much to pad: the beginnings of all axes, then the ends."""
    auto = step.attributes.get("auto_pad", "NOTSET")
    n = len(kernel)
    if auto in ("NOTSET", ""):
        return [int(p) for p in step.attributes.get("pads", [0] * 2 * n)]
    if auto == "VALID":
        return [0] * 2 * n
    needed = []
    for size, k, s, d in zip(step.x.shape[2:], kernel, stride, dilation, strict=True):
        needed.append(max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size))
    less, more = [p // 2 for p in needed], [p - p // 2 for p in needed]
    return more + less if auto == "SAME_LOWER" else less + more


def _padding(pads: Sequence[int], value: float = 0.0) -> nn.Module:
    """Padding of the last axes, given as ONNX does: all beginnings, then all ends."""
    n = len(pads) // 2
    last_first = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
    return Call(F.pad, [SLOT], last_first, "constant", value)


def _batch_norm(step: Step) -> nn.Module:
    if step.attributes.get("training_mode", 0) or not step.attributes.get("spatial", 1):
        raise ModelError("works on the statistics of the batch; export the network in eval mode")
    scale, bias, mean, variance = (step.constant(i) for i in range(1, 5))
    kinds: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    if step.x.dim() not in kinds:
        raise ModelError(f"of an input of {step.x.dim()} axes; 2 to 4 are expected")
    with torch.device("meta"):
        layer = kinds[step.x.dim()](len(scale), eps=step.attributes.get("epsilon", 1e-5))
    layer.num_batches_tracked = torch.tensor(0)
    return _weights(layer, weight=scale, bias=bias, running_mean=mean, running_var=variance)


def _gemm(step: Step) -> nn.Module:
    alpha, beta = step.attributes.get("alpha", 1.0), step.attributes.get("beta", 1.0)
    bias = step.optional(2)
    if step.attributes.get("transA", 0) or step.x.dim() != 2 or step.moving[1]:
        raise ModelError("is not a linear layer of vectors (N, d)")
    weight = step.constant(1) * alpha
    weight = weight if step.attributes.get("transB", 0) else weight.T
    return _linear(weight, None if bias is None else bias * beta)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    outputs, inputs = weight.shape
    if bias is not None:
        if bias.numel() not in (1, outputs):
            raise ModelError(f"has a bias {tuple(bias.shape)} for {outputs} outputs")
        bias = bias.flatten().expand(outputs)
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
    return _weights(layer, weight=weight.contiguous(), bias=bias)


def _matmul(step: Step) -> nn.Module:
    if step.moving == [True, False] and step.constant(1).dim() == 2:
        return _linear(step.constant(1).T)
    return step.call(torch.matmul)


def _prelu(step: Step) -> nn.Module:
    slope = step.constant(1)
    channels = step.x.shape[1] if step.x.dim() > 1 else 1
    by_channel = slope.dim() == step.x.dim() - 1 and slope.shape[0] == channels
    if slope.numel() == 1 or (by_channel and slope.numel() == channels):
        return _weights(nn.PReLU(slope.numel()), weight=slope.flatten())
    broadcast = torch.broadcast_shapes(slope.shape, step.x.shape)
    if broadcast != step.x.shape:
        raise ModelError(f"has slopes {tuple(slope.shape)} for {tuple(step.x.shape)}")
    return Call(_sloped, [SLOT, slope])


def _sloped(x: Tensor, slope: Tensor) -> Tensor:
    return x.relu() - slope * (-x).relu()


def _layer_norm(step: Step) -> nn.Module:
    axis = int(step.attributes.get("axis", -1)) % step.x.dim()
    shape = list(step.x.shape[axis:])
    weight, bias = step.constant(1), step.optional(2)
    layer = nn.LayerNorm(shape, step.attributes.get("epsilon", 1e-5), bias=bias is not None)
    for value in (weight, bias):
        if value is not None and list(value.shape) != shape:
            raise ModelError(f"has weights {tuple(value.shape)} for the axes {tuple(shape)}")
    return _weights(layer, weight=weight, bias=bias)


def _instance_norm(step: Step) -> nn.Module:
    eps = step.attributes.get("epsilon", 1e-5)
    weight, bias = step.constant(1), step.constant(2)
    return Call(F.instance_norm, [SLOT, None, None, weight, bias], True, 0.1, eps)


def _group_norm(step: Step) -> nn.Module:
    groups, channels = int(step.attributes["num_groups"]), step.x.shape[1]
    weight, bias = step.constant(1), step.constant(2)
    if len(weight) == groups != channels:  # opset 18 has one for each group
        weight, bias = (v.repeat_interleave(channels // groups) for v in (weight, bias))
    layer = nn.GroupNorm(groups, channels, step.attributes.get("epsilon", 1e-5))
    return _weights(layer, weight=weight, bias=bias)


# -- pooling -------------------------------------------------------------------------------------


def _window(step: Step) -> tuple[list[int], list[int], list[int], list[int]]:
    kernel = [int(k) for k in step.attributes["kernel_shape"]]
    if len(kernel) != 2 or step.x.dim() != 4:
        raise ModelError(f"over {len(kernel)} axes of {step.x.dim() - 2}; 2 are expected")
    stride = step.attributes.get("strides", [1, 1])
    dilation = step.attributes.get("dilations", [1, 1])
    return kernel, stride, dilation, _pads(step, kernel, stride, dilation)


def _max_pool(step: Step) -> nn.Module:
    kernel, stride, dilation, pads = _window(step)
    ceil = bool(step.attributes.get("ceil_mode", 0))
    fits = pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    layer = nn.MaxPool2d(
        tuple(kernel), tuple(stride), tuple(pads[:2]) if fits else 0, tuple(dilation),
        ceil_mode=ceil,
    )  # fmt: skip
    return layer if fits else nn.Sequential(_padding(pads, -math.inf), layer)


def _average_pool(step: Step) -> nn.Module:
    kernel, stride, dilation, pads = _window(step)
    size, by = (kernel[0], kernel[1]), (stride[0], stride[1])
    counted = bool(step.attributes.get("count_include_pad", 0))
    even = pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    if dilation != [1, 1] or not (even or counted):
        raise ModelError("has dilations, or padding of two sizes that is not counted")
    layer = nn.AvgPool2d(
        size, by, (pads[0], pads[1]) if even else 0,
        ceil_mode=bool(step.attributes.get("ceil_mode", 0)), count_include_pad=counted,
    )  # fmt: skip
    return layer if even else nn.Sequential(_padding(pads), layer)


def _global_pool(step: Step) -> nn.Module:
    if step.x.dim() != 4:
        raise ModelError(f"of an input of {step.x.dim()} axes; 4 are expected")
    if step.kind == "GlobalMaxPool":
        return nn.AdaptiveMaxPool2d(1)
    # torch's own pooling has no batching rule for maps whose channels lie last in memory
    return Call(torch.mean, [SLOT], (2, 3), True)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": torch.norm,
    "ReduceL1": torch.norm,
    "ReduceSumSquare": torch.square,
}


def _reduce(step: Step) -> nn.Module:
    axes = step.numbers("axes", 1)
    if not axes and step.attributes.get("noop_with_empty_axes", 0):
        return nn.Identity()
    dims = sorted(a % step.x.dim() for a in axes) if axes else list(range(step.x.dim()))
    if 0 in dims:
        raise ModelError("sums over the images of a batch")
    keep = bool(step.attributes.get("keepdims", 1))
    if step.kind in ("ReduceL1", "ReduceL2"):
        return Call(torch.norm, [SLOT], int(step.kind[-1]), dims, keep)
    if step.kind == "ReduceSumSquare":
        return nn.Sequential(Call(torch.square, [SLOT]), Call(torch.sum, [SLOT], dims, keep))
    return Call(_REDUCTIONS[step.kind], [SLOT], dims, keep)


def _lp_normalization(step: Step) -> nn.Module:
    p, axis = step.attributes.get("p", 2), step.attributes.get("axis", -1)
    return Call(F.normalize, [SLOT], float(p), int(axis))


# -- shapes --------------------------------------------------------------------------------------


def _to_shape(step: Step, shape: Sequence[int]) -> nn.Module:
    """Reshaping that leaves the first axis free, as it is the batch in a file made for one image.

    Another first axis than the batch would be wrong for another number of images; the network is
    tried with several.
    """
    if list(shape[1:]) == [math.prod(step.x.shape[1:])] and shape[0] == len(step.x):
        return nn.Flatten(1)
    return Call(torch.reshape, [SLOT], (-1, *shape[1:]))


def _reshape(step: Step) -> nn.Module:
    if step.opset < 5:
        raise ModelError("of an opset before 5")
    wanted = [int(n) for n in step.constant(1).tolist()]
    zero_copies = not step.attributes.get("allowzero", 0)
    wanted = [step.x.shape[i] if n == 0 and zero_copies else n for i, n in enumerate(wanted)]
    return _to_shape(step, step.x.reshape(wanted).shape)


def _flatten(step: Step) -> nn.Module:
    axis = int(step.attributes.get("axis", 1))
    axis += step.x.dim() if axis < 0 else 0
    shape = (math.prod(step.x.shape[:axis]), math.prod(step.x.shape[axis:]))
    return _to_shape(step, shape)


def _squeeze(step: Step) -> nn.Module:
    axes = step.numbers("axes", 1)
    if axes is None:
        axes = [i for i, n in enumerate(step.x.shape) if n == 1 and i > 0]
    return Call(torch.squeeze, [SLOT], tuple(sorted(a % step.x.dim() for a in axes)))


def _unsqueeze(step: Step) -> nn.Module:
    axes = step.numbers("axes", 1) or []
    rank = step.x.dim() + len(axes)
    layers = [Call(torch.unsqueeze, [SLOT], axis) for axis in sorted(a % rank for a in axes)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _transpose(step: Step) -> nn.Module:
    order = step.attributes.get("perm", list(reversed(range(step.x.dim()))))
    return Call(torch.permute, [SLOT], tuple(int(i) for i in order))


def _expand(step: Step) -> nn.Module:
    wanted = [int(n) for n in step.constant(1).tolist()]
    shape = torch.broadcast_shapes(step.x.shape, tuple(wanted))
    if shape == step.x.shape:
        return nn.Identity()
    own = (1,) * (len(shape) - step.x.dim()) + tuple(step.x.shape)
    free = [-1 if size == mine else size for size, mine in zip(shape, own, strict=True)]
    return Call(method("expand"), [SLOT], free)


def _concat(step: Step) -> nn.Module:
    axis = int(step.attributes["axis"])
    given = [SLOT if moves else v for v, moves in zip(step.values, step.moving, strict=True)]
    return Call(torch.cat, [given], axis)


def _split(step: Step) -> nn.Module:
    axis = int(step.attributes.get("axis", 0))
    sizes = step.numbers("split", 1)
    if sizes is None:
        parts = int(step.attributes.get("num_outputs", 0)) or int(step.attributes["outputs"])
        each = math.ceil(step.x.shape[axis] / parts)
        sizes = [each] * (parts - 1) + [step.x.shape[axis] - each * (parts - 1)]
    return Call(torch.split, [SLOT], sizes, axis)


def _slice(step: Step) -> nn.Module:
    starts, ends = step.numbers("starts", 1) or [], step.numbers("ends", 2) or []
    axes = step.numbers("axes", 3) or list(range(len(starts)))
    steps = step.numbers("steps", 4) or [1] * len(starts)
    taken = [slice(None)] * step.x.dim()
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        size = step.x.shape[axis]
        if by < 1:
            raise ModelError(f"goes backwards, by {by}")
        begin, stop, _ = slice(start, end, by).indices(size)
        if axis % step.x.dim() == 0 and (begin, stop, by) == (0, size, 1):
            continue  # all images of the batch, however many there are
        taken[axis] = slice(begin, stop, by)
    return Call(operator.getitem, [SLOT], tuple(taken))


def _gather(step: Step) -> nn.Module:
    axis, index = int(step.attributes.get("axis", 0)) % step.x.dim(), step.constant(1)
    size = step.x.shape[axis]
    if index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
        raise ModelError(f"asks for places outside of 0 to {size - 1}")
    index = index.long() % size
    if index.dim() == 0:
        return Call(torch.select, [SLOT], axis, int(index))
    if step.x.dim() == 1 and torch.equal(index.flatten(), torch.arange(size)):
        return Call(torch.reshape, [SLOT], (-1, *index.shape[1:]))  # as torch writes as_strided
    if index.dim() > 1:
        raise ModelError(f"by indices of {index.dim()} axes; 0 or 1 are expected")
    if torch.equal(index, torch.arange(size)):
        return nn.Identity()  # all in order: of the batch as well, however many there are
    return Call(_taken, [SLOT, index], axis)


def _taken(x: Tensor, index: Tensor, axis: int) -> Tensor:
    return torch.index_select(x, axis, index)


def _pad(step: Step) -> nn.Module:
    mode = str(step.attributes.get("mode", "constant"))
    pads, value = step.numbers("pads", 1) or [], step.number("value", 2) or 0.0
    rank = step.x.dim()
    axes = step.numbers("", 3) or list(range(rank))
    every = [0] * 2 * rank
    for i, axis in enumerate(axes):
        every[axis % rank], every[rank + axis % rank] = pads[i], pads[len(axes) + i]
    if mode == "constant":
        return _padding(every, value)
    inner = every[2:rank] + every[rank + 2 :]
    if rank != 4 or inner == every or any(every[i] for i in (0, 1, rank, rank + 1)):
        raise ModelError(f"in the mode {mode!r} of other axes than rows and columns")
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    last_first = [p for i in (1, 0) for p in (inner[i], inner[2 + i])]
    return Call(F.pad, [SLOT], last_first, names[mode])


def _resize(step: Step) -> nn.Module:
    """Growing by whole factors, where the kinds of rounding that ONNX knows are mostly one."""
    old = step.kind == "Upsample"
    scales, sizes = step.optional(1 if old else 2), None if old else step.optional(3)
    mode = str(step.attributes.get("mode", "nearest"))
    how = str(step.attributes.get("coordinate_transformation_mode", "half_pixel"))
    rounding = str(step.attributes.get("nearest_mode", "round_prefer_floor"))
    if old:
        how, rounding = "asymmetric", "floor"
    if sizes is not None and sizes.numel():
        shape = [int(n) for n in sizes.tolist()]
    elif scales is not None and scales.numel():
        shape = [math.floor(n * s) for n, s in zip(step.x.shape, scales.tolist(), strict=False)]
    else:
        raise ModelError("says no size")
    grows = [b // a if b % a == 0 else 0 for a, b in zip(step.x.shape, shape, strict=False)]
    unusual = {"axes", "antialias", "keep_aspect_ratio_policy"} & step.attributes.keys()
    if step.x.dim() == len(grows) == 4 and grows[:2] == [1, 1] and min(grows) > 0 and not unusual:
        hw = (shape[2], shape[3])
        halves = how in ("half_pixel", "pytorch_half_pixel")
        if mode == "nearest" and (
            (halves and rounding.startswith("round_prefer"))
            or (how == "asymmetric" and rounding == "floor")
        ):
            return Call(F.interpolate, [SLOT], hw, None, "nearest")
        if mode == "linear" and (halves or how == "align_corners"):
            return Call(F.interpolate, [SLOT], hw, None, "bilinear", not halves)
    raise ModelError(f"to {shape} in the mode {mode!r}, {how!r}, {rounding!r}")


# -- one number at a time ------------------------------------------------------------------------


def _clip(step: Step) -> nn.Module:
    low, high = step.number("min", 1), step.number("max", 2)
    if low is None and high is None:
        return nn.Identity()
    if low == 0 and high is None:
        return nn.ReLU()
    if low == 0 and high == 6:
        return nn.ReLU6()
    return Call(torch.clamp, [SLOT], min=low, max=high)


def _cast(step: Step) -> nn.Module:
    kinds = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64,
             TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}  # fmt: skip
    to = kinds.get(step.attributes["to"])
    if to is None or not step.x.is_floating_point():
        name = helper.tensor_dtype_to_string(step.attributes["to"]).rpartition(".")[2]
        raise ModelError(f"turns what comes from the image into {name}")
    return nn.Identity() if to == step.x.dtype else Call(method("to"), [SLOT], to)


def _dropout(step: Step) -> nn.Module:
    training = step.optional(2)
    if training is not None and bool(training):
        raise ModelError("is random; export the network in eval mode")
    return nn.Identity()


def _softmax(step: Step) -> nn.Module:
    last = step.x.dim() - 1
    axis = int(step.attributes.get("axis", -1 if step.opset >= 13 else 1)) % step.x.dim()
    if step.opset < 13 and axis != last:
        raise ModelError("over several axes at once, as before opset 13")
    return nn.Softmax(axis)


def _fold_in_pairs(function: Callable[..., Any]) -> Callable[[Step], nn.Module]:
    def combined(*values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = function(total, value)
        return total

    combined.__name__ = function.__name__
    return lambda step: step.call(combined)


def _mean(step: Step) -> nn.Module:
    def mean(*values: Tensor) -> Tensor:
        return sum(values[1:], values[0]) / len(values)

    return step.call(mean)


def _function(function: Callable[..., Any]) -> Callable[[Step], nn.Module]:
    return lambda step: step.call(function)


def _layer(kind: Callable[..., nn.Module], **attributes: float) -> Callable[[Step], nn.Module]:
    """A layer of torch, whose settings are attributes with these defaults."""
    return lambda step: kind(*(step.attributes.get(n, d) for n, d in attributes.items()))


def _hard_sigmoid(step: Step) -> nn.Module:
    alpha, beta = step.attributes.get("alpha", 0.2), step.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return nn.Hardsigmoid()
    return Call(_clamped_line, [SLOT], alpha, beta)


def _clamped_line(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


def _gelu(step: Step) -> nn.Module:
    return nn.GELU(step.attributes.get("approximate", "none"))


LAYERS: dict[str, Callable[[Step], nn.Module]] = {
    "Conv": _convolution, "BatchNormalization": _batch_norm, "Gemm": _gemm, "MatMul": _matmul,
    "PRelu": _prelu, "LayerNormalization": _layer_norm, "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool,
    **dict.fromkeys(_REDUCTIONS, _reduce), "LpNormalization": _lp_normalization,
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Expand": _expand, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "Pad": _pad, "Resize": _resize, "Upsample": _resize,
    "Add": _function(torch.add), "Sub": _function(torch.sub), "Mul": _function(torch.mul),
    "Div": _function(torch.div), "Pow": _function(torch.pow),
    "Sum": _fold_in_pairs(torch.add), "Max": _fold_in_pairs(torch.maximum),
    "Min": _fold_in_pairs(torch.minimum), "Mean": _mean,
    "Where": _function(torch.where), "Greater": _function(torch.gt), "Less": _function(torch.lt),
    "GreaterOrEqual": _function(torch.ge), "LessOrEqual": _function(torch.le),
    "Abs": _function(torch.abs), "Neg": _function(torch.neg), "Sqrt": _function(torch.sqrt),
    "Exp": _function(torch.exp), "Log": _function(torch.log), "Erf": _function(torch.erf),
    "Reciprocal": _function(torch.reciprocal), "Clip": _clip, "Cast": _cast,
    "Relu": _layer(nn.ReLU), "Sigmoid": _layer(nn.Sigmoid), "Tanh": _layer(nn.Tanh),
    "LeakyRelu": _layer(nn.LeakyReLU, alpha=0.01), "Elu": _layer(nn.ELU, alpha=1.0),
    "Celu": _layer(nn.CELU, alpha=1.0), "Softplus": _layer(nn.Softplus),
    "Softsign": _layer(nn.Softsign), "Mish": _layer(nn.Mish), "HardSwish": _layer(nn.Hardswish),
    "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "Softmax": _softmax,
    "Identity": _layer(nn.Identity), "Dropout": _dropout,
}  # fmt: skip
"""By operator: from a node to the layer that takes those of its inputs that come from the image."""
