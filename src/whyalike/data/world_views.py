"""A world by lot, as it looks: from above with shadows, and all around from the street.

The two views of a place are of two days: season, light and what is parked there differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from whyalike.data.worlds import (
    ALL,
    CAR,
    CELL,
    EAST,
    FIELD,
    FIR,
    HOUSE,
    LEAFY,
    LINE,
    NORTH,
    PAVEMENT,
    ROADWAY,
    SIDE,
    SOIL,
    STYLES,
    TILE,
    WATER,
    YARD,
    Layout,
    cells,
)

EYE = 2.6
"""Metres above the ground at which the street camera is."""
UP, DOWN = 35.0, 30.0
"""Degrees above and below the horizon that a panorama shows."""
STEPS = (0.7 * 1.0405 ** np.arange(114)).astype(np.float32)
"""Metres from the camera at which a ray is held to what stands there: 0.7 to 63."""

# Red, green and blue of roofs and of walls, by style: what goes with what has to be learned.
ROOFS = ((150, 62, 44), (92, 88, 90), (64, 74, 96), (166, 112, 64), (108, 46, 52),
         (196, 194, 188), (120, 122, 124), (70, 120, 104))  # fmt: skip
WALLS = ((226, 214, 190), (150, 78, 58), (214, 220, 226), (176, 148, 104), (88, 104, 132),
         (104, 138, 164), (186, 178, 164), (212, 178, 92))  # fmt: skip


@dataclass(frozen=True)
class Day:
    """Season and light of one photograph.

    Args:
        field, soil, leaves: colours of the season.
        sun: where it stands, in degrees clockwise from north, and above the horizon.
        light: its colour, by which all is multiplied.
        cloud: from 0, a clear sky, to 1.
    """

    field: Float[np.ndarray, " 3"]
    soil: Float[np.ndarray, " 3"]
    leaves: Float[np.ndarray, " 3"]
    sun: tuple[float, float]
    light: Float[np.ndarray, " 3"]
    cloud: float


def a_day(random: np.random.Generator) -> Day:
    """Some day between spring and autumn, at some hour."""
    green, dry = np.array([96.0, 124.0, 62.0]), np.array([158.0, 140.0, 88.0])
    autumn = np.array([168.0, 104.0, 44.0])
    season = random.random()
    turning = max(0.0, random.uniform(-0.6, 1)) * (season > 0.5)
    hour = random.uniform(-70, 70)
    cloud = float(random.random() ** 2)
    warm = np.array([1.06, 1.0, 0.9]) if abs(hour) > 45 else np.ones(3)
    return Day(
        field=green + (dry - green) * season * random.uniform(0.6, 1),
        soil=np.array([124.0, 98.0, 72.0]) * random.uniform(0.8, 1.15),
        leaves=np.array([70.0, 100.0, 48.0]) + (autumn - [70, 100, 48]) * turning,
        sun=(180 + hour, 58 - abs(hour) / 2.2),
        light=warm * random.uniform(0.85, 1.12) * random.uniform(0.97, 1.03, 3),
        cloud=cloud,
    )


def from_above(
    laid: Layout, random: np.random.Generator, size: int, shift: tuple[int, int] | np.ndarray
) -> UInt8[np.ndarray, "size size 3"]:
    """The tile around a camera, or so many cells to the east and south of it."""
    day, laid = a_day(random), _parked(laid, random)
    left, top = (SIDE - TILE) // 2 + np.asarray(shift)
    tile = ALL[top : top + TILE, left : left + TILE]
    lit = 1 + 0.22 * np.sin(np.radians(day.sun[0] - laid.axis)) * laid.roll.ravel()[tile]
    lit -= 0.4 * (1 - 0.8 * day.cloud) * _shadow(laid.height, day.sun).ravel()[tile]
    colours = _tops(laid, tile, day, random) * lit[..., None] * day.light
    picture = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    smooth = Image.Resampling.BOX if size < TILE else Image.Resampling.BICUBIC
    return _taken(np.asarray(picture.resize((size, size), smooth), np.float32), random)


def from_the_street(
    laid: Layout, random: np.random.Generator, size_wh: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The panorama from the middle of a layout; the middle column looks north."""
    day, laid = a_day(random), _parked(laid, random)
    width, height = size_wh
    bearings = np.radians((np.arange(width, dtype=np.float32)[:, None] + 0.5) / width * 360 - 180)
    rising = UP - (np.arange(height)[::-1] + 0.5) / height * (UP + DOWN)  # from the lowest row up
    slopes = np.tan(np.radians(rising)).astype(np.float32)
    stands, far = _met(laid.height, bearings, slopes)
    ground = ~stands & (far < STEPS[-1])
    cell = _cell_at(np.sin(bearings) * far, np.cos(bearings) * far)
    pixels = _sky(day, rising.astype(np.float32), bearings, random)
    seen = stands | ground
    near = _tops(laid, cell[seen], day, random, from_above=False)
    up, facing = EYE + slopes * far, np.broadcast_to(bearings, far.shape)
    sides = stands[seen]
    near[sides] = _sides(laid, day, cell[stands], up[stands], facing[stands], near[sides])
    haze = 1 - np.exp(-far[seen] / 160)[:, None]
    pixels[seen] = near * day.light * (1 - haze) + 205 * haze
    return _taken(np.ascontiguousarray(pixels.transpose(1, 0, 2)[::-1]), random)


