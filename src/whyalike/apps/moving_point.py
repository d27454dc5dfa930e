"""The paper's demo: a point runs along the panorama, and its map turns on the view from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from whyalike.apps.orientation import Compass, Estimate, estimate
from whyalike.draw import overlay
from whyalike.files import check_outputs, write_whole
from whyalike.geometry import XY
from whyalike.pair import Pair
from whyalike.viewer import heading

ENDINGS = (".html", ".gif")
FRAMES, SECONDS = 36, 7.2
WIDTH = 480
YELLOW, BLACK, WHITE = (255, 214, 10), (0, 0, 0), (255, 255, 255)


def save_moving(
    pair: Pair,
    *paths: str | Path,
    camera_xy: XY | None = None,
    compass: Compass | None = None,
    found: Estimate | None = None,
) -> None:
    """Write .html (self-contained, to play with) or .gif, by their endings; whole or not at all.

    >>> save_moving(pair, "heading.html", "heading.gif")  # doctest: +SKIP

    Args:
        pair: its query is a panorama of 360°, its reference the view from above.
        paths: where to write.
        camera_xy: where the camera stands in the view from above; by default in its middle.
        compass: how the heading is told; by default as in the paper.
        found: the heading that is drawn; by default that of the votes.

    Raises:
        OutputFileError: another ending, or a file cannot be written.
    """
    places = check_outputs(paths, endings=ENDINGS)
    compass = compass or Compass()
    found = found or estimate(pair, camera_xy)["votes"]
    width, height = pair.reference.frame.size_wh
    camera = (width / 2, height / 2) if camera_xy is None else camera_xy
    content = {}
    if any(path.suffix.lower() == ".html" for path in places):
        content[".html"] = page(pair, found, camera, compass).encode("utf-8", "replace")

    def write(path: Path, file: BinaryIO) -> None:
        if path.suffix.lower() == ".html":
            file.write(content[".html"])
            return
        first, *others = frames(pair, found, camera, compass, FRAMES)
        first.save(file, "GIF", save_all=True, append_images=others, loop=0,
                   duration=round(1000 * SECONDS / FRAMES))  # fmt: skip

    write_whole(places, write)


def page(pair: Pair, found: Estimate, camera_xy: XY, compass: Compass) -> str:
    """The page as one html file."""
    y = height_of_point(pair)
    assert found.density is not None
    return heading.page(
        heading.heading_data(
            pair.query,
            pair.reference,
            maps_along(pair, azimuths_of(pair), y),
            y=y,
            camera_xy=camera_xy,
            heading=found.heading,
            density=found.density[::4],
            words=in_words(found, compass),
        )
    )


def frames(
    pair: Pair, found: Estimate, camera_xy: XY, compass: Compass, count: int
) -> list[Image.Image]:
    """Pictures of the point at equal steps around the panorama, from its left edge on."""
    y = height_of_point(pair)
    azimuths = (np.arange(count) + 0.5) / count * 360 - 180
    maps = maps_along(pair, azimuths, y)
    street = _wide(pair.query.picture, pair.query.frame.size_wh, WIDTH)
    above = _wide(pair.reference.picture, pair.reference.frame.size_wh, WIDTH * 5 // 8)
    scale = above.width / pair.reference.frame.size_wh[0]
    faint = 0.3 * float(np.abs(maps).max()) or 1.0  # a point of nothing stays pale
    camera = camera_xy[0] * scale, camera_xy[1] * scale
    words = in_words(found, compass).split("; ")
    made = []
    for azimuth, values in zip(azimuths.tolist(), maps, strict=True):
        sheet = Image.new("RGB", (WIDTH, street.height + 6 + above.height), WHITE)
        sheet.paste(_pointed(street, azimuth, y / pair.query.frame.size_wh[1]), (0, 0))
        limit = max(faint, float(np.abs(values).max()))
        drawn = overlay(above, torch.from_numpy(values), pair.reference.frame, limit=limit)
        _heading(drawn, camera, found, azimuth)
        sheet.paste(drawn, (0, street.height + 6))
        pen = ImageDraw.Draw(sheet)
        for row, text in enumerate([*words, f"point at {azimuth:+.0f}°"]):
            pen.text((above.width + 10, street.height + 14 + 18 * row), text, BLACK)
        made.append(sheet)
    return made


def in_words(found: Estimate, compass: Compass) -> str:
    """The heading and its opposite with their probabilities, by the angles of a compass."""
    first, second = found.modes
    return (
        f"heading {compass.angle(first.heading):.1f}° ({100 * first.probability:.0f} %); "
        f"or {compass.angle(second.heading):.1f}° ({100 * second.probability:.0f} %); "
        f"0° is {_direction(compass.zero)}, {'' if compass.clockwise else 'counter'}clockwise"
    )


def height_of_point(pair: Pair) -> float:
    """How far down the panorama the point runs, in pixels: the row of cells that carries most."""
    rows = pair.overall_map("query").sum(1)
    _, y0, _, y1 = pair.query.frame.cell_xyxy(int(rows.argmax()), 0)
    return (y0 + y1) / 2


def azimuths_of(pair: Pair) -> Float[np.ndarray, " columns"]:
    """Of the middles of the panorama's columns of cells."""
    frame = pair.query.frame
    x0, _, x1, _ = frame.view_xyxy
    w = frame.grid_hw[1]
    x = x0 + (np.arange(w) + 0.5) * (x1 - x0) / w
    found: np.ndarray = x / frame.size_wh[0] * 360 - 180
    return found


