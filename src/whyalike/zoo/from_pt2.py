"""Networks in programs that `torch.export.save` wrote (.pt2), as modules that can be cut.

`torch.export.load` would run what a stranger put into such a file: it unpickles sample inputs and
custom objects, evaluates expressions, loads compiled libraries, and looks up the functions of a
graph by any name. So the archive is read here: it is a zip of the graph as JSON and of weights as
plain numbers, and nothing else in it is looked at. The graph's operators are those of torch's
"aten" that have an equal among torch's public functions, by the tables below.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whyalike.errors import CheckpointError, LayerError, ModelError, OutputError, in_one_line
from whyalike.files import check_input
from whyalike.preprocess import Preprocess
from whyalike.zoo.nodes import (
    LARGEST,
    SLOT,
    Call,
    Node,
    NodeNetwork,
    check_batches,
    find_last_map,
    free_name,
    method,
    needed,
    run_layer,
)

SCHEMA = 8
"""The version of the graph's JSON that is read here; torch 2.8 to 2.15 write it."""

# torch's numbers for types, in the JSON.
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


def load_network(
    path: str | Path, layer: str | None = None
) -> tuple[nn.Module, Preprocess, str | None]:
    """The network in an exported program, its preprocess, and the layer to cut at.

    Args:
        path: the file, of torch 2.8 or newer.
        layer: the name of a node of the graph, or of a module of the network that was exported,
            as in `named_modules()`: the last node of that module is meant. By default the last
            feature map.

    Raises:
        CheckpointError: not such a file, a damaged one, or one with pickles among its weights.
        ModelError: no network from images (N, 3, H, W) to embeddings, or an operator that is not
            known here.
        LayerError: the layer is neither a node nor a module.
    """
    path = Path(path)
    check_input(path, CheckpointError, "name a file of torch.export.save")
    program, weights = _read(path)
    try:
        graph, image, sizes, constants, output = _interface(path, program, weights)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: is damaged ({in_one_line(error)})") from error
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sizes, generator=generator)
    values = {name: _Value(tensor, False) for name, tensor in constants.items()}
    values[image] = _Value(images, True)
    net, modules = _build(path, graph, values, image, output)
    check_batches(path, net, images, values[output].content)
    preprocess = Preprocess(size=(sizes[2], sizes[3]))
    return net, preprocess, net.last_map if layer is None else _layer(net, modules, layer)


def _layer(net: NodeNetwork, modules: dict[str, str], layer: str) -> str:
    """The node that a name means: itself, or the last one of a module."""
    names = {node.layer for node in net.nodes}
    if layer in names:
        return layer
    if layer in modules:
        return modules[layer]
    near = difflib.get_close_matches(layer, [*names, *modules], n=4, cutoff=0.3)
    raise LayerError(
        f"the program has no node and no module {layer!r}; near ones: {', '.join(near) or 'none'}"
    )


