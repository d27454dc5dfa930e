"""Training of two towers for two views, by the soft-margin triplet loss of CVM-Net."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

import whyalike
from whyalike.errors import CheckpointError, TrainingError, in_one_line
from whyalike.evaluate.across import ranks_across, recall_across
from whyalike.files import Name
from whyalike.train import checkpoints
from whyalike.train.running import device_of, make_folder, own_randomness, seed_all
from whyalike.train.settings import differing, rising_and_falling
from whyalike.train.training import Epoch, Progress, Report
from whyalike.train.views import ViewBatches, Views
from whyalike.zoo import trained_towers
from whyalike.zoo.published.crossview import TOWERS
from whyalike.zoo.trained_towers import Form, own_preprocess

Size = int | tuple[int, int]
Triplets = Literal["each", "together"]
SMALL_GROUND, SMALL_AERIAL = (40, 256), 96
"""Inputs of the small trunk."""


@dataclass(frozen=True)
class TowerSettings:
    """How two towers are made and trained; with the data, these decide every weight.

    Args:
        trunk: "small", "default", "timm:NAME", or "vgg16" as in the paper.
        pretrained: whether the trunks begin with weights of their own; "vgg16" and "small" have
            none.
        embedding: numbers in an embedding.
        ground_size, aerial_size: of the inputs, a number or (height, width); None for the trunk's
            own: of "vgg16" 224×1232 and 512×512, of "small" 40×256 and 96×96.
        alpha: by what a difference of distances is multiplied before the soft margin: 10 in the
            weighted form, 1 in the plain one.
        triplets: "each", with the mean of all triplets' soft margins, as in CVM-Net; or "together",
            with one soft margin for all triplets of an anchor, in which the hard ones weigh more.
        batch_size: places in a step; each gives 2·(batch_size − 1) triplets.
        epochs: an epoch takes each place once.
        learning_rate: at its largest: it rises for the first `warmup` of the steps and falls to 0.
        weight_decay: AdamW's.
        warmup: a share of the steps.
        turn: whether aerial photographs are turned by lot, panoramas begin anywhere, and both are
            mirrored, so that no tower can know north.
        seed: of everything that is random.
    """

    trunk: str = "small"
    pretrained: bool = True
    embedding: int = 128
    ground_size: Size | None = None
    aerial_size: Size | None = None
    alpha: float = 10.0
    triplets: Triplets = "together"
    batch_size: int = 32
    epochs: int = 20
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    turn: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 2), ("epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise TrainingError(f"{name} is a whole number from {least}; came {value!r}")
        for name in ("learning_rate", "weight_decay", "warmup", "alpha"):
            value = getattr(self, name)
            if not (0 <= value < math.inf) or (name == "alpha" and not value):
                above = "above" if name == "alpha" else "from"
                raise TrainingError(f"{name} is a number {above} 0; came {value!r}")
        if self.triplets not in get_args(Triplets):
            raise TrainingError(
                f"triplets is one of {', '.join(get_args(Triplets))}; came {self.triplets!r}"
            )
        if self.warmup > 1:
            raise TrainingError(f"warmup is a share of the steps, 0 to 1; came {self.warmup}")

    def form(self) -> Form:
        """The form of the towers, and what becomes of photographs."""
        sizes = self.ground_size, self.aerial_size
        if self.trunk == "small":
            sizes = sizes[0] or SMALL_GROUND, sizes[1] or SMALL_AERIAL
        ground, aerial = (
            own if size is None else replace(own, size=size)
            for size, own in zip(
                sizes, (own_preprocess(self.trunk, t) for t in TOWERS), strict=True
            )
        )
        return Form(self.trunk, self.embedding, ground, aerial)

    def to_json(self) -> dict[str, Any]:
        """As plain words and numbers, in which equal settings are equal."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return found

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """In which words other settings, as `to_json` made them, differ from these."""
        return differing(self.to_json(), other)


