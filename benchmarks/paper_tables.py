"""The paper's Tables I to IV at the size of this machine, beside the paper's numbers.

Two networks are trained by `whyalike.train` on handwritten digits on clutter, in eight positions
each (56 classes), and measured on digits of other classes: one with the MultiSimilarity loss, one
with the triplet loss. On photographs of birds, where they are at hand, the default network is
measured as it is. What the paper measured, and where its numbers stand here, tells docs/paper.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import whyalike as wa
from benchmarks import birds
from benchmarks.tables import Table, UnavailableError
from benchmarks.trained import FOLDER
from whyalike.data import Dataset, read
from whyalike.data.synthetic import Scene, digit_scenes, write_scenes
from whyalike.evaluate.localization import Localization, evaluate_localization
from whyalike.evaluate.measures import THRESHOLDS
from whyalike.evaluate.photographs import Photographs
from whyalike.evaluate.report import percent
from whyalike.evaluate.retrieval import Retrieval, retrieval
from whyalike.train import DIGITS, Pictures, Settings, train
from whyalike.train.pictures import SEEN_DIGITS, UNSEEN_DIGITS

SEEN, UNSEEN = 4480, 999
"""Pictures to train on, and those that training reports a recall for."""
RECALLED = 1008
"""Scenes of each part to find again: 18 of each class seen, 42 of each class unseen."""
LOCATED = 168
"""Scenes of each part whose maps are measured."""
BIRDS = 100
METHODS = {
    "grad-cam": "Grad-CAM",
    "grad-cam-no-norm": "Grad-CAM (no norm)",
    "decomposition+bias": "Decomposition+Bias",
    "decomposition": "Decomposition",
}
"""The paper's names of methods by ours."""
BESIDE = {"sharp": "sharp (not in the paper)", "centre-box": "a box in the middle"}
AT = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
PAPER_AT = {
    "grad-cam": (16.71, 16.26, 14.48, 9.43, 4.43, 1.54, 0.27),
    "grad-cam-no-norm": (16.83, 17.06, 21.59, 35.01, 47.00, 48.27, 20.90),
    "decomposition+bias": (23.49, 32.01, 44.94, 37.85, 21.99, 9.35, 2.25),
    "decomposition": (17.38, 19.77, 34.92, 50.64, 45.78, 27.98, 9.11),
}
"""Percent of boxes with IoU ≥ 0.5 of CUB-200-2011's validation classes, BN-Inception with GMP."""
PAPER_RECALL = {"MultiSimilarity": (82.69, 65.45), "Triplet": (82.98, 60.55)}
"""R@1 on train and on validation."""
PAPER_ON_TRAIN = {"MultiSimilarity": (52.10, 58.99), "Triplet": (39.93, 55.60)}
"""Decomposition+Bias and Decomposition, on train."""
LOSSES: dict[str, Settings] = {
    "MultiSimilarity": replace(DIGITS, epochs=5),
    "Triplet": replace(DIGITS, epochs=5, loss="triplet", loss_options={"margin": 0.1}),
}
OURS = "MultiSimilarity"
"""The network of Tables I and II."""


def networks() -> dict[str, wa.EmbeddingModel]:
    """Both networks, trained once, for some minutes each, into the benchmarks' cache."""
    seen, unseen = Pictures.digits(SEEN, UNSEEN)
    found = {}
    for name, settings in LOSSES.items():
        folder = FOLDER / f"paper-{name}-1"
        report = train(seen, folder, settings, unseen=unseen, evaluate_epochs=0)
        print(f"{name}: {report.epochs[-1]} (this run: {report.seconds:.0f} s)", flush=True)
        found[name] = wa.load(str(folder))
    return found


def run(full: bool = False) -> list[Table]:
    """All four, and the first on birds where they are.

    Args:
        full: all scenes of recall for localization, and all photographs of birds.
    """
    nets = networks()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        count = RECALLED if full else LOCATED
        seen, unseen = (
            _written(Path(folder, name), scenes)
            for name, scenes in (("seen", scenes_seen()), ("unseen", scenes_unseen()))
        )
        ms = evaluate_localization(nets[OURS], _some(unseen, count), [*METHODS, "sharp"], seed=0)
        tables += [best(ms, "digits of classes unseen, MultiSimilarity"), by_threshold(ms)]
        tables.append(recalls(nets, {"train": seen, "validation": unseen}))
        tables.append(on_train(nets, _some(seen, count)))
    try:
        data = read(f"cub:{birds.folder()}")
    except UnavailableError as error:
        print(f"paper_tables, birds: skipped: {error}", flush=True)
        return tables
    methods = [*METHODS, "sharp"]
    found = evaluate_localization(wa.load(), data, methods, limit=None if full else BIRDS)
    return [*tables, best(found, "birds, EfficientNet-Lite0 as it comes (ImageNet)")]


