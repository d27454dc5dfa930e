"""Birds, cars, products, clothes: the layouts that image retrieval is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whyalike.data.dataset import Dataset, Sample
from whyalike.data.lists import Line, check_there, find, lines, shortened
from whyalike.data.matlab import variables
from whyalike.errors import DataError
from whyalike.geometry import XYXY

GET_CUB = (
    "download CUB_200_2011.tgz (www.vision.caltech.edu/datasets/cub_200_2011) and unpack it; PATH "
    "is the folder with images.txt and images/"
)
GET_CARS = (
    "download car_ims.tgz and cars_annos.mat of Stanford Cars (Cars196); PATH is the folder with "
    "cars_annos.mat and car_ims/; or cars_train/, cars_test/, devkit/ and, beside them or in "
    "devkit/, cars_test_annos_withlabels.mat"
)
GET_SOP = (
    "download Stanford_Online_Products.zip (cvgl.stanford.edu/projects/lifted_struct) and unpack "
    "it; PATH is the folder with Ebay_train.txt, Ebay_test.txt and bicycle_final/"
)
GET_INSHOP = (
    "download In-shop Clothes Retrieval of DeepFashion (mmlab.ie.cuhk.edu.hk/projects/DeepFashion) "
    "and unpack its img.zip; PATH is the folder with Eval/list_eval_partition.txt and Img/img/, or "
    "with list_eval_partition.txt and img/"
)


def cub(path: Path, name: str) -> Dataset:
    """CUB-200-2011 (Wah et al., 2011): boxes, the split by image, masks if they are there.

    Lists of lines "ID ...", IDs from 1; boxes are x, y, width, height. Masks are a file of their
    own, segmentations.tgz, to be unpacked beside images/. `Dataset.halves` splits by species.

    Raises:
        DataError: a file is missing, a line malformed, or an image without label or box.
    """
    markers = ("images.txt", "images")
    root = find(path, ("CUB_200_2011",), markers, GET_CUB)
    names = _by_id(root / "images.txt", "ID PATH")
    classes = {key: text for key, (_, text) in _by_id(root / "classes.txt", "ID NAME").items()}
    label_of = _by_id(root / "image_class_labels.txt", "ID CLASS")
    train = _by_id(root / "train_test_split.txt", "ID 1_FOR_TRAIN")
    boxes = _by_id(root / "bounding_boxes.txt", "ID X Y WIDTH HEIGHT", 5)
    masks = root / "segmentations"
    samples = []
    for key, (line, image) in names.items():
        for table, file in ((label_of, "image_class_labels"), (train, "train_test_split"),
                            (boxes, "bounding_boxes")):  # fmt: skip
            if key not in table:
                line.refuse(f"image {key} is not in {file}.txt; {GET_CUB}")
        kind, number = label_of[key]
        if (label := classes.get(kind.whole(number, "a class", 1))) is None:
            kind.refuse(f"class {number} is not in classes.txt")
        of_box, numbers = boxes[key]
        x, y, width, height = (of_box.real(one, "a side") for one in numbers.split())
        found = line.below(root / "images", image)
        of_split, flag = train[key]
        mask = (masks / image).with_suffix(".png")
        samples.append(
            Sample(
                found,
                label,
                ("test", "train")[of_split.whole(flag, "the flag", 0, 1)],
                of_box.box(x, y, x + width, y + height),
                mask if masks.is_dir() else None,
            )
        )
    check_there([one.path for one in samples], root, GET_CUB)
    if masks.is_dir():
        wanted = [one.mask for one in samples if one.mask is not None]
        check_there(wanted, root, "unpack segmentations.tgz whole, or remove segmentations/")
    return Dataset(name, "CUB-200-2011 (Wah et al., 2011)", tuple(samples))


def cars(path: Path, name: str) -> Dataset:
    """Cars196 (Krause et al., 2013): boxes, the split by image, in either of its two layouts.

    Boxes of the .mat files count pixels from 1 and name the last one; here they are half open.
    `Dataset.halves` splits by model of car.

    Raises:
        DataError: a file is missing, or holds other things than expected.
    """
    found: list[tuple[Path, dict[str, Any], str, str, str | None]]
    if (path / "cars_annos.mat").is_file():
        root, file = path, path / "cars_annos.mat"
        held = variables(file, GET_CARS)
        names = _class_names(file, held)
        found = [(file, held, "", "relative_im_path", None)]
    else:
        markers = ("cars_train", "cars_test", "devkit/cars_meta.mat")
        root = find(path, ("stanford_cars",), markers, GET_CARS)
        labelled = root / "cars_test_annos_withlabels.mat"
        if not labelled.is_file():
            labelled = root / "devkit" / "cars_test_annos_withlabels.mat"
        found = [
            (file, variables(file, GET_CARS), f"cars_{split}", "fname", split)
            for file, split in (
                (root / "devkit" / "cars_train_annos.mat", "train"),
                (labelled, "test"),
            )
        ]
        file = root / "devkit" / "cars_meta.mat"
        names = _class_names(file, variables(file, GET_CARS))
    samples = []
    for file, held, folder, key, split in found:
        for line, entry in _entries(file, held, key, *(() if split else ("test",))):
            number = line.whole(entry["class"], "a class", 1, len(names))
            x0, y0, x1, y1 = (line.real(entry[side], side) for side in _SIDES)
            box = line.box(x0 - 1, y0 - 1, x1, y1)
            image = line.below(root / folder, entry[key])
            own = split or ("train", "test")[line.whole(entry["test"], "test", 0, 1)]
            # The number leads, so that labels sort as the data set counts them.
            samples.append(Sample(image, f"{number:03d} {names[number - 1]}", own, box))
    check_there([one.path for one in samples], root, GET_CARS)
    return Dataset(name, "Cars196 (Krause et al., 2013)", tuple(samples))


def products(path: Path, name: str) -> Dataset:
    """Stanford Online Products (Oh Song et al., CVPR 2016): train and test of different products.

    Two lists with the head "image_id class_id super_class_id path", numbers from 1.

    Raises:
        DataError: a file is missing or a line malformed.
    """
    root = find(path, ("Stanford_Online_Products",), ("Ebay_train.txt", "Ebay_test.txt"), GET_SOP)
    head = "image_id class_id super_class_id path"
    samples = []
    for split in ("train", "test"):
        for line in _below_head(root / f"Ebay_{split}.txt", head, GET_SOP):
            _, product, kind, image = line.fields(4, head)
            number = line.whole(product, "class_id", 1)
            sort = {"super_class": line.whole(kind, "super_class_id", 1)}
            found = line.below(root, image)
            samples.append(Sample(found, f"{number:05d}", split, metadata=sort))
    check_there([one.path for one in samples], root, GET_SOP)
    return Dataset(name, "Stanford Online Products (Oh Song et al., 2016)", tuple(samples))


def inshop(path: Path, name: str) -> Dataset:
    """In-shop Clothes Retrieval (Liu et al., DeepFashion, CVPR 2016): train, query and gallery.

    list_eval_partition.txt begins with the number of images and the head "image_name item_id
    evaluation_status"; boxes, from list_bbox_inshop.txt, are there if that is.

    Raises:
        DataError: a file is missing, a line malformed, or the number another.
    """
    lists = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
    root = find(path, ("In-shop Clothes Retrieval Benchmark",), (lists,), GET_INSHOP)
    listed = _first(root, *lists)
    base = root / "Img" if (root / "Img" / "img").is_dir() else root
    head = "image_name item_id evaluation_status"
    boxes = _inshop_boxes(_first(root, "Anno/list_bbox_inshop.txt", "list_bbox_inshop.txt"))
    samples = []
    for line in _counted(listed, head):
        image, item, status = line.fields(3, head)
        if status not in ("train", "query", "gallery"):
            line.refuse(f"expected train, query or gallery, came {shortened(status)}")
        samples.append(Sample(line.below(base, image), item, status, boxes.get(image)))
    check_there([one.path for one in samples], root, GET_INSHOP)
    return Dataset(name, "In-shop Clothes Retrieval (Liu et al., 2016)", tuple(samples))


def _inshop_boxes(file: Path) -> dict[str, XYXY]:
    """By name of the image, if the list is there; from 1, the last pixel named."""
    head = "image_name clothes_type pose_type x_1 y_1 x_2 y_2"
    found = {}
    for line in _counted(file, head) if file.is_file() else ():
        image, _, _, *sides = line.fields(7, head)
        x0, y0, x1, y1 = (line.whole(one, "a side", 0) for one in sides)
        found[image] = line.box(max(x0 - 1, 0), max(y0 - 1, 0), x1, y1)
    return found


def _by_id(file: Path, form: str, count: int = 2) -> dict[int, tuple[Line, str]]:
    """Lines "ID ..." by their ID, each once."""
    found: dict[int, tuple[Line, str]] = {}
    for line in lines(file, GET_CUB):
        line.fields(count, form)
        key, rest = line.text.split(None, 1)
        number = line.whole(key, "the ID", 1)
        if number in found:
            line.refuse(f"ID {number} was in line {found[number][0].number} already")
        found[number] = (line, rest)
    return found


def _below_head(file: Path, head: str, lacking: str) -> Iterator[Line]:
    """The lines behind the first, which names the columns."""
    found = lines(file, lacking)
    first = next(found, None)
    if first is None or first.text.split() != head.split():
        came = "nothing" if first is None else shortened(first.text)
        raise DataError(f'{file}, line 1: expected the head "{head}", came {came}')
    yield from found


def _counted(file: Path, head: str) -> Iterator[Line]:
    """The lines behind a number of them and the head."""
    found = lines(file, GET_INSHOP)
    first, second = next(found, None), next(found, None)
    if first is None or second is None or second.text.split() != head.split():
        raise DataError(f'{file}, line 2: expected the head "{head}" behind a number of images')
    expected = first.whole(first.text, "the number of images")
    number = 0
    for line in found:
        number += 1
        yield line
    if number != expected:
        first.refuse(f"says {expected:,} images, but {number:,} follow; {GET_INSHOP}")


def _first(root: Path, *names: str) -> Path:
    """The first of some files that is there, or else the last."""
    return next((root / name for name in names if (root / name).is_file()), root / names[-1])


_SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def _entries(file: Path, held: dict[str, Any], *keys: str) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The entries of the struct array `annotations`."""
    found = held.get("annotations")
    wanted = (*keys, *_SIDES, "class")
    entries = [found] if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and {*wanted} <= {*one} for one in entries
    ):
        raise DataError(
            f"{file}: expected a struct array `annotations` with {', '.join(wanted)}; {GET_CARS}"
        )
    for number, entry in enumerate(entries, 1):
        yield Line(file, number, unit="entry"), entry


def _class_names(file: Path, held: dict[str, Any]) -> list[str]:
    names = held.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: expected `class_names`, a cell array of text; {GET_CARS}")
    return names
