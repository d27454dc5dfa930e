"""What a training is told, beside its data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from whyalike.errors import TrainingError
from whyalike.pooling import Kind
from whyalike.zoo.trained import Architecture, own_preprocess

Augment = Literal["none", "flip", "crop"]


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
    size: int | tuple[int, int] | None = None
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
        for name, least in (("batch_size", 2), ("per_class", 2), ("epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise TrainingError(f"{name} is a whole number from {least}; came {value!r}")
        if self.batch_size < 2 * self.per_class:
            raise TrainingError(
                f"a batch has at least two classes of {self.per_class} images; came batch_size "
                f"{self.batch_size}"
            )
        for name in ("learning_rate", "loss_learning_rate", "weight_decay", "warmup"):
            value = getattr(self, name)
            if value is not None and not (0 <= value < math.inf):
                raise TrainingError(f"{name} is a number from 0; came {value!r}")
        if self.warmup > 1:
            raise TrainingError(f"warmup is a share of the steps, 0 to 1; came {self.warmup}")
        if self.augment not in get_args(Augment):
            raise TrainingError(
                f"augment is one of {', '.join(get_args(Augment))}; came {self.augment!r}"
            )

    def architecture(self) -> Architecture:
        """The form of the network, and what becomes of a photograph."""
        own = own_preprocess(self.trunk)
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

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step as a share of the largest."""
        rising = self.warmup * steps
        if step < rising:
            return 0.5 - 0.5 * math.cos(math.pi * (step + 1) / (rising + 1))
        return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1.0, steps - rising))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """In which words other settings, as `to_json` made them, differ from these."""
        mine = self.to_json()
        return [
            f"{each.name} was {other.get(each.name)!r}, is {mine[each.name]!r}"
            for each in fields(self)
            if mine[each.name] != other.get(each.name)
        ]


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