# -- reading -------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The graph's JSON, and the weights and constants by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if "models/model.json" not in names:
                old = "serialized_exported_program.json" in archive.namelist()
                raise ValueError(
                    "it was saved by torch before 2.8; export it again"
                    if old or "serialized_exported_program.json" in names
                    else "it holds no models/model.json"
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch's are not")
            program = json.loads(archive.read(names["models/model.json"]))
            version = program["schema_version"]["major"]
            if version != SCHEMA:
                raise ValueError(f"its graph is of version {version}; {SCHEMA} can be read")
            weights: dict[str, Tensor] = {}
            for kind in ("weights", "constants"):
                entry = names.get(f"data/{kind}/model_{kind}_config.json")
                listed = json.loads(archive.read(entry))["config"] if entry else {}
                for name, meta in listed.items():
                    if meta["use_pickle"] or meta.get("tensor_meta") is None:
                        raise ValueError(
                            f"{name!r} is a pickle (it would run code when loaded), or no tensor"
                        )
                    data = archive.read(names[f"data/{kind}/{meta['path_name']}"])
                    weights[name] = _tensor(data, meta["tensor_meta"])
    except Exception as error:  # zipfile's, json's, and whatever is missing in it
        reason = str(error) if isinstance(error, ValueError) else in_one_line(error)
        raise CheckpointError(
            f"{path}: cannot be read as an exported program: {' '.join(reason.split())}"
        ) from error
    return program, weights


def _tensor(data: bytes, meta: dict[str, Any]) -> Tensor:
    dtype = _DTYPES[meta["dtype"]]
    sizes, strides = ([int(n["as_int"]) for n in meta[k]] for k in ("sizes", "strides"))
    if not data or math.prod(sizes) == 0:
        return torch.zeros(sizes if math.prod(sizes) == 0 else [], dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    if math.prod(sizes) > len(flat):
        raise ValueError(f"a tensor of {sizes} in {len(data)} bytes")
    # as_strided refuses what lies outside of the bytes
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).contiguous()


def _interface(
    path: Path, program: dict[str, Any], weights: dict[str, Tensor]
) -> tuple[dict[str, Any], str, list[int], dict[str, Tensor], str]:
    """The graph, its image input and that one's sizes, its weights, and its output."""
    module = program["graph_module"]
    graph = module["graph"]
    images: list[str] = []
    constants: dict[str, Tensor] = {}
    for spec in module["signature"]["input_specs"]:
        ((kind, entry),) = spec.items()
        if kind == "user_input":
            images.append(next(iter(entry["arg"].values()))["name"])
            continue
        key = {"parameter": "parameter_name", "buffer": "buffer_name",
               "tensor_constant": "tensor_constant_name"}.get(kind)  # fmt: skip
        if key is None:
            raise ModelError(f"{path}: the program takes a {kind}, which whyalike does not know")
        constants[entry["arg"]["name"]] = weights[entry[key]]
    outputs = [spec for spec in module["signature"]["output_specs"] if "user_output" in spec]
    names = [next(iter(spec["user_output"]["arg"].values())).get("name") for spec in outputs]
    metas = graph["tensor_values"]
    if len(images) != 1 or images[0] not in metas or len(metas[images[0]]["sizes"]) != 4:
        raise ModelError(
            f"{path}: the network must take one batch of images (N, 3, H, W); it takes "
            f"{', '.join(images) or 'nothing'}"
        )
    if len(names) != 1 or len(module["signature"]["output_specs"]) != 1 or names[0] not in metas:
        raise OutputError(
            f"{path}: the network must return embeddings (N, d) and nothing else; it gives "
            f"{', '.join(map(str, names)) or 'nothing'}; export it so that it does"
        )
    meta = metas[images[0]]
    # A free axis holds the size at which it was exported as a hint.
    sizes = [
        int(n["as_int"]) if "as_int" in n else int((n["as_expr"].get("hint") or {})["as_int"])
        for n in meta["sizes"]
    ]
    if sizes[1] != 3 or meta["dtype"] not in (6, 7, 8, 13) or math.prod(sizes) > LARGEST:
        raise ModelError(
            f"{path}: the network must take floats (N, 3, H, W); it takes "
            f"({', '.join(map(str, sizes))}) of {_DTYPES.get(meta['dtype'], 'an unknown type')}"
        )
    if "as_int" not in meta["sizes"][0]:
        sizes[0] = 2
    return graph, images[0], sizes, constants, str(names[0])


# -- from nodes to layers ------------------------------------------------------------------------


class _Value:
    """What a name stands for on the trial images, and whether it comes from them."""

    def __init__(self, content: Any, moving: bool) -> None:
        self.content, self.moving = content, moving


@torch.no_grad()
def _build(
    path: Path, graph: dict[str, Any], values: dict[str, _Value], image: str, output: str
) -> tuple[NodeNetwork, dict[str, str]]:
    """The network, and the last node of each module of the network that was exported."""
    nodes: list[Node] = []
    layers: dict[str, nn.Module] = {}
    paths: list[tuple[str, list[str]]] = []
    for entry in graph["nodes"]:
        target = str(entry.get("target"))
        try:
            arguments, options = _bound(entry, values)
            taken = [a for a in _flat([arguments, options]) if isinstance(a, _Moving)]
            layer = _layer_of(target, arguments, options)
            result = run_layer(layer, [values[a.name].content for a in taken])
            several = isinstance(result, tuple | list)
            names = _given(entry)
            moving = bool(taken) and isinstance(result, Tensor | tuple | list)
            for given, part in zip(names, result if several else [result], strict=False):
                values[given] = _Value(part, moving)
        except Exception as error:  # ours, torch's, or a KeyError of what is not there
            reason = str(error) if isinstance(error, ModelError) else in_one_line(error)
            raise ModelError(
                f"{path}: node {entry.get('name') or '?'!r}, a {target}: {reason}"
            ) from error
        if moving:
            name = free_name(names[0], layers)
            layers[name] = layer
            count = len(result) if several else 1
            nodes.append(
                Node(
                    _kind(target),
                    name,
                    [a.name for a in taken],
                    list[str | None](names)[:count],
                    several,
                )
            )
            paths.append((name, _stack(entry)))
    if output not in values or not values[output].moving:
        raise OutputError(f"{path}: the output does not depend on the image")
    net = NodeNetwork(image, output, needed(nodes, output))
    for node in net.nodes:
        net.add_module(node.layer, layers[node.layer])
    contents = {name: v.content for name, v in values.items() if isinstance(v.content, Tensor)}
    net.last_map = find_last_map(net.nodes, contents, image)
    kept = {node.layer for node in net.nodes}
    modules = {module: name for name, stack in paths if name in kept for module in stack}
    return net.eval(), modules


def _kind(target: str) -> str:
    """An operator's name without its overload, and without the mark of one that works in place."""
    return target.removeprefix("torch.ops.aten.").partition(".")[0].removesuffix("_")


def _stack(entry: dict[str, Any]) -> list[str]:
    """The modules that a node lies in, from the metadata "id,path,type;id,path,type"."""
    text = entry.get("metadata", {}).get("nn_module_stack", "")
    parts = [part.split(",") for part in text.split(";")]
    return [part[1] for part in parts if len(part) == 3 and part[1]]


def _given(entry: dict[str, Any]) -> list[str]:
    """The names of a node's outputs."""
    names: list[str] = []
    for output in entry["outputs"]:
        ((kind, value),) = output.items()
        if kind == "as_tensors":
            names += [v["name"] for v in value]
        elif kind == "as_tensor":
            names.append(value["name"])
        elif kind == "as_sym_int":
            names.append(value["as_name"])
        elif kind != "as_none":
            raise ModelError(f"gives a value {kind!r}, which whyalike does not know")
    return names


class _Moving:
    """An argument that comes from the image, and its value on the trial images."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.tensor = name, tensor


def _bound(entry: dict[str, Any], values: dict[str, _Value]) -> tuple[list[Any], dict[str, Any]]:
    """A node's arguments in the order of its operator, and those that go by name."""
    target = str(entry["target"])
    if not target.startswith("torch.ops.aten."):
        raise ModelError("which whyalike does not know; export the network with torch's own layers")
    base, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    if base.removesuffix("_") not in _KNOWN:
        raise ModelError("which whyalike does not know")
    schema = getattr(getattr(torch.ops.aten, base), overload)._schema
    given = {i["name"]: _argument(i["arg"], values) for i in entry["inputs"]}
    positional = [given.get(a.name, a.default_value) for a in schema.arguments if not a.kwarg_only]
    by_name = {a.name for a in schema.arguments if a.kwarg_only}
    return positional, {k: v for k, v in given.items() if k in by_name}


def _argument(argument: dict[str, Any], values: dict[str, _Value]) -> Any:
    ((kind, value),) = argument.items()

    def tensor(entry: dict[str, Any]) -> Any:
        found = values[entry["name"]]
        return _Moving(entry["name"], found.content) if found.moving else found.content

    def symbol(entry: dict[str, Any]) -> int:
        return int(values[entry["as_name"]].content if "as_name" in entry else entry["as_int"])

    if kind == "as_tensor":
        return tensor(value)
    if kind == "as_tensors":
        return [tensor(entry) for entry in value]
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_ints", "as_bool", "as_bools", "as_string"):
        return value
    if kind == "as_float":
        return float(value)
    if kind == "as_floats":
        return [float(v) for v in value]
    if kind == "as_sym_int":
        return symbol(value)
    if kind == "as_sym_ints":
        return [symbol(entry) for entry in value]
    if kind == "as_scalar_type":
        return _DTYPES[value]
    if kind == "as_optional_tensor":
        return tensor(value["as_tensor"]) if "as_tensor" in value else None
    if kind in ("as_memory_format", "as_layout", "as_device"):
        return None  # where and how numbers lie, not what they are
    raise ModelError(f"takes a value {kind!r}, which whyalike does not know")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [p for part in value for p in _flat(part)] if isinstance(value, list) else [value]


# -- operators -----------------------------------------------------------------------------------

# Public functions that take what the operator takes, in its order.
_SAME: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in (
        *("conv1d", "conv2d", "relu", "add", "sub", "mul", "div", "pow", "exp", "log", "sqrt"),
        *("rsqrt", "reciprocal", "abs", "neg", "erf", "sigmoid", "tanh", "maximum", "minimum"),
        *("clamp", "clamp_min", "clamp_max", "where", "mean", "sum", "amax", "amin", "softmax"),
        *("cat", "stack", "permute", "transpose", "t", "unsqueeze", "squeeze", "select"),
        *("matmul", "mm", "bmm", "addmm", "prelu", "dropout", "feature_dropout", "square", "norm"),
        *("index_select", "flip", "split_with_sizes", "chunk", "gt", "ge", "lt", "le", "eq", "ne"),
        *("split", "unbind", "rsub", "var"),
    )
} | {
    name: getattr(F, name)
    for name in (
        *("avg_pool2d", "max_pool2d", "gelu", "hardtanh", "leaky_relu"),
        *("silu", "mish", "hardswish", "hardsigmoid", "softplus", "pad", "glu", "celu", "selu"),
        *("pixel_shuffle", "scaled_dot_product_attention", "relu6"),
    )
}  # fmt: skip

