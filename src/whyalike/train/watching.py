"""Watching a training: explanations of fixed pairs, saved as it goes on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from whyalike.errors import OutputFileError, TrainingError
from whyalike.files import write_whole
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair, explain_pair
from whyalike.preprocess import Source

Watch = Callable[[EmbeddingModel, int], None]
"""Told the network as it is, in eval mode, and how many epochs (or steps) were made."""
TABLE = "similarities.csv"


def saving_pairs(
    pairs: Sequence[tuple[Source, Source]],
    folder: str | os.PathLike[str],
    *,
    ending: str = ".png",
    also: Callable[[str, Pair, int], None] | None = None,
) -> Watch:
    """A watch that explains the same pairs each time and saves what it finds.

    >>> watch = saving_pairs([("a.jpg", "b.jpg")], "watched")  # doctest: +SKIP
    >>> train(seen, "model", watch=watch)  # doctest: +SKIP

    In a loop of your own, or a hook of a trainer, call it: `watch(EmbeddingModel.from_module(net,
    layer, preprocess), epoch)`, within `watching(net)` where the net is in training mode.

    Args:
        pairs: queries and references.
        folder: gets pair-1/epoch-0003.png, ..., and similarities.csv, a row for each pair and time.
        ending: ".png", ".pdf", ".html" or ".npz", as `pair.save`.
        also: called with the name, the pair and the number, for what else to do with it, such as
            `lambda *found: add_pair(writer, *found)` for TensorBoard.

    Raises:
        TrainingError: no pairs.
        OutputFileError: the folder cannot be made.
    """
    if not pairs:
        raise TrainingError("to watch a training, give a pair of images")
    place = Path(folder)
    names = [f"pair-{number}" for number in range(1, len(pairs) + 1)]
    try:
        for name in names:
            (place / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{place}: cannot be made a folder: {error.strerror}") from error

    def watch(model: EmbeddingModel, number: int) -> None:
        rows = []
        for name, (query, reference) in zip(names, pairs, strict=True):
            pair = explain_pair(model, query, reference)
            pair.save(place / name / f"epoch-{number:04}{ending}")
            rows.append([str(number), name, repr(pair.similarity), *map(repr, pair.terms)])
            if also is not None:
                also(name, pair, number)
        _keep(place / TABLE, number, rows)

    return watch


@contextmanager
def watching(net: nn.Module) -> Iterator[nn.Module]:
    """A network in eval mode for a while; its modules' modes and random numbers come back."""
    modes = [(module, module.training) for module in net.modules()]
    devices = {p.device for p in net.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        try:
            yield net.eval()
        finally:
            for module, mode in modes:
                module.training = mode


def _keep(path: Path, number: int, rows: list[list[str]]) -> None:
    """Rows of a table, in the place of those of the same number: a training may be gone on with."""
    head = ["epoch", "pair", "similarity", "pairs", "query_bias", "reference_bias", "bias_bias"]
    kept: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row and row[0] != str(number)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([head, *kept, *rows])
    write_whole([path], lambda _, file: _write(file, text.getvalue()))


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode())
