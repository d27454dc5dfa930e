"""What a training is told, beside its data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from whyalike.errors import TrainingError
from whyalike.pooling import Kind
from whyalike.zoo import trained, trained_towers
from whyalike.zoo.published.crossview import TOWERS
from whyalike.zoo.trained import Architecture
from whyalike.zoo.trained_towers import Form

Augment = Literal["none", "flip", "crop"]
Size = int | tuple[int, int]
Triplets = Literal["each", "together"]
SMALL_GROUND, SMALL_AERIAL = (40, 256), 96
"""Inputs of the small trunk of two towers."""


@dataclass(frozen=True)
class Settings:
    """How a network is made and trained; with the data, these decide every weight.

    Args:
        trunk: "default" (EfficientNet-Lite0), "timm:NAME", or "small" (five convolutions).
        pretrained: whether the trunk begins with its weights, timm's by a download.
        pool: "mean", "max", "gem" or "flatten".
        embedding: numbers in an embedding; None for the pooled vector itself.
        size: of the input, a number or (height, width); None for the trunk's own.
        loss: of pytorch-metric-learning, by its name with or without "Loss", in any case.
        loss_options: its arguments; the number of classes and of dimensions are filled in.
        miner: of pytorch-metric-learning by its name with or without "Miner"; None for none.
        miner_options: its arguments.
        batch_size: images in a step.
        per_class: images of one class in a batch.
        epochs: an epoch is as many steps as there are whole batches in the data.
        learning_rate: at its largest: it rises for the first `warmup` of the steps and falls to 0,
            as half a cosine each.
        loss_learning_rate: of the loss's own parameters, such as proxies; by default 100 times as
            large, as is usual for them.
        weight_decay: AdamW's, of the network.
        warmup: a share of the steps.
        augment: "none", "flip" (left and right), or "crop" (a random part, and flip).
        amp: whether to compute in 16 bits where it is safe (bfloat16, or float16 with a scaled loss
            on GPUs without it).
        seed: of everything that is random.
    """

    trunk: str = "default"
    pretrained: bool = True
    pool: Kind = "mean"
    embedding: int | None = 512
    size: Size | None = None
    loss: str = "MultiSimilarity"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    miner: str | None = None
    miner_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 80
    per_class: int = 5
    epochs: int = 20
    learning_rate: float = 1e-4
    loss_learning_rate: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.1
    augment: Augment = "crop"
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers(self, batch_size=2, per_class=2)
        if self.batch_size < 2 * self.per_class:
            raise TrainingError(
                f"a batch has at least two classes of {self.per_class} images; came batch_size "
                f"{self.batch_size}"
            )
        if self.augment not in get_args(Augment):
            raise TrainingError(
                f"augment is one of {', '.join(get_args(Augment))}; came {self.augment!r}"
            )

    def architecture(self) -> Architecture:
        """The form of the network, and what becomes of a photograph."""
        own = trained.own_preprocess(self.trunk)
        if self.size is not None:
            own = replace(own, size=self.size)
        return Architecture(self.trunk, self.pool, self.embedding, own)

    def to_json(self) -> dict[str, Any]:
        """As plain words and numbers, in which equal settings are equal."""
        try:
            found: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"options of losses and miners are plain numbers, words and lists: {error}"
            ) from error
        return found

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """In which words other settings, as `to_json` made them, differ from these."""
        return differing(self.to_json(), other)


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
    batch_size: int = 40
    epochs: int = 20
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    turn: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers(self, batch_size=2)
        if not 0 < self.alpha < math.inf:
            raise TrainingError(f"alpha is a number above 0; came {self.alpha!r}")
        if self.triplets not in get_args(Triplets):
            raise TrainingError(
                f"triplets is one of {', '.join(get_args(Triplets))}; came {self.triplets!r}"
            )

    def form(self) -> Form:
        """The form of the towers, and what becomes of photographs."""
        sizes = self.ground_size, self.aerial_size
        if self.trunk == "small":
            sizes = sizes[0] or SMALL_GROUND, sizes[1] or SMALL_AERIAL
        ground, aerial = (
            own if size is None else replace(own, size=size)
            for size, own in zip(
                sizes, (trained_towers.own_preprocess(self.trunk, t) for t in TOWERS), strict=True
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


def _check_numbers(settings: Settings | TowerSettings, **least: int) -> None:
    for name, low in {**least, "epochs": 1, "seed": 0}.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or value < low:
            raise TrainingError(f"{name} is a whole number from {low}; came {value!r}")
    for name in ("learning_rate", "loss_learning_rate", "weight_decay", "warmup"):
        value = getattr(settings, name, None)
        if value is not None and not (0 <= value < math.inf):
            raise TrainingError(f"{name} is a number from 0; came {value!r}")
    if settings.warmup > 1:
        raise TrainingError(f"warmup is a share of the steps, 0 to 1; came {settings.warmup}")


def differing(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In which words two settings as plain words differ, of those that the first one has."""
    return [
        f"{name} was {other.get(name)!r}, is {value!r}"
        for name, value in mine.items()
        if value != other.get(name)
    ]


def rising_and_falling(step: int, steps: int, warmup: float) -> float:
    """Half a cosine up for the first share of the steps, and half of one down for the others."""
    rising = warmup * steps
    if step < rising:
        return 0.5 - 0.5 * math.cos(math.pi * (step + 1) / (rising + 1))
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1.0, steps - rising))


DIGITS = Settings(
    trunk="small",
    pretrained=False,
    pool="max",
    embedding=64,
    epochs=3,
    learning_rate=3e-3,
    warmup=0.3,
    augment="none",
)
"""For the digits on clutter, which `Pictures.digits` makes."""