_Rewrite = Callable[..., tuple[Callable[..., Any], list[Any]]]

# The others, from the operator's arguments to a function and its own.
_REWRITTEN: dict[str, _Rewrite] = {
    "batch_norm": lambda x, w, b, m, v, train, mom, eps, *_: (
        F.batch_norm, [x, m, v, w, b, bool(train), mom, eps]),
    "_native_batch_norm_legit_no_training": lambda x, w, b, m, v, mom, eps: (
        _alone(F.batch_norm), [x, m, v, w, b, False, mom, eps]),
    "layer_norm": lambda x, shape, w, b, eps, *_: (F.layer_norm, [x, shape, w, b, eps]),
    "native_layer_norm": lambda x, shape, w, b, eps: (
        _alone(F.layer_norm), [x, shape, w, b, eps]),
    "group_norm": lambda x, groups, w, b, eps, *_: (F.group_norm, [x, groups, w, b, eps]),
    "native_group_norm": lambda x, w, b, n, c, hw, groups, eps: (
        _alone(F.group_norm), [x, groups, w, b, eps]),
    "instance_norm": lambda x, w, b, m, v, use, mom, eps, *_: (
        F.instance_norm, [x, m, v, w, b, bool(use), mom, eps]),
    "convolution": lambda x, w, b, stride, pad, dilation, transposed, _, groups: (
        _convolution(w, transposed), [x, w, b, stride, pad, dilation, groups]),
    "expand_as": lambda x, other: (method("expand_as"), [x, other]),
    "max_pool2d_with_indices": lambda *args: (_alone(F.max_pool2d), [*args]),
    "adaptive_max_pool2d": lambda *args: (_alone(F.adaptive_max_pool2d), [*args]),
    "adaptive_avg_pool2d": lambda x, size: (
        # torch's own has no batching rule for maps whose channels lie last in memory
        (torch.mean, [x, (2, 3), True]) if list(size) == [1, 1]
        else (F.adaptive_avg_pool2d, [x, size])),
    "elu": lambda x, alpha, scale, input_scale: (
        _expected(F.elu, (scale, input_scale) == (1, 1)), [x, alpha]),
    "constant_pad_nd": lambda x, pads, value: (F.pad, [x, pads, "constant", value]),
    "_softmax": lambda x, dim, half: (torch.softmax, [x, dim]),
    "linalg_vector_norm": lambda x, p, dim, keep: (torch.norm, [x, p, dim, keep]),
    "slice": lambda x, dim, *taken: (operator.getitem, [x, _sliced(dim, *taken)]),
    "upsample_nearest2d": lambda x, size, scale: (
        F.interpolate, [x, size, scale, "nearest"]),
    "upsample_bilinear2d": lambda x, size, align, scale: (
        F.interpolate, [x, size, scale, "bilinear", bool(align)]),
    "sym_size": lambda x, dim: (method("size"), [x, dim]),
    "lift_fresh_copy": lambda x: (torch.clone, [x]),
    **dict.fromkeys(("to", "_to_copy"), lambda x, *_: (method("to"), [x])),
}  # fmt: skip

