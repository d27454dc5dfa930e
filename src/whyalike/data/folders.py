"""Images in folders: how they are walked, and the layouts that are nothing but folders."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from whyalike.data.dataset import Dataset, Sample
from whyalike.errors import DataError
from whyalike.images import printable

ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png",
     ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)  # fmt: skip
"""Of what a folder holds, files that end so are taken for images, in upper case as well."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Walked:
    """What lies below a folder.

    Args:
        images: folder by folder in order of their names, each with the name of its folder, "" for
            those that lie in none.
        troubles: folders that could not be read, and why.
        others: how many files are no images by their endings.
    """

    images: tuple[tuple[str, str], ...]
    troubles: tuple[tuple[str, str], ...]
    others: int


def walk(root: str) -> Walked:
    """All images below a folder, hidden ones left out; no folder is entered twice, by links."""
    images: list[tuple[str, str]] = []
    troubles: list[tuple[str, str]] = []
    others = 0
    start = os.stat(root)
    seen = {(start.st_dev, start.st_ino)}

    def trouble(error: OSError) -> None:
        name = error.filename if error.filename is not None else root
        troubles.append((name, f"the folder cannot be read: {error.strerror}"))

    for folder, names, inside in os.walk(root, onerror=trouble, followlinks=True):
        kept = []
        for name in sorted(name for name in names if not name.startswith(".")):
            place = os.path.join(folder, name)
            try:
                status = os.stat(place)
            except OSError as error:
                trouble(error)
                continue
            if (key := (status.st_dev, status.st_ino)) not in seen:
                seen.add(key)
                kept.append(name)
        names[:] = kept
        own = "" if folder == root else os.path.basename(folder)
        for name in sorted(name for name in inside if not name.startswith(".")):
            path = os.path.join(folder, name)
            if not name.lower().endswith(tuple(ENDINGS)):
                others += 1
            elif not _is_link_to_folder(path):
                images.append((path, own))
    return Walked(tuple(images), tuple(troubles), others)


def images_below(root: Path, lacking: str) -> list[Path]:
    """The images below a folder, of which every part must be readable.

    Raises:
        DataError: there is no such folder, no image in it, or a part that cannot be read.
    """
    if not os.path.isdir(root):
        raise DataError(f"{printable(str(root))}: there is no such folder; {lacking}")
    walked = walk(str(root))
    for name, reason in walked.troubles:
        raise DataError(f"{printable(name)}: {reason}")
    if not walked.images:
        raise DataError(f"{printable(str(root))}: no image lies in it; {lacking}")
    return [Path(name) for name, _ in walked.images]


def folder(path: Path, name: str) -> Dataset:
    """ImageFolder: PATH/LABEL/..., or PATH/train/LABEL/... and val and test beside it.

    The label is the first folder, however deep the image lies; an image in none has none.
    """
    lacking = "expected one folder of images for each class"
    images = images_below(path, lacking)
    inside = [one.relative_to(path).parts for one in images]
    in_splits = all(len(parts) > 1 and parts[0].lower() in SPLITS for parts in inside)
    samples = []
    for image, parts in zip(images, inside, strict=True):
        split = SPLITS[parts[0].lower()] if in_splits else None
        folders = parts[1:-1] if in_splits else parts[:-1]
        label = printable(folders[0]) if folders else None
        samples.append(Sample(image, label, split))
    return Dataset(name, "images in folders", tuple(samples))


def casia(path: Path, name: str) -> Dataset:
    """CASIA-WebFace (Yi et al., 2014) and its like: PATH/PERSON/001.jpg, and nothing else.

    Raises:
        DataError: an image lies elsewhere.
    """
    lacking = (
        "unpack CASIA-WebFace.zip: PATH is the folder with one folder for each person, such as "
        "0000045/001.jpg"
    )
    root = path / "CASIA-WebFace" if (path / "CASIA-WebFace").is_dir() else path
    samples = []
    for image in images_below(root, lacking):
        parts = image.relative_to(root).parts
        if len(parts) != 2:
            place = printable(str(image))
            raise DataError(f"{place}: lies in no person's folder of {root}; {lacking}")
        samples.append(Sample(image, printable(parts[0])))
    return Dataset(name, "CASIA-WebFace (Yi et al., 2014), or faces in its layout", tuple(samples))


def _is_link_to_folder(path: str) -> bool:
    """Links in a circle are listed as files by the system; they lead nowhere, and say so later."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
