"""Why are these two images alike? Exact maps of what carries an embedding model's similarity."""

# Names are imported when they are first used, so that `whyalike --help` need not wait for torch.
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whyalike.contributions import Contributions as Contributions
    from whyalike.depth import Depth as Depth
    from whyalike.difference import contrast as contrast
    from whyalike.errors import WhyalikeError as WhyalikeError
    from whyalike.gallery import Gallery as Gallery
    from whyalike.gallery import Hit as Hit
    from whyalike.model import EmbeddingModel as EmbeddingModel
    from whyalike.pair import Match as Match
    from whyalike.pair import Pair as Pair
    from whyalike.pair import Terms as Terms
    from whyalike.pair import explain_pair as explain_pair
    from whyalike.pair import explain_ranking as explain_ranking
    from whyalike.preprocess import Preprocess as Preprocess
    from whyalike.zoo import load as load

__version__ = "0.1.0"

_HOMES = {
    "Contributions": "contributions",
    "Depth": "depth",
    "EmbeddingModel": "model",
    "Gallery": "gallery",
    "Hit": "gallery",
    "Match": "pair",
    "Pair": "pair",
    "Preprocess": "preprocess",
    "Terms": "pair",
    "WhyalikeError": "errors",
    "contrast": "difference",
    "explain_pair": "pair",
    "explain_ranking": "pair",
    "load": "zoo",
}

__all__ = [
    "Contributions",
    "Depth",
    "EmbeddingModel",
    "Gallery",
    "Hit",
    "Match",
    "Pair",
    "Preprocess",
    "Terms",
    "WhyalikeError",
    "__version__",
    "contrast",
    "explain_pair",
    "explain_ranking",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"whyalike.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'whyalike' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
