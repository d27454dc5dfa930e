"""Does a map depend on what the network has learned? (Adebayo et al., "Sanity checks", 2018)."""

from __future__ import annotations

import numpy as np

import whyalike as wa
from benchmarks.pairs import Method, Pairs
from whyalike.evaluate import sanity
from whyalike.evaluate.sanity import Step


def randomised(
    model: wa.EmbeddingModel, method: Method, pairs: Pairs, *, steps: int = 8, seed: int = 0
) -> list[Step]:
    """One method's maps while the network forgets, see `whyalike.evaluate.sanity.randomised`."""

    def draw(model: wa.EmbeddingModel, query, reference):  # type: ignore[no-untyped-def]
        found = method(model, query, reference)
        return {"": found[0] if isinstance(found, tuple) else found}

    both = [(pairs.images[i], pairs.images[j])
            for i, j in zip(pairs.query, pairs.reference, strict=True)]  # fmt: skip
    shown = pairs.images[np.unique([*pairs.query, *pairs.reference])][:32]
    return sanity.randomised(model, draw, both, shown, steps=steps, seed=seed)[""]
