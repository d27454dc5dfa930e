"""From a photograph to the tensor that a network takes, and to where it lies on the photograph."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from whyalike.errors import ImageError
from whyalike.geometry import XYXY
from whyalike.images import (
    MAX_PIXELS,
    ImageSource,
    label_of,
    path_of,
    printable,
    read_image,
    refuse,
)

Source = ImageSource | Tensor
"""Whatever can be explained: an image in any form, or a ready-made tensor (3, H, W)."""

PICTURE_SIDE = 1600

_RESAMPLING = {
    name.lower(): method for name, method in Image.Resampling.__members__.items()
}  # nearest, box, bilinear, hamming, bicubic, lanczos


@dataclass(frozen=True)
class Preprocess:
    """How a photograph becomes a network's input, pixel for pixel as timm and torchvision do it.

    Args:
        size: height and width of the input; a number for a square.
        mean: per channel of the tensor, in its order, of pixel values scaled to 0..1.
        std: the same.
        interpolation: "bicubic", "bilinear", "lanczos", "nearest", "box" or "hamming".
        fit: "stretch" squashes the whole photograph to the size; "crop" keeps its aspect ratio
            and cuts out the centre.
        crop_fraction: resize to floor(size / crop_fraction), then cut out the centre.
        channels: "RGB" or "BGR".
        crop_rounding: where the crop would begin between two pixels: "even" takes the even one, as
            torchvision and timm do, "down" the first one, as transformers does.

    Raises:
        ValueError: a value that is not one of these.

    >>> tensor, view_xyxy = Preprocess(size=224, fit="crop")(Image.new("RGB", (640, 480)))
    >>> tuple(tensor.shape), view_xyxy
    ((3, 224, 224), (79.46308724832215, 0.0, 560.5369127516778, 480.0))
    """

    size: int | tuple[int, int] = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    fit: str = "stretch"
    crop_fraction: float = 1.0
    channels: str = "RGB"
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        # One form, so that equal settings are equal, hash alike and print alike.
        sides = self.size if isinstance(self.size, tuple | list) else (self.size, self.size)
        height, width = _numbers("size", sides, 2, "whole numbers of pixels, (height, width)")
        if min(height, width) < 1 or not (height.is_integer() and width.is_integer()):
            raise ValueError(f"size is whole numbers of pixels, from 1; came {self.size!r}")
        object.__setattr__(self, "size", (int(height), int(width)))
        form = "three numbers, for pixel values scaled to 0..1"
        object.__setattr__(self, "mean", _numbers("mean", self.mean, 3, form))
        object.__setattr__(self, "std", _numbers("std", self.std, 3, form))
        if min(self.std) <= 0:
            raise ValueError(f"std is three numbers above 0; came {self.std}")
        if not 0 < self.crop_fraction <= 1:
            # Above 1 the crop would be larger than what it is cut from.
            raise ValueError(f"crop_fraction lies above 0 and up to 1; came {self.crop_fraction}")
        if math.prod(side / self.crop_fraction for side in self.size_hw) > MAX_PIXELS:
            raise ValueError(
                f"size / crop_fraction is at most {MAX_PIXELS:,} pixels; came size={self.size}, "
                f"crop_fraction={self.crop_fraction}"
            )
        _check_word("interpolation", self.interpolation, tuple(_RESAMPLING))
        _check_word("fit", self.fit, ("stretch", "crop"))
        _check_word("channels", self.channels, ("RGB", "BGR"))
        _check_word("crop_rounding", self.crop_rounding, ("even", "down"))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: Image.Image) -> tuple[Float[Tensor, "3 h w"], XYXY]:
        """The input for one RGB image, and the rectangle of the image, in its pixels, it shows.

        Raises:
            ImageError: the image is not RGB, or so long and thin that resizing would explode.
        """
        pixels, view = self.pixels(image)
        return self.normalised(pixels), view

    def pixels(self, image: Image.Image) -> tuple[UInt8[Tensor, "3 h w"], XYXY]:
        """The pixels of the input before they are normalised, and the rectangle that they show.

        Raises:
            ImageError: as for a call.
        """
        if image.mode != "RGB":
            raise ImageError(f"image of mode {image.mode}: RGB is needed; use read_image first")
        height, width = self.size_hw
        (resized_w, resized_h), left, top = self._plan(*image.size)
        if resized_w * resized_h > MAX_PIXELS:
            raise ImageError(
                f"image of {image.width}×{image.height} pixels: resized to {resized_w}×{resized_h} "
                f'before cropping, it would not fit; crop it yourself or use fit="stretch"'
            )
        view = (
            left * image.width / resized_w,
            top * image.height / resized_h,
            (left + width) * image.width / resized_w,
            (top + height) * image.height / resized_h,
        )
        image = image.resize((resized_w, resized_h), _RESAMPLING[self.interpolation])
        image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return (pixels.flip(0) if self.channels == "BGR" else pixels), view

    def normalised(self, pixels: UInt8[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
        """The input for what `pixels` gave, or for several of them in a batch."""
        return pixels.float().div_(255).sub_(_column(self.mean)).div_(_column(self.std))

    def _plan(self, width: int, height: int) -> tuple[tuple[int, int], int, int]:
        """What to resize to, and left and top of the crop; the arithmetic is torchvision's."""
        target_h, target_w = self.size_hw
        scale_h = math.floor(target_h / self.crop_fraction)
        scale_w = math.floor(target_w / self.crop_fraction)
        if self.fit == "stretch":
            resized = (scale_w, scale_h)
        elif scale_h == scale_w:  # torchvision's Resize(int)
            longer = int(scale_h * max(width, height) / min(width, height))
            resized = (scale_h, longer) if width <= height else (longer, scale_h)
        else:  # timm's ResizeKeepRatio
            ratio = min(height / scale_h, width / scale_w)
            resized = (round(width / ratio), round(height / ratio))
        # Never negative: crop_fraction ≤ 1 and the shorter side leads, so nothing is ever padded.
        nearest = math.floor if self.crop_rounding == "down" else round
        left = nearest((resized[0] - target_w) / 2.0)
        top = nearest((resized[1] - target_h) / 2.0)
        return resized, left, top

    def to_picture(self, tensor: Float[Tensor, "3 h w"]) -> Image.Image:
        """Undo the normalisation, to look at an input that came ready-made."""
        values = tensor.detach().cpu().float() * _column(self.std) + _column(self.mean)
        if self.channels == "BGR":
            values = values.flip(0)
        values = values.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def _numbers(field: str, values: Any, count: int, form: str) -> tuple[float, ...]:
    numbers: tuple[float, ...] = ()
    with suppress(TypeError, ValueError):
        numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"{field} is {form}; came {values!r}")
    return numbers


