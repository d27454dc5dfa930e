"""Places from the street and from above: the layouts of cross-view geo-localization.

The label of both photographs of a place is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from whyalike.data.dataset import Dataset, KnownPair, Sample
from whyalike.data.lists import Line, check_there, find, lines, missing, shortened
from whyalike.data.matlab import variables
from whyalike.errors import DataError

GET_CVUSA = (
    "ask the authors of CVUSA (mvrl.cse.wustl.edu/datasets/cvusa) for its CVPR subset and unpack "
    "it; PATH is the folder with splits/train-19zl.csv, splits/val-19zl.csv, bingmap/19/ and "
    "streetview/panos/"
)
GET_CVACT = (
    "download CVACT (github.com/Liumouliu/OriCNN): ACT_data.mat, ANU_data_small and, for the test "
    "set, ANU_data_test; PATH is the folder with all of them, each with streetview/ and "
    "satview_polish/"
)
GET_VIGOR = (
    "ask the authors of VIGOR (github.com/Jeff-Zilence/VIGOR) for it and unpack it; PATH is the "
    "folder with splits/ and, for each city, such as Chicago/, panorama/ and satellite/"
)


def cvusa(path: Path, name: str) -> Dataset:
    """CVUSA (Workman et al., 2015; Zhai et al., CVPR 2017): panoramas and views from above.

    Lists without a head, of lines "AERIAL,GROUND" and perhaps a third name, of annotations.

    Raises:
        DataError: a file is missing or a line malformed.
    """
    root = find(path, ("CVUSA", "CVPR_subset"), ("bingmap", "streetview"), GET_CVUSA)
    base = root / "splits" if (root / "splits").is_dir() else root
    samples: list[Sample] = []
    pairs = []
    for split in ("train", "val"):
        for line in lines(base / f"{split}-19zl.csv", GET_CVUSA):
            names = [one.strip() for one in line.text.split(",")]
            if len(names) not in (2, 3):
                line.refuse(f'expected "AERIAL,GROUND", came {shortened(line.text)}')
            aerial, ground = (line.below(root, one) for one in names[:2])
            if aerial.stem != ground.stem:
                line.refuse(f"{shortened(names[0])} and {shortened(names[1])} are of two places")
            pairs.append(KnownPair(len(samples), len(samples) + 1, True))
            samples.append(Sample(ground, ground.stem, split, view="ground"))
            samples.append(Sample(aerial, ground.stem, split, view="aerial"))
    check_there([one.path for one in samples], root, GET_CVUSA)
    return Dataset(name, "CVUSA (Workman et al., 2015)", tuple(samples), tuple(pairs))


def cvact(path: Path, name: str) -> Dataset:
    """CVACT (Liu and Li, CVPR 2019): panoramas and views from above, with their UTM coordinates.

    ACT_data.mat holds `panoIds`, `utm` and, counted from 1, trainSet.trainInd, valSet.valInd and
    valSetAll.valInd; the latter's photographs, the test set, are in ANU_data_test. Some that are
    listed do not come with the data set: their pairs are left out, and `left_out` counts them.

    Raises:
        DataError: a file is missing, holds other things than expected, or no pair is there.
    """
    root = find(path, ("CVACT",), ("ACT_data.mat",), GET_CVACT)
    file = root / "ACT_data.mat"
    held = variables(file, GET_CVACT)
    ids, utm = held.get("panoIds"), held.get("utm")
    if not _all(ids, str) or not isinstance(utm, list) or len(utm) != len(ids):
        raise DataError(f"{file}: expected `panoIds` (n) and `utm` (n, 2); {GET_CVACT}")
    samples: list[Sample] = []
    folders = {split: root / folder for split, _, _, folder in _CVACT}
    for split, struct, key, _ in _CVACT:
        if not folders[split].is_dir() and split == "test":
            continue
        for at in _cvact_indices(file, held.get(struct), struct, key, len(ids)):
            line = Line(file, at + 1, unit="entry")
            label = ids[at].strip()
            if not _all(utm[at], int | float) or len(utm[at]) != 2:
                line.refuse("expected utm, an easting and a northing")
            where = dict(zip(("utm_easting", "utm_northing"), utm[at], strict=True))
            for view, name_of in _CVACT_NAMES.items():
                image = line.below(folders[split], name_of.format(label))
                samples.append(Sample(image, label, split, view=view, metadata=where))
    gone = {*missing([one.path for one in samples])}
    kept = [
        one
        for two in zip(samples[::2], samples[1::2], strict=True)
        if not gone & {one.path for one in two}
        for one in two
    ]
    if not kept:
        check_there([one.path for one in samples], root, GET_CVACT)
    pairs = tuple(KnownPair(at, at + 1, True) for at in range(0, len(kept), 2))
    about = "CVACT (Liu and Li, 2019)"
    return Dataset(name, about, tuple(kept), pairs, left_out=len(samples) - len(kept))


_CVACT_NAMES = {
    "ground": "streetview/{}_grdView.jpg",
    "aerial": "satview_polish/{}_satView_polish.jpg",
}
_CVACT = (
    ("train", "trainSet", "trainInd", "ANU_data_small"),
    ("val", "valSet", "valInd", "ANU_data_small"),
    ("test", "valSetAll", "valInd", "ANU_data_test"),
)


def _cvact_indices(file: Path, struct: Any, name: str, key: str, count: int) -> list[int]:
    """Indices from 0, of one of the sets: Matlab has a column of them, from 1."""
    found = struct.get(key) if isinstance(struct, dict) else None
    column = found if isinstance(found, list) else [found]
    numbers = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in column]
    if not _all(numbers, int | float) or not all(
        1 <= one <= count and one == int(one) for one in numbers
    ):
        raise DataError(f"{file}: expected {name}.{key}, numbers from 1 to {count}; {GET_CVACT}")
    return [int(one) - 1 for one in numbers]


def _all(values: Any, kind: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list, not empty, of one kind of things, truth values being none."""
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(one, kind) and not isinstance(one, bool) for one in values)
    )


