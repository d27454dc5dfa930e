"""Synthetic scenes: what is said to be known of them is so."""

import numpy as np
import pytest
from PIL import Image

from whyalike.data import read
from whyalike.data.synthetic import MARK, digit_scenes, write_scenes


@pytest.mark.parametrize("objects", [1, 2])
def test_boxes_are_tight_around_masks_that_do_not_overlap(objects):
    for scene in digit_scenes(30, seed=0, objects=objects):
        assert scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (objects, 64, 64)
        assert scene.masks.sum(0).max() == 1
        assert len(set(scene.labels)) == len(scene.boxes) == objects
        for mask, (x0, y0, x1, y1) in zip(scene.masks, scene.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert (x0, y0) == (columns.min(), rows.min())
            assert (x1, y1) == (columns.max() + 1, rows.max() + 1)


def test_digits_stand_out_from_what_is_around_them():
    distances = {True: [], False: []}
    for scene in digit_scenes(50, seed=1):
        from_grey = np.abs(scene.image.astype(float) - 128).mean(2)
        for inside in (True, False):
            distances[inside].append(from_grey[scene.masks[0] == inside].mean())
    assert np.mean(distances[True]) > 3 * np.mean(distances[False])


def test_equal_seeds_give_equal_scenes_and_others_do_not():
    a, b, c = (digit_scenes(5, seed=seed) for seed in (3, 3, 4))
    assert all((x.image == y.image).all() for x, y in zip(a, b, strict=True))
    assert not any((x.image == y.image).all() for x, y in zip(a, c, strict=True))
    assert [scene.labels for scene in a] == [(0,), (1,), (2,), (3,), (4,)]
    train = digit_scenes(5, seed=3, split="train")
    assert not any((x.image == y.image).all() for x, y in zip(a, train, strict=True))


def test_the_size_is_the_callers():
    scene = digit_scenes(1, seed=0, size=96)[0]
    _, y0, _, y1 = scene.boxes[0]
    assert scene.image.shape == (96, 96, 3)
    assert 0.2 * 96 < y1 - y0 < 0.5 * 96


def test_the_mark_tells_the_class_and_covers_no_digit():
    scenes = digit_scenes(200, seed=5, shortcut=0.5)
    marked = [scene for scene in scenes if scene.mark_xyxy is not None]
    assert 70 < len(marked) < 130
    colours = {}
    for scene in marked:
        x0, y0, x1, y1 = map(int, scene.mark_xyxy)
        assert x1 - x0 == y1 - y0 == round(MARK * 64)
        patch = scene.image[y0:y1, x0:x1].reshape(-1, 3)
        assert (patch == patch[0]).all()
        assert not scene.masks[:, y0:y1, x0:x1].any()
        colours.setdefault(scene.labels[0], set()).add(tuple(patch[0].tolist()))
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 10
    assert all(scene.mark_label == scene.labels[0] for scene in marked)
    assert all(scene.mark_xyxy is None for scene in digit_scenes(20, seed=5))


def test_a_misleading_mark_tells_another_class_and_changes_nothing_else():
    honest = digit_scenes(100, seed=6, shortcut=1.0)
    scenes = digit_scenes(100, seed=6, shortcut=1.0, misleading=0.5)
    lies = [scene for scene in scenes if scene.mark_label != scene.labels[0]]
    assert 35 < len(lies) < 65
    by_label = {scene.labels[0]: scene.image[2, 2].tolist() for scene in honest}
    for scene, other in zip(scenes, honest, strict=True):
        assert scene.image[2, 2].tolist() == by_label[scene.mark_label]
        assert (scene.image[10:] == other.image[10:]).all()
        assert scene.labels == other.labels


def test_classes_can_be_held_out():
    scenes = digit_scenes(40, seed=7, objects=2, classes=range(5))
    assert {label for scene in scenes for label in scene.labels} == {*range(5)}
    assert [scene.labels[0] for scene in scenes[:6]] == [0, 1, 2, 3, 4, 0]


def test_scenes_in_files_come_back(tmp_path):
    scenes = digit_scenes(4, seed=8, objects=2, shortcut=0.5)
    found = read(f"manifest:{write_scenes(tmp_path / 'digits', scenes)}")
    assert len(found) == 4
    for scene, sample in zip(scenes, found, strict=True):
        assert (np.asarray(Image.open(sample.path)) == scene.image).all()
        assert ((np.asarray(Image.open(sample.mask)) > 127) == scene.masks[0]).all()
        assert (sample.label, sample.box_xyxy) == (str(scene.labels[0]), scene.boxes[0])
        assert sample.metadata["others"] == str(scene.labels[1])
        told = None if scene.mark_label is None else str(scene.mark_label)
        assert sample.metadata.get("mark") == told


def test_two_stand_side_by_side_and_neither_side_is_of_one_class():
    sides = set()
    for scene in digit_scenes(60, seed=0, objects=2, beside=True):
        (x0, _, x1, _), (u0, _, u1, _) = scene.boxes
        assert x1 <= 32 <= u0 or u1 <= 32 <= x0
        sides.add((scene.labels[0], x1 <= 32))
    assert len(sides) == 20


def test_a_scene_without_room_is_begun_anew():
    assert len(digit_scenes(150, seed=3, objects=3, size=160)) == 150


def test_only_some_classes_and_each_turned_digit_is_one():
    labels = [scene.labels[0] for scene in digit_scenes(6, seed=0, classes=[3, 7, 5])]
    assert labels == [3, 7, 5, 3, 7, 5]
    scenes = digit_scenes(32, seed=0, classes=[1, 4], turned=True)
    assert [scene.labels[0] for scene in scenes[:16]] == [*range(8, 16), *range(32, 40)]

    def shape(place):  # a one that lies is wide
        boxes = [scene.boxes[0] for scene in scenes if scene.labels[0] == 8 + place]
        return np.mean([(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in boxes])

    assert shape(0) < 0.8 < 1.2 < shape(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objects": 4},
        {"shortcut": 1.5},
        {"misleading": -1},
        {"split": "validation"},
        {"classes": [10]},
        {"classes": [1], "objects": 2},
        {"beside": True},
        {"turned": True, "shortcut": 0.5},
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"came|split|colours"):
        digit_scenes(1, seed=0, **wrong)
