"""Small data sets in the true layouts, for tests: each function unpacks one into a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path: Path, size_wh: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = sum(map(ord, path.name)) % 256
    Image.new("RGB", size_wh, (number, 128, 255 - number)).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


CUB_IMAGES = (
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
    "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
    "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
    "003.Sooty_Albatross/Sooty_Albatross_0001_796111.jpg",
)


def cub(root: Path) -> Path:
    write(root / "images.txt", *(f"{i} {name}" for i, name in enumerate(CUB_IMAGES, 1)))
    classes = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    write(root / "classes.txt", *(f"{i} {name}" for i, name in enumerate(classes, 1)))
    write(root / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 3")
    write(root / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")
    write(
        root / "bounding_boxes.txt",
        *("1 2.0 3.0 10.0 8.0", "2 0.0 0.0 24.0 16.0", "3 1.5 2.5 4.0 4.0", "4 5.0 6.0 7.0 8.0"),
    )
    for name in CUB_IMAGES:
        picture(root / "images" / name)
    return root


def cub_masks(root: Path) -> None:
    for name in CUB_IMAGES:
        mask = (root / "segmentations" / name).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (24, 16), 255).save(mask)


def _struct(rows: list[dict[str, object]]) -> np.ndarray:
    """A 1×n struct array, each value wrapped as Matlab saves it."""
    made = np.zeros((1, len(rows)), [(key, object) for key in rows[0]])
    for at, row in enumerate(rows):
        for key, value in row.items():
            made[0, at][key] = value if isinstance(value, str) else np.array([[value]], np.uint16)
    return made


def _names(*names: str) -> np.ndarray:
    made = np.zeros((1, len(names)), object)
    made[0] = names
    return made


_BOX = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 20, "bbox_y2": 16}
CAR_NAMES = _names("AM General Hummer SUV 2000", "Acura RL Sedan 2012")


def cars(root: Path) -> Path:
    """car_ims.tgz and cars_annos.mat."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        {"relative_im_path": f"car_ims/{i:06d}.jpg", **_BOX, "class": kind, "test": test}
        for i, kind, test in ((1, 1, 0), (2, 1, 1), (3, 2, 0))
    ]
    savemat(root / "cars_annos.mat", {"annotations": _struct(rows), "class_names": CAR_NAMES})
    for i in (1, 2, 3):
        picture(root / "car_ims" / f"{i:06d}.jpg")
    return root


def cars_devkit(root: Path) -> Path:
    """cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat."""
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    for file, folder, kinds in (
        ("devkit/cars_train_annos.mat", "cars_train", (1, 2)),
        ("cars_test_annos_withlabels.mat", "cars_test", (2,)),
    ):
        rows = [{**_BOX, "class": kind, "fname": f"{i:05d}.jpg"} for i, kind in enumerate(kinds, 1)]
        savemat(root / file, {"annotations": _struct(rows)})
        for row in rows:
            picture(root / folder / str(row["fname"]))
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": CAR_NAMES})
    return root


def sop(root: Path) -> Path:
    head = "image_id class_id super_class_id path"
    train = ("bicycle_final/111085122871_0.JPG", "bicycle_final/111085122871_1.JPG")
    test = ("lamp_final/281602463562_0.JPG",)
    write(root / "Ebay_train.txt", head, *(f"{i} 1 1 {p}" for i, p in enumerate(train, 1)))
    write(root / "Ebay_test.txt", head, *(f"{i} 11319 8 {p}" for i, p in enumerate(test, 3)))
    for name in (*train, *test):
        picture(root / name)
    return root


INSHOP = {
    "img/WOMEN/Dresses/id_00000002/02_1_front.jpg": ("id_00000002", "train"),
    "img/WOMEN/Dresses/id_00000003/02_1_front.jpg": ("id_00000003", "query"),
    "img/MEN/Denim/id_00000003/01_3_back.jpg": ("id_00000003", "gallery"),
}


def inshop(root: Path) -> Path:
    write(
        root / "Eval" / "list_eval_partition.txt",
        str(len(INSHOP)),
        "image_name item_id evaluation_status",
        *(f"{name:<60} {item} {status}" for name, (item, status) in INSHOP.items()),
    )
    write(
        root / "Anno" / "list_bbox_inshop.txt",
        str(len(INSHOP)),
        "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        *(f"{name} 3 1 001 002 024 016" for name in INSHOP),
    )
    for name in INSHOP:
        picture(root / "Img" / name)
    return root


MARKET = (
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c2s1_000301_01.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "query/0003_c2s1_001051_00.jpg",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/0000_c1s1_000151_01.jpg",
    "bounding_box_test/0000_c2s1_000151_01.jpg",
    "bounding_box_test/0001_c1s1_002401_02.jpg",
    "bounding_box_test/0001_c3s1_002401_02.jpg",
    "bounding_box_test/0003_c3s2_002401_02.jpg",
)


