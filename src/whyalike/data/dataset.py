"""What a data set holds, whichever layout it comes in: samples, and pairs that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from whyalike.geometry import XYXY

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sample:
    """A photograph and what is known of it.

    Args:
        path: its file.
        label: its class, person, product or place; None where that is not known, or none of the
            others is of the same (a distractor).
        split: what the data set has it for: "train", "val", "test", "query", "gallery".
        box_xyxy: the object's box, in pixels of the file after its EXIF orientation (which none of
            the public sets has), half open: pixel i covers [i, i + 1).
        mask: a file, the object's mask: bright is the object.
        camera: which camera took it.
        view: "ground" or "aerial"; of any two others that are compared, "query" or "reference".
        junk: whether it is left out of every ranking, as a detection that shows nobody is.
        metadata: what else the data set says.
    """

    path: Path
    label: str | None = None
    split: str | None = None
    box_xyxy: XYXY | None = None
    mask: Path | None = None
    camera: str | None = None
    view: str | None = None
    junk: bool = False
    metadata: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)


@dataclass(frozen=True, slots=True)
class KnownPair:
    """Two samples, by their indices, of which it is known whether they show the same.

    Args:
        first, second: indices into the data set's samples.
        same: the same person or place.
        fold: of a verification protocol, from 1.
        kind: how sure or how near, where there are several ("positive", "semi-positive").
        offset: how far the second's centre lies off, as the data set gives it.
        camera: where the camera of a view from the street stands in the view from above, in shares
            of its width and height, from its upper left corner; None where that is not known.
    """

    first: int
    second: int
    same: bool
    fold: int | None = None
    kind: str | None = None
    offset: tuple[float, float] | None = None
    camera: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Samples in a fixed order.

    >>> birds = read("cub:CUB_200_2011")  # doctest: +SKIP
    >>> train, unseen = birds.halves()  # doctest: +SKIP
    >>> birds.only(split="test")[0].box_xyxy  # doctest: +SKIP

    Args:
        name: as it was asked for, "cub:PATH".
        about: what it is, in a few words.
        samples: its photographs.
        pairs: those that are known.
        relations: of labels, (one, other, how): kinship.
        left_out: how many photographs its lists name that it does not come with.
    """

    name: str
    about: str
    samples: tuple[Sample, ...]
    pairs: tuple[KnownPair, ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur, each once, in order of their text."""
        return tuple(sorted({one.label for one in self.samples if one.label is not None}))

    @property
    def splits(self) -> dict[str, int]:
        """How many samples each split has."""
        return dict(Counter(one.split for one in self.samples if one.split is not None))

    def only(self, *, split: str | None = None, view: str | None = None) -> Dataset:
        """The samples of one split, or one view, and the pairs among them.

        A sample of no split goes with those that it is paired with, as VIGOR's views from above do.
        """
        kept = [one.split == (split or one.split) for one in self.samples]
        for pair in self.pairs if split else ():
            for here, there in ((pair.first, pair.second), (pair.second, pair.first)):
                if self.samples[here].split is None and self.samples[there].split == split:
                    kept[here] = True
        return self._taken(
            keep and one.view == (view or one.view)
            for keep, one in zip(kept, self.samples, strict=True)
        )

    def across(self) -> list[tuple[Sample, Sample, KnownPair]]:
        """Query, reference and pair of all pairs that show the same; of one kind, the best.

        The query is the view from the street, or the one that the data set calls so, or else the
        first of the two.
        """
        found = []
        for pair in self.pairs:
            if pair.same and pair.kind in (None, "positive"):
                first, second = self.samples[pair.first], self.samples[pair.second]
                swapped = first.view in ("aerial", "reference") and second.view != first.view
                found.append((second, first, pair) if swapped else (first, second, pair))
        return found

    def halves(self) -> tuple[Dataset, Dataset]:
        """By label, the first half and the second: as metric learning is trained and tested.

        The labels of both differ, so that the second half is of things never seen. (The first 100
        species and the last 100 of CUB-200-2011, the first 98 and the last 98 cars of Cars196.)
        """
        first = {*self.labels[: len(self.labels) // 2]}
        second = {*self.labels} - first
        return (
            self._taken(one.label in first for one in self.samples),
            self._taken(one.label in second for one in self.samples),
        )

    def _taken(self, chosen: Iterator[bool] | Any) -> Dataset:
        place: dict[int, int] = {}
        for index, keep in enumerate(chosen):
            if keep:
                place[index] = len(place)
        pairs = tuple(
            replace(pair, first=place[pair.first], second=place[pair.second])
            for pair in self.pairs
            if pair.first in place and pair.second in place
        )
        return replace(self, samples=tuple(self.samples[i] for i in place), pairs=pairs)


def counts(query: Sample, other: Sample) -> bool:
    """Whether a sample counts in the ranking of a query, by the rules of re-identification.

    Junk does not, nor does the query itself, nor the same person by the same camera (Zheng et al.,
    "Scalable Person Re-identification", ICCV 2015); where no cameras are known, all others do.
    """
    same_camera = query.camera is not None and query.camera == other.camera
    same_label = query.label is not None and query.label == other.label
    return not other.junk and other.path != query.path and not (same_label and same_camera)
