"""Images from strangers: right pixels or the right error, and the network's input of them."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image, ImageCms

from whyalike.errors import ImageError, WhyalikeError
from whyalike.images import read_image
from whyalike.preprocess import Photograph, Preprocess, all_finite, load_photograph

RNG = np.random.default_rng(0)
# Blocks of 16 pixels survive JPEG; h≠w.
COLOURS = RNG.integers(20, 236, (3, 4, 3), dtype=np.uint8)
RGB = COLOURS.repeat(16, axis=0).repeat(16, axis=1)
GREY = np.ascontiguousarray(RGB[..., 0])
GREY_RGB = np.stack([GREY] * 3, axis=2)
GREY_16 = GREY.astype(np.uint16) * 257  # what 16 bits make of the same greys
ALPHA = np.linspace(0, 255, GREY.size).round().astype(np.uint8).reshape(GREY.shape)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return rgb * a + 255 * (1 - a)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )


# ------------------------------------------------------------------------------- what can be read


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.putpalette(COLOURS.tobytes())
    clear = bytes([0, 128, 255] * 4)
    alpha = np.frombuffer(clear, np.uint8).reshape(3, 4)
    return encoded(image, "PNG", transparency=clear), over_white(COLOURS, alpha)


def animated(kind: str, **options: Any) -> bytes:
    frames = [Image.fromarray(a) for a in (RGB, RGB[::-1], RGB[:, ::-1])]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def sixteen_bit_grey_with_clear_value() -> tuple[bytes, np.ndarray]:
    clear = int(GREY_16[0, 0])
    data = encoded(GREY_16, "PNG")
    at = data.index(b"IDAT") - 4
    data = data[:at] + png_chunk(b"tRNS", struct.pack(">H", clear)) + data[at:]
    return data, np.where(np.equal(GREY_16, clear)[..., None], 255, GREY_RGB)


def grey_tiff(bits: int, photometric: int, data: bytes, width: int, height: int) -> bytes:
    """By hand, for the kinds that Pillow reads but cannot write."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


TWELVE_BITS = bytes([0xFF, 0xF0, 0x00, 0x80, 0x08, 0x00])  # 4095, 0, 2056, 2048

