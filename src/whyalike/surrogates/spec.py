"""Which linear surrogate is meant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["gates", "gamma", "taylor", "change"]
Biases = Literal["residual", "located"]


@dataclass(frozen=True)
class Surrogate:
    """A linear surrogate of a network, by name.

    Args:
        kind: "gates" holds every gate at its value; "gamma" also shares each sum among its terms;
            "taylor" is the plain derivative, whose remainder is in the bias; "change" says what
            each cell of the image's own pixels adds to what a grey image has, whatever the cut.
        gamma: γ ≥ 0 of "gamma", which may be infinite.
        biases: what becomes of constants that the network adds behind the cut: "residual" leaves
            them in b, as in the paper; "located" counts each at the cells where it is added, and
            leaves in b only those that are added to the image as a whole.
        affinity: above 0, maps are shared among cells that the network sees alike, the larger the
            number the fewer (`whyalike.affinity`). The v stay as they are.
        own: of affinity, what share of its own each cell keeps, from 0 to 1.
        cells: of "change", at most so many on the longer side of an image.
    """

    kind: Kind = "gates"
    gamma: float = 0.05
    biases: Biases = "residual"
    affinity: float = 0.0
    own: float = 0.0
    cells: int = 64

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"surrogate is one of {', '.join(get_args(Kind))}; came {self.kind!r}")
        if self.biases not in get_args(Biases):
            raise ValueError(
                f"biases is one of {', '.join(get_args(Biases))}; came {self.biases!r}"
            )
        if not self.gamma >= 0 or math.isnan(self.gamma):
            raise ValueError(f"gamma is 0 or more, or infinite; came {self.gamma!r}")
        if not 0 <= self.affinity < math.inf:
            raise ValueError(f"affinity is 0 (none) or more; came {self.affinity!r}")
        if not 0 <= self.own <= 1:
            raise ValueError(f"own is a share, from 0 to 1; came {self.own!r}")
        if self.cells < 2:
            raise ValueError(f"cells on a side are 2 or more; came {self.cells!r}")

    def __str__(self) -> str:
        if self.kind == "change":
            return f"change from grey, at most {self.cells} cells a side"
        kind = f"gamma {self.gamma:g}" if self.kind == "gamma" else self.kind
        affinity = f", affinity {self.affinity:g}" if self.affinity else ""
        affinity += f" keeping {self.own:g}" if self.affinity and self.own else ""
        return f"{kind}, biases {self.biases}{affinity}"