_IDENTITIES = frozenset(("clone", "contiguous", "alias", "detach", "lift_fresh_copy"))
_SHAPED = frozenset(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "expand"))
_KNOWN = frozenset((*_SAME, *_REWRITTEN, *_IDENTITIES, *_SHAPED, "linear"))


def _layer_of(target: str, arguments: list[Any], options: dict[str, Any]) -> nn.Module:
    """The layer of an operator, with its constants in it."""
    base = target.removeprefix("torch.ops.aten.").partition(".")[0]
    in_place = base not in _KNOWN
    base = base.removesuffix("_") if in_place else base
    x = arguments[0] if arguments else None
    moves = isinstance(x, _Moving)
    if in_place and not moves:
        raise ModelError("writes into a weight")
    if base in _IDENTITIES and moves:
        return nn.Identity()
    if base in _SHAPED:
        return _reshaping(base, arguments)
    if base in ("linear", "addmm", "mm", "matmul") and not in_place:
        linear = _linear(base, arguments, options)
        if linear is not None:
            return linear
    if base == "dropout" and (moves and not arguments[2]):
        return nn.Identity()
    if base in ("dropout", "feature_dropout") and arguments[2]:
        raise ModelError("is random; export the network in eval mode")
    if base in ("to", "_to_copy"):
        return _cast(arguments, options)
    if base == "batch_norm" and arguments[5]:
        raise ModelError("works on the statistics of the batch; export the network in eval mode")
    function, given = _SAME.get(base), arguments
    if function is None:
        function, given = _REWRITTEN[base](*arguments)
    if in_place:
        function = _in_place(base, function)
        if function in (F.relu, F.hardtanh, F.leaky_relu, F.silu, F.mish, F.hardswish,
                        F.hardsigmoid, F.elu, F.celu, F.selu, F.relu6):  # fmt: skip
            options = {**options, "inplace": True}
    options = {k: v for k, v in options.items() if not (k == "dtype" and v is None)}
    if any(isinstance(v, Tensor | _Moving) for v in options.values()):
        raise ModelError("takes a tensor by name")
    return Call(function, [_template(a) for a in given], **options)


