"""Retrieval across views: whether the one aerial photograph of a place is found from the street."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whyalike.errors import DataError

KS = (1, 5)


def ranks_across(
    queries: Float[Tensor, "n d"], references: Float[Tensor, "n d"]
) -> Int[Tensor, " n"]:
    """At which place, from 1, each query finds the reference of its own row, by cosine.

    A reference that is exactly as near counts as nearer, so that equal vectors find nothing.

    Raises:
        DataError: the two are not as many, or none.
    """
    if len(queries) != len(references) or not len(queries):
        raise DataError(
            f"each query has one reference; came {len(queries)} queries and {len(references)} "
            f"references"
        )
    q, r = (torch.nn.functional.normalize(E.double(), dim=1) for E in (queries, references))
    found = []
    for start in range(0, len(q), 1024):  # never all of a large set at once
        rows = torch.arange(start, min(start + 1024, len(q)))
        similar = q[rows] @ r.T
        own = similar[torch.arange(len(rows)), rows]
        found.append((similar >= own[:, None] - 1e-12).sum(1))
    return torch.cat(found)


def recall_across(ranks: Int[Tensor, " n"]) -> dict[str, float]:
    """Recall@1, @5 and @1 %, the shares of queries that find their reference so far up.

    The best 1 % are ⌊n / 100⌋ + 1 references, as in the code of CVM-Net (Hu et al., CVPR 2018) and
    of SAFA (Shi et al., NeurIPS 2019): a place is found if fewer than that are nearer than its own.
    Others take ⌊n / 100⌋; of 1,000 places that is the best 10 in place of the best 11.
    """
    n = len(ranks)
    limits = {**{str(k): k for k in KS}, "1%": math.floor(n / 100) + 1}
    return {name: (ranks <= k).double().mean().item() for name, k in limits.items()}