def _column(values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


def _check_word(field: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        listed = ", ".join(f'"{word}"' for word in valid)
        raise ValueError(f"{field} is one of {listed}; came {value!r}")


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph as a network sees it, and a small picture of it to draw maps on.

    Args:
        tensor: the network's input.
        view_xyxy: the rectangle of the photograph, in its pixels, that the tensor shows.
        size_wh: width and height of the photograph, after EXIF orientation.
        picture: the whole photograph in RGB, at most 1600 pixels on its longer side.
        name: its file name, safe to print; "image" where there is none.
    """

    tensor: Float[Tensor, "3 h w"]
    view_xyxy: XYXY
    size_wh: tuple[int, int]
    picture: Image.Image
    name: str


def load_photograph(
    source: Source, preprocess: Preprocess | None, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Read a source and preprocess it; a float tensor (3, H, W) is taken as it is.

    Without a preprocess only such tensors can be taken, and their picture is their values
    stretched to the range of 8 bits.

    Raises:
        ImageError: the source cannot be read, or the tensor is not a ready-made input.
    """
    if isinstance(source, Tensor):
        _check_ready_made(source)
        height, width = source.shape[1:]
        to_picture = _stretched if preprocess is None else preprocess.to_picture
        picture = thumbnail(to_picture(source))
        view = (0.0, 0.0, float(width), float(height))
        return Photograph(source, view, (width, height), picture, "image")
    if preprocess is None:
        refuse(
            label_of(source),
            "this model has no preprocess, so only ready-made tensors (3, H, W) can be explained",
            "give the model a Preprocess",
        )
    image = read_image(source, max_pixels)
    try:
        tensor, view = preprocess(image)
    except ImageError as error:
        raise ImageError(f"{label_of(source)}: {error}") from error
    name = printable(Path(path_of(source) or "image").name)
    return Photograph(tensor, view, image.size, thumbnail(image), name)


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity, by its range, which is faster than a mask."""
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _stretched(tensor: Float[Tensor, "3 h w"]) -> Image.Image:
    """A tensor of unknown normalisation as a picture: from its least value to its largest."""
    low, high = tensor.amin().float(), tensor.amax().float()
    plain = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return plain.to_picture((tensor.float() - low) / (high - low).clamp_min(1e-12))


def _check_ready_made(tensor: Tensor) -> None:
    name = "image given as Tensor"
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or shape[0] != 3 or not tensor.numel():
        advice = "pass tensor[0]" if tensor.ndim == 4 and shape[0] == 1 else "pass one image"
        refuse(name, f"a ready-made input has the shape (3, H, W); came {shape}", advice)
    if not tensor.is_floating_point():
        advice = "normalise it as the network expects, or pass uint8 pixels as an array (H, W, 3)"
        refuse(name, f"a ready-made input holds floats; came {tensor.dtype}", advice)
    if not all_finite(tensor):
        refuse(name, "a ready-made input is finite; came NaN or infinity", "check how it was made")


def thumbnail(image: Image.Image) -> Image.Image:
    """A copy to look at, at most 1600 pixels long, so that the full-size pixels can go."""
    shrink = min(1.0, PICTURE_SIDE / max(image.size))
    width, height = (max(1, round(side * shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
