"""One html file: a point runs along a panorama, and its map turns on the view from above."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from whyalike.contributions import Contributions
from whyalike.geometry import XY
from whyalike.viewer.export import base64_of, below, document, jpeg_url, starting, static

FORMAT = 1


def heading_data(
    street: Contributions,
    above: Contributions,
    maps: Float[np.ndarray, "columns h w"],
    *,
    y: float,
    camera_xy: XY,
    heading: float,
    density: Float[np.ndarray, " directions"],
    words: str,
) -> dict[str, Any]:
    """What the page shows, as plain json.

    Args:
        street, above: both photographs.
        maps: of points at the middle of each column of the panorama, over the view from above.
        y: how far down the panorama they are, in pixels.
        camera_xy: where the camera stands in the view from above.
        heading: the bearing of the panorama's middle, in degrees clockwise from the top.
        density: of that bearing, in equal steps from 0.
        words: what is said of it.
    """
    return {
        "format": FORMAT,
        "street": _photograph(street),
        "above": _photograph(above),
        "columns": len(maps),
        "maps": base64_of(maps, "<f4"),
        "y": y,
        "camera_xy": list(camera_xy),
        "heading": heading,
        "density": [round(float(one), 6) for one in density],
        "words": words,
        "model": f"{street.model}; {above.model}",
    }


def page(data: dict[str, Any]) -> str:
    """The whole page as one html file."""
    return document(
        f"Where {data['street']['name']} looks",
        static("viewer.css") + static("heading.css"),
        static("viewer.js") + below("heading.js") + starting("startHeading"),
        data,
    )


def _photograph(image: Contributions) -> dict[str, Any]:
    return {
        "name": image.name,
        "src": jpeg_url(image.picture, image.frame.size_wh),
        "size_wh": list(image.frame.size_wh),
        "view_xyxy": [float(x) for x in image.frame.view_xyxy],
        "grid_hw": list(image.frame.grid_hw),
    }
