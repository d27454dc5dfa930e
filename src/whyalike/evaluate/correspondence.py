"""Do point maps find what a point shows? Against true matches, known to a fraction of a pixel.

A photograph and itself under a random homography, and a stereo pair with its disparity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from whyalike.data.samples import demo_pair, stereo_pair
from whyalike.errors import DataError, ImageError, ModelError
from whyalike.evaluate.photographs import Tell, say
from whyalike.evaluate.retrieval import Interval, bootstrap
from whyalike.geometry import Frame
from whyalike.images import printable, read_image
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair, explain_pair

RADII = (0.05, 0.1, 0.15, 0.2)
"""Shares of the second picture's longer side."""
METHODS = ("decomposition", "sharp", "drawn", "direction", "cosine")
"""Point maps of the model, of its sharp form, and of the one that is drawn; the nearest v of the
sharp form and the nearest features by their cosines, which leave out how much a cell carries."""
BETWEEN = METHODS[:4]
"""Those that compare v, which two networks of one embedding space have in common."""
ALWAYS = ("nearest cell", "same place", "chance")
"""The best that cells of the model's grid can do; a point left where it was; a cell by lot."""
GRID = 6
STRENGTH = 0.2


@dataclass(frozen=True, eq=False)
class Matched:
    """Two pictures and points of the first of which it is known where they are in the second.

    Args:
        name: of the photograph.
        kind: "stereo" or "homography".
        first, second: the pictures.
        points_xy, matches_xy: in pixels of the first and of the second.
    """

    name: str
    kind: str
    first: Image.Image
    second: Image.Image
    points_xy: Float[np.ndarray, "n 2"]
    matches_xy: Float[np.ndarray, "n 2"]


def grid_points(size_wh: Sequence[int], count: int = GRID) -> Float[np.ndarray, "n 2"]:
    """The centres of count×count equal parts of a picture, in pixels, row by row."""
    x, y = ((np.arange(count) + 0.5) * side / count for side in size_wh)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def stereo(count: int = 2 * GRID) -> Matched:
    """The motorcycle of scikit-image (Middlebury 2014), which comes with it, and its disparity.

    A point at x of the left picture is at x − disparity of the right one. Left out are points
    without a disparity, and those that something nearer hides in the right picture.
    """
    left, right, disparity_file = stereo_pair()
    with np.load(disparity_file) as arrays:
        disparity: np.ndarray = arrays["arr_0"]
    first, second = read_image(left), read_image(right)
    points = grid_points(first.size, count)
    columns, rows = points.astype(int).T
    seen = visible(disparity)[rows, columns]
    shifts = disparity[rows, columns][seen]
    points = points[seen]
    matches = points - np.stack([shifts, np.zeros_like(shifts)], axis=1)
    return Matched("motorcycle", "stereo", first, second, points, matches)


