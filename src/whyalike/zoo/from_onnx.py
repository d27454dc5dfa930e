"""Networks in ONNX files, as torch modules that can be cut at any of their nodes.

The file is read here, node by node, rather than by a converter. Of those on PyPI, onnx2torch
1.5.15 (of 2024) refused 32 of 40 files that torch had written for five networks, opsets 11 to 20;
onnx2pytorch 0.6.0 refused 10, and runs a loop that cannot be traced and so not be cut; onnx2fx
0.0.1 read all, as functions that cannot be traced either. What is read here is what convolutional
networks are made of; whatever else a file holds is refused by name. Each file is run on trial
images, alone and together, and held to onnxruntime where that is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from whyalike.errors import CheckpointError, ModelError, OutputError, in_one_line
from whyalike.files import check_input
from whyalike.preprocess import Preprocess
from whyalike.zoo.nodes import (
    LARGEST,
    Node,
    NodeNetwork,
    check_batches,
    find_last_map,
    free_name,
    gap,
    needed,
    run_layer,
    tolerance,
)
from whyalike.zoo.onnx_layers import LAYERS, Step

# What may be done with numbers that do not come from the image: the arithmetic of shapes, mostly.
FOLDED = frozenset(
    (
        *("Constant", "Shape", "Size", "ConstantOfShape", "Range", "Where", "Tile", "ScatterND"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"),
        *("Floor", "Ceil", "Round", "Mod", "Sign", "GatherND", "GatherElements"),
        *("DequantizeLinear", *LAYERS),
    )
) - {"Conv", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool", "Resize",
     "Upsample", "Pad"}  # fmt: skip

_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
}


def load_network(
    path: str | Path, output: str | None = None, size_hw: tuple[int, int] | None = None
) -> tuple[nn.Module, Preprocess, str | None]:
    """The network in an ONNX file, its preprocess, and the name of its last feature map.

    Its layers have the names of the file's nodes (or of their outputs, where they have none), see
    `layer_name`. The file does not say how pixels become numbers: mean and std are ImageNet's.

    Args:
        path: the file; weights in other files must lie in its folder or below.
        output: which of the file's outputs is the embedding; by default the only one of the form
            (N, d).
        size_hw: the input's size, where the file leaves it open; by default 224×224.

    Raises:
        CheckpointError: not an ONNX file, or one that is damaged.
        ModelError: no network from images (N, 3, H, W) to embeddings, an operator that is not known
            here, or one that runs differently than in onnxruntime.
    """
    path = Path(path)
    check_input(path, CheckpointError, "name a file of ONNX")
    model = _read(path, output)
    image, batch, (height, width) = _input(path, model, size_hw)
    generator = torch.Generator().manual_seed(0)
    shape = (batch or 2, 3, height, width)
    images = torch.randn(shape, generator=generator).to(_DTYPES[image.type.tensor_type.elem_type])
    net, given = _build(path, model, image.name, images, output)
    check_batches(path, net, images, given)
    _check_against_onnxruntime(path, image.name, net.embedding, images, given)
    return net, Preprocess(size=(height, width)), net.last_map


# -- reading -------------------------------------------------------------------------------------


def _read(path: Path, output: str | None) -> onnx.ModelProto:
    """The file and the weights beside it, with nothing but operators that are known here."""
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise CheckpointError(f"{path}: is not an ONNX file ({in_one_line(error)})") from error
    if not model.graph.node:
        raise CheckpointError(f"{path}: is not an ONNX file, or an empty one: it has no nodes")
    _keep_what_leads_to(model.graph, output)
    strange = [n for n in model.graph.node if n.domain not in ("", "ai.onnx")]
    unknown = [n for n in model.graph.node if n.op_type not in FOLDED | LAYERS.keys()]
    if model.functions:
        raise ModelError(
            f"{path}: holds functions of its own ({model.functions[0].name!r}); export it with "
            f"ONNX's operators only"
        )
    for node in [*strange, *unknown][:1]:
        names = sorted({f"{n.domain or 'ai.onnx'}.{n.op_type}" for n in [*strange, *unknown]})
        raise ModelError(
            f"{path}: node {node.name!r} is a {node.domain or 'ai.onnx'}.{node.op_type}, which "
            f"whyalike does not know; it cannot read {', '.join(map(repr, names[:6]))}; export "
            f"the network with the operators of convolutional networks"
        )
    try:
        _check_external(path, model)
        load_external_data_for_model(model, str(path.resolve().parent))
        onnx.checker.check_model(model)
    except Exception as error:  # its checker's, and whatever the file system says
        raise CheckpointError(f"{path}: is damaged ({in_one_line(error)})") from error
    if _opset(model) < 7:
        raise ModelError(f"{path}: is written in opset {_opset(model)}; export it in 7 or newer")
    return model


def _keep_what_leads_to(graph: onnx.GraphProto, output: str | None) -> None:
    """Leave out what only other outputs need, and need not be known."""
    if output not in {value.name for value in graph.output}:
        return  # which one is meant is seen by their shapes
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    for entries, needed_ones in (
        (graph.node, kept[::-1]),
        (graph.output, [value for value in graph.output if value.name == output]),
    ):
        del entries[:]
        entries.extend(needed_ones)


def _check_external(path: Path, model: onnx.ModelProto) -> None:
    """Refuse weights whose size is not that of their shape, before they are read.

    That their file lies in the folder, and is no link out of it, is checked by onnx as it reads.
    """
    of_nodes = [a.t for n in model.graph.node for a in n.attribute if a.HasField("t")]
    for tensor in [*model.graph.initializer, *of_nodes]:
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        needed = int(np.prod(tensor.dims, dtype=object)) * _bytes_each(tensor)
        length = int(entries.get("length", needed))
        if length != needed or int(entries.get("offset", 0)) < 0:
            raise ValueError(f"{tensor.name}: {length} bytes for a tensor of {needed}")
        entry = tensor.external_data.add() if "length" not in entries else None
        if entry is not None:
            entry.key, entry.value = "length", str(needed)


def _bytes_each(tensor: TensorProto) -> int:
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def _input(
    path: Path, model: onnx.ModelProto, size_hw: tuple[int, int] | None
) -> tuple[onnx.ValueInfoProto, int | None, tuple[int, int]]:
    """The input for images, how many it takes (None: any number), and their height and width."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shown = ", ".join(f"{v.name!r} {_shown(v)}" for v in inputs)
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    dims = [d.dim_value or None for d in kind.shape.dim] if kind is not None else []
    if kind is None or kind.elem_type not in _DTYPES or len(dims) != 4 or dims[1] not in (3, None):
        raise ModelError(
            f"{path}: the network must take one batch of images (N, 3, H, W) of floats; it takes "
            f"{shown or 'nothing'}"
        )
    height, width = (
        dim or given or 224 for dim, given in zip(dims[2:], size_hw or (None, None), strict=True)
    )
    batch = dims[0]
    if 3 * height * width * (batch or 2) > LARGEST:
        raise ModelError(f"{path}: the input {_shown(inputs[0])} is too large")
    return inputs[0], batch, (height, width)


