"""What an image processor of transformers does to a photograph, as a Preprocess."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, ImageProcessingMixin

from whyalike.errors import ModelError, in_one_line
from whyalike.preprocess import Preprocess

LEVELS = 1.5
"""How far, in levels of 8 bits, a processor may lie off: one that scales before it resizes does."""


def preprocess(source: str) -> Preprocess:
    """The preprocessing that lies beside a network, in a folder or on the hub.

    Its settings say what it should do; whether a Preprocess does the same is tried out on two
    images of soft noise. Meant is what it does by Pillow: by torchvision, where transformers has a
    choice, the same resampling comes out a few levels of 255 away at some pixels.

    Raises:
        ModelError: there is none, it needs code of its own, or it does something else.
    """
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
        settings = dict(settings)
    except Exception as error:
        raise ModelError(
            f"{source}: has no image processor (preprocessor_config.json), which says how images "
            f"are prepared: {in_one_line(error).rstrip('.')}; save one beside the network, or give "
            f"a preprocess"
        ) from error
    if settings.get("auto_map"):
        raise ModelError(
            f"{source}: its image processor is code of its own, which is not run (auto_map); give "
            f"a preprocess"
        )
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if not re.fullmatch(r"\w+(ImageProcessor(Fast)?|FeatureExtractor)", str(kind)):
        raise ModelError(
            f"{source}: its preprocessor_config.json names no image processor; came {kind!r}; give "
            f"a preprocess"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(
            source, backend="pil", trust_remote_code=False
        )
        found = from_processor(processor)
        gap = max(_gap(found, processor, size_wh) for size_wh in ((67, 45), (50, 91)))
    except Exception as error:
        raise ModelError(
            f"{source}: its image processor cannot be taken over: {in_one_line(error)}; give a "
            f"preprocess"
        ) from error
    if not gap <= LEVELS:
        raise ModelError(
            f"{source}: its {type(processor).__name__} does something to images that a Preprocess "
            f"does not ({gap:.3g} levels of 255 apart); give a preprocess"
        )
    return found


def from_processor(processor: Any) -> Preprocess:
    """What the settings of an image processor say: resize, crop the centre, scale, normalise.

    Raises:
        ValueError: a setting that a Preprocess has no equal for.
    """
    if not processor.do_resize or getattr(processor, "do_pad", None):
        raise ValueError("it pads, or does not resize, and so inputs vary in size")
    fit, resized_hw, size_hw = _plan(processor)
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-9 else scale
    mean = processor.image_mean if processor.do_normalize else [0.0] * 3
    std = processor.image_std if processor.do_normalize else [1.0] * 3
    return Preprocess(
        size=size_hw,
        mean=_scaled(mean, scale),
        std=_scaled(std, scale),
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
        fit=fit,
        crop_fraction=_fraction(resized_hw, size_hw),
        crop_rounding="down",
    )


def _scaled(values: Any, scale: float) -> tuple[float, float, float]:
    red, green, blue = (float(value) / scale for value in values)
    return red, green, blue


def _plan(processor: Any) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """How it resizes, to what height and width, and the height and width that are left."""
    shortest = processor.size.get("shortest_edge")
    if shortest and hasattr(processor, "crop_pct"):  # ConvNeXt's, also for ResNet
        crop_hw = (shortest, shortest)
        if shortest >= 384:
            return "stretch", crop_hw, crop_hw
        resized = int(shortest / processor.crop_pct)
        return "crop", (resized, resized), crop_hw
    crop = processor.crop_size if getattr(processor, "do_center_crop", None) else None
    if shortest:
        if crop is None or crop.height != crop.width or processor.size.get("longest_edge"):
            raise ValueError(
                "it keeps proportions without cutting out a square, and so inputs vary in size"
            )
        return "crop", (shortest, shortest), (crop.height, crop.width)
    height, width = processor.size.get("height"), processor.size.get("width")
    if not height or not width:
        raise ValueError(f"it resizes to {processor.size}, not to a height and a width")
    resized_hw = (height, width)
    return "stretch", resized_hw, resized_hw if crop is None else (crop.height, crop.width)


def _fraction(resized_hw: tuple[int, int], size_hw: tuple[int, int]) -> float:
    """The crop_fraction with which a Preprocess resizes to one size and crops to the other."""
    fraction = size_hw[0] / resized_hw[0]
    if math.floor(size_hw[0] / fraction) < resized_hw[0]:  # by rounding
        fraction = math.nextafter(fraction, 0)
    if fraction > 1 or tuple(math.floor(side / fraction) for side in size_hw) != resized_hw:
        raise ValueError(f"it crops {size_hw} out of {resized_hw} (heights and widths)")
    return fraction


def _gap(ours: Preprocess, processor: Any, size_wh: tuple[int, int]) -> float:
    """How far the two lie apart on an image of soft noise, in levels of 255."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size_wh, Image.Resampling.BICUBIC)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    found = ours(image)[0]
    if theirs.shape != (1, *found.shape):
        return math.inf
    std = torch.tensor(ours.std).view(3, 1, 1)
    return float(((theirs[0] - found) * std).abs().max()) * 255