def visible(disparity: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Which pixels of the left picture are in the right one, and not behind what is nearer."""
    known = np.isfinite(disparity)
    rows, columns = np.nonzero(known)
    shifts = disparity[known]
    found = np.round(columns - shifts).astype(int)
    inside = found >= 0
    nearest = np.full(disparity.shape, -np.inf)
    np.maximum.at(nearest, (rows[inside], found[inside]), shifts[inside])
    seen = np.zeros(disparity.shape, bool)
    # Within a pixel it is the same surface, met from another pixel of the same slope.
    seen[rows[inside], columns[inside]] = shifts[inside] >= nearest[rows[inside], found[inside]] - 1
    return seen


def warped(
    name: str, picture: Image.Image, *, seed: int, strength: float = STRENGTH, count: int = GRID
) -> Matched:
    """A picture and itself under a random homography, grey beside it.

    Args:
        name: of the photograph.
        picture: in RGB.
        seed: of the homography.
        strength: each corner moves by up to so much of each side; below 0.5, so that none folds.
        count: points of a grid on each side, less those that leave the picture.
    """
    if not 0 <= strength < 0.5:
        raise ValueError(f"strength is from 0 to below 0.5; came {strength}")
    width, height = picture.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    moved = np.random.default_rng(seed).uniform(-strength, strength, (4, 2)) * (width, height)
    there = homography(corners, corners + moved)
    back = np.linalg.inv(there)
    second = picture.transform(
        picture.size,
        Image.Transform.PERSPECTIVE,
        (back / back[2, 2]).ravel()[:8].tolist(),
        Image.Resampling.BICUBIC,
        fillcolor=(128, 128, 128),
    )
    points = grid_points(picture.size, count)
    matches = project(there, points)
    inside = ((matches > 0) & (matches < (width, height))).all(1)
    return Matched(name, "homography", picture, second, points[inside], matches[inside])


def homography(
    here: Float[np.ndarray, "4 2"], there: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "3 3"]:
    """The projective map that takes four points to four others."""
    rows = []
    for (x, y), (u, v) in zip(here, there, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solved = np.linalg.solve(np.array(rows), there.ravel())
    return np.append(solved, 1.0).reshape(3, 3)


def project(
    matrix: Float[np.ndarray, "3 3"], xy: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Points under a projective map."""
    found = np.column_stack([xy, np.ones(len(xy))]) @ matrix.T
    return found[:, :2] / found[:, 2:]


def peak(values: Float[Tensor, "h w"], frame: Frame) -> tuple[float, float]:
    """The centre of the cell with the largest value, in pixels of the photograph."""
    row, column = divmod(int(values.flatten().argmax()), values.shape[1])
    x0, y0, x1, y1 = frame.cell_xyxy(row, column)
    return (x0 + x1) / 2, (y0 + y1) / 2


def pck(
    distances: Float[np.ndarray, " n"], radii: Sequence[float] = RADII
) -> Float[np.ndarray, " radii"]:
    """Percentage of correct keypoints, as a share: how many lie within each radius."""
    return np.array([(distances <= radius).mean() for radius in radii])


def distances(
    found_xy: Float[np.ndarray, "n 2"], true_xy: Float[np.ndarray, "n 2"], size_wh: Sequence[int]
) -> Float[np.ndarray, " n"]:
    """Between points, as shares of a picture's longer side."""
    far: np.ndarray = np.linalg.norm(found_xy - true_xy, axis=1) / max(size_wh)
    return far


@dataclass(frozen=True, eq=False)
class Correspondence:
    """How far from the true matches each method's are, in shares of the longer side.

    Args:
        kinds: of each point, "stereo" or "homography".
        photographs: of each point, the place of its photograph in `names`.
        distances: by method; of "chance", to every cell of the grid: (points, cells).
        names: of the photographs.
        seed: of the homographies.
        model: whose maps they are.
        shown: one pair of each kind, and where each method finds its points.
        left_out: photographs that could not be read, and why.
        reference_model: the second picture's own network, where there are two.
    """

    kinds: np.ndarray
    photographs: np.ndarray
    distances: dict[str, np.ndarray]
    names: tuple[str, ...]
    seed: int
    model: EmbeddingModel
    shown: tuple[tuple[Matched, dict[str, np.ndarray]], ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())
    reference_model: EmbeddingModel | None = None

    def pck(self, method: str, kind: str) -> Float[np.ndarray, " radii"]:
        """Share of the points of one kind within each radius of `RADII`."""
        return pck(self.distances[method][self.kinds == kind])

    def interval(
        self, method: str, kind: str, radius: float = 0.1, over: str | None = None
    ) -> Interval:
        """Share of the points within a radius, and where it may lie as photographs are drawn anew.

        Of one photograph alone it has no width, which says nothing.

        Args:
            method, kind: as for `pck`.
            radius: as a share of the longer side.
            over: another method, whose share is taken off: where 0 is not in the interval, one of
                the two finds more on photographs such as these.
        """
        of = self.kinds == kind

        def near(name: str) -> Float[np.ndarray, " n"]:
            shares: np.ndarray = (self.distances[name][of] <= radius).reshape(of.sum(), -1).mean(1)
            return shares

        more = near(method) - (0 if over is None else near(over))
        return bootstrap(more, groups=self.photographs[of].tolist())


def evaluate_correspondence(
    model: EmbeddingModel,
    photographs: Sequence[Path] | None = None,
    methods: Sequence[str] | None = None,
    *,
    reference_model: EmbeddingModel | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Correspondence:
    """Hold point maps to true matches, of a stereo pair and of photographs under homographies.

    >>> found = evaluate_correspondence(model)  # doctest: +SKIP
    >>> found.pck("decomposition", "stereo")  # doctest: +SKIP

    Args:
        model: whose point maps are measured, at its cut.
        photographs: files for homographies; by default the demo's two; of none, the stereo pair is
            all.
        methods: some of `METHODS`, by default all; of two networks, those that compare v, as their
            features may have nothing in common. `ALWAYS` are measured, too.
        reference_model: the network that sees the second pictures, where it is another one; of one
            embedding space with the first, and of any size, layer and trunk.
        seed: of the homographies, another one for each photograph.
        tell: is called as the work goes on.

    Raises:
        DataError: no photograph can be read.
        ModelError: features of two networks are to be compared that are not of one length.
        ValueError: a name that is no method.
    """
    other = model if reference_model is None else reference_model
    if methods is None:
        methods = METHODS if other is model else BETWEEN
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"a method is one of {', '.join(METHODS)}; came {unknown[0]!r}")
    if model.preprocess is None or other.preprocess is None:
        raise ModelError("to read photographs, the model needs a Preprocess; give it one")
    sets, left_out = [stereo()], []
    for number, path in enumerate(demo_pair() if photographs is None else photographs):
        try:
            sets.append(warped(printable(path.name), read_image(path), seed=seed + number))
        except ImageError as error:
            left_out.append((str(path), str(error)))
    if left_out and len(sets) == 1:
        raise DataError(f"no photograph can be read: {left_out[0][1]}")
    towers = Towers(model, None if other is model else other)
    far: dict[str, list[np.ndarray]] = {name: [] for name in (*methods, *ALWAYS)}
    shown: dict[str, tuple[Matched, dict[str, np.ndarray]]] = {}
    for done, one in enumerate(sets):
        say(tell, "matching points", done, len(sets))
        found = located(towers, one, methods)
        shown.setdefault(one.kind, (one, found))
        for name, xy in found.items():
            if name == "chance":
                each = xy[None] - one.matches_xy[:, None]
                far[name].append(np.linalg.norm(each, axis=2) / max(one.second.size))
            else:
                far[name].append(distances(xy, one.matches_xy, one.second.size))
    say(tell, "matching points", len(sets), len(sets))
    counts = [len(one.points_xy) for one in sets]
    return Correspondence(
        kinds=np.repeat([one.kind for one in sets], counts),
        photographs=np.repeat(np.arange(len(sets)), counts),
        distances={name: np.concatenate(some) for name, some in far.items()},
        names=tuple(one.name for one in sets),
        seed=seed,
        model=model,
        shown=tuple(shown.values()),
        left_out=tuple(left_out),
        reference_model=None if other is model else other,
    )


@dataclass(frozen=True)
class Towers:
    """The network of the first pictures, and that of the second ones, if it is another.

    Other forms of them are made when they are first asked for.
    """

    model: EmbeddingModel
    reference_model: EmbeddingModel | None = None

    @cached_property
    def sharp(self) -> Towers:
        """The same in the sharp form."""
        other = self.reference_model
        return Towers(self.model.sharp(), None if other is None else other.sharp())

    @cached_property
    def drawn(self) -> Towers:
        """The same in the form that `whyalike explain` draws."""
        other = self.reference_model
        return Towers(self.model.drawn(), None if other is None else other.drawn())

    def pair(self, given: Matched) -> Pair:
        """Both pictures, explained."""
        if self.reference_model is None:
            return Pair(*self.model.explain([given.first, given.second]))
        return explain_pair(
            self.model, given.first, given.second, reference_model=self.reference_model
        )


def located(
    towers: Towers, given: Matched, methods: Sequence[str] = METHODS
) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Where each method finds the points of the first picture in the second, in its pixels.

    Of "chance", the centres of all cells.
    """
    pair = towers.pair(given)
    frame = pair.reference.frame
    h, w = frame.grid_hw
    boxes = np.array([frame.cell_xyxy(r, c) for r in range(h) for c in range(w)])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    scale = np.array(given.second.size) / given.first.size
    nearest = np.linalg.norm(centres[None] - given.matches_xy[:, None], axis=2).argmin(1)
    found = {"nearest cell": centres[nearest], "same place": given.points_xy * scale,
             "chance": centres}  # fmt: skip
    if "decomposition" in methods:
        found["decomposition"] = _by_points(pair, given.points_xy)
    if {"sharp", "direction"} & {*methods}:
        fine = towers.sharp.pair(given)
        if "direction" in methods:  # first: the other one has all v at hand then
            found["direction"] = _by_directions(fine, given.points_xy)
        if "sharp" in methods:
            found["sharp"] = _by_points(fine, given.points_xy)
    if "drawn" in methods:
        found["drawn"] = _by_points(towers.drawn.pair(given), given.points_xy)
    if "cosine" in methods:
        found["cosine"] = _by_features(towers, given, pair)
    return {name: found[name] for name in (*methods, *ALWAYS)}


def _by_points(pair: Pair, points_xy: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """The cell with the largest value of the point's map."""
    frame = pair.reference.frame
    # Of unit length, as where a map is largest does not hang on it.
    at = normalize(pair.query.at_each(points_xy.tolist()), dim=1)
    return np.array([peak(pair.reference.map(u), frame) for u in at])


def _by_directions(pair: Pair, points_xy: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """The cell whose v has the largest cosine with that at the point."""
    at = pair.query.at_each(points_xy.tolist())
    there = normalize(pair.reference.values, dim=2)
    frame = pair.reference.frame
    return np.array([peak(found, frame) for found in torch.einsum("kd,hwd->khw", at, there)])


def _by_features(towers: Towers, given: Matched, pair: Pair) -> Float[np.ndarray, "n 2"]:
    """The cell whose features at the cut have the largest cosine with those of the point."""
    first = _features(towers.model, given.first)
    second = _features(towers.reference_model or towers.model, given.second)
    if len(first) != len(second):
        raise ModelError(
            f"features of two networks can be compared if they are of one length; they have "
            f"{len(first)} and {len(second)} channels; leave the method cosine out"
        )
    found = []
    for xy in given.points_xy.tolist():
        weights = torch.from_numpy(pair.query.frame.point_weights(xy)).to(first)
        at = torch.einsum("hw,chw->c", weights, first)
        alike = torch.cosine_similarity(second, at[:, None, None], dim=0)
        found.append(peak(alike, pair.reference.frame))
    return np.array(found)


def _features(model: EmbeddingModel, picture: Image.Image) -> Float[Tensor, "c h w"]:
    assert model.preprocess is not None
    images = model.preprocess(picture)[0][None]
    A, _, _ = model.inspect(images)
    return model.layout(images, A).as_map(A)[0].detach()