def market1501(root: Path) -> Path:
    for name in MARKET:
        picture(root / name, (8, 16))
    (root / "bounding_box_test" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return root


def lfw(root: Path) -> Path:
    people = {"Abel_Pacheco": 4, "Akhmed_Zakayev": 3, "Slobodan_Milosevic": 2}
    for person, count in people.items():
        for number in range(1, count + 1):
            picture(root / "lfw" / person / f"{person}_{number:04d}.jpg", (25, 25))
    write(
        root / "pairs.txt",
        "2\t2",
        "Abel_Pacheco\t1\t4",
        "Akhmed_Zakayev\t1\t3",
        "Abel_Pacheco\t1\tAkhmed_Zakayev\t1",
        "Slobodan_Milosevic\t2\tAkhmed_Zakayev\t2",
        "Slobodan_Milosevic\t1\t2",
        "Abel_Pacheco\t2\t3",
        "Abel_Pacheco\t2\tSlobodan_Milosevic\t1",
        "Akhmed_Zakayev\t3\tSlobodan_Milosevic\t2",
    )
    return root


def fiw(root: Path) -> Path:
    for family, members in (("F0001", 2), ("F0002", 3)):
        for member in range(1, members + 1):
            picture(root / "FIDs" / family / f"MID{member}" / f"P0000{member}_face0.jpg")
    picture(root / "FIDs" / "F0001" / "unrelated_and_nonfamily" / "P00009_face1.jpg")
    folder = root / "FIDs"
    write(folder / "F0001" / "mid.csv", "MID,1,2,Name,Gender", "1,0,4,jo,Female", "2,1,0,al,Male")
    write(
        folder / "F0002" / "mid.csv",
        *("MID,1,2,3,Gender,Name", "1,0,5,4,f,a", "2,5,0,4,m,b", "3,1,1,0,f,c"),
    )
    return root


def fiw_challenge(root: Path) -> Path:
    """Recognizing Families in the Wild, as on Kaggle."""
    for person in ("F0002/MID1", "F0002/MID3", "F0005/MID2"):
        picture(root / "train" / person / "P00009_face3.jpg")
    write(root / "train_relationships.csv", "p1,p2", "F0002/MID1,F0002/MID3")
    return root


def casia(root: Path) -> Path:
    for name in ("0000045/001.jpg", "0000045/002.jpg", "0000099/001.jpg"):
        picture(root / name)
    return root


def cvusa(root: Path) -> Path:
    for split, numbers in (("train", (1, 2)), ("val", (7,))):
        names = [f"{i:07d}" for i in numbers]
        write(
            root / "splits" / f"{split}-19zl.csv",
            *(
                f"bingmap/19/{n}.jpg,streetview/panos/{n}.jpg,streetview/annotations/{n}.png"
                for n in names
            ),
        )
        for name in names:
            picture(root / "bingmap" / "19" / f"{name}.jpg", (20, 20))
            picture(root / "streetview" / "panos" / f"{name}.jpg", (44, 8))
    return root


CVACT_IDS = ("--1a_bcDEF0123456789XY", "zz9a_bcDEF0123456789XY", "k-1a_bcDEF0123456789XY",
             "q-1a_bcDEF0123456789XY")  # fmt: skip


def cvact(root: Path, ids: object = CVACT_IDS) -> Path:
    """Of the four, the second's views do not come with the data, as of some of the true set."""
    root.mkdir(parents=True, exist_ok=True)
    column = lambda *numbers: np.array(numbers, np.float64)[:, None]  # noqa: E731
    savemat(
        root / "ACT_data.mat",
        {
            "panoIds": np.array(ids),
            "utm": np.arange(8.0).reshape(4, 2) + 690000.5,
            "trainSet": {"trainUTM": np.zeros((2, 2)), "trainInd": column(1, 2)},
            "valSet": {"valUTM": np.zeros((1, 2)), "valInd": column(3)},
            "valSetAll": {"valUTM": np.zeros((2, 2)), "valInd": column(3, 4)},
        },
    )
    for folder, numbers in (("ANU_data_small", (0, 2)), ("ANU_data_test", (2, 3))):
        for number in numbers:
            name = CVACT_IDS[number]
            picture(root / folder / "streetview" / f"{name}_grdView.jpg", (44, 8))
            picture(root / folder / "satview_polish" / f"{name}_satView_polish.jpg", (20, 20))
    return root


def vigor(root: Path) -> Path:
    for city in ("Seattle", "Chicago"):
        aerial = [f"satellite_41.{i}_-87.{i}.png" for i in range(5)]
        write(root / "splits" / city / "satellite_list.txt", *aerial)
        for split, panoramas in (("train", ("a", "b")), ("test", ("c",))):
            lines = []
            for at, letter in enumerate(panoramas):
                name = f"{city}{letter},41.883,-87.633,.jpg"
                picture(root / city / "panorama" / name, (40, 20))
                near = [f"{aerial[(at + k) % 5]} {10.5 * k} {-3.25 * k}" for k in range(4)]
                lines.append(" ".join([name, *near]) + " ")
            write(root / "splits" / city / f"same_area_balanced_{split}.txt", *lines)
        for name in aerial:
            picture(root / city / "satellite" / name, (20, 20))
    return root


def folder(root: Path) -> Path:
    for name in ("train/cat/a.jpg", "train/cat/deep/b.png", "train/dog/c.JPG", "val/cat/d.jpg"):
        picture(root / name)
    (root / "val" / "cat" / "notes.txt").write_text("none")
    return root


def manifest(root: Path) -> Path:
    for name in ("a.jpg", "more/b.jpg", "c.jpg"):
        picture(root / name)
    Image.new("L", (24, 16), 255).save(root / "a_mask.png")
    write(
        root / "images.csv",
        "path,label,split,camera,view,x0,y0,x1,y1,mask,pair,price",
        'a.jpg,"cup, red",train,1,ground,1,2,11.5,9,a_mask.png,p1,3.50',
        "more/b.jpg,cup,train,2,aerial,,,,,,p1,",
        "",
        "c.jpg,,test,,,0,0,24,16,,,9",
    )
    return root / "images.csv"


LAYOUTS = {
    "cub": cub,
    "cars": cars,
    "sop": sop,
    "inshop": inshop,
    "market1501": market1501,
    "lfw": lfw,
    "fiw": fiw,
    "casia": casia,
    "cvusa": cvusa,
    "cvact": cvact,
    "vigor": vigor,
    "folder": folder,
    "manifest": manifest,
}