def _template(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_template(part) for part in argument]
    return SLOT if isinstance(argument, _Moving) else argument


def _in_place(base: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return (
        F.relu
        if base == "relu"
        else method(base + "_")
        if hasattr(Tensor, base + "_")
        else function
    )


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function: of several values that an operator gives, the first."""
    return function


def _expected(function: Callable[..., Any], holds: bool) -> Callable[..., Any]:
    if not holds:
        raise ModelError("with settings that whyalike does not know")
    return function


def _convolution(weight: Any, transposed: bool) -> Callable[..., Any]:
    kinds: dict[int, Callable[..., Any]] = {3: F.conv1d, 4: F.conv2d}
    if transposed or not isinstance(weight, Tensor) or weight.dim() not in kinds:
        raise ModelError("is transposed, or of other than 1 or 2 axes")
    return kinds[weight.dim()]


def _sliced(dim: int, start: int | None, end: int | None, step: int) -> tuple[slice, ...]:
    if dim < 0:
        raise ModelError("counts its axis from the end")
    taken = (slice(start or None, None if end is None or end >= 2**62 else end, step),)
    return (slice(None),) * dim + taken


def _cast(arguments: list[Any], options: dict[str, Any]) -> nn.Module:
    dtypes = [a for a in (*arguments[1:], *options.values()) if isinstance(a, torch.dtype)]
    given = [_template(arguments[0])]
    return Call(method("to"), given, dtypes[0]) if dtypes else Call(torch.clone, given)


def _linear(base: str, arguments: list[Any], options: dict[str, Any]) -> nn.Module | None:
    """nn.Linear, where the matrix is a weight: its contributions have a closed form."""
    bias = None
    if base == "addmm":
        bias, x, weight = arguments
        if any(options.get(k, 1) != 1 for k in ("alpha", "beta")):
            return None
    elif base == "linear":
        x, weight, bias = arguments
    else:
        x, weight = arguments
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not isinstance(x, _Moving):
        return None
    weight = weight if base == "linear" else weight.T
    if isinstance(bias, _Moving) or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


def _reshaping(base: str, arguments: list[Any]) -> nn.Module:
    """Reshaping that leaves the first axis free, as a program may be exported for one image."""
    x, given = arguments[0], _template(arguments[0])
    tensor = x.tensor if isinstance(x, _Moving) else x
    if base == "expand":
        shape = [int(n) for n in arguments[1]]
        own = [1] * (len(shape) - tensor.dim()) + list(tensor.shape)
        free = [-1 if n == mine else n for n, mine in zip(shape, own, strict=True)]
        return Call(method("expand"), [given], free)
    if base in ("flatten", "unflatten"):
        shape = list(getattr(tensor, base)(*arguments[1:]).shape)
    else:
        shape = list(tensor.reshape(arguments[1]).shape)
    if not isinstance(x, _Moving) or not shape:
        return Call(torch.reshape, [given], tuple(shape))
    if shape == [len(tensor), math.prod(tensor.shape[1:])]:
        return nn.Flatten(1)
    return Call(torch.reshape, [given], (-1, *shape[1:]))
