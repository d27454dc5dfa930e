"""What a training needs around its steps: a device, random numbers of its own, and a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from whyalike import files
from whyalike.errors import OutputFileError, TrainingError, in_one_line
from whyalike.train import checkpoints
from whyalike.zoo import trained


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of that name, if it is there.

    Raises:
        TrainingError: it is not.
    """
    try:
        device = torch.device("cpu" if name is None else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"nothing can be trained on device {str(name)!r}: {in_one_line(error)}"
        ) from error
    return device


def seed_all(seed: int, what: int, step: int) -> None:
    """Seed all that is random of torch, and of numpy, which some losses and miners use."""
    first, second = np.random.SeedSequence([seed, what, step]).generate_state(2, np.uint32)
    torch.manual_seed(int(first) << 32 | int(second) >> 1)
    np.random.seed(int(second))


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """What is seeded within leaves the random numbers of the caller as they were."""
    state = np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(state)


def make_folder(folder: Path, restart: bool, *more: str) -> None:
    """Make the folder, without what a kill left half written, and to restart, without the state.

    Args:
        folder: of the training.
        restart: whether a training that is there is given up.
        more: names of what else a training writes.

    Raises:
        OutputFileError: it holds other files than a training's, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = {path.name for path in folder.iterdir()}
        others = {name for name in inside if not name.startswith(files.TEMPORARY)}
        if others and not others & {checkpoints.NAME, trained.CONFIG, *more}:
            raise OutputFileError(
                f"{folder}: holds other files, and no training; give a folder of its own"
            )
        for name in inside - others | ({checkpoints.NAME} & inside if restart else set()):
            (folder / name).unlink()
    except OSError as error:
        raise OutputFileError(f"{folder}: cannot be made a folder: {error.strerror}") from error
