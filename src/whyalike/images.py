"""From whatever a user calls an image to 8-bit sRGB pixels, the right way up.

Everything here is defensive: files come from strangers. `read_image` gives right pixels or one
clear `ImageError`.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, NoReturn, Protocol, cast, runtime_checkable

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from whyalike.errors import ImageError


@runtime_checkable
class BinaryFile(Protocol):
    """Any object that reads bytes as an open file does."""

    def read(self, size: int = ..., /) -> bytes: ...


ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | np.ndarray
)

MAX_PIXELS = 100_000_000

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
_SAVE_ANEW = "save it again as JPEG or PNG"


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
    name = label_of(source)
    try:
        with pillow_silenced():
            if isinstance(source, Image.Image):
                return _to_upright_rgb(source, name, max_pixels)
            if isinstance(source, np.ndarray):
                return _to_upright_rgb(_from_array(source, name), name, max_pixels)
            if isinstance(source, bytes | bytearray | memoryview):
                return _from_file(io.BytesIO(source), name, max_pixels)
            if isinstance(source, str | os.PathLike):
                with open_regular_file(source, name) as file:
                    return _from_file(file, name, max_pixels)
            if isinstance(source, io.TextIOBase):
                refuse(name, "the file was opened as text", 'open it with mode "rb"')
            if isinstance(source, BinaryFile):
                return _from_file(source, name, max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        advice = "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels"
        refuse(name, f"more pixels than Pillow's own limit ({_one_line(error)})", advice, error)
    except MemoryError as error:
        refuse(name, "not enough memory to decode it", "make it smaller", error)
    # Whatever else a decoder raises on hostile bytes: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        refuse(name, f"damaged or cut short ({_one_line(error)})", _SAVE_ANEW, error)
    advice = "pass a path, the bytes of a file, a PIL image or a uint8 array (H, W, 3)"
    refuse(name, f"cannot read an image from a {type(source).__name__}", advice)


def open_regular_file(path: str | os.PathLike[str], name: str) -> io.BufferedReader:
    """A file to read bytes from; an ImageError for whatever is not an ordinary, non-empty file."""
    try:
        # Opening a pipe would wait for ever and opening a device may do anything: look first.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            refuse(name, "is a folder", "pass an image file inside it")
        if not stat.S_ISREG(status.st_mode):
            refuse(name, "is not a regular file", "pass an ordinary image file")
        if status.st_size == 0:
            refuse(name, "is empty (0 bytes)", "copy or download it again")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        refuse(name, "there is no such file", "check the path", error)
    except PermissionError as error:
        refuse(name, "may not be read", "check the file's permissions", error)
    except (OSError, ValueError) as error:
        refuse(name, f"cannot be opened ({_one_line(error)})", "check the path", error)


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
        refuse(name, what, _SAVE_ANEW, error)
    return _to_upright_rgb(image, name, max_pixels, owned=True)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        advice = "use (H, W), (H, W, 3) or (H, W, 4), channels last"
        refuse(name, f"an array of shape {array.shape} is not an image", advice)
    if not array.size:
        refuse(name, f"an array of shape {array.shape} is empty", "pass at least one pixel")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _16_to_8_bit(array)
    elif array.dtype != np.uint8:
        advice = "scale it to 0..255 and pass array.astype(np.uint8)"
        if array.dtype.kind == "f":
            advice += ", or pass the network's normalised input as a torch tensor (3, H, W)"
        refuse(name, f"the range of an array of {array.dtype} is not known", advice)
    return Image.fromarray(array)


def _to_upright_rgb(
    image: Image.Image, name: str, max_pixels: int, *, owned: bool = False
) -> Image.Image:
    """Decode and convert; `owned` images may be changed in place, which saves a copy."""
    width, height = image.size
    if width < 1 or height < 1:
        refuse(name, f"{width}×{height} pixels is no image", _SAVE_ANEW)
    if width * height > max_pixels:
        advice = "make it smaller or raise max_pixels"
        refuse(name, f"{width}×{height} pixels are more than {max_pixels:,}", advice)
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
        refuse(
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
def pillow_silenced() -> Iterator[None]:
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


def refuse(name: str, what: str, advice: str, cause: BaseException | None = None) -> NoReturn:
    raise ImageError(f"{name}: {what}; {advice}") from cause


def path_of(source: object) -> str | None:
    """The path behind a source, where it has one."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) and name else None


def label_of(source: object) -> str:
    path = path_of(source)
    return printable(path) if path else f"image given as {type(source).__name__}"


def printable(text: str) -> str:
    """Control characters, line ends and undecodable bytes as escapes, on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _one_line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}".removesuffix(": "))[:200]