# name → bytes, expected pixels, tolerance
READABLE: dict[str, tuple[bytes, np.ndarray, float]] = {
    "rgb.png": (encoded(RGB, "PNG"), RGB, 0),
    "rgb.bmp": (encoded(RGB, "BMP"), RGB, 0),
    "rgb.ppm": (encoded(RGB, "PPM"), RGB, 0),
    "rgb.webp": (encoded(RGB, "WEBP", lossless=True), RGB, 0),
    "rgb.tiff": (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "rgb.jpg": (encoded(RGB, "JPEG", quality=95, subsampling=0), RGB, 3),
    "progressive.jpg": (encoded(RGB, "JPEG", quality=95, subsampling=0, progressive=True), RGB, 3),
    "phone.mpo": (animated("MPO", quality=95, subsampling=0), RGB, 3),
    "wrong-extension.gif": (encoded(RGB, "PNG"), RGB, 0),
    "no-extension": (encoded(RGB, "PNG"), RGB, 0),
    "one-pixel.png": (encoded(RGB[:1, :1], "PNG"), RGB[:1, :1], 0),
    "grey.jpg": (encoded(GREY, "JPEG", quality=95, subsampling=0), GREY_RGB, 3),
    "grey16.png": (encoded(GREY_16, "PNG"), GREY_RGB, 0),
    "grey16.tiff": (encoded(GREY_16, "TIFF"), GREY_RGB, 0),
    "grey16-big-endian.tiff": (encoded(GREY_16.astype(">u2"), "TIFF"), GREY_RGB, 0),
    "grey16.pgm": (encoded(Image.fromarray(GREY_16.astype(np.int32)), "PPM"), GREY_RGB, 0),
    "grey16-white-is-zero.tiff": (
        grey_tiff(16, 0, GREY_16.astype("<u2").tobytes(), 64, 48),
        255 - GREY_RGB,
        0,
    ),
    "grey16-clear.png": (*sixteen_bit_grey_with_clear_value(), 0),
    "grey12.tiff": (
        grey_tiff(12, 1, TWELVE_BITS, 4, 1),
        np.array([[[255] * 3, [0] * 3, [128] * 3, [128] * 3]]),
        1,
    ),
    "grey32-within-16.tiff": (encoded(GREY_16.astype(np.int32), "TIFF"), GREY_RGB, 0),
    "bilevel.png": (encoded(GREY > 128, "PNG"), (GREY_RGB > 128) * 255, 0),
    "bilevel.tiff": (encoded(GREY > 128, "TIFF", compression="group4"), (GREY_RGB > 128) * 255, 0),
    "rgba.png": (encoded(np.dstack([RGB, ALPHA]), "PNG"), over_white(RGB, ALPHA), 1),
    "la.png": (
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        over_white(GREY_RGB, ALPHA),
        1,
    ),
    "rgba.webp": (
        encoded(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True),
        over_white(RGB, ALPHA),
        1,
    ),
    "palette-clear.png": (*palette_with_transparency(), 1),
    "one-clear-colour.png": (
        encoded(RGB, "PNG", transparency=tuple(int(v) for v in COLOURS[0, 0])),
        np.where(np.equal(RGB, COLOURS[0, 0]).all(axis=2, keepdims=True), 255, RGB),
        0,
    ),
    "cmyk.jpg": (
        encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95, subsampling=0),
        RGB,
        4,
    ),
    "cmyk.tiff": (encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB, 1),
    "ycbcr.tiff": (
        encoded(Image.fromarray(RGB).convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        RGB,
        3,
    ),
    "lab.tiff": (encoded(Image.fromarray(RGB).convert("LAB"), "TIFF"), RGB, 8),
    "animated.webp": (animated("WEBP", lossless=True), RGB, 0),
    "animated.png": (animated("PNG"), RGB, 0),
    "pages.tiff": (animated("TIFF"), RGB, 0),
}


if "AVIF" in Image.SAVE:  # Pillow has it from 11.3, where it was built with it
    READABLE["rgb.avif"] = (encoded(RGB, "AVIF", quality=100, subsampling="4:4:4"), RGB, 3)


@pytest.mark.parametrize("name", READABLE)
def test_right_pixels(name: str, tmp_path: Path) -> None:
    data, expected, tolerance = READABLE[name]
    path = tmp_path / name
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data)):
        image = read_image(source)
        assert image.size == (expected.shape[1], expected.shape[0])
        assert np.abs(pixels(image) - expected).max() <= tolerance
        assert not image.info
        assert not getattr(image, "is_animated", False), "the other frames are let go"
        assert read_image(image) is image, "nothing is left to be done to what was read"
    opened = read_image(Image.open(io.BytesIO(data)))
    assert (pixels(opened) == pixels(image)).all()


def test_first_frame_of_an_animated_gif() -> None:
    frames = [Image.fromarray(np.full((3, 5), v, np.uint8)).convert("P") for v in (0, 200)]
    frames[0].putpixel((4, 1), 77)
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = pixels(frames[0].convert("RGB"))
    assert (pixels(read_image(data)) == expected).all()


def test_every_16_bit_grey_goes_to_the_nearest_8_bit() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(128, 512)
    expected = np.rint(ramp / 257)
    assert (pixels(read_image(encoded(ramp, "PNG")))[..., 1] == expected).all()
    assert (pixels(read_image(ramp))[..., 2] == expected).all()
    assert (pixels(read_image(ramp.astype(">u2")))[..., 0] == expected).all()


# How a camera that is held in each of the eight ways stores the upright image, by the words of the
# standard: which side of the scene the first row and the first column of the file show.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    data = encoded(stored, kind, exif=exif, **options)
    image = read_image(data)
    assert image.size == (64, 48)
    assert np.abs(pixels(image) - RGB).max() <= (3 if kind == "JPEG" else 0)
    assert read_image(image) is image, "a second reading does not turn it again"

    opened = Image.open(io.BytesIO(data))
    before = opened.copy()
    assert (pixels(read_image(opened)) == pixels(image)).all()
    assert opened.size == before.size, "an image that was handed in is left as it was"
    assert opened.tobytes() == before.tobytes()


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert (
        np.abs(
            pixels(read_image(encoded(RGB, "JPEG", quality=95, subsampling=0, exif=exif))) - RGB
        ).max()
        <= 3
    )


