"""Losses and miners of pytorch-metric-learning, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from whyalike.errors import TrainingError, in_one_line

WRAPPERS = (
    *("BaseLossWrapper", "BaseMetricLossFunction", "GenericPairLoss", "MultipleLosses"),
    *("CrossBatchMemory", "SelfSupervisedLoss"),
    *("BaseMiner", "BaseSubsetBatchMiner", "BaseTupleMiner"),
    "EmbeddingsAlreadyPackagedAsTriplets",
)
"""What the package has beside losses and miners: what these are made of or wrapped in."""


def loss_by_name(
    name: str, options: Mapping[str, Any], *, classes: int, dimensions: int
) -> nn.Module:
    """A loss such as "MultiSimilarity", "triplet-margin" or "ArcFaceLoss".

    Args:
        name: the class in `pytorch_metric_learning.losses`, with or without "Loss"; case, dashes
            and underscores make no difference, and "triplet" is "triplet-margin".
        options: its arguments.
        classes: how many there are, for losses with parameters for each.
        dimensions: of an embedding, for the same.

    Raises:
        TrainingError: there is no such loss, or it cannot be made so.
    """
    kind = _find(name, "losses", "Loss")
    needed = {"num_classes": classes, "embedding_size": dimensions}
    parameters = inspect.signature(kind).parameters
    filled = {
        key: value
        for key, value in needed.items()
        if key in parameters and parameters[key].default is inspect.Parameter.empty
    }
    return _made(kind, {**filled, **options})


def miner_by_name(name: str, options: Mapping[str, Any]) -> nn.Module:
    """A miner such as "MultiSimilarity", "batch-hard" or "TripletMarginMiner".

    Args:
        name: the class in `pytorch_metric_learning.miners`, as for losses.
        options: its arguments.

    Raises:
        TrainingError: there is no such miner, or it cannot be made so.
    """
    return _made(_find(name, "miners", "Miner"), options)


def names(package: str) -> list[str]:
    """The losses, or the miners, that there are."""
    module = _package(package)
    return sorted(
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and name not in WRAPPERS
    )


def _find(name: str, package: str, suffix: str) -> Any:
    known = {_plain(one, suffix): one for one in names(package)}
    wanted = _plain(name, suffix)
    wanted = {"triplet": "tripletmargin"}.get(wanted, wanted)
    if wanted not in known:
        near = [known[one] for one in difflib.get_close_matches(wanted, known, n=4, cutoff=0.4)]
        raise TrainingError(
            f"pytorch-metric-learning has no {suffix.lower()} {name!r}; "
            f"{'near ones' if near else 'it has'}: {', '.join(near or known.values())}"
        )
    return getattr(_package(package), known[wanted])


def _plain(name: str, suffix: str) -> str:
    plain = name.replace("-", "").replace("_", "").replace(" ", "").lower()
    return plain.removesuffix(suffix.lower())


def _made(kind: Any, options: Mapping[str, Any]) -> nn.Module:
    try:
        made: nn.Module = kind(**options)
    except Exception as error:  # each checks its arguments in its own way, or not at all
        listed = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
        raise TrainingError(
            f"{kind.__name__} cannot be made with {dict(options)}: {in_one_line(error)}; it takes "
            f"{', '.join(listed) or 'nothing'}"
        ) from error
    return made


def _package(name: str) -> Any:
    try:
        from pytorch_metric_learning import losses, miners
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"the package {error.name!r} is needed for training; install 'whyalike[train]'"
        ) from error
    return {"losses": losses, "miners": miners}[name]
