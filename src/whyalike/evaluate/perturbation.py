"""Does the score hang on what a map shows? Pixels are hidden, and the network is asked again.

Maps are (H, W) at the image's resolution and any scale; images are inputs of the network. A score
is a function from images to the cosine with a reference, so that nothing here knows of models.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.geometry import Frame

Score = Callable[[Float[Tensor, "k 3 H W"]], Float[Tensor, " k"]]
Fill = Literal["grey", "mean", "blur"]

STEPS = 16
SHARES = (0.1, 0.3, 0.5, 0.7)
"""Of the pixels, that ROAD takes away."""
NOISE = 0.01
"""Standard deviation of what is added to imputed pixels, in units of the network's input."""
NEIGHBOURS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12, (1, -1): 1 / 12}
"""Weights of a pixel's neighbours on two sides, by (rows, columns); the other two are alike."""
BATCH = 32


def filling(image: Float[Tensor, "3 H W"], fill: Fill) -> Float[Tensor, "3 H W"]:
    """What is seen in place of hidden pixels.

    Args:
        image: the input of the network.
        fill: "grey", zeros, which are the mean of what networks are trained on; "mean", the image's
            own mean colour; "blur", the image under a Gaussian, σ a sixteenth of its longer side.
    """
    if fill == "grey":
        return torch.zeros_like(image)
    if fill == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image).clone()
    if fill == "blur":
        sigma = max(image.shape[1:]) / 16
        blurred = ndimage.gaussian_filter(image.cpu().numpy(), (0, sigma, sigma), mode="nearest")
        return torch.from_numpy(blurred).to(image)
    raise ValueError(f"fill is one of {', '.join(get_args(Fill))}; came {fill!r}")


def order(values: Float[Tensor, "H W"]) -> Int[Tensor, " pixels"]:
    """Pixels from the largest value to the least; equal ones by lot, the same for all images."""
    lot = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))
    return lot[values.flatten()[lot].argsort(descending=True, stable=True)]


def stages(
    image: Float[Tensor, "3 H W"],
    values: Float[Tensor, "H W"],
    hidden: Float[Tensor, "3 H W"],
    steps: int = STEPS,
) -> Float[Tensor, "2 k 3 H W"]:
    """The image as its pixels are hidden, and as they are put on what hides it, in equal steps.

    The pixels of the largest values first. Of k = steps + 1 stages, the first is all of the image
    (or nothing), the last nothing (or all).
    """
    places = order(values)
    rank = torch.empty_like(places).scatter_(0, places, torch.arange(len(places)))
    cuts = torch.arange(steps + 1)[:, None] * len(places) / steps
    taken = (rank[None] < cuts).view(-1, 1, *values.shape).to(image.device)
    return torch.stack([torch.where(taken, hidden, image), torch.where(taken, image, hidden)])