# ---------------------------------------------------------------------------------- colour profiles


def icc_profile(
    space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", described: bytes = b"a test"
) -> bytes:
    """A version 2 profile of the given tags."""
    described += b"\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(described)) + described + bytes(78)
    tags = {b"desc": desc, b"wtpt": xyz(0.9642, 1, 0.8249), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4xI", at + len(body), 0x02400000) + kind + space + pcs
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += xyz(0.9642, 1, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


SRGB_TO_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
P3_TO_XYZ = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def rgb_profile(to_xyz: np.ndarray, gamma: float, described: bytes = b"a test") -> bytes:
    tags = {name: xyz(*to_xyz[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma_curve(gamma))
    return icc_profile(b"RGB ", tags, described=described)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "to_xyz", [P3_TO_XYZ, SRGB_TO_XYZ[:, [1, 2, 0]]], ids=["wide gamut", "channels swapped"]
)
def test_colour_profile_is_applied(to_xyz: np.ndarray) -> None:
    gamma = 563 / 256  # what the profile's 8.8 fixed point holds
    profile = rgb_profile(to_xyz, gamma)
    expected = to_srgb((RGB / 255) ** gamma @ (np.linalg.inv(SRGB_TO_XYZ) @ to_xyz).T)
    assert np.abs(expected - RGB).max() > 20, "the profile matters"
    assert np.abs(pixels(read_image(encoded(RGB, "PNG", icc_profile=profile))) - expected).max() < 3

    transparent = encoded(np.dstack([RGB, ALPHA]), "PNG", icc_profile=profile)
    expected = over_white(expected, ALPHA)
    assert np.abs(pixels(read_image(transparent)) - expected).max() < 3

    given = Image.open(io.BytesIO(encoded(RGB, "PNG", icc_profile=profile)))
    read_image(given)
    assert (pixels(given) == RGB).all(), "an image that was handed in is left as it was"


def test_colour_profiles_of_grey_and_cmyk() -> None:
    linear_grey = icc_profile(b"GRAY", {b"kTRC": gamma_curve(1.0)})
    expected = to_srgb(GREY_RGB / 255)
    for values in (GREY, GREY_16):
        image = read_image(encoded(values, "PNG", icc_profile=linear_grey))
        assert np.abs(pixels(image) - expected).max() < 3

    # An ink table in which cyan prints red: 16 corners (c, m, y, k) of Lab.
    corners = np.full((2, 2, 2, 2, 3), (255, 128, 128), np.uint8)
    corners[1, :, :, :] = (128, 190, 160)
    corners[:, :, :, 1] = (0, 128, 128)
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).flat)
    lut += ramp * 4 + corners.tobytes() + ramp * 3
    profile = icc_profile(b"CMYK", {b"A2B0": lut}, pcs=b"Lab ")
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = pixels(read_image(encoded(cyan, "JPEG", icc_profile=profile)))[8, 8]
    assert red > green + 60
    assert red > blue + 60
    red, green, blue = pixels(read_image(encoded(cyan, "JPEG")))[8, 8]
    assert red < 5, "without a profile cyan is cyan"


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        rgb_profile(P3_TO_XYZ, 2.2)[:200],
        icc_profile(b"GRAY", {b"kTRC": gamma_curve(1.0)}),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB_TO_XYZ, 2.2, b"sRGB IEC61966-2.1"),
    ],
    ids=["nonsense", "cut short", "of another kind of image", "sRGB", "sRGB, nearly"],
)
def test_colour_profile_leaves_pixels_alone(profile: bytes) -> None:
    assert (pixels(read_image(encoded(RGB, "PNG", icc_profile=profile))) == RGB).all()


# --------------------------------------------------------------------------------- what is refused


