"""Training of one network, on pictures of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whyalike.errors import TrainingError, in_one_line
from whyalike.evaluate.retrieval import retrieval
from whyalike.files import Name
from whyalike.model import EmbeddingModel
from whyalike.train.loop import BOARD, Epoch, Progress, Report, Run, run_to_the_end
from whyalike.train.losses import loss_by_name, miner_by_name
from whyalike.train.pictures import Batches, Pictures, check_trainable, prepared
from whyalike.train.settings import Settings
from whyalike.train.watching import Watch, watching
from whyalike.zoo import trained

KS = (1, 2, 4, 8)


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
    with _board(run.folder, tensorboard, run.step) as board:

        def tell(now: Progress) -> None:
            board(now.step, now.loss, run.optimizer.param_groups[0]["lr"], now.epoch)
            if watch is not None and now.epoch is not None:
                run.show(watch, now.epoch.epoch)
            if progress is not None:
                progress(now)

        return run_to_the_end(run, workers, checkpoint_steps, evaluate_epochs, tell)


class _Run(Run):
    """A training of one network in progress."""

    settings: Settings
    kind, packages = "pictures", ("timm", "pytorch-metric-learning")

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
        self.pictures, self.unseen = pictures, unseen
        self.architecture = settings.architecture()
        batches = Batches(pictures, settings, self.architecture.preprocess)
        data = {"seen": _told(pictures), "unseen": None if unseen is None else _told(unseen)}
        super().__init__(folder, settings, batches, data, device, restart, settings.amp)

    def make(self, pretrained: bool) -> None:
        self.net = trained.build(self.architecture, pretrained=pretrained)
        self.net.to(self.device).train()
        self.loss, self.miner = self._loss_and_miner()

    def loss_of(self, first: Tensor, second: Tensor) -> Tensor:
        images, classes = first.to(self.device), second.to(self.device)
        with torch.autocast(self.device.type, self.low, enabled=self.settings.amp):
            E = self.net(images)
        E = E.float()
        try:
            mined = None if self.miner is None else self.miner(E, classes)
            loss: Tensor = self.loss(E, classes, mined)
        except Exception as error:  # a loss that takes something else than embeddings and classes
            raise TrainingError(
                f"{type(self.loss).__name__} raised {in_one_line(error)}; take another loss or "
                f"miner, or other options"
            ) from error
        return loss

    @torch.no_grad()
    def measure(self) -> tuple[dict[str, float], float]:
        """Recall@K and MAP@R on unseen classes."""
        assert self.unseen is not None
        self.net.eval()
        size = self.settings.batch_size
        batches = prepared(self.unseen, self.architecture.preprocess, size)
        E = torch.cat([self.net(images.to(self.device)).float().cpu() for images in batches])
        self.net.train()
        found = retrieval(E, self.unseen.labels, ks=KS)
        return {str(k): value for k, value in found.recall.items()}, found.map_at_r

    def show(self, watch: Watch, number: int) -> None:
        """Let someone look at the network as it is."""
        with watching(self.net) as net:
            layer, preprocess = trained.LAYER, self.architecture.preprocess
            watch(EmbeddingModel.from_module(net, layer, preprocess), number)

    def save(self, training: Mapping[str, Any]) -> None:
        trained.save(self.folder, self.net, self.architecture, training)

    def groups(self) -> list[dict[str, Any]]:
        s, groups = self.settings, super().groups()
        theirs = 100 * s.learning_rate if s.loss_learning_rate is None else s.loss_learning_rate
        if own := list(self.loss.parameters()):
            groups.append({"params": own, "largest": theirs, "weight_decay": 0.0})
        return groups

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


def _told(pictures: Pictures) -> dict[str, Any]:
    classes, fingerprint = len(pictures.classes), pictures.fingerprint
    return {"images": len(pictures), "classes": classes, "fingerprint": fingerprint}


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
