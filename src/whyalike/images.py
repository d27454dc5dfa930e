"""From whatever a user calls an image to the tensor that a network takes.

Everything here is defensive: files come from strangers. `read_image` gives 8-bit sRGB pixels the
right way up or one clear `ImageError`; `Preprocess` makes the network's input of them and says
which part of the photograph it shows; `load_photograph` does both.
"""

from __future__ import annotations

import io
import math
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from whyalike.errors import ImageError
from whyalike.geometry import XYXY


@runtime_checkable
class BinaryFile(Protocol):
    """Any object that reads bytes as an open file does."""

    def read(self, size: int = ..., /) -> bytes: ...


ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | np.ndarray
)

Source = ImageSource | Tensor
"""Whatever can be explained: an image in any form, or a ready-made tensor (3, H, W)."""

MAX_PIXELS = 100_000_000
PICTURE_SIDE = 1600

# Pillow tries only these, so no file reaches its rarer parsers or an outside program (EPS).
# "JPEG" covers the MPO files of phones, "PPM" the whole PNM family.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_KNOWN_STRANGERS = {  # where in the file, which bytes: what it is
    (4, b"ftyphei"): "a HEIC photograph",
    (4, b"ftypmif1"): "a HEIC photograph",
    (0, b"%PDF"): "a PDF document",
    (0, b"%!PS"): "a PostScript document",
    (0, b"<svg"): "an SVG drawing",
    (0, b"<?xml"): "an XML document",
    (0, b"<!DOCTYPE"): "a web page",
    (0, b"<html"): "a web page",
}
_TURNS = {  # EXIF orientation → what sets it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {
    name.lower(): method for name, method in Image.Resampling.__members__.items()
}  # nearest, box, bilinear, hamming, bicubic, lanczos
_SAVE_ANEW = "save it again as JPEG or PNG"


# ---------------------------------------------------------------------------------------- reading


