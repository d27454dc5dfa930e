"""From signed maps to colour: the only place that clamps and scales.

Colour says the sign, its strength the size: zero is clear, so that the photograph stays visible.
The colour map is matplotlib's RdBu, which is symmetric in lightness and safe for colour-blind eyes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image, ImageFilter
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.geometry import XY, XYXY, Frame, interpolation_weights
from whyalike.pair import Pair

Sign = Literal["both", "positive", "negative"]

WIDTH_INCHES = 7.2
"""The text width of a two-column paper."""

CHARACTER = 0.043
"""How wide a character of a caption is, in inches: the mean, and a little to spare."""


def on_photograph(
    values: Float[Tensor, "h w"], frame: Frame, size_wh: tuple[int, int]
) -> Float[np.ndarray, "H W"]:
    """A map at the size of a picture: bilinear between cell centres, NaN outside of the view."""
    width, height = size_wh
    sx, sy = width / frame.size_wh[0], height / frame.size_wh[1]
    x0, y0, x1, y1 = frame.view_xyxy
    h, w = values.shape
    # Where each pixel's centre lies, in cells.
    x = ((np.arange(width) + 0.5) / sx - x0) / (x1 - x0)
    y = ((np.arange(height) + 0.5) / sy - y0) / (y1 - y0)
    rows, columns = interpolation_weights(y * h, h), interpolation_weights(x * w, w)
    big = rows @ values.detach().cpu().double().numpy() @ columns.T
    big[(y < 0) | (y > 1)] = np.nan
    big[:, (x < 0) | (x > 1)] = np.nan
    return big.astype(np.float32)


def overlay(
    picture: Image.Image,
    values: Float[Tensor, "h w"],
    frame: Frame,
    *,
    limit: float | None = None,
    sign: Sign = "both",
    opacity: float = 0.85,
) -> Image.Image:
    """A map drawn over its photograph, in the photograph's size.

    Args:
        picture: the photograph, at any scale.
        values: the map, signed.
        frame: where its cells lie on the photograph.
        limit: the absolute value that gets full colour; by default the largest of this map.
        sign: which values to draw; what is not drawn is clear.
        opacity: of full colour, from 0 to 1.
    """
    if sign not in ("both", "positive", "negative"):
        raise ValueError(f'sign is "both", "positive" or "negative"; came {sign!r}')
    limit = limit_of(values) if limit is None else limit
    big = on_photograph(values, frame, picture.size)
    seen = ~np.isnan(big)
    strength = np.clip(np.nan_to_num(big) / limit, -1.0, 1.0)
    if sign != "both":
        strength = np.maximum(strength, 0) if sign == "positive" else np.minimum(strength, 0)
    colours = matplotlib.colormaps["RdBu_r"]((strength + 1) / 2)[..., :3]
    alpha = opacity * np.abs(strength)[..., None] ** 0.75
    ground = _ground(picture, seen)
    mixed = ground * (1 - alpha) + colours * alpha
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def top_pixels(
    values: Float[Tensor, "h w"], frame: Frame, size_wh: tuple[int, int], share: float
) -> np.ndarray:
    """The largest values of a map at the size of a picture: a share of the pixels that were seen.

    Exactly ⌈share · seen⌉ pixels, a mask (H, W); of equal values the first ones, row by row.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share lies above 0 and up to 1; came {share}")
    big = on_photograph(values, frame, size_wh).ravel()
    seen = np.flatnonzero(~np.isnan(big))
    count = math.ceil(share * len(seen) - 1e-9)
    best = seen[np.argsort(-big[seen], kind="stable")[:count]]
    mask = np.zeros(big.size, bool)
    mask[best] = True
    return mask.reshape(size_wh[::-1])


