"""The loop of steps that every training is, and what of it survives a kill."""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import whyalike
from whyalike.errors import CheckpointError, TrainingError, in_one_line
from whyalike.train import checkpoints
from whyalike.train.pictures import Batches
from whyalike.train.running import device_of, make_folder, own_randomness, seed_all
from whyalike.train.settings import Settings, TowerSettings, rising_and_falling
from whyalike.train.views import ViewBatches

BOARD = "tensorboard"


@dataclass(frozen=True)
class Epoch:
    """What came out of an epoch.

    Args:
        epoch: its number, from 1.
        step: how many steps were made in all.
        loss: its mean over the epoch's steps.
        recall: on unseen classes, for each k, the share of images with one of their class among the
            k nearest; none where there are no such classes.
        map_at_r: MAP@R on unseen classes.
    """

    epoch: int
    step: int
    loss: float
    recall: dict[str, float]
    map_at_r: float | None

    def __str__(self) -> str:
        recalls = "".join(f", R@{k} {100 * value:.1f}" for k, value in self.recall.items())
        last = "" if self.map_at_r is None else f", MAP@R {100 * self.map_at_r:.1f}"
        return f"epoch {self.epoch}: loss {self.loss:.4f}{recalls}{last}"


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        step: how many steps were made.
        steps: of how many.
        loss: of the last one.
        epoch: what came out of the epoch that this step ended, if it ended one.
    """

    step: int
    steps: int
    loss: float
    epoch: Epoch | None = None


@dataclass(frozen=True)
class Report:
    """What a training did.

    Args:
        folder: where the model is.
        steps: how many steps it was trained for.
        began: the step at which this run began; all of them, if there was nothing left to do.
        seconds: that this run took.
        epochs: what came out of each, those of earlier runs too.
    """

    folder: str
    steps: int
    began: int
    seconds: float
    epochs: tuple[Epoch, ...]


class Run(ABC):
    """A training in progress: all that changes from step to step.

    Args:
        folder: of the training.
        settings: of it.
        batches: to train on.
        data: in plain words and numbers, the fingerprints of what is seen and unseen.
        device: where to compute.
        restart: whether a training that is there is given up.
        amp: whether losses may have to be scaled.

    Raises:
        TrainingError, CheckpointError: the folder has a training that cannot be gone on with.
    """

    settings: Settings | TowerSettings
    batches: Batches | ViewBatches
    kind: str
    """Of data: pictures or places."""
    packages: tuple[str, ...]
    """Whose versions the model's folder tells."""
    net: nn.Module
    loss: nn.Module
    """With parameters of its own, or none."""

    def __init__(
        self,
        folder: Path,
        settings: Settings | TowerSettings,
        batches: Batches | ViewBatches,
        data: Mapping[str, Any],
        device: str | torch.device | None,
        restart: bool,
        amp: bool = False,
    ) -> None:
        self.folder, self.settings, self.batches, self.data = folder, settings, batches, data
        self.device = device_of(device)
        self.steps = settings.epochs * batches.per_epoch
        self.step, self.losses = 0, list[float]()
        self.epochs: list[Epoch] = []
        make_folder(folder, restart, BOARD)
        state = checkpoints.read(folder)
        if state is not None:
            self._check_same(state.about)
        with own_randomness(self.device):
            seed_all(settings.seed, 0, 0)
            self.make(settings.pretrained and state is None)
        self.optimizer = torch.optim.AdamW(
            self.groups(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        half = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.low = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp and half)
        if state is not None:
            self._take(state)

    @abstractmethod
    def make(self, pretrained: bool) -> None:
        """Set `net` and `loss`, on the device."""

    @abstractmethod
    def loss_of(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of a batch."""

    @abstractmethod
    def measure(self) -> tuple[dict[str, float], float | None]:
        """Recall and MAP@R on what is unseen, if there is any."""

    @abstractmethod
    def save(self, training: Mapping[str, Any]) -> None:
        """Write the model, with how it was trained."""

    def groups(self) -> list[dict[str, Any]]:
        """What the optimizer takes, and with which `largest` learning rates."""
        return [{"params": list(self.net.parameters()), "largest": self.settings.learning_rate}]

    def advance(self, first: Tensor, second: Tensor) -> float:
        """One step; its loss."""
        share = rising_and_falling(self.step, self.steps, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["largest"]
        seed_all(self.settings.seed, 3, self.step)
        loss = self.loss_of(first, second)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {self.step + 1} is {value}; take a smaller learning rate (now "
                f"{self.settings.learning_rate:g})"
            )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.losses.append(value)
        return value

    def close_epoch(self, number: int, measured: bool) -> Epoch:
        """Sum an epoch up, on what is unseen where that is due."""
        found = self.measure() if measured and self.data["unseen"] is not None else ({}, None)
        epoch = Epoch(number, self.step, sum(self.losses) / len(self.losses), *found)
        self.epochs.append(epoch)
        self.losses = []
        return epoch

    def write(self) -> None:
        """The state, and after an epoch the model; a file is there whole or as it was."""
        told, epochs = self.settings.to_json(), [asdict(one) for one in self.epochs]
        about = {"settings": told, "data": self.data, "losses": self.losses, "epochs": epochs}
        net, loss = self.net.state_dict(), self.loss.state_dict()
        rest = self.optimizer.state_dict(), self.scaler.state_dict()
        checkpoints.write(self.folder, checkpoints.State(self.step, net, loss, *rest, about))
        if not self.losses:
            made = {"whyalike": whyalike.__version__, "torch": torch.__version__}
            self.save({
                "settings": told,
                "data": self.data,
                "step": self.step,
                "steps": self.steps,
                "epochs": epochs,
                "versions": {**made, **{name: version(name) for name in self.packages}},
            })  # fmt: skip

    def _check_same(self, about: Mapping[str, Any]) -> None:
        differing = self.settings.differences(about.get("settings") or {})
        if about.get("data") != self.data:
            differing.append(f"the {self.kind} are others")
        if differing:
            raise TrainingError(
                f"{self.folder} has a training that was begun otherwise: {'; '.join(differing)}; "
                f"give another folder, or begin anew (--restart)"
            )

    def _take(self, state: checkpoints.State) -> None:
        try:
            self.net.load_state_dict(state.net)
            self.loss.load_state_dict(state.loss)
            self.optimizer.load_state_dict(dict(state.optimizer))
            if state.scaler:
                self.scaler.load_state_dict(dict(state.scaler))
            self.step = state.step
            self.losses = [float(one) for one in state.about["losses"]]
            self.epochs = [Epoch(**one) for one in state.about["epochs"]]
            if not 0 <= self.step <= self.steps:
                raise ValueError(f"step {self.step} of {self.steps}")
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.folder / checkpoints.NAME}: cannot be gone on with "
                f"({in_one_line(error)}); give another folder, or begin anew (--restart)"
            ) from error


def run_to_the_end(
    run: Run,
    workers: int | None,
    checkpoint_steps: int,
    evaluate_epochs: int,
    tell: Callable[[Progress], None],
) -> Report:
    """Make the steps that are left, and write what there is after some of them and each epoch.

    Args:
        run: that was begun, perhaps by a process that is no more.
        workers, checkpoint_steps, evaluate_epochs: as for `train`.
        tell: called after each step.

    Raises:
        TrainingError: a number that is too small, or a loss that is no finite number.
        ImageError: a picture cannot be read.
    """
    if checkpoint_steps < 1 or evaluate_epochs < 0:
        raise TrainingError("checkpoint_steps is 1 or more, evaluate_epochs 0 or more")
    start, began = time.perf_counter(), run.step
    threads = min(8, os.cpu_count() or 1) if workers is None else max(1, workers)
    with own_randomness(run.device):
        for first, second in run.batches.run(began, run.steps, threads):
            loss = run.advance(first, second)
            number, rest = divmod(run.step, run.batches.per_epoch)
            epoch = None
            if not rest:
                due = evaluate_epochs and number % evaluate_epochs == 0
                epoch = run.close_epoch(number, measured=bool(due or run.step == run.steps))
            if epoch or run.step % checkpoint_steps == 0:
                run.write()
            tell(Progress(run.step, run.steps, loss, epoch))
    if began == run.steps:
        run.write()  # a kill may have come between the state and the model
    taken = time.perf_counter() - start
    return Report(str(run.folder), run.steps, began, taken, tuple(run.epochs))
