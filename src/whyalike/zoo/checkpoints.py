"""Reading weights from files that a stranger may have made."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from whyalike.errors import CheckpointError, in_one_line
from whyalike.files import check_input

# What training code wraps a state dict in, and what parallel and compiled modules put before keys.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
PREFIXES = ("module.", "_orig_mod.")


def load_checkpoint(net: nn.Module, path: str | PathLike[str]) -> None:
    """Put the weights of a file into a network.

    Keys of the file that the network has no place for are reported as a warning (a classifier
    that was cut off, mostly).

    Raises:
        CheckpointError: the file cannot be read without running code from it, weights of the
            network are missing in it, or shapes differ.
    """
    net.load_state_dict(fit(read_checkpoint(path), net.state_dict(), path), strict=False)


def fit(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor], path: str | PathLike[str]
) -> dict[str, Tensor]:
    """Those of a file's weights that a network wants, by its names; the rest is warned of.

    Args:
        state: what was read.
        wanted: the network's state dict, of which only the shapes are looked at.
        path: the file, for messages.

    Raises:
        CheckpointError: weights of the network are missing, or shapes differ.
    """
    state = _fit_prefix(state, wanted)
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if wrong:
        k = wrong[0]
        raise CheckpointError(
            f"{path}: {k} should have shape {tuple(wanted[k].shape)}, the file has "
            f"{tuple(state[k].shape)}{_more(len(wrong) - 1)}; is it another network's checkpoint?"
        )
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    if missing:
        raise CheckpointError(
            f"{path}: lacks {len(missing)} of the network's {len(wanted)} weights: "
            f"{_listing(missing)}; it has {len(unexpected)} that the network does not"
            + (f": {_listing(unexpected)}" if unexpected else "")
        )
    if unexpected:
        warnings.warn(
            f"{path}: {len(unexpected)} weights have no place in the network and were left out: "
            f"{_listing(unexpected)}",
            stacklevel=4,
        )
    return {k: v for k, v in state.items() if k in wanted}


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, without wrappers and `module.` prefixes.

    Torch files are read with `weights_only=True`: no code in them is run.
    """
    path = Path(path)
    check_input(path, CheckpointError, "a checkpoint is a safetensors or torch file")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with warnings.catch_warnings():  # of what it reads all the same
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({in_one_line(error)})") from error
    except Exception as error:  # torch raises many kinds for damaged and for refused files
        reason = f"cannot be read as weights ({in_one_line(error)})"
        if isinstance(error, pickle.UnpicklingError) and "Weights only" in str(error):
            reason = "holds more than weights (it would run code when loaded)"
            if "Unsupported operand" in str(error):  # any bytes may look like one
                reason = f"is not a torch file, or {reason}"
        raise CheckpointError(
            f"{path}: {reason}; save the state dict alone, best as safetensors"
        ) from error
    state = _unwrap(content)
    if not state:
        raise CheckpointError(f"{path}: holds no state dict (names and tensors); save one")
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _unwrap(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping) and (inner := _unwrap(content[key])):
            return inner
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}


def _fit_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off one name that all keys share, such as `backbone.`, if only so they fit."""
    if any(k in wanted for k in state):
        return state
    first = {k.partition(".")[0] for k in state}
    shorter = {k.partition(".")[2]: v for k, v in state.items()}
    return shorter if len(first) == 1 and any(k in wanted for k in shorter) else state


def _listing(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + _more(len(keys) - 4)


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
