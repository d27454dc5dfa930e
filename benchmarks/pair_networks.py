"""Networks that learned which pairs of digits scenes show, and never where a digit is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import nn

import whyalike as wa
from benchmarks.trained import FOLDER, trained
from whyalike.data.synthetic import Scene, digit_scenes
from whyalike.train import DIGITS, Pictures, Progress, train
from whyalike.train.pictures import Batches, prepared
from whyalike.zoo.trained import LAYER, Architecture, build

Pool = Literal["mean", "max", "flatten"]
SCENES, EPOCHS, HEAD_STEPS = 5400, 8, 2500
SETTINGS = replace(DIGITS, epochs=EPOCHS)


@cache
def model(pool: Pool) -> wa.EmbeddingModel:
    """The network with such a head; the first call trains it, for some minutes.

    With mean and max pooling it is trained as a whole. With "flatten" it stays at chance for as
    long as that takes (R@1 of pairs 0.02), so there it is a head behind the trunk of "max".
    """
    if pool != "flatten":
        folder = FOLDER / f"pairs-{pool}-1"
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(_pictures(), folder, replace(SETTINGS, pool=pool), progress=_tell)
        return wa.load(str(folder))
    form = Architecture("small", pool, SETTINGS.embedding, SETTINGS.architecture().preprocess)
    torch.manual_seed(0)
    net = build(form, pretrained=False)
    learned = model("max").net.get_submodule(LAYER)
    net.get_submodule(LAYER).load_state_dict(learned.state_dict())
    net = trained("pairs-flatten-head-2", net, lambda made: _train_head(made, form))
    return wa.EmbeddingModel.from_module(net, LAYER, form.preprocess)


def _train_head(net: nn.Module, form: Architecture) -> None:
    """What lies behind the trunk, on its maps, which are made once."""
    from pytorch_metric_learning.losses import MultiSimilarityLoss

    trunk = net.get_submodule(LAYER).eval()
    head = nn.Sequential(*[child for name, child in net.named_children() if name != LAYER])
    pictures = _pictures()
    with torch.no_grad():
        maps = torch.cat([trunk(images) for images in prepared(pictures, form.preprocess, 100)])
    loss_of = MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    optimiser = torch.optim.AdamW(head.parameters(), SETTINGS.learning_rate, weight_decay=0.1)
    batches = Batches(pictures, SETTINGS, form.preprocess)
    for step in range(HEAD_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = SETTINGS.learning_rate * SETTINGS.rate(step, HEAD_STEPS)
        chosen = torch.from_numpy(batches.indices(step))
        loss = loss_of(head(maps[chosen]), pictures.numbers[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@cache
def _pictures() -> Pictures:
    """Of the handwriting that is there to train on; scenes match where both digits are the same."""
    found = scenes(SCENES, seed=11, split="train")
    return Pictures(tuple(scene.image for scene in found), tuple(pair(scene) for scene in found))


def scenes(count: int, seed: int, split: Literal["train", "test"]) -> list[Scene]:
    """Two digits side by side on clutter, either on the left."""
    return digit_scenes(count, seed=seed, objects=2, split=split, beside=True)


def pair(scene: Scene) -> str:
    """The two digits, whichever is on the left."""
    return "{}{}".format(*sorted(scene.labels))


def _tell(now: Progress) -> None:
    if now.epoch is not None:
        print(now.epoch, flush=True)
