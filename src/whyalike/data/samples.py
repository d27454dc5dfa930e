"""Photographs that the dependencies bring: two portraits in the public domain, a stereo pair."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import skimage


def demo_pair() -> tuple[Path, Path]:
    """Grace Hopper (in matplotlib's sample data) and Eileen Collins (in scikit-image's data)."""
    hopper = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    collins = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return hopper, collins


def stereo_pair() -> tuple[Path, Path, Path]:
    """The motorcycle in scikit-image's data: left, right, and the left one's disparity (.npz)."""
    folder = Path(skimage.__file__).parent / "data"
    left, right, disparity = (
        folder / f"motorcycle_{name}" for name in ("left.png", "right.png", "disp.npz")
    )
    return left, right, disparity