def _met(
    height: Float[np.ndarray, "n n"], bearings: Float[np.ndarray, "w 1"], slopes: np.ndarray
) -> tuple[Bool[np.ndarray, "w h"], Float[np.ndarray, "w h"]]:
    """Whether a ray of a bearing and a slope meets what stands somewhere, and how far off it ends.

    Args:
        slopes: rising.
    """
    columns, rows = len(bearings), len(slopes)
    at = _cell_at(np.sin(bearings) * STEPS, np.cos(bearings) * STEPS)
    heights = height.ravel()[at]
    highest = np.where(heights > 0, (heights - EYE) / STEPS, -np.inf)
    # A ray meets the first of the steps up to which something reaches as high as it.
    reached = np.searchsorted(slopes, np.maximum.accumulate(highest, 1), side="right")
    flat = (np.arange(columns)[:, None] * (rows + 1) + reached).ravel()
    passed = np.bincount(flat, minlength=columns * (rows + 1)).reshape(columns, rows + 1)
    distance = np.append(STEPS, np.float32(np.inf))[np.cumsum(passed, 1)[:, :rows]]
    to_ground = np.where(slopes < 0, EYE / np.maximum(-slopes, 1e-6), np.inf)
    stands = distance < to_ground
    return stands, np.where(stands, distance, np.minimum(to_ground, STEPS[-1])).astype(np.float32)