def highlight(
    picture: Image.Image, values: Float[Tensor, "h w"], frame: Frame, *, share: float = 0.02
) -> Image.Image:
    """A photograph of which the pixels with the largest values stay as they are; the rest is dim.

    The paper shows raters the 2 % that matter most so (section VI-B). The pixels are ringed.
    """
    top = top_pixels(values, frame, picture.size, share)
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    grey = (rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    drawn = 0.16 + 0.5 * (0.2 * rgb + 0.8 * grey)
    width = 2 * max(1, round(max(picture.size) / 260)) + 1
    wide = Image.fromarray(top).convert("L").filter(ImageFilter.MaxFilter(width))
    drawn[np.asarray(wide) > 0] = (1.0, 0.84, 0.1)
    drawn[top] = rgb[top]
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


def limit_of(*maps: Float[Tensor, "h w"]) -> float:
    """The largest absolute value of some maps: a scale that they can share."""
    return max(max(m.abs().max().item() for m in maps), 1e-12)


def figure(
    pair: Pair,
    *,
    points: Sequence[XY] = (),
    regions: Sequence[XYXY] = (),
    bias: bool = False,
    limit: float | None = None,
) -> Figure:
    """A figure fit for a paper: both photographs, the overall maps, and maps of points and regions.

    Args:
        pair: what to draw.
        points: points of the query (x, y), in pixels; for each, its map over the reference.
        regions: boxes of the query (x1, y1, x2, y2), in pixels; the same.
        bias: whether the overall maps count what a cell has with the other image's bias.
        limit: the value of full colour in the overall maps; by default their largest.
    """
    marks: list[XY | XYXY] = [*points, *regions]
    sheet = _Sheet.of(pair, rows=1 + (len(marks) + 1) // 2)
    terms = "   ".join(
        f"{name} {round(value, 4) + 0.0:+.4f}"
        for name, value in zip(_TERM_NAMES, pair.terms, strict=True)
    )
    sheet.title(f"similarity {pair.similarity:.4f}  =  {terms}")

    overall = [pair.overall_map("query", bias=bias), pair.overall_map("reference", bias=bias)]
    top = limit_of(*overall) if limit is None else limit
    for side, c, values, width in zip(
        ("query", "reference"), (pair.query, pair.reference), overall, sheet.widths, strict=True
    ):
        name = _short(c.name, width - CHARACTER * len(f"{side}: "))
        sheet.panel(0, 0, side, _picture(c), f"{side}: {name}")
        drawn = overlay(_picture(c), values, c.frame, limit=top)
        sheet.panel(0, 1, side, drawn, f"{side}, overall{' with bias' if bias else ''}")
    sheet.colour_bar(0, 1, top)

    for index, mark in enumerate(marks):
        row, block = 1 + index // 2, index % 2
        is_point = len(mark) == 2
        values = pair.point_map(query_xy=mark) if is_point else pair.region_map(query_xyxy=mark)
        word = "point" if is_point else "region"
        _mark(
            sheet.panel(row, block, "query", _picture(pair.query), f"{word} {index + 1}"),
            pair.query,
            mark,
        )
        # Each has its own scale, as points differ by orders of magnitude in what they carry.
        scale = limit_of(values)
        drawn = overlay(_picture(pair.reference), values, pair.reference.frame, limit=scale)
        carried = f"carries {values.sum().item():+.4f} with the reference"
        sheet.panel(row, block, "reference", drawn, carried)
        sheet.colour_bar(row, block, scale)
    return sheet.figure


def ranking(
    pairs: Sequence[Pair],
    maps: Sequence[Float[Tensor, "h w"]],
    says: Sequence[str],
    marks: Sequence[XY | XYXY] = (),
) -> Figure:
    """A query and what it was compared with, each with its map, in one row and on one scale.

    Args:
        pairs: with one query.
        maps: one of each reference.
        says: a line over each.
        marks: points and boxes of the query that were searched for, in pixels.
    """
    query = pairs[0].query
    pictures = [_picture(query)]
    limit = limit_of(*maps)
    for pair, values in zip(pairs, maps, strict=True):
        c = pair.reference
        pictures.append(overlay(_picture(c), values, c.frame, limit=limit))
    aspects = [picture.width / picture.height for picture in pictures]
    gap, caption = 0.06, 0.34
    height = min((WIDTH_INCHES - gap * len(pairs)) / sum(aspects), 2.4)
    size = (height * sum(aspects) + gap * len(pairs), height + caption)
    made = Figure(figsize=size)
    FigureCanvasAgg(made)
    left = 0.0
    names = [query.name, *(pair.reference.name for pair in pairs)]
    for name, said, picture, aspect in zip(names, ["query", *says], pictures, aspects, strict=True):
        width = height * aspect
        ax = made.add_axes((left / size[0], 0, width / size[0], height / size[1]))
        ax.imshow(np.asarray(picture), aspect="auto")
        over = f"{_short(name, width)}\n{said}"
        ax.set_title(over, fontsize=5.5, pad=2, loc="left", parse_math=False)
        ax.set_axis_off()
        left += width + gap
    for mark in marks:
        _mark(made.axes[0], query, mark)
    return made


@dataclass(frozen=True)
class _Sheet:
    """Rows of two blocks; a block is the query, the reference and a colour bar, equally high.

    All lengths are in inches. Pictures keep their aspect ratio and touch the same lines, which
    matplotlib's own layouts do not do for pictures of different shapes.
    """

    figure: Figure
    height: float
    widths: tuple[float, float]

    TITLE = 0.26
    CAPTION = 0.17
    GAP = 0.06
    BAR = 0.09
    NUMBERS = 0.44  # beside a colour bar

    @classmethod
    def of(cls, pair: Pair, rows: int) -> _Sheet:
        """A sheet as wide as a paper's text, or less if the pictures would become too high."""
        sizes = [c.frame.size_wh for c in (pair.query, pair.reference)]
        aspects = [w / h for w, h in sizes]
        beside = 2 * (cls.GAP + cls.GAP + cls.BAR + cls.NUMBERS)
        height = min((WIDTH_INCHES - beside) / (2 * sum(aspects)), 2.8)
        widths = (aspects[0] * height, aspects[1] * height)
        size = (2 * sum(widths) + beside, cls.TITLE + rows * (height + cls.CAPTION + cls.GAP))
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        return cls(figure, height, widths)

    def title(self, text: str) -> None:
        """A line at the top."""
        total = self.figure.get_figheight()
        self.figure.text(0.0, 1 - 0.06 / total, text, fontsize=6.5, va="top", parse_math=False)

    def panel(self, row: int, block: int, side: str, picture: Image.Image, caption: str) -> Axes:
        """A picture in its place, with a caption above it."""
        left, width = 0.0, self.widths[0]
        if side == "reference":
            left, width = self.widths[0] + self.GAP, self.widths[1]
        ax = self._axes(row, block, left, width)
        ax.imshow(np.asarray(picture), aspect="auto")
        ax.set_title(caption, fontsize=5.5, pad=2, loc="left", parse_math=False)
        ax.set_axis_off()
        return ax

    def colour_bar(self, row: int, block: int, limit: float) -> None:
        """The scale of a block's maps, in cosine per cell."""
        ax = self._axes(row, block, sum(self.widths) + 2 * self.GAP, self.BAR)
        # What one sees is the colour over a muted photograph, so the bar is mixed alike.
        t = np.linspace(-1, 1, 256)
        alpha = 0.85 * np.abs(t)[:, None] ** 0.75
        shown = matplotlib.colormaps["RdBu_r"]((t + 1) / 2)[:, :3] * alpha + 0.9 * (1 - alpha)
        ax.imshow(shown[:, None], aspect="auto", origin="lower", extent=(0, 1, -limit, limit))
        ax.set_xticks([])
        ax.yaxis.tick_right()
        ax.set_yticks([-limit, 0, limit], labels=[f"{-limit:.2g}", "0", f"{limit:.2g}"])
        ax.tick_params(labelsize=4.5, length=1.5, pad=1, width=0.4)
        ax.yaxis.set_label_position("right")
        ax.set_ylabel("cosine per cell", fontsize=4.5, labelpad=-8)
        for spine in ax.spines.values():
            spine.set_linewidth(0.4)

    def _axes(self, row: int, block: int, left: float, width: float) -> Axes:
        total_w, total_h = self.figure.get_size_inches()
        left += block * total_w / 2
        bottom = total_h - self.TITLE - (row + 1) * (self.CAPTION + self.height) - row * self.GAP
        return self.figure.add_axes(
            (left / total_w, bottom / total_h, width / total_w, self.height / total_h)
        )


_TERM_NAMES = ("regions×regions", "bias×regions", "regions×bias", "bias×bias")


def _ground(picture: Image.Image, seen: np.ndarray) -> np.ndarray:
    """The photograph with less colour, so that the map's own is told from it; dimmer if unseen."""
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    grey = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    muted = 0.25 * rgb + 0.75 * (0.15 + 0.8 * grey[..., None])
    return np.where(seen[..., None], muted, 0.5 * muted + 0.4)


def _picture(c: Contributions) -> Image.Image:
    return c.picture if c.picture is not None else Image.new("RGB", c.frame.size_wh, (200,) * 3)


def _mark(ax: Axes, c: Contributions, mark: Sequence[float]) -> None:
    picture = _picture(c)
    sx, sy = picture.width / c.frame.size_wh[0], picture.height / c.frame.size_wh[1]
    ring = max(picture.size) / 40
    for colour, width in (("black", 2.4), ("white", 1.2)):
        if len(mark) == 2:
            centre = (mark[0] * sx - 0.5, mark[1] * sy - 0.5)
            ax.add_patch(Circle(centre, ring, fill=False, ec=colour, lw=width))
        else:
            x0, y0, x1, y1 = (v * s for v, s in zip(mark, (sx, sy, sx, sy), strict=True))
            corner = (x0 - 0.5, y0 - 0.5)
            ax.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, ec=colour, lw=width))


def _short(name: str, inches: float) -> str:
    """A name that ends where its picture does: of a longer one the middle is left out."""
    most = max(5, int(inches / CHARACTER))
    end = (most - 1) // 2
    return name if len(name) <= most else name[: most - 1 - end] + "…" + name[-end:]