def damaged_crc() -> bytes:
    data = bytearray(encoded(RGB, "PNG"))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    return bytes(data)


# name → bytes, what the message says
REFUSED: dict[str, tuple[bytes, str]] = {
    "cut-short.jpg": (encoded(RGB, "JPEG")[:-200], "damaged or cut short"),
    "cut-short.png": (encoded(RGB, "PNG")[:-40], "damaged or cut short"),
    "cut-short.tiff": (encoded(RGB, "TIFF")[:2000], "damaged or cut short|not an image"),
    "cut-short.webp": (encoded(RGB, "WEBP")[:-40], "damaged or cut short"),
    "header-only.jpg": (encoded(RGB, "JPEG")[:20], "damaged or cut short|not an image"),
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"This is not a photograph.\n", "not an image"),
    "one-byte.png": (b"\x89", "not an image"),
    "crc.png": (damaged_crc(), "damaged or cut short"),
    "header-crc.png": (
        encoded(RGB, "PNG").replace(b"IHDR\0\0\0\x40", b"IHDR\0\0\0\x41"),
        "not an image",
    ),
    "no-pixels.png": (png(0, 7, b""), "damaged|no image|not an image"),
    "huge-header.png": (png(20_000, 20_000, b""), "more pixels than Pillow's own limit"),
    "large-header.png": (png(11_000, 11_000, b""), "11000×11000 pixels are more than 100,000,000"),
    "bomb.png": (png(14_000, 12_000, bytes(1751 * 12_000), 1), "14000×12000 pixels are more than"),
    "float.tiff": (encoded(GREY.astype(np.float32) / 255, "TIFF"), "mode F.*no known range"),
    "nan.tiff": (encoded(np.full((3, 5), np.nan, np.float32), "TIFF"), "no known range"),
    "depth.tiff": (encoded(GREY.astype(np.int32) * 65536, "TIFF"), "mode I.*no known range"),
    "negative.tiff": (encoded(GREY.astype(np.int32) - 200, "TIFF"), "no known range"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC.*save it again as"),
    "unknown.heic": (RNG.bytes(500), "not an image"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "page.jpg": (b"<!DOCTYPE html><title>404</title>", "web page"),
    "document.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "figure.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostSc"),
    "icon.ico": (encoded(RGB, "ICO"), "not an image"),  # Pillow could; the list of formats says no
}


def check_message(message: str, name: str) -> None:
    assert name in message
    assert message.count("; ") >= 1, "says what to do"
    assert message.isprintable(), "one line, without control characters"
    message.encode()  # no surrogates: any terminal can show it


@pytest.mark.parametrize("name", REFUSED)
def test_right_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    data, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    for source, label in ((path, name), (data, "bytes"), (io.BytesIO(data), "BytesIO")):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(source)
        check_message(str(caught.value), label)
        assert isinstance(caught.value, WhyalikeError)


def test_hostile_bytes_never_escape() -> None:
    """Bytes changed, dropped and put in: an image of some kind or an ImageError, nothing else."""
    rng = np.random.default_rng(1)
    small = {name: data for name, (data, _, _) in READABLE.items() if len(data) < 20_000}
    for data in small.values():
        for _ in range(25):
            changed = bytearray(data)
            for at in rng.integers(0, min(len(data), int(rng.choice([64, 400, 20_000]))), 4):
                changed[at : at + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
            try:
                image = read_image(bytes(changed), max_pixels=1_000_000)
            except ImageError as error:
                check_message(str(error), "bytes")
            else:
                assert image.mode == "RGB"


def test_damage_has_its_cause() -> None:
    with pytest.raises(ImageError) as caught:
        read_image(REFUSED["cut-short.jpg"][0])
    assert isinstance(caught.value.__cause__, OSError)


def test_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing.jpg", "there is no such file"),
        (tmp_path / "file" / "below", "there is no such file"),
        (tmp_path / ("n" * 5000), "cannot be opened"),
        ("with\0zero.jpg", "cannot be opened"),
        ("", "there is no such file"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(path)
        check_message(str(caught.value), "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    (tmp_path / "link.jpg").symlink_to(pipe)
    messages: list[str] = []

    def read() -> None:
        for path in (pipe, tmp_path / "link.jpg", "/dev/zero"):
            try:
                read_image(path)
            except ImageError as error:
                messages.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(messages) == 3
    assert all("is not a regular file" in message for message in messages)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "private.jpg"
    path.write_bytes(encoded(RGB, "JPEG"))

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # By hand: the superuser, as whom tests may run, may read anything.
    monkeypatch.setattr("whyalike.images.open", denied, raising=False)
    with pytest.raises(ImageError, match=r"private\.jpg: may not be read; check the file's"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (b"two\nlines\t.jpg", r"two\nlines\t.jpg"),
        (b"escape\x1b[31m.jpg", r"escape\x1b[31m.jpg"),
        (b"latin-\xe9.jpg", r"latin-\udce9.jpg"),
        ("žluťoučký 猫.jpg".encode(), "žluťoučký 猫.jpg"),
        ("right\u202eto left.jpg".encode(), r"right\u202eto left.jpg"),
    ],
)
def test_odd_names(name: bytes, printed: str, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    check_message(str(caught.value), printed)
    try:
        Path(path).write_bytes(encoded(RGB, "JPEG"))
    except OSError:
        pytest.skip("this file system does not take the name")
    assert read_image(path).size == (64, 48)
    assert load_photograph(path, Preprocess(size=8)).name == printed


# ------------------------------------------------------------ arrays, file objects, PIL, max_pixels


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB[::2, ::-3], RGB[::2, ::-3]),
        (GREY, GREY_RGB),
        (GREY[..., None], GREY_RGB),
        (GREY > 128, (GREY_RGB > 128) * 255),
        (GREY_16, GREY_RGB),
        (np.dstack([RGB, ALPHA]), over_white(RGB, ALPHA)),
    ],
    ids=["rgb", "strides", "grey", "one channel", "bool", "uint16", "rgba"],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    before = array.copy()
    assert np.abs(pixels(read_image(array)) - expected).max() <= 1
    assert (array == before).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (RGB / 255, r"range of an array of float64.*astype\(np\.uint8\).*torch tensor"),
        (RGB.astype(np.int64), r"range of an array of int64.*astype\(np\.uint8\)"),
        (RGB.transpose(2, 0, 1), "shape .*channels last"),
        (RGB[None], "shape .*channels last"),
        (RGB[..., :2], "shape .*channels last"),
        (RGB[:0], "is empty"),
        (np.array(["a.jpg"]), "is not an image"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(array)
    check_message(str(caught.value), "ndarray")


@pytest.mark.parametrize("source", [42, None, ["a.jpg"]])
def test_other_things_are_refused(source: Any) -> None:
    with pytest.raises((ImageError, TypeError), match=r"cannot read an image from a|type"):
        read_image(source)


def test_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(encoded(RGB, "PNG"))
    with path.open("rb") as file:
        file.seek(10)  # wherever it stands
        assert (pixels(read_image(file)) == RGB).all()
        assert not file.closed, "whoever opened it closes it"

    class Stream:
        """A download, say: it can be read once, and cannot go back."""

        def __init__(self, data: bytes) -> None:
            self.read = io.BytesIO(data).read

    assert (pixels(read_image(Stream(path.read_bytes()))) == RGB).all()
    with pytest.raises(ImageError, match="image given as Stream: not an image"):
        read_image(Stream(b"text"))
    with path.open() as text, pytest.raises((ImageError, TypeError), match=r'mode "rb"|type'):
        read_image(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pil_modes(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    expected = pixels(image.convert("RGB"))
    assert (pixels(read_image(image)) == expected).all()
    assert image.mode == mode


@pytest.mark.parametrize(("mode", "colour"), [("La", GREY_RGB), ("RGBa", RGB)])
def test_premultiplied_alpha(mode: str, colour: np.ndarray) -> None:
    image = Image.fromarray(np.dstack([colour, ALPHA])).convert(mode.upper()).convert(mode)
    assert np.abs(pixels(read_image(image)) - over_white(colour, ALPHA)).max() <= 2


def test_max_pixels() -> None:
    assert read_image(encoded(RGB, "PNG"), max_pixels=64 * 48).size == (64, 48)
    for source in (encoded(RGB, "PNG"), RGB, Image.fromarray(RGB)):
        with pytest.raises(ImageError, match=r"64×48 pixels are more than 3,071; .*max_pixels"):
            read_image(source, max_pixels=64 * 48 - 1)


def test_pillows_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(RGB, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    assert (pixels(read_image(data)) == RGB).all(), "below max_pixels: no warning"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 4)
    with pytest.raises(ImageError, match=r"Pillow's own limit.*raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        read_image(data)
    assert Image.MAX_IMAGE_PIXELS == 64 * 48 // 4


def test_threads_share_one_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)  # Pillow warns of every image
    data = encoded(RGB, "PNG")
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(read_image, [data] * 400):
            assert image.size == (64, 48)
    assert list(warnings.filters) == filters
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


# ------------------------------------------------------------------------------------- Preprocess

SIZES_WH = [(64, 48), (48, 64), (300, 200), (500, 375), (375, 500), (333, 97), (31, 47), (224, 224)]


def timm_transform(preprocess: Preprocess) -> Callable[[Image.Image], torch.Tensor]:
    config = timm.data.resolve_data_config(
        {
            "input_size": (3, *preprocess.size_hw),
            "interpolation": preprocess.interpolation,
            "mean": preprocess.mean,
            "std": preprocess.std,
            "crop_pct": preprocess.crop_fraction,
            "crop_mode": {"stretch": "squash", "crop": "center"}[preprocess.fit],
        }
    )
    return timm.data.create_transform(**config, is_training=False)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("size", [32, 37, (40, 24), (24, 40), (31, 32)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.95, 0.875, 0.7])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos", "box"])
def test_equals_timm(
    fit: str, size: int | tuple[int, int], crop_fraction: float, interpolation: str
) -> None:
    preprocess = Preprocess(
        size=size, fit=fit, crop_fraction=crop_fraction, interpolation=interpolation
    )
    transform = timm_transform(preprocess)
    for size_wh in SIZES_WH:
        image = noise(*size_wh)
        tensor, _ = preprocess(image)
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, transform(image)), size_wh


@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k",
        "tf_efficientnet_lite0.in1k",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch16_clip_224.openai",
        "convnext_base.fb_in22k_ft_in1k_384",
        "vit_base_patch16_siglip_224.webli",
    ],
)
def test_equals_timm_for_its_models(name: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    preprocess = Preprocess(
        size=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        fit={"squash": "stretch", "center": "crop"}[config["crop_mode"]],
        crop_fraction=config["crop_pct"],
    )
    transform = timm.data.create_transform(**config, is_training=False)
    for size_wh in SIZES_WH:
        image = noise(*size_wh)
        assert torch.equal(preprocess(image)[0], transform(image)), size_wh


PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("size", [32, (40, 24), (24, 41), 301])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.6])
@pytest.mark.parametrize("size_wh", [(250, 131), (97, 256), (180, 181), (256, 40)])
def test_view_is_where_the_tensor_looks(
    fit: str, size: int | tuple[int, int], crop_fraction: float, size_wh: tuple[int, int]
) -> None:
    """In an image whose red is x and whose green is y, the tensor says itself what it shows."""
    width, height = size_wh
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.arange(width)
    ramps[..., 1] = np.arange(height)[:, None]
    tensor, (x0, y0, x1, y1) = Preprocess(size, fit=fit, crop_fraction=crop_fraction, **PLAIN)(
        Image.fromarray(ramps)
    )
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    h, w = tensor.shape[1:]
    seen_x = 255 * tensor[0].mean(dim=0).numpy() + 0.5  # pixel i's centre lies at i + 0.5
    seen_y = 255 * tensor[1].mean(dim=1).numpy() + 0.5
    predicted_x = x0 + (np.arange(w) + 0.5) * (x1 - x0) / w
    predicted_y = y0 + (np.arange(h) + 0.5) * (y1 - y0) / h
    # 8 bits round to half a pixel, and at the image's edge the kernel is cut off.
    for seen, predicted, length, cells in (
        (seen_x, predicted_x, width, w),
        (seen_y, predicted_y, height, h),
    ):
        reach = max(1.0, length / cells) * 2
        inner = (predicted > reach) & (predicted < length - reach)
        assert inner.any()
        assert np.abs(seen - predicted)[inner].max() < 0.55


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_view_finds_a_mark(fit: str) -> None:
    size_wh, mark_xyxy = (1500, 900), (700, 300, 760, 390)
    image = Image.new("RGB", size_wh)
    image.paste("white", mark_xyxy)
    tensor, (x0, y0, x1, y1) = Preprocess((200, 160), fit=fit, crop_fraction=0.9, **PLAIN)(image)
    h, w = tensor.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    weight = tensor[0] / tensor[0].sum()
    assert x0 + (weight * columns).sum() * (x1 - x0) / w == pytest.approx(730, abs=0.3)
    assert y0 + (weight * rows).sum() * (y1 - y0) / h == pytest.approx(345, abs=0.3)


def test_whole_photograph_is_the_whole_photograph() -> None:
    for size_wh in SIZES_WH:
        assert Preprocess(size=(7, 9))(noise(*size_wh))[1] == (0, 0, *size_wh)


def test_bgr_takes_mean_and_std_in_its_own_order() -> None:
    image = noise(20, 10)
    bgr = Preprocess((10, 20), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), channels="BGR")(image)[0]
    rgb = Preprocess((10, 20), mean=(0.3, 0.2, 0.1), std=(4.0, 2.0, 1.0))(image)[0]
    assert torch.equal(bgr, rgb.flip(0))


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_to_picture_undoes_normalisation(channels: str) -> None:
    preprocess = Preprocess((10, 20), channels=channels)
    image = noise(20, 10)
    tensor = preprocess(image)[0]
    assert (pixels(preprocess.to_picture(tensor)) == pixels(image)).all()
    assert (pixels(preprocess.to_picture(tensor.double().requires_grad_())) == pixels(image)).all()
    assert set(pixels(preprocess.to_picture(tensor * 1e9)).flat) <= {0, 255}


