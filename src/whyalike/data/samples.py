"""The demo's photographs: two portraits in the public domain that the dependencies bring."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import skimage


def demo_pair() -> tuple[Path, Path]:
    """Grace Hopper (in matplotlib's sample data) and Eileen Collins (in scikit-image's data)."""
    hopper = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    collins = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return hopper, collins
