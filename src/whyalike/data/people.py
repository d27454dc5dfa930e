"""People: re-identification, verification of faces, kinship."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from whyalike.data.dataset import Dataset, KnownPair, Sample
from whyalike.data.folders import images_below
from whyalike.data.lists import Line, check_there, find, lines, shortened
from whyalike.errors import DataError
from whyalike.images import printable

GET_MARKET = (
    "download Market-1501-v15.09.15.zip and unpack it; PATH is the folder with "
    "bounding_box_train/, bounding_box_test/ and query/"
)
GET_LFW = (
    "download lfw.tgz (vis-www.cs.umass.edu/lfw; or lfw-deepfunneled.tgz) and pairs.txt; PATH is "
    "the folder with lfw/ and pairs.txt, or lfw/ itself with pairs.txt in it or beside it"
)
GET_FIW = (
    "get Families in the Wild from its authors and unpack it; PATH is the folder with "
    "FIDs/F0001/MID1/, or, as in Recognizing Families in the Wild, with train/F0002/MID1/ and "
    "train_relationships.csv"
)

MARKET_NAME = re.compile(r"(-1|\d{4})_c([1-6])s(\d)_(\d{6})_(\d{2})\.jpg(?:\.jpg)?")
"""Person, camera, sequence, frame, and which detection of the frame."""
_MARKET = (("bounding_box_train", "train"), ("query", "query"), ("bounding_box_test", "gallery"))


def market1501(path: Path, name: str) -> Dataset:
    """Market-1501 (Zheng et al., ICCV 2015): train, query and gallery, with cameras.

    Names say it all: 0002_c1s1_000451_03.jpg is person 0002 by camera 1. Person -1 are detections
    that count in no ranking (`junk`); person 0000 are distractors, of no label, that do. `counts`
    has the rules.

    Raises:
        DataError: a folder is missing, or a name is of another form.
    """
    folders = [folder for folder, _ in _MARKET]
    root = find(path, ("Market-1501-v15.09.15", "Market-1501"), folders, GET_MARKET)
    samples = []
    for folder, split in _MARKET:
        for image in images_below(root / folder, GET_MARKET):
            match = MARKET_NAME.fullmatch(image.name)
            if match is None:
                raise DataError(
                    f"{printable(str(image))}: a name is like 0002_c1s1_000451_03.jpg: person, "
                    f"camera, sequence, frame, detection"
                )
            person, camera, sequence, frame, _ = match.groups()
            unknown = person in ("-1", "0000")
            if unknown and split != "gallery":
                raise DataError(f"{printable(str(image))}: person {person} is of the gallery only")
            when = {"sequence": int(sequence), "frame": int(frame)}
            samples.append(
                Sample(image, None if unknown else person, split, camera=camera,
                       junk=person == "-1", metadata=when)
            )  # fmt: skip
    return Dataset(name, "Market-1501 (Zheng et al., 2015)", tuple(samples))


def lfw(path: Path, name: str) -> Dataset:
    """Labeled Faces in the Wild (Huang et al., 2007) with the pairs of its View 2.

    pairs.txt begins with the number of folds and that of pairs of each kind ("10 300"); each fold
    has so many lines "NAME N M", of one person, and then so many "NAME N OTHER M", of two.

    Raises:
        DataError: a file is missing or a line malformed.
    """
    names = ("lfw", "lfw-deepfunneled", "lfw_funneled", "lfw-funneled")
    images = next((path / one for one in names if (path / one).is_dir()), path)
    listed = next(
        (one for one in (path / "pairs.txt", images.parent / "pairs.txt") if one.is_file()),
        path / "pairs.txt",
    )
    if not path.is_dir():
        raise DataError(f"{printable(str(path))}: there is no such folder; {GET_LFW}")
    known = list(_lfw_pairs(listed, images))
    samples = [
        Sample(image, printable(image.parent.name))
        for image in images_below(images, GET_LFW)
        if image.parent.parent == images
    ]
    place = {one.path: index for index, one in enumerate(samples)}
    wanted = {one: None for a, b, _, _ in known for one in (a, b)}
    check_there([*wanted], images, GET_LFW)
    if strange := [one for one in wanted if one not in place]:
        raise DataError(f"{printable(str(strange[0]))}: is no image; {GET_LFW}")
    pairs = tuple(
        KnownPair(place[a], place[b], same, fold, "same" if same else "different")
        for a, b, same, fold in known
    )
    return Dataset(name, "Labeled Faces in the Wild (Huang et al., 2007)", tuple(samples), pairs)


def _lfw_pairs(file: Path, images: Path) -> Iterator[tuple[Path, Path, bool, int]]:
    """Both files of each pair, whether they are of one person, and the fold."""
    found = lines(file, GET_LFW)
    first = next(found, None)
    if first is None:
        raise DataError(f"{file}: is empty; {GET_LFW}")
    folds, each = (
        first.whole(one, "a number of folds or pairs", 1)
        for one in first.fields(2, "FOLDS PAIRS_OF_EACH_KIND")
    )
    number = -1
    for number, line in enumerate(found):
        fold, within = divmod(number, 2 * each)
        if fold >= folds:
            line.refuse(f"there are {folds} folds of 2 × {each} pairs, and this is one more")
        same = within < each
        form = "NAME N M" if same else "NAME N OTHER M"
        fields = line.fields(3 if same else 4, form)
        person, n, *other, m = fields
        a = _lfw_image(line, images, person, n)
        yield a, _lfw_image(line, images, other[0] if other else person, m), same, fold + 1
    if number + 1 != folds * 2 * each:
        wanted = folds * 2 * each
        first.refuse(f"means {wanted:,} pairs, but {number + 1:,} follow; {GET_LFW}")


def _lfw_image(line: Line, images: Path, person: str, number: str) -> Path:
    count = line.whole(number, "a number of an image", 1, 9999)
    return line.below(images, f"{person}/{person}_{count:04d}.jpg")


RELATIONS = {1: "child", 2: "sibling", 3: "grandchild", 4: "parent", 5: "spouse",
             6: "grandparent", 7: "great-grandchild", 8: "great-grandparent"}  # fmt: skip
"""What the numbers in mid.csv mean: the row's person is ... of the column's."""
_FAMILY, _MEMBER = re.compile(r"F(ID)?\d{4}"), re.compile(r"MID\d+")


def fiw(path: Path, name: str) -> Dataset:
    """Families in the Wild (Robinson et al., 2018): people by family, and how they are related.

    Photographs lie in FAMILY/MEMBER/, and the label is "FAMILY/MEMBER". Relations are read from
    each family's mid.csv (FAMILY.csv in earlier releases), a matrix of numbers between members, or,
    in the layout of Recognizing Families in the Wild, from train_relationships.csv with its columns
    p1 and p2 ("kin").

    Raises:
        DataError: a folder is missing, or a line malformed.
    """
    folders = [one for one in ("FIDs", "FIDs_NEW", "train", "train-faces") if (path / one).is_dir()]
    root = path / folders[0] if folders else path
    split = "train" if root.name.startswith("train") else None
    samples = []
    for image in images_below(root, GET_FIW):
        parts = image.relative_to(root).parts
        if len(parts) == 3 and _FAMILY.fullmatch(parts[0]) and _MEMBER.fullmatch(parts[1]):
            where = {"family": parts[0]}
            samples.append(Sample(image, "/".join(parts[:2]), split, metadata=where))
    if not samples:
        raise DataError(f"{printable(str(root))}: has no photographs F0001/MID1/...; {GET_FIW}")
    relations: list[tuple[str, str, str]] = []
    for family in sorted({str(one.metadata["family"]) for one in samples}):
        for matrix in (root / family / "mid.csv", root / family / f"{family}.csv"):
            if matrix.is_file():
                relations += _fiw_matrix(matrix, family)
                break
    if (listed := path / "train_relationships.csv").is_file():
        relations += _fiw_list(listed)
    if not relations:
        raise DataError(f"{printable(str(path))}: no relations (mid.csv) are there; {GET_FIW}")
    about = "Families in the Wild (Robinson et al., 2018)"
    return Dataset(name, about, tuple(samples), relations=tuple(relations))


def _fiw_matrix(file: Path, family: str) -> Iterator[tuple[str, str, str]]:
    """A family's mid.csv: a head "MID,1,2,...,Name,Gender", a row for each member."""
    rows = [(line, next(csv.reader([line.text]))) for line in lines(file, GET_FIW)]
    if not rows or rows[0][1][0].strip() not in ("MID", "0", ""):
        raise DataError(f'{file}, line 1: expected a head "MID,1,2,...,Name,Gender"; {GET_FIW}')
    members = {at: int(one) for at, one in enumerate(rows[0][1]) if at and one.strip().isdecimal()}
    for line, row in rows[1:]:
        if len(row) != len(rows[0][1]):
            line.refuse(f"has {len(row)} fields, the head {len(rows[0][1])}")
        member = line.whole(row[0].strip(), "the member's number", 1)
        for at, other in members.items():
            code = line.whole(row[at].strip(), "a relation", 0, 9)
            if code in RELATIONS and other != member:
                yield f"{family}/MID{member}", f"{family}/MID{other}", RELATIONS[code]


def _fiw_list(file: Path) -> Iterator[tuple[str, str, str]]:
    found = lines(file, GET_FIW)
    first = next(found, None)
    if first is None or first.text.replace(" ", "") != "p1,p2":
        raise DataError(f'{file}, line 1: expected the head "p1,p2"; {GET_FIW}')
    for line in found:
        one, other = (text.strip() for text in line.fields(2, "F0001/MID1,F0001/MID2", ","))
        for text in (one, other):
            family, _, member = text.partition("/")
            if not (_FAMILY.fullmatch(family) and _MEMBER.fullmatch(member)):
                line.refuse(f"expected a person like F0001/MID1, came {shortened(text)}")
        yield one, other, "kin"