CITIES = ("NewYork", "Seattle", "SanFrancisco", "Chicago")
"""Of VIGOR; across areas, the first two are there to train on, the others to test on."""
VIGOR_SIDE = 640
"""Pixels along a side of its views from above, in which its offsets are, whatever files have."""


def vigor(path: Path, name: str) -> Dataset:
    """VIGOR (Zhu, Yang, Chen, CVPR 2021): panoramas anywhere on the views from above.

    A city's satellite_list.txt names its views from above. A line of its lists of panoramas is
    "PANORAMA AERIAL DLAT DLON" and three times more "AERIAL DLAT DLON": the view whose middle part
    the panorama lies in, and three that hold it farther out ("semi-positive"), each with an offset
    in pixels of 640, kept as the list has it. The split is that of the same area; across areas it
    is `metadata["cross_area"]`. Where splits__corrected is there (Lentsch et al., CVPR 2023), that
    is read instead of splits. Cities that are not there are left out.

    The offset is the view's centre less the panorama (VIGOR's data/DATASET.md), to the north and to
    the east, so the camera stands DLAT below the centre and DLON to the left of it; by their names,
    the panorama L-1poX8YZAmBZVLMqBu-4w of Chicago lies south and east of the view that it has with
    23 and −29. That, and that the middle column looks north, is also how
    Visualize_Corrected_Labels.ipynb of SliceMatch (Lentsch et al.) draws it.

    Raises:
        DataError: no city is there, a file is missing, or a line malformed.
    """
    folders = ("splits__corrected", "splits")
    root = find(path, ("VIGOR",), (folders,), GET_VIGOR)
    splits = next(root / one for one in folders if (root / one).is_dir())
    cities = [
        city for city in CITIES if (splits / city).is_dir() and (root / city / "panorama").is_dir()
    ]
    if not cities:
        raise DataError(f"{root}: has no city, such as Chicago/panorama; {GET_VIGOR}")
    samples: list[Sample] = []
    pairs: list[KnownPair] = []
    for city in cities:
        where = {"city": city, "cross_area": "train" if city in CITIES[:2] else "test"}
        place: dict[str, int] = {}
        for line in lines(splits / city / "satellite_list.txt", GET_VIGOR):
            place[line.text] = len(samples)
            image = line.below(root / city / "satellite", line.text)
            samples.append(Sample(image, image.stem, view="aerial", metadata=where))
        for split in ("train", "test"):
            for line in lines(_vigor_list(splits / city, split), GET_VIGOR):
                words = line.fields(13, "PANORAMA" + " AERIAL DLAT DLON" * 4)
                image = line.below(root / city / "panorama", words[0])
                if (at := place.get(words[1])) is None:
                    line.refuse(f"{shortened(words[1])} is not in satellite_list.txt")
                for rank in range(4):
                    aerial, *offsets = words[1 + 3 * rank : 4 + 3 * rank]
                    if aerial not in place:
                        line.refuse(f"{shortened(aerial)} is not in satellite_list.txt")
                    lat, lon = (line.real(one, "an offset") for one in offsets)
                    kind = "semi-positive" if rank else "positive"
                    camera = (0.5 - lon / VIGOR_SIDE, 0.5 + lat / VIGOR_SIDE)
                    here, there = len(samples), place[aerial]
                    pairs.append(KnownPair(here, there, True, None, kind, (lat, lon), camera))
                label = samples[at].label
                samples.append(Sample(image, label, split, view="ground", metadata=where))
    check_there([one.path for one in samples], root, GET_VIGOR)
    return Dataset(name, "VIGOR (Zhu, Yang, Chen, 2021)", tuple(samples), tuple(pairs))


def _vigor_list(folder: Path, split: str) -> Path:
    corrected = folder / f"same_area_balanced_{split}__corrected.txt"
    return corrected if corrected.is_file() else folder / f"same_area_balanced_{split}.txt"
