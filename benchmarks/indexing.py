"""What does indexing cost beside embedding alone?"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import whyalike as wa
from benchmarks.tables import Table
from benchmarks.timing import alternate, ratio
from whyalike.images import read_image

COUNT, SIZE_WH, ROUNDS = 96, (640, 480), 3

ABOUT = f"""\
{COUNT} JPEG files of {SIZE_WH[0]}×{SIZE_WH[1]} pixels, the default network, batches of 32. The base
is a DataLoader whose workers (one for each core, or none, whichever was faster) read and preprocess
the same files as whyalike does, and the network's forward pass; nothing is hashed, checked,
decomposed or written. Indexing does all of that, with maps in float16."""


class _Files(Dataset):
    def __init__(self, paths: list[Path], preprocess: wa.Preprocess) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.preprocess(read_image(self.paths[index]))[0]


def run(count: int = COUNT) -> Table:
    """Index a folder, and embed the same files."""
    warnings.filterwarnings("ignore", "lance is not fork-safe")
    model = wa.load()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _Files(photographs(folder / "photos", count), model.preprocess)
        number = 0

        @torch.no_grad()
        def bare(workers: int) -> None:
            for images in DataLoader(files, batch_size=32, num_workers=workers):
                model(images)

        def index() -> None:
            nonlocal number
            number += 1
            gallery = wa.Gallery.build(model, folder / "photos", folder / f"{number}.lance")
            assert len(gallery) == count

        none, some, ours = alternate(
            lambda: bare(0), lambda: bare(cores), index, rounds=ROUNDS, warmups=1
        )
    base = np.minimum(none, some)
    share = ratio(base, ours)
    rows = [
        ["DataLoader, no workers", f"{count / np.median(none):.1f}", ""],
        [f"DataLoader, {cores} workers", f"{count / np.median(some):.1f}", ""],
        ["Gallery.build", f"{count / np.median(ours):.1f}", str(share)],
        ["budget", "", f"0.95: {'kept' if share.median >= 0.95 else 'missed'}"],
    ]
    return Table("Indexing", ABOUT, ["loop", "images a second", "rate / bare rate"], rows)


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files of blocks of colour."""
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        blocks = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        paths.append(folder / f"{index:04}.jpg")
        Image.fromarray(blocks).resize(SIZE_WH, Image.Resampling.BICUBIC).save(paths[-1])
    return paths
