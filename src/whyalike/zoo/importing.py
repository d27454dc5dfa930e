"""Checkpoints of the published networks as safetensors, TensorFlow's among them."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from whyalike.errors import CheckpointError, in_one_line
from whyalike.files import write_whole
from whyalike.zoo.checkpoints import fit, read_checkpoint
from whyalike.zoo.published import NETWORKS
from whyalike.zoo.published.crossview import SiameseVGG16

# What the authors' scopes and variables are called here.
SCOPES = {"ground": "Grd", "aerial": "Sat", "fc1": "Gap_local/fc1"}
VARIABLES = {"weight": "weights", "bias": "biases"}


def import_checkpoint(path: str | PathLike[str], output: str | PathLike[str]) -> str:
    """Write the authors' checkpoint of a published network as safetensors.

    Args:
        path: a torch file, safetensors, or what comes before `.index` in the names of a TensorFlow
            checkpoint.
        output: the file to write; its keys are those of the network here.

    Returns:
        The name of the network that the weights fit, as in `whyalike.zoo.published`.

    Raises:
        CheckpointError: the file cannot be read safely, or is no published network's.
        OutputFileError: the output cannot be written.
    """
    prefix = str(path).removesuffix(".index")
    if os.path.isfile(f"{prefix}.index"):
        name, state = "siamese_vgg16", read_tensorflow(prefix)
    else:
        name, state = _recognised(read_checkpoint(path), path)
    # Copied, as tensors of a torch file may share their memory, which safetensors has no word for.
    copies = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}

    def write(_: Path, file: BinaryIO) -> None:
        file.write(save(copies, {"network": name}))

    write_whole([Path(output)], write)
    return name


def read_tensorflow(prefix: str) -> dict[str, Tensor]:
    """The weights of both VGG-16 in a TensorFlow checkpoint, by the names of `SiameseVGG16`.

    Only its tables are read: no graph is built or run. Kernels (height, width, in, out) and
    matrices (in, out) become torch's (out, in, height, width) and (out, in).

    Raises:
        CheckpointError: TensorFlow is missing, the checkpoint cannot be read, or it is another
            network's.
    """
    wanted = _names_and_shapes(SiameseVGG16)
    try:
        reader = _tensorflow().train.load_checkpoint(prefix)
        shapes, kinds = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        state: dict[str, Tensor] = {}
        for name, like in wanted.items():
            variable, shape = _variable(name), [like.shape[axis] for axis in _to_theirs(like)]
            if variable not in shapes:
                raise CheckpointError(
                    f"{prefix}: lacks {variable!r}; is it another network's checkpoint? It has: "
                    f"{', '.join(sorted(shapes)[:4])}"
                )
            # Before anything is read: a table may claim any size.
            if list(shapes[variable]) != shape or not kinds[variable].is_floating:
                raise CheckpointError(
                    f"{prefix}: {variable!r} should hold floats of shape {tuple(shape)}, the file "
                    f"has {kinds[variable].name} of shape {tuple(shapes[variable])}"
                )
            values = torch.from_numpy(np.asarray(reader.get_tensor(variable), np.float32))
            state[name] = values.permute(_to_ours(like))
    except CheckpointError:
        raise
    except Exception as error:  # TensorFlow raises many kinds for damaged files
        raise CheckpointError(
            f"{prefix}: cannot be read as a TensorFlow checkpoint ({in_one_line(error)})"
        ) from error
    return state


def _variable(name: str) -> str:
    """TensorFlow's name for one of ours: ground.conv1_1.weight → Grd/conv1_1/weights."""
    scope, *layers, kind = name.split(".")
    return "/".join([SCOPES[scope], *layers, VARIABLES[kind]])


def _to_theirs(like: Tensor) -> tuple[int, ...]:
    """Where TensorFlow's axes lie among torch's."""
    return {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[like.dim()]


def _to_ours(like: Tensor) -> tuple[int, ...]:
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[like.dim()]


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it tells of devices that it does not find
    try:
        import tensorflow
    except ImportError as error:
        raise CheckpointError(
            f"a TensorFlow checkpoint is read by TensorFlow, which cannot be imported ({error}): "
            f"pip install 'whyalike[tensorflow]'"
        ) from error
    return tensorflow


def _recognised(
    state: dict[str, Tensor], path: str | PathLike[str]
) -> tuple[str, dict[str, Tensor]]:
    """The published network whose names these are, and its weights."""
    networks = {name: _names_and_shapes(build) for name, build in NETWORKS.items()}
    name = max(networks, key=lambda name: len(networks[name].keys() & state.keys()))
    if not networks[name].keys() & state.keys():
        raise CheckpointError(
            f"{path}: has no weights of a published network ({', '.join(networks)}); it has: "
            f"{', '.join(list(state)[:4])}"
        )
    return name, fit(state, networks[name], path)


def _names_and_shapes(build: Any) -> dict[str, Tensor]:
    """A network's state dict without its values."""
    with torch.device("meta"):
        return dict(build().state_dict())