def read_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read any source as an upright 8-bit sRGB image, or say why not.

    The first frame of an animation; transparency over white; 16-bit grey scaled, not cut off;
    colour profiles and EXIF orientation applied.

    Args:
        source: a path; the bytes of a file or a binary file object; a PIL image; or an array of
            uint8, uint16 or bool, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        max_pixels: larger images are refused before they are decoded.

    Returns:
        A PIL image of mode "RGB" (the source itself where nothing was to be done to it).

    Raises:
        ImageError: one line, "<name>: <what is wrong>; <what to do>".
    """
    name = _label(source)
    try:
        with _pillow_silenced():
            if isinstance(source, Image.Image):
                return _to_upright_rgb(source, name, max_pixels)
            if isinstance(source, np.ndarray):
                return _to_upright_rgb(_from_array(source, name), name, max_pixels)
            if isinstance(source, bytes | bytearray | memoryview):
                return _from_file(io.BytesIO(source), name, max_pixels)
            if isinstance(source, str | os.PathLike):
                with _open_regular_file(source, name) as file:
                    return _from_file(file, name, max_pixels)
            if isinstance(source, io.TextIOBase):
                _refuse(name, "the file was opened as text", 'open it with mode "rb"')
            if isinstance(source, BinaryFile):
                return _from_file(source, name, max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels"
        _refuse(name, f"more pixels than Pillow's own limit ({_one_line(error)})", advice, error)
    except MemoryError as error:
        _refuse(name, "not enough memory to decode it", "make it smaller", error)
    # Whatever else a decoder raises on hostile bytes: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        _refuse(name, f"damaged or cut short ({_one_line(error)})", _SAVE_ANEW, error)
    advice = "pass a path, the bytes of a file, a PIL image or a uint8 array (H, W, 3)"
    _refuse(name, f"cannot read an image from a {type(source).__name__}", advice)


def _open_regular_file(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    try:
        # Opening a pipe would wait for ever and opening a device may do anything: look first.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            _refuse(name, "is a folder", "pass an image file inside it")
        if not stat.S_ISREG(status.st_mode):
            _refuse(name, "is not a regular file", "pass an ordinary image file")
        if status.st_size == 0:
            _refuse(name, "is empty (0 bytes)", "copy or download it again")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        _refuse(name, "there is no such file", "check the path", error)
    except PermissionError as error:
        _refuse(name, "may not be read", "check the file's permissions", error)
    except (OSError, ValueError) as error:
        _refuse(name, f"cannot be opened ({_one_line(error)})", "check the path", error)


def _from_file(file: BinaryFile, name: str, max_pixels: int) -> Image.Image:
    Image.init()  # registers the formats; does nothing the second time
    formats = tuple(f for f in _FORMATS if f in Image.OPEN)
    try:
        image = Image.open(cast(IO[bytes], file), formats=formats)
    except UnidentifiedImageError as error:
        what = f"not an image ({', '.join(formats)}), or its first bytes are damaged"
        with suppress(OSError, AttributeError):  # a stream cannot go back to its beginning
            cast(IO[bytes], file).seek(0)
            head = file.read(16)
            what = "is empty (0 bytes)" if not head else what
            for (at, magic), stranger in _KNOWN_STRANGERS.items():
                what = f"is {stranger}" if head[at:].startswith(magic) else what
        _refuse(name, what, _SAVE_ANEW, error)
    return _to_upright_rgb(image, name, max_pixels, owned=True)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        advice = "use (H, W), (H, W, 3) or (H, W, 4), channels last"
        _refuse(name, f"an array of shape {array.shape} is not an image", advice)
    if not array.size:
        _refuse(name, f"an array of shape {array.shape} is empty", "pass at least one pixel")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _16_to_8_bit(array)
    elif array.dtype != np.uint8:
        advice = "scale it to 0..255 and pass array.astype(np.uint8)"
        if array.dtype.kind == "f":
            advice += ", or pass the network's normalised input as a torch tensor (3, H, W)"
        _refuse(name, f"the range of an array of {array.dtype} is not known", advice)
    return Image.fromarray(array)


def _to_upright_rgb(
    image: Image.Image, name: str, max_pixels: int, *, owned: bool = False
) -> Image.Image:
    """Decode and convert; `owned` images may be changed in place, which saves a copy."""
    width, height = image.size
    if width < 1 or height < 1:
        _refuse(name, f"{width}×{height} pixels is no image", _SAVE_ANEW)
    if width * height > max_pixels:
        advice = "make it smaller or raise max_pixels"
        _refuse(name, f"{width}×{height} pixels are more than {max_pixels:,}", advice)
    image.load()
    turn = _turn(image)
    profile = image.info.get("icc_profile")
    rgb = image
    alpha = None
    if image.mode == "F" or image.mode.startswith("I"):
        rgb, alpha = _from_deep_grey(image, name)
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = rgba.getchannel("A")
        rgb = rgba.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
        del rgba
    rgb = _to_srgb(rgb, profile, in_place=owned or rgb is not image)
    if alpha is not None:
        white = Image.new("RGB", rgb.size, "white")
        white.paste(rgb, mask=alpha)
        rgb = white
    if turn is not None:
        rgb = rgb.transpose(turn)
    if owned and rgb is image and getattr(image, "is_animated", False):
        rgb = rgb.copy()  # or it would keep the decoder and the other frames
    if rgb is not image or owned:
        # Turned and in sRGB now; its metadata must not make a second reading do it again.
        rgb.info.clear()
    return rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    # A broken EXIF block says nothing about the pixels: browsers ignore it, and so do we.
    with suppress(Exception):
        return _TURNS.get(image.getexif().get(0x0112, 1))
    return None


def _from_deep_grey(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Grey of more than 8 bits as (mode "L", alpha); Pillow's own conversion cuts off at 255."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 65535:
        _refuse(
            name,
            f"its values (mode {image.mode}, from {low:g} to {high:g}) have no known range",
            "scale them to 0..255 and save it as 8-bit PNG",
        )
    values = values.astype(np.uint16)
    tags = getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):  # BitsPerSample: Pillow leaves 12 bits at 0..4095
        values = values << 4
    if tags.get(262) == 0 and image.mode.startswith("I;16"):
        values = ~values  # WhiteIsZero, which Pillow inverts for 8 bits only
    clear = image.info.get("transparency")
    alpha = Image.fromarray((values != clear) * np.uint8(255)) if isinstance(clear, int) else None
    return Image.fromarray(_16_to_8_bit(values)), alpha


def _16_to_8_bit(values: np.ndarray) -> np.ndarray:
    """The nearest of v / 257, without leaving 16 bits."""
    eight: np.ndarray = (np.minimum(values, 65407) + np.uint16(128)) // np.uint16(257)
    return eight.astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None, *, in_place: bool) -> Image.Image:
    """By the embedded colour profile; plainly where there is none, as browsers do."""
    if profile:
        # Also where it is broken or belongs to another kind of image.
        with suppress(Exception):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            described = ImageCms.getProfileDescription(source).lower()  # type: ignore[no-untyped-call,unused-ignore]
            if image.mode == "RGB" and "srgb" in described and "linear" not in described:
                return image
            mode = image.mode if image.mode in ("L", "RGB", "CMYK", "LAB") else "RGB"
            if image.mode != mode:
                image, in_place = image.convert(mode), True
            target = ImageCms.createProfile("sRGB")
            transform = ImageCms.buildTransform(source, target, mode, "RGB")
            if not (in_place and mode == "RGB"):
                converted: Image.Image = transform.apply(image)
                return converted
            transform.apply_in_place(image)
    return image if image.mode == "RGB" else image.convert("RGB")


_silence_lock = threading.Lock()
_silence_readers = 0
_silence = warnings.catch_warnings()


@contextmanager
def _pillow_silenced() -> Iterator[None]:
    """Nothing that Pillow warns of (bombs, odd metadata) is printed or, under -W error, raised.

    `catch_warnings` swaps a list that all threads share, so overlapping readers share one swap:
    the first one in makes it and the last one out undoes it.
    """
    global _silence, _silence_readers
    if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: a swap per thread
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
        return
    with _silence_lock:
        if _silence_readers == 0:
            _silence = warnings.catch_warnings()
            _silence.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _silence_readers += 1
    try:
        yield
    finally:
        with _silence_lock:
            _silence_readers -= 1
            if _silence_readers == 0:
                _silence.__exit__(None, None, None)


def _refuse(name: str, what: str, advice: str, cause: BaseException | None = None) -> NoReturn:
    raise ImageError(f"{name}: {what}; {advice}") from cause


def _path(source: object) -> str | None:
    """The path behind a source, where it has one."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) and name else None