def _shown(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = ", ".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim)
    name = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "no tensor"
    return f"({dims}) of {name}"


# -- from nodes to layers ------------------------------------------------------------------------


@dataclass
class _Value:
    """What a name stands for on the trial images, and whether it comes from them."""

    tensor: Tensor
    moving: bool


@torch.no_grad()
def _build(
    path: Path, model: onnx.ModelProto, image: str, images: Tensor, output: str | None
) -> tuple[NodeNetwork, Tensor]:
    """The network, and what it gives on the trial images."""
    values = {image: _Value(images, True)}
    for tensor in model.graph.initializer:
        try:
            values[tensor.name] = _Value(_tensor(numpy_helper.to_array(tensor)), False)
        except Exception as error:  # a size that is not that of its shape, or a type of its own
            raise CheckpointError(
                f"{path}: the weights {tensor.name!r} cannot be read ({in_one_line(error)})"
            ) from error
    nodes: list[Node] = []
    layers: dict[str, nn.Module] = {}
    opset = _opset(model)
    for node in model.graph.node:
        try:
            given = [values[name] if name else None for name in node.input]
            if any(v is not None and v.moving for v in given) and node.op_type != "Shape":
                name = free_name(node.name or node.output[0], layers)
                layers[name], result = _run(node, given, opset, len(images))
                taken = [n for n, v in zip(node.input, given, strict=True) if v and v.moving]
                several = isinstance(result, tuple | list)
                found = [_Value(r, True) for r in (result if several else [result])]
                outputs = [n or None for n in node.output][: len(found)]
                nodes.append(Node(node.op_type, name, taken, outputs, several))
            else:
                found = [_Value(t, False) for t in _fold(node, given, opset)]
            values.update(zip(node.output, found, strict=False))
        except Exception as error:  # ours, torch's, or a KeyError of a value that is not made
            reason = str(error) if isinstance(error, ModelError) else in_one_line(error)
            raise ModelError(
                f"{path}: node {node.name or node.output[0]!r}, a {node.op_type}: {reason}"
            ) from error
    embedding = _output(path, model, values, output)
    net = NodeNetwork(image, embedding, needed(nodes, embedding))
    for kept in net.nodes:
        net.add_module(kept.layer, layers[kept.layer])
    tensors = {name: value.tensor for name, value in values.items()}
    net.last_map = find_last_map(net.nodes, tensors, image)
    return net.eval(), values[embedding].tensor


