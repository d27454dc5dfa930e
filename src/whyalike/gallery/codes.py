"""Product quantisation: contributions in a sixteenth of the bytes of float16, and not exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from whyalike.errors import GalleryError

PART = 8
"""Numbers that share one code of a byte."""


@dataclass(frozen=True, eq=False)
class Codes:
    """256 centres for each part of 8 numbers (Jégou, Douze, Schmid, IEEE TPAMI 2011).

    Beside its codes, an image keeps Σ v in float32, and what the codes' sum lacks of it is shared
    equally among its places: so the sums that make up a score are exact, and only where they lie
    on the image is approximate.

    Args:
        centres: (parts, 256, 8); the last part may be filled up with zeros.
        dims: numbers of a contribution.
    """

    centres: Float[Tensor, "parts 256 8"]
    dims: int

    @classmethod
    def train(cls, v: Float[Tensor, "n dims"], rounds: int = 12, seed: int = 0) -> Codes:
        """Centres for a sample of contributions, by k-means in each part."""
        parts = _split(v)  # (parts, n, 8)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(parts.shape[1], (256,), generator=generator)
        centres = parts[:, first].clone()
        for _ in range(rounds):
            nearest = _nearest(parts, centres)
            for part, members in enumerate(nearest):
                sums = torch.zeros(256, PART).index_add_(0, members, parts[part])
                counts = torch.bincount(members, minlength=256)[:, None]
                centres[part] = torch.where(counts > 0, sums / counts.clamp(min=1), centres[part])
        return cls(centres, v.shape[1])

    def encode(self, v: Float[Tensor, "places dims"]) -> bytes:
        """Σ v and a byte for each part of each place."""
        codes = _nearest(_split(v), self.centres).T.to(torch.uint8)
        return v.sum(0).numpy().astype("<f4").tobytes() + codes.numpy().tobytes()

    def decode(self, kept: bytes, places: int) -> Float[Tensor, "places dims"]:
        """What `encode` kept: exact in its sum."""
        parts = len(self.centres)
        if len(kept) != 4 * self.dims + places * parts:
            raise GalleryError("a row of the gallery is damaged; index its file again")
        total = torch.from_numpy(np.frombuffer(kept, "<f4", self.dims).astype(np.float32))
        codes: UInt8[np.ndarray, "places parts"] = np.frombuffer(
            kept, np.uint8, offset=4 * self.dims
        ).reshape(places, parts)
        index = torch.from_numpy(codes.astype(np.int64))
        found = self.centres[torch.arange(parts), index].flatten(1)[:, : self.dims]
        return found + (total - found.sum(0)) / places


def _split(v: Float[Tensor, "n dims"]) -> Float[Tensor, "parts n 8"]:
    short = -v.shape[1] % PART
    return torch.nn.functional.pad(v, (0, short)).unflatten(1, (-1, PART)).transpose(0, 1)


def _nearest(parts: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each part of each row, (parts, n)."""
    squares = centres.square().sum(2)[:, None]
    return torch.cat(
        [
            (some_squares - 2 * (rows @ some.transpose(1, 2))).argmin(2)
            for rows, some, some_squares in zip(
                parts.split(16), centres.split(16), squares.split(16), strict=True
            )
        ]
    )
