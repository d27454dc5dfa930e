"""The state of a training between two steps, so that it can go on after anything."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from whyalike.errors import CheckpointError, in_one_line
from whyalike.files import check_input, write_whole

NAME = "checkpoint.pt"


@dataclass(frozen=True, eq=False)
class State:
    """All that the next step depends on; what is random depends on the seed and the step alone.

    Args:
        step: how many steps were made.
        net, loss, optimizer, scaler: state dicts.
        about: in plain words and numbers: the settings, the data's fingerprints, what came out so
            far.
    """

    step: int
    net: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    about: Mapping[str, Any]


def write(folder: Path, state: State) -> None:
    """Put a state in the place of the last one; who reads sees one of them whole."""
    content = io.BytesIO()
    torch.save({**vars(state), "about": json.dumps(state.about)}, content)

    def put(path: Path, file: BinaryIO) -> None:
        file.write(content.getbuffer())

    write_whole([folder / NAME], put)


def read(folder: Path) -> State | None:
    """The last state of a training, if there is any; no code in the file is run.

    Raises:
        CheckpointError: the file is something else.
    """
    path = folder / NAME
    if not path.exists():
        return None
    advice = "give another folder, or begin anew"
    check_input(path, CheckpointError, advice)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        state = State(**{**found, "about": json.loads(found["about"])})
        whole = isinstance(state.step, int) and state.step >= 0
        parts = (state.net, state.loss, state.optimizer, state.scaler, state.about)
        if not whole or not all(isinstance(part, Mapping) for part in parts):
            raise ValueError("no state of a training")
    except Exception as error:  # torch raises many kinds for damaged and for refused files
        raise CheckpointError(
            f"{path}: cannot be gone on with ({in_one_line(error)}); {advice}"
        ) from error
    return state