def _run(
    node: onnx.NodeProto, given: list[_Value | None], opset: int, batch: int
) -> tuple[nn.Module, Any]:
    """The layer of a node, and what it gives on the trial images."""
    attributes = {a.name: _attribute(a) for a in node.attribute}
    attributes["outputs"] = len(node.output)
    step = Step(
        node.op_type,
        opset,
        attributes,
        [None if v is None else v.tensor for v in given],
        [v is not None and v.moving for v in given],
        batch,
    )
    if node.op_type not in LAYERS:
        raise ModelError("depends on the image here, which whyalike does not know")
    layer = LAYERS[node.op_type](step).eval()
    return layer, run_layer(layer, [v.tensor for v in given if v is not None and v.moving])


def _fold(node: onnx.NodeProto, given: list[_Value | None], opset: int) -> list[Tensor]:
    """What a node gives that does not depend on what is in the image."""
    arrays = {
        name: v.tensor.numpy() for name, v in zip(node.input, given, strict=True) if v is not None
    }
    if node.op_type not in FOLDED:
        raise ModelError("of constants, which whyalike does not know")
    _check_folded(node, list(arrays.values()))
    if node.op_type == "Shape":  # of a value that may be large
        start, end = (_named(node, n) for n in ("start", "end"))
        return [torch.tensor(next(iter(arrays.values())).shape[start:end])]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "folded", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [_tensor(array) for array in ReferenceEvaluator(model).run(None, arrays)]


def _named(node: onnx.NodeProto, name: str) -> Any:
    return next((_attribute(a) for a in node.attribute if a.name == name), None)


def _check_folded(node: onnx.NodeProto, arrays: list[Any]) -> None:
    """Refuse what a small file may blow up to fill the memory."""
    sizes = [int(array.size) for array in arrays]
    largest = max(sizes, default=0)
    if node.op_type in ("ConstantOfShape", "Expand", "Tile", "Range"):
        asked = np.abs(np.concatenate([a.reshape(-1) for a in arrays[-1:]]).astype(object))
        if node.op_type == "Range":
            start, limit, delta = (a.item() for a in arrays)
            asked = np.array([abs(limit - start) / max(abs(delta), 1e-30)])
        largest = int(np.prod(asked, dtype=object)) * (sizes[0] if len(arrays) > 1 else 1)
        largest = 0 if node.op_type == "Range" and np.prod(asked) <= LARGEST else largest
    elif node.op_type in ("MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal"):
        shapes = [a.shape for a in arrays]
        if node.op_type in ("MatMul", "Gemm"):
            shapes = [(*shapes[0][:-1], 1), (*shapes[1][:-2], 1, shapes[1][-1])]
        largest = int(np.prod(np.broadcast_shapes(*shapes), dtype=object))
    if largest > LARGEST:
        raise ModelError(f"makes a value of more than {LARGEST:,} numbers")


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if attribute.ints or attribute.floats else value


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: the array may be the file's, and read-only


def _output(
    path: Path, model: onnx.ModelProto, values: dict[str, _Value], wanted: str | None
) -> str:
    """The name of the output that is the embedding."""
    names = [value.name for value in model.graph.output]
    shown = ", ".join(
        f"{n!r} {tuple(values[n].tensor.shape)}" if n in values else repr(n) for n in names
    )
    if wanted is None:
        fitting = [n for n in names if n in values and values[n].tensor.dim() == 2]
        if len(fitting) != 1:
            raise OutputError(
                f"{path}: one output must be the embedding (N, d); the file has {shown}; name it "
                f"as in onnx:{path.name}#{names[0]}"
            )
        wanted = fitting[0]
    if wanted not in names or wanted not in values:
        raise OutputError(f"{path}: has no output {wanted!r}; it has {shown}")
    if not values[wanted].moving:
        raise OutputError(f"{path}: the output {wanted!r} does not depend on the image")
    return wanted


# -- what must hold of it ------------------------------------------------------------------------


def _check_against_onnxruntime(
    path: Path, image: str, embedding: str, images: Tensor, given: Tensor
) -> None:
    """Hold the network to onnxruntime, where that is installed."""
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

        def run(batch: Tensor) -> Tensor:
            return torch.from_numpy(session.run([embedding], {image: batch.numpy()})[0])

        try:
            expected = run(images)
        except Exception:  # its axis is free, but what is inside is made for one image
            expected = torch.cat([run(one[None]) for one in images])
    except Exception as error:
        raise ModelError(f"{path}: onnxruntime cannot run it ({in_one_line(error)})") from error
    found = gap(given, expected) if given.shape == expected.shape else float("nan")
    if not found <= tolerance(given):
        raise ModelError(
            f"{path}: read here, the network does not give what onnxruntime gives; the gap is "
            f"{found:.2g} of the embedding's length; please report it with the file"
        )