def _cell_at(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    half = SIDE / 2
    return cells((half - north / CELL).astype(np.int32), (east / CELL + half).astype(np.int32))


def _parked(laid: Layout, random: np.random.Generator) -> Layout:
    """The same, with cars along the roads, which another day will have gone."""
    kind, height, tint = laid.kind.copy(), laid.height.copy(), laid.tint.copy()
    rows, columns = np.nonzero((laid.kind == ROADWAY) & (EAST**2 + NORTH**2 > 49))
    if not len(rows):
        return laid
    s, c = np.sin(np.radians(laid.axis)), np.cos(np.radians(laid.axis))
    for one in random.integers(0, len(rows), int(random.integers(0, 7))):
        window = (slice(max(0, rows[one] - 7), rows[one] + 8),
                  slice(max(0, columns[one] - 7), columns[one] + 8))  # fmt: skip
        east, north = EAST[window] - EAST[rows[one], columns[one]], (
            NORTH[window] - NORTH[rows[one], columns[one]])  # fmt: skip
        inside = (np.abs(east * c - north * s) < 0.9) & (np.abs(east * s + north * c) < 2.2)
        inside &= laid.height[window] == 0
        kind[window][inside] = CAR
        height[window][inside] = 1.5
        tint[window][inside] = random.random()
    return replace(laid, kind=kind, height=height, tint=tint)


def _tops(
    laid: Layout,
    cell: Int[np.ndarray, ...],
    day: Day,
    random: np.random.Generator,
    from_above: bool = True,
) -> Float[np.ndarray, "... 3"]:
    """Colours of cells from above."""
    palette = np.zeros((HOUSE + STYLES, 3), np.float32)
    palette[[FIELD, SOIL, LEAFY]] = day.field, day.soil, day.leaves
    palette[FIR] = 46, 72, 50
    grey = random.uniform(84, 116)
    palette[ROADWAY] = grey, grey, grey + 2
    palette[LINE] = 214, 210, 190
    palette[PAVEMENT] = 168, 164, 158
    palette[WATER] = (58, 84, 104) if from_above else (112, 140, 164)
    palette[YARD] = 178, 166, 142
    palette[HOUSE:] = ROOFS
    kind, tint = laid.kind.ravel()[cell], laid.tint.ravel()[cell]
    grain = np.roll(_noise(), int(random.integers(SIDE**2)))[cell] * _GRAIN[kind]
    colours = palette[kind] * (1 + grain + np.float32(0.24) * (tint - np.float32(0.5)))[..., None]
    soil = kind == SOIL
    turn, there = 6 * tint[soil], cell[soil]
    furrows = np.sin(3 * (EAST.ravel()[there] * np.cos(turn) + NORTH.ravel()[there] * np.sin(turn)))
    colours[soil] += 9 * furrows[:, None]
    cars = kind == CAR
    colours[cars] = _CARS[(tint[cars] * len(_CARS)).astype(int)]
    return colours


_CARS = np.array([(210, 212, 214), (40, 42, 48), (150, 30, 30), (50, 80, 150), (140, 142, 146)])
_GRAIN = np.full(HOUSE + STYLES, 0.05, np.float32)
_GRAIN[[FIELD, LEAFY, FIR, SOIL]] = 0.14, 0.3, 0.3, 0.12


def _sides(
    laid: Layout,
    day: Day,
    hit: np.ndarray,
    up: np.ndarray,
    facing: np.ndarray,
    colours: Float[np.ndarray, "hits 3"],
) -> Float[np.ndarray, "hits 3"]:
    """Colours of what rays meet, at some height, when they look into some direction.

    Args:
        colours: the same from above.
    """
    kind, tint = laid.kind.ravel()[hit], laid.tint.ravel()[hit]
    top = up > laid.eaves.ravel()[hit]
    wall = (kind >= HOUSE) & ~top
    walls = np.array(WALLS, np.float32)[kind[wall] - HOUSE]
    colours[wall] = walls * (1 + 0.2 * (tint[wall] - 0.5))[:, None]
    a = np.radians(laid.axis)
    run = EAST.ravel()[hit] * (np.cos(a) + np.sin(a)) + NORTH.ravel()[hit] * (np.cos(a) - np.sin(a))
    pane = wall & (run % 3.2 > 1.7) & (up % 3.0 > 1.1) & (up % 3.0 < 2.3)
    colours[pane] = 56, 66, 78
    tree = (kind == LEAFY) | (kind == FIR)
    colours[tree & ~top] = 82, 66, 52
    crown = tree & top
    colours[crown] *= (0.75 + 0.4 * up[crown] / laid.height.ravel()[hit[crown]])[:, None]
    behind = np.cos(facing - np.radians(day.sun[0]))  # of who looks into the sun, sides are dark
    return colours * (1 - 0.2 * (1 - day.cloud) * behind)[:, None]


def _shadow(height: Float[np.ndarray, "n n"], sun: tuple[float, float]) -> Float[np.ndarray, "n n"]:
    """Where it is dark, as far as the sun's rays over 24 m tell."""
    east, north = np.sin(np.radians(sun[0])), np.cos(np.radians(sun[0]))
    coarse = height[::2, ::2]
    dark = np.zeros(coarse.shape, bool)
    for far in np.arange(0.8, 24, 0.8):
        row, column = round(-north * far / CELL / 2), round(east * far / CELL / 2)
        towards = np.roll(coarse, (-row, -column), (0, 1))
        dark |= towards > coarse + far * np.tan(np.radians(sun[1]))
    return dark.repeat(2, 0).repeat(2, 1).astype(np.float32)


def _sky(
    day: Day, rising: np.ndarray, bearings: np.ndarray, random: np.random.Generator
) -> Float[np.ndarray, "w h 3"]:
    """Blue that is paler below, clouds, and brighter where the sun is."""
    up = np.clip(rising / UP, 0, 1)[None, :, None]
    blue = np.array([84, 136, 204], np.float32) * up
    blue = blue + np.array([196, 212, 226], np.float32) * (1 - up)
    waves = np.zeros((len(bearings), len(rising)), np.float32)
    for k in (2, 3, 5, 9):
        a, b = k * bearings + random.uniform(0, 6), rising[None] / random.uniform(3, 12)
        waves += np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
    cloud = np.clip(day.cloud + 0.25 * waves * (0.3 + day.cloud), 0, 1)[..., None]
    glow = 22 * np.clip(np.cos(bearings - np.radians(day.sun[0])), 0, 1) ** 4 * (1 - day.cloud)
    grey = np.array([196, 200, 206], np.float32)
    return (blue + (grey - blue) * cloud + glow[..., None]).astype(np.float32)


def _taken(pixels: np.ndarray, random: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """As a camera takes it, with some noise."""
    size = pixels.shape[0] * pixels.shape[1]
    noise = np.resize(np.roll(_noise(), int(random.integers(SIDE**2))), size)
    return (pixels + 4 * noise.reshape(*pixels.shape[:2], 1)).clip(0, 255).astype(np.uint8)


@cache
def _noise() -> Float[np.ndarray, " cells"]:
    """Grain of several sizes, one number a cell, about −1 to 1."""
    random = np.random.default_rng(0)
    noise = sum(
        np.kron(random.normal(0, 1, (SIDE // k, SIDE // k)), np.ones((k, k))) for k in (1, 4, 16)
    )
    return (np.asarray(noise) / 3).astype(np.float32).ravel()