def area(curve: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Under a curve of scores from 0 to 1, by the trapezoid rule; below zero counts as nothing."""
    return torch.trapezoid(curve.double().clamp(min=0)) / (curve.shape[-1] - 1)


def deletion_and_insertion(
    score: Score,
    image: Float[Tensor, "3 H W"],
    values: Float[Tensor, "H W"],
    fill: Fill = "grey",
    steps: int = STEPS,
) -> tuple[float, float]:
    """Petsiuk et al., "RISE", BMVC 2018: areas under the score as the map's pixels go, and come.

    A map that the score hangs on has a small first and a large second.
    """
    both = stages(image, values, filling(image, fill), steps)
    deletion, insertion = area(score(both.flatten(0, 1)).view(2, -1)).tolist()
    return deletion, insertion


def imputed(
    image: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"], *, noise: float = NOISE, seed: int = 0
) -> Float[Tensor, "3 H W"]:
    """Noisy linear imputation: a hidden pixel is the weighted mean of its neighbours, and noise.

    Of the four beside it with 1/6 each, of the diagonal ones with 1/12, hidden ones among them: one
    sparse system. The shape of what is hidden tells the network less than a fill of one colour does
    (Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML
    2022). At the border, the neighbours that there are share the weight.

    Args:
        image: the input of the network.
        mask: what is hidden; not all of it.
        noise: standard deviation, in units of the input.
        seed: of the noise.
    """
    if bool(mask.all()):
        raise ValueError("a pixel is imputed from those that are left; the mask hides all of them")
    hidden = mask.cpu().numpy()
    unknown = np.flatnonzero(hidden)
    if not len(unknown):
        return image.clone()
    weights = _weights(hidden.shape)
    system = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()
    known = np.flatnonzero(~hidden)
    pixels = image.cpu().double().flatten(1).numpy().copy()
    right = weights[unknown][:, known] @ pixels[:, known].T
    solve = splu(system[unknown][:, unknown].tocsc(), permc_spec="MMD_AT_PLUS_A",
                 diag_pivot_thresh=0.0, options={"SymmetricMode": True})  # fmt: skip
    random = np.random.default_rng(seed)
    pixels[:, unknown] = solve.solve(right).T + noise * random.standard_normal((3, len(unknown)))
    return torch.from_numpy(pixels).view(image.shape).to(image)


def _weights(size_hw: Sequence[int]) -> sparse.csr_array:
    """How much each pixel counts for each other one, (pixels, pixels)."""
    height, width = size_hw
    number = np.arange(height * width).reshape(height, width)
    rows, columns, found = [], [], []
    for (down, right), weight in NEIGHBOURS.items():
        ours = number[: height - down, max(0, -right) : width - max(0, right)].ravel()
        theirs = number[down:, max(0, right) : width + min(0, right)].ravel()
        rows += [ours, theirs]
        columns += [theirs, ours]
        found += [np.full(2 * len(ours), weight)]
    at = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_array((np.concatenate(found), at), shape=(number.size, number.size))


def road(
    score: Score,
    image: Float[Tensor, "3 H W"],
    values: Float[Tensor, "H W"],
    shares: Sequence[float] = SHARES,
    *,
    seed: int = 0,
) -> float:
    """ROAD (Rong et al., ICML 2022): the score without the least pixels, less without the most.

    Each time a share of the pixels is imputed; the mean over the shares. 0 is what chance gives.
    """
    falling = order(values)
    images = []
    for places in (falling.flip(0), falling):
        for share in shares:
            mask = torch.zeros(values.numel(), dtype=torch.bool)
            mask[places[: round(share * len(places))]] = True
            images.append(imputed(image, mask.view(values.shape), seed=seed))
    least, most = score(torch.stack(images)).double().chunk(2)
    return (least - most).mean().item()


def random_boxes(size_hw: Sequence[int], count: int, seed: int) -> Int[np.ndarray, "n 4"]:
    """Boxes xyxy in whole pixels, each side an eighth to a half of the image's."""
    random = np.random.default_rng(seed)
    corners = []
    for side in size_hw[::-1]:
        long = random.integers(max(1, side // 8), max(2, side // 2 + 1), count)
        start = random.integers(0, side - long + 1)
        corners.append((start, start + long))
    (x0, x1), (y0, y1) = corners
    return np.stack([x0, y0, x1, y1], axis=1)


def seed_of(image: Tensor, seed: int) -> int:
    """Another one for another image, the same for the same."""
    return zlib.crc32(image.cpu().numpy().tobytes()) + seed


def measured_changes(
    score: Score,
    image: Float[Tensor, "3 H W"],
    boxes: Int[np.ndarray, "n 4"],
    hidden: Float[Tensor, "3 H W"],
) -> Float[np.ndarray, " n"]:
    """By how much the score changes as each box, alone, is hidden."""
    scores = [score(image[None]).double()]
    for start in range(0, len(boxes), BATCH):
        some = boxes[start : start + BATCH].tolist()
        images = image.repeat(len(some), 1, 1, 1)
        for one, (x0, y0, x1, y1) in zip(images, some, strict=True):
            one[:, y0:y1, x0:x1] = hidden[:, y0:y1, x0:x1]
        scores.append(score(images).double())
    found: np.ndarray = (torch.cat(scores[1:]) - scores[0]).cpu().numpy()
    return found


def changes_by_map(
    values: Float[Tensor, "h w"], boxes: Int[np.ndarray, "n 4"], size_hw: Sequence[int]
) -> Float[np.ndarray, " n"]:
    """What a map says that hiding each box changes: what the cells under it carry is gone.

    Args:
        values: the map as it is made, on any grid.
        boxes: in pixels of the input.
        size_hw: of the input.
    """
    height, width = size_hw
    grid = (values.shape[0], values.shape[1])
    frame = Frame((width, height), (0.0, 0.0, float(width), float(height)), grid)
    carried = values.detach().cpu().double().numpy()
    return np.array([-(frame.box_coverage(box) * carried).sum() for box in boxes.tolist()])


def changes_by_vectors(
    query: Contributions,
    reference: Float[Tensor, " d"],
    boxes: Int[np.ndarray, "n 4"],
    hidden: Contributions | None = None,
) -> Float[np.ndarray, " n"]:
    """What the decomposition says that hiding each box changes, its length taken anew.

    The cosine of E − Σv with the reference, Σv under the box, less that of E. A map is its first
    order, with |E| held.

    Args:
        query: of an input of the network, whose pixels boxes are in.
        reference: the other embedding.
        boxes: in pixels of the input.
        hidden: of the image that is seen in the boxes; its Σv take the place of those that are
            gone. None for nothing.
    """
    E, other = query.embedding.double(), reference.double().to(query.embedding.device)
    changed = E - query.within_each(boxes.tolist()).double()
    if hidden is not None:
        changed = changed + hidden.within_each(boxes.tolist()).double()
    left = torch.cat([E[None], changed])
    left[left.norm(dim=1) < 1e-6 * E.norm()] = 0.0  # rounding has no direction
    cosines = torch.cosine_similarity(left, other[None])
    found: np.ndarray = (cosines[1:] - cosines[0]).cpu().numpy()
    return found


class Agreement(NamedTuple):
    """How well changes are predicted; NaN where that is not defined.

    correlation: Pearson's.
    slope: of what is measured over what is predicted (least squares): 1 where they are one.
    infidelity: mean squared difference, in units of cosine squared (Yeh et al., "On the
        (In)fidelity and Sensitivity of Explanations", NeurIPS 2019).
    unexplained: the same, of the prediction times the number from 0 that fits best, over the mean
        square of what is measured: 0 for a map that predicts all, of whatever scale, 1 for one that
        predicts nothing, or the contrary.
    """

    correlation: float
    slope: float
    infidelity: float
    unexplained: float


def agreement(predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"]) -> Agreement:
    """Predicted changes of a score against those that were measured."""
    p, m = predicted - predicted.mean(), measured - measured.mean()
    # What is the same but for rounding does not vary.
    varies = [x.std() > 1e-9 * np.abs(y).max() for x, y in ((p, predicted), (m, measured))]
    with np.errstate(invalid="ignore", divide="ignore"):
        fits = (
            max(predicted @ measured, 0.0) ** 2 / (predicted @ predicted)
            if predicted.any()
            else 0.0
        )
        return Agreement(
            correlation=float(p @ m / np.sqrt((p @ p) * (m @ m))) if all(varies) else np.nan,
            slope=float(p @ m / (p @ p)) if varies[0] else np.nan,
            infidelity=float(np.square(predicted - measured).mean()),
            unexplained=float(1 - fits / (measured @ measured)),
        )