def soft_margin(
    ground: Float[Tensor, "n d"],
    aerial: Float[Tensor, "n d"],
    alpha: float,
    triplets: Triplets = "each",
) -> Float[Tensor, ""]:
    """The soft margin of all 2·n·(n − 1) triplets of a batch.

    Of "each" it is the mean of log(1 + exp(α·(d_pos − d_neg))); of those of an anchor "together",
    the mean over 2·n anchors of log(1 + Σ exp(α·(d_pos − d_neg))), in whose gradient each triplet
    has its share of the sum, so that the hard ones lead. d is the squared distance of embeddings of
    length 1; each photograph of either view is an anchor, with its own place's other view and with
    that of every other place. (Hu et al., "CVM-Net", CVPR 2018: α = 10, exhaustive mini-batches as
    in Vo and Hays, ECCV 2016, whose plain form has α = 1; together as in Sohn's N-pair loss, NIPS
    2016, here as a cross-entropy of cosines at the temperature 1 / 2α.)
    """
    g, a = (torch.nn.functional.normalize(E, dim=1) for E in (ground, aerial))
    distance = 2 - 2 * g @ a.T
    if triplets == "together":
        own = torch.arange(len(g), device=g.device)
        both = torch.cat([-alpha * distance, -alpha * distance.T])
        return torch.nn.functional.cross_entropy(both, own.repeat(2))
    own = distance.diagonal()
    others = ~torch.eye(len(g), dtype=torch.bool, device=g.device)
    differences = torch.stack([own[:, None] - distance, own[None] - distance])[:, others]
    return torch.nn.functional.softplus(alpha * differences).mean()