def scenes_seen() -> list[Scene]:
    """The first of those that were trained on."""
    return digit_scenes(RECALLED, seed=1, split="train", classes=SEEN_DIGITS, turned=True)


def scenes_unseen() -> list[Scene]:
    """Other digits in the same eight positions, in other people's handwriting."""
    return digit_scenes(RECALLED, seed=2, split="test", classes=UNSEEN_DIGITS, turned=True)


def best(found: Localization, what: str) -> Table:
    """Table I: each method at its best threshold, beside the paper's."""
    rows = []
    for name, title in (METHODS | BESIDE).items():
        summary = found.methods[name].summary()
        paper = f"{max(PAPER_AT[name]):.1f}" if name in PAPER_AT else ""
        shown = [percent(summary[key]) for key in ("accuracy", "held_out", "v2", "pointing")]
        rows.append([title, *shown, paper])
    about = f"""\
{len(found)} queries, each with the nearest of its class; R@1 {percent(found.recall)} %. Percent of
boxes with IoU of 0.5 and more at the threshold that is best for all, and held out, at the one that
is best for the other half of the classes; MaxBoxAccV2; pointing game. The paper: CUB-200-2011's
validation classes, BN-Inception with GMP and the MultiSimilarity loss, at the best of its
thresholds. Other photographs and another network: what can be compared is the order."""
    columns = ["map", "best", "held out", "V2", "pointing", "paper, best"]
    return Table(f"Table I, {what}", about, columns, rows)


def by_threshold(found: Localization) -> Table:
    """Table II: each method at the paper's thresholds."""
    at = [int(abs(THRESHOLDS - one).argmin()) for one in AT]
    rows = []
    for name, title in METHODS.items():
        shares = found.methods[name].accuracies()
        rows.append([title, *(percent(shares[i]) for i in at)])
        rows.append(["  the paper", *(f"{one:.1f}" for one in PAPER_AT[name])])
    about = """\
The same maps at the paper's thresholds, shares of the map's largest value, and the paper's numbers,
of birds, below each."""
    return Table("Table II, by threshold", about, ["map", *(f"{one:g}" for one in AT)], rows)


def recalls(nets: Mapping[str, wa.EmbeddingModel], parts: Mapping[str, Dataset]) -> Table:
    """Table III: what is found again on train and on validation."""
    rows = []
    for name, net in nets.items():
        found = [percent(_recall(net, data).recall[1]) for data in parts.values()]
        rows.append([name, *found, *(f"{one:.1f}" for one in PAPER_RECALL[name])])
    about = f"""\
R@1 in percent, of {RECALLED} scenes each: of the {8 * len(SEEN_DIGITS)} classes that were trained
on, and of {8 * len(UNSEEN_DIGITS)} others (three digits in eight positions); the paper's are of
the 100 first and the 100 last species of CUB-200-2011."""
    columns = ["loss", "train", "validation", "paper, train", "paper, validation"]
    return Table("Table III, found again", about, columns, rows)


def on_train(nets: Mapping[str, wa.EmbeddingModel], data: Dataset) -> Table:
    """Table IV: whether maps lie on the object where the network was trained."""
    rows = []
    for name, net in nets.items():
        found = evaluate_localization(net, data, ["decomposition+bias", "decomposition"])
        bias, plain = (
            found.methods[one].summary() for one in ("decomposition+bias", "decomposition")
        )
        shown = [percent(one[key]) for one in (bias, plain) for key in ("accuracy", "held_out")]
        rows.append([name, *shown, *(f"{one:.1f}" for one in PAPER_ON_TRAIN[name])])
    about = f"""\
Percent of boxes with IoU of 0.5 and more, on {len(data)} scenes that were trained on, at the best
threshold and held out; beside it the paper's, on the training species."""
    columns = ["loss", "+Bias", "held out", "Decomposition", "held out", "paper, +Bias",
               "paper, Decomposition"]  # fmt: skip
    return Table("Table IV, localization on train", about, columns, rows)


def _written(folder: Path, scenes: Sequence[Scene]) -> Dataset:
    return read(f"manifest:{write_scenes(folder, scenes)}")


def _some(data: Dataset, count: int) -> Dataset:
    """The first ones, in which classes take turns."""
    return replace(data, samples=data.samples[:count])


def _recall(net: wa.EmbeddingModel, data: Dataset) -> Retrieval:
    seen = Photographs(net, list(data), None)
    return retrieval(torch.cat(seen.E), [one.label for one in seen.samples], ks=[1])
