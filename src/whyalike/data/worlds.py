"""A world by lot, seen from the street and from above: places to match, and north known.

`whyalike.data.world_views` renders what is laid out here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

CELL = 0.4
"""Metres of ground that a cell of the grid is wide."""
SIDE = 320
TILE = 240
"""Cells along a side of all that is laid out, and of what a view from above shows of it."""
ROAD, KERB = 3.6, 1.6  # metres: half of a road's width, and the pavement beside it
CLEAR = 5.5  # metres around a camera in which nothing stands

# What covers the ground, or stands on it. Houses are HOUSE and above, by their style.
FIELD, SOIL, ROADWAY, LINE, PAVEMENT, WATER, YARD, LEAFY, FIR, CAR, HOUSE = range(11)
STYLES = 8


@dataclass(frozen=True, eq=False)
class Layout:
    """What lies around a camera; row 0 is the northernmost, column 0 the westernmost.

    Args:
        kind: what a cell is covered by, FIELD to HOUSE + STYLES − 1.
        height: of what stands there, in metres; 0 where it is ground.
        eaves: from which height on a side is roof or crown; of others than houses and trees, none.
        axis: the direction, in degrees clockwise from north, along which the houses are built.
        roll: which side of a roof a cell lies on, −1 to 1; 0 where it is flat.
        tint: of each cell, a number of the thing that it belongs to, from 0 to 1.
    """

    kind: UInt8[np.ndarray, "n n"]
    height: Float[np.ndarray, "n n"]
    eaves: Float[np.ndarray, "n n"]
    axis: float
    roll: Float[np.ndarray, "n n"]
    tint: Float[np.ndarray, "n n"]


@dataclass(frozen=True, eq=False)
class Place:
    """One place, photographed twice, at times that have nothing to do with each other.

    Args:
        aerial: from above, north up.
        panorama: all around from the street: its middle column looks north, and further right is
            further clockwise, so that its left edge looks south, as in CVUSA.
        camera_xy: where on the aerial photograph the street camera stands, in pixels.
    """

    aerial: UInt8[np.ndarray, "h w 3"]
    panorama: UInt8[np.ndarray, "rows columns 3"]
    camera_xy: tuple[float, float]


def place(
    seed: int,
    number: int,
    *,
    aerial: int = 224,
    panorama_wh: tuple[int, int] = (512, 96),
    off_centre: float = 0.0,
) -> Place:
    """One place of a world.

    >>> place(0, 3).panorama.shape
    (96, 512, 3)

    Args:
        seed: of the world; equal seeds and numbers give equal places.
        number: of the place.
        aerial: pixels along a side of the view from above, which shows 96 m.
        panorama_wh: pixels of the panorama, which shows 35° above the horizon to 30° below.
        off_centre: up to how many metres, to either side, the view from above is moved.
    """
    from whyalike.data import world_views

    random = np.random.default_rng([seed, number])
    laid = layout(random)
    shift = np.rint(random.uniform(-1, 1, 2) * off_centre / CELL).astype(int)
    above = world_views.from_above(laid, random, aerial, shift)
    around = world_views.from_the_street(laid, random, panorama_wh)
    x, y = ((TILE / 2 - shift) * aerial / TILE).tolist()
    return Place(above, around, (x, y))


def write_world(
    folder: str | os.PathLike[str],
    seen: int,
    unseen: int,
    *,
    seed: int = 0,
    aerial: int = 224,
    panorama_wh: tuple[int, int] = (512, 96),
) -> Iterator[int]:
    """Write places in the layout of CVUSA, which `read("cvusa:FOLDER")` takes.

    >>> list(write_world("world", 3000, 500))[-1]  # doctest: +SKIP
    3500

    Args:
        folder: a new folder, or one whose places are replaced.
        seen: places to train on, the data set's split "train".
        unseen: places to measure on, "val".
        seed, aerial, panorama_wh: as for `place`.

    Yields:
        How many places are written.
    """
    root = Path(folder)
    names = {"bingmap/19": "aerial", "streetview/panos": "panorama"}
    for name in (*names, "splits"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(seen + unseen):
        made = place(seed, number, aerial=aerial, panorama_wh=panorama_wh)
        for name, view in names.items():
            picture = Image.fromarray(getattr(made, view))
            picture.save(root / name / f"{number + 1:07d}.jpg", quality=92)
        yield number + 1
    for split, numbers in (("train", range(seen)), ("val", range(seen, seen + unseen))):
        rows = [",".join(f"{name}/{at + 1:07d}.jpg" for name in names) for at in numbers]
        (root / "splits" / f"{split}-19zl.csv").write_text("".join(f"{row}\n" for row in rows))


def layout(random: np.random.Generator) -> Layout:
    """Roads, water, fields, houses and trees around a camera on a road."""
    made = _Ground(random)
    made.cover()
    made.roads()
    made.houses()
    made.trees()
    return made.laid()


def _metres() -> tuple[np.ndarray, np.ndarray]:
    """Metres east and north of the camera, of each cell's centre."""
    line = (np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2) * np.float32(CELL)
    return np.broadcast_to(line, (SIDE, SIDE)), np.broadcast_to(-line[:, None], (SIDE, SIDE))