def _label(source: object) -> str:
    path = _path(source)
    return _printable(path) if path else f"image given as {type(source).__name__}"


def _printable(text: str) -> str:
    """Control characters, line ends and undecodable bytes as escapes, on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _one_line(error: BaseException) -> str:
    return _printable(f"{type(error).__name__}: {error}".removesuffix(": "))[:200]


# ------------------------------------------------------------------------------ the network's input


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

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: Image.Image) -> tuple[Float[Tensor, "3 h w"], XYXY]:
        """The input for one RGB image, and the rectangle of the image, in its pixels, it shows.

        Raises:
            ImageError: the image is not RGB, or so long and thin that resizing would explode.
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
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        if self.channels == "BGR":
            tensor = tensor.flip(0)
        return tensor.sub_(_column(self.mean)).div_(_column(self.std)), view

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
        left = round((resized[0] - target_w) / 2.0)
        top = round((resized[1] - target_h) / 2.0)
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


# -------------------------------------------------------------------------------------- photographs


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
        picture = _thumbnail(to_picture(source))
        view = (0.0, 0.0, float(width), float(height))
        return Photograph(source, view, (width, height), picture, "image")
    if preprocess is None:
        _refuse(
            _label(source),
            "this model has no preprocess, so only ready-made tensors (3, H, W) can be explained",
            "give the model a Preprocess",
        )
    image = read_image(source, max_pixels)
    try:
        tensor, view = preprocess(image)
    except ImageError as error:
        raise ImageError(f"{_label(source)}: {error}") from error
    name = _printable(Path(_path(source) or "image").name)
    return Photograph(tensor, view, image.size, _thumbnail(image), name)


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
        _refuse(name, f"a ready-made input has the shape (3, H, W); came {shape}", advice)
    if not tensor.is_floating_point():
        advice = "normalise it as the network expects, or pass uint8 pixels as an array (H, W, 3)"
        _refuse(name, f"a ready-made input holds floats; came {tensor.dtype}", advice)
    if not all_finite(tensor):
        _refuse(name, "a ready-made input is finite; came NaN or infinity", "check how it was made")


def _thumbnail(image: Image.Image) -> Image.Image:
    """A copy, so that the full-size pixels can go."""
    shrink = min(1.0, PICTURE_SIDE / max(image.size))
    width, height = (max(1, round(side * shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