def maps_along(
    pair: Pair, azimuths: Float[np.ndarray, " n"], y: float
) -> Float[np.ndarray, "n h w"]:
    """The map of a point at each of some azimuths, over the view from above."""
    width = pair.query.frame.size_wh[0]
    maps = [
        pair.point_map(query_xy=((azimuth + 180) / 360 * width, y)).double().numpy(force=True)
        for azimuth in azimuths.tolist()
    ]
    return np.stack(maps)


def _direction(bearing: float) -> str:
    named = {0.0: "north", 90.0: "east", 180.0: "south", 270.0: "west"}
    return named.get(bearing % 360, f"{bearing:g}° from north")


def _wide(picture: Image.Image | None, size_wh: tuple[int, int], width: int) -> Image.Image:
    picture = picture or Image.new("RGB", size_wh, (128, 128, 128))
    height = max(1, round(width * picture.height / picture.width))
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _pointed(street: Image.Image, azimuth: float, down: float) -> Image.Image:
    drawn = street.copy()
    pen = ImageDraw.Draw(drawn)
    x, y = (azimuth + 180) / 360 * street.width, down * street.height
    for colour, wide in ((BLACK, 3), (WHITE, 1)):
        pen.line([x, 0, x, street.height], fill=colour, width=wide)
    pen.ellipse([x - 5, y - 5, x + 5, y + 5], fill=YELLOW, outline=BLACK)
    return drawn


def _heading(drawn: Image.Image, camera: XY, found: Estimate, azimuth: float) -> None:
    """The distribution as a ring around the camera, the heading, and a ray to the point."""
    pen, reach = ImageDraw.Draw(drawn), min(drawn.size)
    assert found.density is not None
    most = float(found.density.max()) or 1.0
    steps = found.density[::8]
    inner = [_towards(camera, at * 4, 0.36 * reach) for at in range(len(steps))]
    outer = [
        _towards(camera, at * 4, (0.36 + 0.12 * one / most) * reach)
        for at, one in enumerate(steps.tolist())
    ]
    for at in range(len(steps)):
        after = (at + 1) % len(steps)
        pen.polygon([inner[at], outer[at], outer[after], inner[after]], fill=YELLOW)
    ray = [camera, _towards(camera, found.heading + azimuth, 2 * reach)]
    for colour, wide in ((BLACK, 4), (WHITE, 2)):
        pen.line(ray, fill=colour, width=wide)
    tip = _towards(camera, found.heading, 0.48 * reach)
    sides = [_towards(camera, found.heading + by, 0.42 * reach) for by in (-5, 5)]
    pen.polygon([tip, *sides], fill=WHITE, outline=BLACK)
    x, y = camera
    pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=YELLOW, outline=BLACK)


def _towards(from_xy: Sequence[float], bearing: float, far: float) -> XY:
    a = math.radians(bearing)
    return from_xy[0] + far * math.sin(a), from_xy[1] - far * math.cos(a)