EAST, NORTH = _metres()
HALF = CELL * SIDE / 2
ALL = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)


@dataclass(frozen=True, eq=False)
class Claim:
    """Where something is put.

    Args:
        window: rows and columns around it.
        inside: which of their cells are its own.
        across, along: its own axes there, −1 to 1 inside of it.
    """

    window: tuple[slice, slice]
    inside: Bool[np.ndarray, "rows columns"]
    across: Float[np.ndarray, "rows columns"]
    along: Float[np.ndarray, "rows columns"]


class _Ground:
    """A layout in the making."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.axis = float(random.uniform(0, 180))
        shape = (SIDE, SIDE)
        self.kind = np.full(shape, FIELD, np.uint8)
        self.height = np.zeros(shape, np.float32)
        self.eaves = np.full(shape, np.inf, np.float32)
        self.roll = np.zeros(shape, np.float32)
        self.tint = np.full(shape, random.random(), np.float32)
        self.across, self.along = _turned(EAST, NORTH, self.axis)
        self.free = EAST**2 + NORTH**2 > CLEAR**2

    def laid(self) -> Layout:
        return Layout(self.kind, self.height, self.eaves, self.axis, self.roll, self.tint)

    def cover(self) -> None:
        """A field that is tilled, and water, each by lot."""
        random = self.random
        for kind, chance in ((SOIL, 0.35), (YARD, 0.25)):
            if random.random() < chance:
                across, _ = _turned(EAST, NORTH, random.uniform(0, 360))
                where = across > random.uniform(8, 40)
                self.kind[where] = kind
                self.tint[where] = random.random()
        if random.random() < 0.35:
            across, along = _turned(EAST, NORTH, random.uniform(0, 360))
            wave = 5 * np.sin(along / random.uniform(8, 20) + random.uniform(0, 6))
            near = random.uniform(14, 42)
            wide = random.choice([random.uniform(5, 12), 100.0])  # a stream, or a lake
            self.kind[(across + wave > near) & (across + wave < near + wide)] = WATER
        self.free &= self.kind != WATER

    def roads(self) -> None:
        """The road on which the camera stands, and perhaps one that meets it and one far off."""
        random = self.random
        bend = random.uniform(-1, 1) * 0.006
        self._road(self.across + bend * self.along**2 + random.uniform(-2.4, 2.4), self.along)
        if random.random() < 0.55:
            across, along = _turned(EAST, NORTH, self.axis + random.uniform(60, 120))
            at = random.uniform(-34, 34)
            side = random.choice([-1, 1, 0])  # to one side, or across
            self._road(across - at, along, (along * side >= -2) if side else None)
        if random.random() < 0.3:
            self._road(self.across - random.choice([-1, 1]) * random.uniform(34, 54), self.along)

    def _road(
        self, off: np.ndarray, along: np.ndarray, only: Bool[np.ndarray, "n n"] | None = None
    ) -> None:
        far = np.abs(off)
        if only is not None:
            far = np.where(only, far, np.inf)
        kerb = (far < ROAD + KERB) & (self.kind != ROADWAY) & (self.kind != LINE)
        self.kind[kerb] = PAVEMENT
        self.kind[far < ROAD] = ROADWAY
        self.kind[(far < 0.3) & (along % 6 < 3.6)] = LINE
        self.free &= far > ROAD + KERB

    def houses(self) -> None:
        """Houses along the axis, of a few styles; more of them near the camera."""
        random = self.random
        styles = random.choice(STYLES, random.integers(2, 5), replace=False)
        for _ in range(int(random.integers(4, 36))):
            spot = random.normal(0, 30, 2) if random.random() < 0.5 else random.uniform(-1, 1, 2)
            if np.abs(spot).max() < 1:  # a share of all, and the few at the camera's feet
                spot = spot * HALF
            sides = random.uniform(7, 20), random.uniform(6, 12)
            if random.random() < 0.12:  # a large one
                sides = sides[0] * 1.7, sides[1] * 1.6
            turn = 90.0 * random.integers(2)
            if (taken := self._claim(spot, sides, turn, share=0.98)) is not None:
                self._house(taken, int(random.choice(styles)))

    def _house(self, taken: Claim, style: int) -> None:
        """Walls, and a roof by style: pitched for the first five, flat for the others."""
        random = self.random
        low = float(random.uniform(3, 7) if style < 5 else random.uniform(4, 16))
        ridge = float(random.uniform(1.5, 4)) if style < 5 else 0.0
        across = taken.across[taken.inside]
        self._set(
            taken,
            kind=HOUSE + style,
            eaves=low if ridge else low - 0.5,
            height=low + ridge * (1 - np.abs(across)),
            roll=np.sign(across) if ridge else 0,
            tint=random.random(),
        )

    def trees(self) -> None:
        """Woods, single trees, and few or none at all; leafy ones and firs."""
        random = self.random
        firs = random.choice([0.0, 0.15, 0.9])
        spots = random.uniform(-HALF, HALF, (int(random.choice([4, 12, 30])), 2))
        if random.random() < 0.4:
            middle = random.uniform(-45, 45, 2)
            spots = np.concatenate([spots, random.normal(middle, 9, (35, 2))])
        for spot in spots:
            wide = 2 * float(random.uniform(1.2, 3.6))
            fir = bool(random.random() < firs)
            taken = self._claim(spot, (wide, wide), 0, share=0.5, circle=True)
            if taken is None:
                continue
            tall = float(random.uniform(5, 11) if fir else random.uniform(4, 9))
            far = np.hypot(taken.across, taken.along)[taken.inside]
            slope = (1 - far) if fir else np.sqrt(1 - far**2)
            self._set(
                taken,
                kind=FIR if fir else LEAFY,
                eaves=0.4 if fir else 0.2 * tall,
                height=tall * (0.35 + 0.65 * slope),
                roll=0,
                tint=random.random(),
            )

    def _claim(
        self,
        spot: np.ndarray,
        sides: tuple[float, float],
        turn: float,
        share: float,
        circle: bool = False,
    ) -> Claim | None:
        """The free cells under a rectangle or a circle, if they are a large enough share of it."""
        east, north = spot
        reach = int(np.ceil(np.hypot(*sides) / 2 / CELL)) + 1
        row, column = int((HALF - north) / CELL), int((east + HALF) / CELL)
        window = (slice(max(row - reach, 0), max(row + reach, 0)),
                  slice(max(column - reach, 0), max(column + reach, 0)))  # fmt: skip
        across, along = _turned(EAST[window] - east, NORTH[window] - north, self.axis + turn)
        across, along = across / (sides[1] / 2), along / (sides[0] / 2)
        far = np.hypot(across, along) if circle else np.maximum(np.abs(across), np.abs(along))
        under = far < 1
        inside = under & self.free[window]
        if inside.sum() < share * max(1, under.sum()):
            return None
        self.free[window] &= ~under
        return Claim(window, inside, across, along)

    def _set(self, taken: Claim, **values: object) -> None:
        for name, value in values.items():
            getattr(self, name)[taken.window][taken.inside] = value


def _turned(east: np.ndarray, north: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """To the right of a direction, and along it; the direction is clockwise from north."""
    s, c = np.float32(np.sin(np.radians(degrees))), np.float32(np.cos(np.radians(degrees)))
    return east * c - north * s, east * s + north * c


def cells(rows: Int[np.ndarray, ...], columns: Int[np.ndarray, ...]) -> np.ndarray:
    """Flat indices of cells, those beyond the edge being as the edge's."""
    return np.clip(rows, 0, SIDE - 1) * SIDE + np.clip(columns, 0, SIDE - 1)
