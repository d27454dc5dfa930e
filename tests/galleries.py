"""Small models of every kind of head, and folders of photographs, for the tests of galleries."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import whyalike as wa

SIZE_HW = (12, 20)
PREPROCESS = wa.Preprocess(size=SIZE_HW)


def trunk() -> nn.Sequential:
    """(N, 3, 12, 20) → (N, 8, 3, 5)."""
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())


class Folding(nn.Module):
    """A pooling that is none of those that are known."""

    def forward(self, A: torch.Tensor) -> torch.Tensor:
        return torch.cat([A.mean((2, 3)), A.square().mean((2, 3)).add(1).sqrt()], 1)


def from_parts(pool: str | nn.Module, pooled: int, d: int = 6) -> wa.EmbeddingModel:
    torch.manual_seed(0)
    project = nn.Sequential(nn.Linear(pooled, 7), nn.ReLU(), nn.Linear(7, d)).eval()
    features = trunk().eval()
    pool = pool.eval() if isinstance(pool, nn.Module) else pool
    return wa.EmbeddingModel(features, pool, project, PREPROCESS)


def vit() -> wa.EmbeddingModel:
    """A class token, a register, and a head that no closed form knows."""
    import timm  # takes seconds, which processes that are killed have no use for

    torch.manual_seed(0)
    net = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=0,
        reg_tokens=1,
    )  # fmt: skip
    preprocess = wa.Preprocess(size=(16, 24))
    return wa.EmbeddingModel.from_module(net.eval(), "blocks.0", preprocess)


def wide() -> wa.EmbeddingModel:
    """Embeddings of 40 numbers, of which contributions span 8 dimensions."""
    torch.manual_seed(0)
    project = nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40)).eval()
    return wa.EmbeddingModel(trunk().eval(), "mean", project, PREPROCESS)


HEADS: dict[str, Callable[[], wa.EmbeddingModel]] = {
    "mean": lambda: from_parts("mean", 8),
    "max": lambda: from_parts("max", 8),
    "gem": lambda: from_parts("gem", 8),
    "flatten": lambda: from_parts("flatten", 8 * 3 * 5),
    "any": lambda: from_parts(Folding(), 16),
    "tokens with prefix": vit,
    "d above rank": wide,
}


def picture(seed: int, size_wh: tuple[int, int] = (50, 30)) -> Image.Image:
    """Blocks of colour, as noise alone embeds all images alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size_wh, Image.Resampling.BILINEAR)


def photographs(folder: Path, count: int, start: int = 0) -> list[Path]:
    """Photographs in three folders, which give their labels."""
    paths = []
    for seed in range(start, start + count):
        path = folder / "abc"[seed % 3] / f"{seed:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed, (50 + seed % 7, 30 + seed % 5)).save(path)
        paths.append(path)
    return paths


def check_same(one: wa.Gallery, other: wa.Gallery, *, batches: bool = True) -> None:
    """The same rows: to the bit, where they were embedded in the same batches."""
    a, b = (g._now.table.to_table().drop_columns("maps").sort_by("id") for g in (one, other))
    about = ["embedding", "length"]
    assert a.drop_columns(about).equals(b.drop_columns(about))
    exact = {"rtol": 0, "atol": 0} if batches else {"rtol": 0, "atol": 1e-6}
    for name in about:
        torch.testing.assert_close(*(torch.tensor(t[name].to_pylist()) for t in (a, b)), **exact)
    x, y = ({h.path: h for h in g.search(picture(3), k=len(g))} for g in (one, other))
    assert x.keys() == y.keys()
    if not batches:
        exact = {"rtol": 2**-10, "atol": 1e-6}  # they are kept in float16
    for path, hit in x.items():
        mine, yours = one.contributions([hit])[0], other.contributions([y[path]])[0]
        torch.testing.assert_close(mine.values, yours.values, **exact)
    assert one.failures() == other.failures()


def index(folder: str, before: str, ready: Event, go: Event) -> None:
    """What a process of its own does: index the photographs of a folder, when it is told to."""
    torch.set_num_threads(1)
    os.chdir(folder)
    model = HEADS["mean"]()
    import whyalike.gallery.store  # noqa: F401

    exec(before, {})
    ready.set()
    go.wait()
    wa.Gallery.build(model, "photos", "photos.lance", batch_size=4, commit_rows=8)
