"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import click

from whyalike.errors import DataError

if TYPE_CHECKING:
    from whyalike.data import Dataset


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers, such as a point X,Y."""

    def __init__(self, form: str) -> None:
        self.name = form

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.name.count(",") + 1:
            self.fail(f"expected {self.name} in pixels, came {value!r}")
        return numbers


outputs_option = click.option(
    "-o",
    "--out",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="Write .html, .png, .pdf or .npz; may be given several times.",
)


storage_option = click.option(
    "--storage",
    "storage",
    multiple=True,
    type=(str, str),
    metavar="KEY VALUE",
    help="An option of the object store, where the gallery is at s3://... and the like.",
)


report_option = click.option(
    "-o",
    "--out",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="Write .json, .md or .html; may be given several times.",
)


def seed_option(of: str) -> Callable[..., Any]:
    """--seed, with what hangs on it."""
    return click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=of)


@dataclass(frozen=True)
class Sample:
    """Which photographs are measured, and with which others."""

    data: str
    split: str | None
    pairing: Literal["nearest", "random", "self"]
    limit: int | None
    seed: int

    @property
    def drawn(self) -> dict[str, Any]:
        """How photographs and their references are chosen, as the evaluations take it."""
        return {"pairing": self.pairing, "limit": self.limit, "seed": self.seed}

    def read(self) -> Dataset:
        from whyalike.data import read

        found = read(self.data)
        if self.split is None:
            return found
        unseen = self.split == "unseen"
        held = found.halves()[1] if unseen else found.only(split=self.split)
        if not len(held):
            has = ", ".join([*found.splits, "unseen"])
            raise DataError(f"{self.data}: there is no split {self.split!r}; it has {has}")
        return held


def sample_options(limit: int | None, each: str = "ten") -> Callable[..., Any]:
    """Options of a command, which takes them as `sample`."""

    def of(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def gathered(
            *args: Any,
            data: str,
            split: str | None,
            pairing: Literal["nearest", "random", "self"],
            limit: int | None,
            seed: int,
            **rest: Any,
        ) -> Any:
            return command(*args, sample=Sample(data, split, pairing, limit, seed), **rest)

        for option in (
            seed_option("Of the lot."),
            click.option("--limit", type=click.IntRange(1), metavar="N", default=limit,
                         show_default=limit is not None, help=f"About so many photographs: {each} "
                         "of each class, of classes spread evenly over all."),
            click.option("--pairs", "pairing", type=click.Choice(["nearest", "random", "self"]),
                         default="nearest", show_default=True, help="The reference of each "
                         "photograph: the nearest of its class, another by lot, or itself."),
            click.option("--split", metavar="NAME", help="Only this split of it, or `unseen`: the "
                         "second half of the classes, as metric learning is tested."),
            click.option("--data", required=True, metavar="LAYOUT:PATH", help="The data set."),
        ):  # fmt: skip
            gathered = option(gathered)
        return gathered

    return of


def split_of(found: Dataset, split: str | None) -> Dataset:
    """One split of a data set: the one that is named, or "val", or all where there is none."""
    name = split or ("val" if "val" in found.splits else None)
    held = found if name is None else found.only(split=name)
    if not len(held):
        raise DataError(f"{found.name}: there is no split {split!r}; it has "
                        f"{', '.join(found.splits) or 'none'}")  # fmt: skip
    return held


json_option = click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