def train_towers(
    views: Views,
    folder: Name,
    settings: TowerSettings | None = None,
    *,
    unseen: Views | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    checkpoint_steps: int = 200,
    evaluate_epochs: int = 1,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train two towers, or go on with that, into a folder that `whyalike.zoo.load_two` takes.

    >>> data = read("cvusa:CVUSA")  # doctest: +SKIP
    >>> train_towers(Views.of(data.only(split="train")), "model")  # doctest: +SKIP

    What is random in a step is drawn from the seed and the number of the step, as in `train`.

    Args:
        views: the places to train on.
        folder, device, checkpoint_steps, evaluate_epochs, restart, progress: as for `train`.
        settings: of networks and training.
        unseen: other places, on which recall is measured: of all of them, how many are found from
            the street at the first place, among 5, and among 1 %.
        workers: threads that read photographs.

    Raises:
        TrainingError: data or settings that cannot be trained with; other ones than those that the
            folder was begun with; a loss that is no finite number.
        ModelError: there is no such trunk.
        ImageError: a photograph cannot be read.
    """
    settings = settings or TowerSettings()
    run = _Run(views, unseen, settings, Path(folder), device_of(device), restart)
    if checkpoint_steps < 1 or evaluate_epochs < 0:
        raise TrainingError("checkpoint_steps is 1 or more, evaluate_epochs 0 or more")
    start, began = time.perf_counter(), run.step
    threads = min(8, os.cpu_count() or 1) if workers is None else max(1, workers)
    with own_randomness(run.device):
        for ground, aerial in run.batches.run(began, run.steps, threads):
            loss = run.advance(ground, aerial)
            epoch = None
            if run.step % run.batches.per_epoch == 0:
                number = run.step // run.batches.per_epoch
                due = evaluate_epochs and number % evaluate_epochs == 0
                epoch = run.close_epoch(number, measured=bool(due or run.step == run.steps))
            if epoch or run.step % checkpoint_steps == 0:
                run.write()
            if progress is not None:
                progress(Progress(run.step, run.steps, loss, epoch))
    if began == run.steps:
        run.write()  # a kill may have come between the state and the model
    taken = time.perf_counter() - start
    return Report(str(folder), run.steps, began, taken, tuple(run.epochs))


class _Run:
    """A training in progress: all that `train_towers` changes from step to step."""

    def __init__(
        self,
        views: Views,
        unseen: Views | None,
        settings: TowerSettings,
        folder: Path,
        device: torch.device,
        restart: bool,
    ) -> None:
        if len(views) < settings.batch_size:
            raise TrainingError(
                f"a batch of {settings.batch_size} places takes as many; came {views}"
            )
        self.views, self.unseen, self.settings, self.folder = views, unseen, settings, folder
        self.device, self.form = device, settings.form()
        self.batches = self._batches(views)
        self.measured = None if unseen is None else self._batches(unseen)
        self.steps = settings.epochs * self.batches.per_epoch
        self.step, self.losses = 0, list[float]()
        self.epochs: list[Epoch] = []
        make_folder(folder, restart)
        state = checkpoints.read(folder)
        if state is not None:
            self._check_same(state.about)
        with own_randomness(device):
            seed_all(settings.seed, 0, 0)
            fresh = settings.pretrained and state is None
            self.net = trained_towers.build(self.form, pretrained=fresh).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        if state is not None:
            self._take(state)

    def advance(self, ground: Tensor, aerial: Tensor) -> float:
        """One step; its loss."""
        share = rising_and_falling(self.step, self.steps, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.settings.learning_rate
        seed_all(self.settings.seed, 3, self.step)
        E = [
            self.net.tower(name)(images.to(self.device, memory_format=torch.channels_last))
            for name, images in (("ground", ground), ("aerial", aerial))
        ]
        loss = soft_margin(E[0], E[1], self.settings.alpha, self.settings.triplets)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {self.step + 1} is {value}; take a smaller learning rate (now "
                f"{self.settings.learning_rate:g})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.losses.append(value)
        return value

    def close_epoch(self, number: int, measured: bool) -> Epoch:
        """Sum an epoch up, on unseen places where that is due."""
        recall = self.measure() if measured and self.unseen is not None else {}
        epoch = Epoch(number, self.step, sum(self.losses) / len(self.losses), recall, None)
        self.epochs.append(epoch)
        self.losses = []
        return epoch

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Recall on unseen places, from the street to above, with north as unknown as in training."""
        assert self.measured is not None
        self.net.eval()
        towers = [self.net.tower(name) for name in TOWERS]
        found: list[list[Tensor]] = [[], []]
        for both in self.measured.all():
            for tower, images, into in zip(towers, both, found, strict=True):
                into.append(tower(images.to(self.device)).float().cpu())
        self.net.train()
        return recall_across(ranks_across(torch.cat(found[0]), torch.cat(found[1])))

    def write(self) -> None:
        """The state, and after an epoch the model; a file is there whole or as it was."""
        about = {"settings": self.settings.to_json(), "data": self._data(), "losses": self.losses,
                 "epochs": [asdict(one) for one in self.epochs]}  # fmt: skip
        net, optimizer = self.net.state_dict(), self.optimizer.state_dict()
        checkpoints.write(self.folder, checkpoints.State(self.step, net, {}, optimizer, {}, about))
        if not self.losses:
            made = {"whyalike": whyalike.__version__, "torch": torch.__version__}
            training = {
                "settings": about["settings"],
                "data": about["data"],
                "step": self.step,
                "steps": self.steps,
                "epochs": about["epochs"],
                "versions": {**made, "timm": version("timm")},
            }
            trained_towers.save(self.folder, self.net, self.form, training)

    def _batches(self, views: Views) -> ViewBatches:
        settings, form = self.settings, self.form
        return ViewBatches(
            views, form.ground, form.aerial, settings.batch_size, settings.seed, settings.turn
        )

    def _data(self) -> dict[str, Any]:
        def told(views: Views) -> dict[str, Any]:
            return {"places": len(views), "fingerprint": views.fingerprint}

        unseen = None if self.unseen is None else told(self.unseen)
        return {"seen": told(self.views), "unseen": unseen}

    def _check_same(self, about: Mapping[str, Any]) -> None:
        others = self.settings.differences(about.get("settings") or {})
        if about.get("data") != self._data():
            others.append("the places are others")
        if others:
            raise TrainingError(
                f"{self.folder} has a training that was begun otherwise: {'; '.join(others)}; "
                f"give another folder, or begin anew (--restart)"
            )

    def _take(self, state: checkpoints.State) -> None:
        try:
            self.net.load_state_dict(state.net)
            self.optimizer.load_state_dict(dict(state.optimizer))
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
