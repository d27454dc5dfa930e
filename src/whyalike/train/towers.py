"""Training of two towers for two views, by the soft-margin triplet loss of CVM-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whyalike.errors import TrainingError
from whyalike.evaluate.across import ranks_across, recall_across
from whyalike.files import Name
from whyalike.train.loop import Progress, Report, Run, run_to_the_end
from whyalike.train.settings import TowerSettings, Triplets
from whyalike.train.views import Batch, ViewBatches, Views
from whyalike.zoo import trained_towers
from whyalike.zoo.published.crossview import TOWERS
from whyalike.zoo.trained_towers import TwoTowers

__all__ = ["TowerSettings", "soft_margin", "train_towers"]


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
    2016, here as a cross-entropy of cosines at the temperature 1/(2α).)
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
    run = _Run(views, unseen, settings, Path(folder), device, restart)
    tell = progress or (lambda _: None)
    return run_to_the_end(run, workers, checkpoint_steps, evaluate_epochs, tell)


class _Run(Run):
    """A training of two towers in progress."""

    settings: TowerSettings
    kind, packages = "places", ("timm",)
    net: TwoTowers

    def __init__(
        self,
        views: Views,
        unseen: Views | None,
        settings: TowerSettings,
        folder: Path,
        device: str | torch.device | None,
        restart: bool,
    ) -> None:
        if len(views) < settings.batch_size:
            raise TrainingError(
                f"a batch of {settings.batch_size} places takes as many; came {views}"
            )
        self.form = settings.form()
        batches = self._batches(views, settings)
        self.unseen = None if unseen is None else self._batches(unseen, settings)
        data = {"seen": _told(views), "unseen": None if unseen is None else _told(unseen)}
        super().__init__(folder, settings, batches, data, device, restart)

    def make(self, pretrained: bool) -> None:
        self.net = trained_towers.build(self.form, pretrained=pretrained).to(self.device).train()
        self.loss = nn.Module()  # which has no parameters

    def loss_of(self, first: Tensor, second: Tensor) -> Tensor:
        ground, aerial = self._embedded((first, second))
        return soft_margin(ground, aerial, self.settings.alpha, self.settings.triplets)

    @torch.no_grad()
    def measure(self) -> tuple[dict[str, float], None]:
        """Recall from the street to above, with north as unknown as in training."""
        assert self.unseen is not None
        self.net.eval()
        both = zip(*(self._embedded(batch) for batch in self.unseen.all()), strict=True)
        ground, aerial = (torch.cat(some).float().cpu() for some in both)
        self.net.train()
        return recall_across(ranks_across(ground, aerial)), None

    def save(self, training: Mapping[str, Any]) -> None:
        trained_towers.save(self.folder, self.net, self.form, training)

    def _embedded(self, batch: Batch) -> list[Tensor]:
        return [
            self.net.tower(name)(images.to(self.device, memory_format=torch.channels_last))
            for name, images in zip(TOWERS, batch, strict=True)
        ]

    def _batches(self, views: Views, settings: TowerSettings) -> ViewBatches:
        ground, aerial = self.form.ground, self.form.aerial
        return ViewBatches(views, ground, aerial, settings.batch_size, settings.seed, settings.turn)


def _told(views: Views) -> dict[str, Any]:
    return {"places": len(views), "fingerprint": views.fingerprint}