def test_extremely_thin_photographs() -> None:
    thin = Image.new("RGB", (200_000, 1))
    with pytest.raises(ImageError, match=r'200000×1 pixels: .*fit="stretch"'):
        load_photograph(thin, Preprocess(fit="crop"))
    photograph = load_photograph(thin, Preprocess())
    assert photograph.tensor.shape == (3, 224, 224)
    assert photograph.picture.size == (1600, 1)


def test_preprocess_needs_rgb() -> None:
    with pytest.raises(ImageError, match="read_image"):
        Preprocess()(Image.new("L", (4, 3)))


def test_equal_settings_are_equal() -> None:
    assert len({Preprocess(size=224), Preprocess(size=(224, 224)), Preprocess()}) == 1
    assert Preprocess(size=(224, 256)) != Preprocess(size=(256, 224))
    assert eval(repr(Preprocess(size=9))) == Preprocess(size=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is whole numbers"),
        ({"size": (224, -1)}, "size is whole numbers"),
        ({"size": (3, 224, 224)}, "size is whole numbers"),
        ({"size": 22.5}, "size is whole numbers"),
        ({"size": 20_000}, "100,000,000"),
        ({"mean": (1, 2)}, "mean is three numbers.*0..1"),
        ({"mean": None}, "mean is three numbers"),
        ({"std": (1, 0, 1)}, "std is three numbers above 0"),
        ({"std": (1, float("nan"), 1)}, "std is three numbers"),
        ({"interpolation": "cubic"}, "\"bicubic\".*came 'cubic'"),
        ({"fit": "center"}, '"stretch", "crop"; came'),
        ({"channels": "RGBA"}, '"RGB", "BGR"; came'),
        ({"crop_fraction": 0}, "crop_fraction lies above 0"),
        ({"crop_fraction": 1.15}, "crop_fraction lies above 0 and up to 1"),
        ({"crop_fraction": float("nan")}, "crop_fraction"),
        ({"crop_rounding": "up"}, 'crop_rounding is one of "even", "down"'),
        ({"crop_fraction": 1e-9}, "100,000,000"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    # A run-time type checker over the package may be the first to refuse.
    with pytest.raises((ValueError, TypeError), match=f"{message}|type"):
        Preprocess(**settings)


# ------------------------------------------------------------------------------------ photographs


def test_photograph_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    noise(2000, 1000).save(path)
    preprocess = Preprocess(size=32, fit="crop")
    photograph = load_photograph(path, preprocess)
    assert isinstance(photograph, Photograph)
    assert photograph.name == "big.jpg"
    assert photograph.size_wh == (2000, 1000)
    assert photograph.picture.size == (1600, 800)
    assert photograph.view_xyxy == (500, 0, 1500, 1000)
    assert torch.equal(photograph.tensor, preprocess(read_image(path))[0])


@pytest.mark.parametrize("orientation", [1, 6])
def test_photograph_of_other_sources(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(STORED[orientation](RGB)), "PNG", exif=exif)
    for source in (data, io.BytesIO(data), Image.open(io.BytesIO(data)), RGB):
        photograph = load_photograph(source, Preprocess(size=(48, 64)))
        assert photograph.size_wh == (64, 48)
        assert photograph.name == "image"
        assert (pixels(photograph.picture) == RGB).all()
        assert photograph.view_xyxy == (0, 0, 64, 48)


def test_picture_is_a_copy() -> None:
    image = Image.fromarray(RGB)
    load_photograph(image, Preprocess()).picture.paste("black", (0, 0, 9, 9))
    assert (pixels(image) == RGB).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_ready_made_tensor_passes_untouched(dtype: torch.dtype) -> None:
    preprocess = Preprocess((48, 64))
    tensor = preprocess(Image.fromarray(RGB))[0].to(dtype)
    photograph = load_photograph(tensor, Preprocess(size=7))
    assert photograph.tensor is tensor
    assert photograph.size_wh == (64, 48)
    assert photograph.view_xyxy == (0, 0, 64, 48)
    assert np.abs(pixels(photograph.picture) - RGB).max() <= 1


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(1, 3, 4, 5), r"shape \(3, H, W\); came \(1, 3, 4, 5\); pass tensor\[0\]"),
        (torch.zeros(1, 4, 5), r"shape \(3, H, W\)"),
        (torch.zeros(4, 5, 3), r"shape \(3, H, W\)"),
        (torch.zeros(3, 0, 5), r"shape \(3, H, W\)"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), "holds floats; came torch.uint8; .*array"),
        (torch.full((3, 4, 5), float("nan")), "finite"),
    ],
)
def test_tensors_that_are_refused(tensor: torch.Tensor, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        load_photograph(tensor, Preprocess())
    check_message(str(caught.value), "Tensor")


def test_tensor_for_a_model_without_preprocess() -> None:
    tensor = torch.from_numpy(RGB.astype(np.float32)).permute(2, 0, 1) / 10 - 7
    photograph = load_photograph(tensor, None)
    assert photograph.tensor is tensor
    low, high = int(RGB.min()), int(RGB.max())
    stretched = (RGB.astype(float) - low) / (high - low) * 255
    assert np.abs(pixels(photograph.picture) - stretched).max() <= 1
    assert pixels(load_photograph(torch.ones(3, 4, 5), None).picture).shape == (4, 5, 3)
    with pytest.raises(ImageError, match=r"image given as ndarray: .*no preprocess.*; give"):
        load_photograph(RGB, None)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_all_finite(odd: float, dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, 4, 5, dtype=dtype)
    assert all_finite(tensor)
    tensor[1, 2, 3] = odd
    assert not all_finite(tensor)


def test_errors_of_files_reach_load_photograph(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.jpg: there is no such file"):
        load_photograph(tmp_path / "missing.jpg", Preprocess())
    with pytest.raises(ImageError, match="more than 10"):
        load_photograph(RGB, Preprocess(), max_pixels=10)
