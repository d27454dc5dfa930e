"""The training itself: steps, states that survive a kill, and the folder that is a model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import whyalike
from whyalike.errors import CheckpointError, TrainingError, in_one_line
from whyalike.evaluate.retrieval import Retrieval, retrieval
from whyalike.files import Name
from whyalike.model import EmbeddingModel
from whyalike.train import checkpoints
from whyalike.train.losses import loss_by_name, miner_by_name
from whyalike.train.pictures import Batches, Pictures, check_trainable, prepared
from whyalike.train.running import device_of, make_folder, own_randomness, seed_all
from whyalike.train.settings import Settings
from whyalike.train.watching import Watch, watching
from whyalike.zoo import trained

KS = (1, 2, 4, 8)
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


def train(
    pictures: Pictures,
    folder: Name,
    settings: Settings | None = None,
    *,
    unseen: Pictures | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    checkpoint_steps: int = 200,
    evaluate_epochs: int = 1,
    restart: bool = False,
    tensorboard: bool = False,
    progress: Callable[[Progress], None] | None = None,
    watch: Watch | None = None,
) -> Report:
    """Train a network, or go on with that, into a folder that `whyalike.load` takes as a model.

    >>> report = train(seen, "model", unseen=unseen)  # doctest: +SKIP
    >>> whyalike.load("model")  # doctest: +SKIP

    What is random in a step is drawn from the seed and the number of the step, so a run that was
    killed and goes on gives what an undisturbed one gives; on one machine's CPU, to the last bit.

    Args:
        pictures: to train on.
        folder: made where it is missing; one with a training that has begun is gone on with.
        settings: of network and training.
        unseen: pictures of other classes, on which Recall@K and MAP@R are measured.
        device: where to compute, such as "cuda".
        workers: threads that read pictures; as many as cores by default, 8 at most.
        checkpoint_steps: after so many steps, and each epoch, the state is written.
        evaluate_epochs: after so many epochs, and the last, it is measured; 0 for the last only.
        restart: begin anew where another training has begun.
        tensorboard: write a log for TensorBoard into the folder as well.
        progress: called after each step.
        watch: called after each epoch with the network as it is, in eval mode, and the epoch's
            number, such as `saving_pairs(...)`; it changes nothing about the training.

    Raises:
        TrainingError: data or settings that cannot be trained with; other ones than those that the
            folder was begun with; a loss that is no finite number.
        ModelError: there is no such trunk.
        ImageError: a picture cannot be read.
    """
    settings = settings or Settings()
    run = _Run(pictures, unseen, settings, Path(folder), device, restart)
    if checkpoint_steps < 1 or evaluate_epochs < 0:
        raise TrainingError("checkpoint_steps is 1 or more, evaluate_epochs 0 or more")
    start, began = time.perf_counter(), run.step
    threads = min(8, os.cpu_count() or 1) if workers is None else max(1, workers)
    with own_randomness(run.device), _board(run.folder, tensorboard, began) as board:
        for images, classes in run.batches.run(began, run.steps, threads):
            loss = run.advance(images, classes)
            epoch = None
            if run.step % run.batches.per_epoch == 0:
                number = run.step // run.batches.per_epoch
                due = evaluate_epochs and number % evaluate_epochs == 0
                epoch = run.close_epoch(number, measured=bool(due or run.step == run.steps))
                if watch is not None:
                    run.show(watch, number)
            if epoch or run.step % checkpoint_steps == 0:
                run.write()
            board(run.step, loss, run.optimizer.param_groups[0]["lr"], epoch)
            if progress is not None:
                progress(Progress(run.step, run.steps, loss, epoch))
    if began == run.steps:
        run.write()  # a kill may have come between the state and the model
    taken = time.perf_counter() - start
    return Report(str(folder), run.steps, began, taken, tuple(run.epochs))


class _Run:
    """A training in progress: all that `train` changes from step to step."""

    def __init__(
        self,
        pictures: Pictures,
        unseen: Pictures | None,
        settings: Settings,
        folder: Path,
        device: str | torch.device | None,
        restart: bool,
    ) -> None:
        check_trainable(pictures)
        self.pictures, self.unseen, self.settings, self.folder = pictures, unseen, settings, folder
        self.device = device_of(device)
        self.architecture = settings.architecture()
        self.batches = Batches(pictures, settings, self.architecture.preprocess)
        self.steps = settings.epochs * self.batches.per_epoch
        self.step, self.losses = 0, list[float]()
        self.epochs: list[Epoch] = []
        make_folder(folder, restart, BOARD)
        state = checkpoints.read(folder)
        if state is not None:
            self._check_same(state.about)
        with own_randomness(self.device):
            seed_all(settings.seed, 0, 0)
            fresh = settings.pretrained and state is None
            self.net = trained.build(self.architecture, pretrained=fresh)
            self.net.to(self.device).train()
            self.loss, self.miner = self._loss_and_miner()
        self.optimizer = self._optimizer()
        half = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.low = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp and half)
        if state is not None:
            self._take(state)

    def advance(self, images: Tensor, classes: Tensor) -> float:
        """One step; its loss."""
        share = self.settings.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["largest"]
        seed_all(self.settings.seed, 3, self.step)
        images, classes = images.to(self.device), classes.to(self.device)
        with torch.autocast(self.device.type, self.low, enabled=self.settings.amp):
            E = self.net(images)
        E = E.float()
        try:
            mined = None if self.miner is None else self.miner(E, classes)
            loss = self.loss(E, classes, mined)
        except Exception as error:  # a loss that takes something else than embeddings and classes
            raise TrainingError(
                f"{type(self.loss).__name__} raised {in_one_line(error)}; take another loss or "
                f"miner, or other options"
            ) from error
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
        """Sum an epoch up, on unseen classes where that is due."""
        found = self.measure() if measured and self.unseen is not None else None
        epoch = Epoch(
            number,
            self.step,
            sum(self.losses) / len(self.losses),
            {} if found is None else {str(k): value for k, value in found.recall.items()},
            None if found is None else found.map_at_r,
        )
        self.epochs.append(epoch)
        self.losses = []
        return epoch

    @torch.no_grad()
    def measure(self) -> Retrieval:
        """Recall@K and MAP@R on unseen classes."""
        assert self.unseen is not None
        self.net.eval()
        size = self.settings.batch_size
        batches = prepared(self.unseen, self.architecture.preprocess, size)
        E = torch.cat([self.net(images.to(self.device)).float().cpu() for images in batches])
        self.net.train()
        return retrieval(E, self.unseen.labels, ks=KS)

    def show(self, watch: Watch, number: int) -> None:
        """Let someone look at the network as it is."""
        with watching(self.net) as net:
            layer, preprocess = trained.LAYER, self.architecture.preprocess
            watch(EmbeddingModel.from_module(net, layer, preprocess), number)

    def write(self) -> None:
        """The state, and after an epoch the model; a file is there whole or as it was."""
        about = {"settings": self.settings.to_json(), "data": self._data(), "losses": self.losses,
                 "epochs": [asdict(one) for one in self.epochs]}  # fmt: skip
        checkpoints.write(
            self.folder,
            checkpoints.State(
                self.step,
                self.net.state_dict(),
                self.loss.state_dict(),
                self.optimizer.state_dict(),
                self.scaler.state_dict(),
                about,
            ),
        )
        if not self.losses:
            made = {"whyalike": whyalike.__version__, "torch": torch.__version__}
            others = ("timm", "pytorch-metric-learning")
            training = {
                "settings": about["settings"],
                "data": about["data"],
                "step": self.step,
                "steps": self.steps,
                "epochs": about["epochs"],
                "versions": {**made, **{name: version(name) for name in others}},
            }
            trained.save(self.folder, self.net, self.architecture, training)

    def _data(self) -> dict[str, Any]:
        def told(pictures: Pictures) -> dict[str, Any]:
            return {"images": len(pictures), "classes": len(pictures.classes),
                    "fingerprint": pictures.fingerprint}  # fmt: skip

        return {
            "seen": told(self.pictures),
            "unseen": None if self.unseen is None else told(self.unseen),
        }

    def _check_same(self, about: Mapping[str, Any]) -> None:
        differing = self.settings.differences(about.get("settings") or {})
        if about.get("data") != self._data():
            differing.append("the pictures are others")
        if differing:
            raise TrainingError(
                f"{self.folder} has a training that was begun otherwise: {'; '.join(differing)}; "
                f"give another folder, or begin anew (--restart)"
            )

    def _loss_and_miner(self) -> tuple[nn.Module, nn.Module | None]:
        with torch.no_grad():
            image = torch.zeros(1, 3, *self.architecture.preprocess.size_hw, device=self.device)
            dimensions = self.net.eval()(image).shape[1]
        self.net.train()
        settings, classes = self.settings, len(self.pictures.classes)
        loss = loss_by_name(
            settings.loss, settings.loss_options, classes=classes, dimensions=dimensions
        )
        miner = None
        if settings.miner is not None:
            miner = miner_by_name(settings.miner, settings.miner_options)
        return loss.to(self.device), miner

    def _optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        theirs = 100 * s.learning_rate if s.loss_learning_rate is None else s.loss_learning_rate
        groups = [{"params": list(self.net.parameters()), "largest": s.learning_rate}]
        if own := list(self.loss.parameters()):
            groups.append({"params": own, "largest": theirs, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=s.learning_rate, weight_decay=s.weight_decay)

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


@contextmanager
def _board(
    folder: Path, wanted: bool, step: int
) -> Iterator[Callable[[int, float, float, Epoch | None], None]]:
    """What writes a log for TensorBoard, or nothing."""
    if not wanted:
        yield lambda *_: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            f"the package {error.name!r} is needed for the log; install 'whyalike[train]'"
        ) from error
    # Of a run that was killed, what it had written after its last state is taken back.
    with SummaryWriter(str(folder / BOARD), purge_step=step + 1) as writer:

        def log(at: int, loss: float, rate: float, epoch: Epoch | None) -> None:
            writer.add_scalar("loss", loss, at)
            writer.add_scalar("learning rate", rate, at)
            if epoch is not None and epoch.map_at_r is not None:
                for k, value in epoch.recall.items():
                    writer.add_scalar(f"unseen/recall@{k}", value, at)
                writer.add_scalar("unseen/MAP@R", epoch.map_at_r, at)

        yield log
