"""Linear surrogates of a network: the affine map that agrees with it at one image.

Under `Linearised` the derivative of a network *is* the map of E = Σ v + b. Gates are held at their
values ("gates"; for ReLU and max pooling this is Eq. 7 of Zhu, Yang, Chen, IEEE TIP 2021), or
sums are shared among their terms as well ("gamma"), or neither ("taylor", Eq. 6 as written).
"""

from whyalike.surrogates.mode import Linearised
from whyalike.surrogates.spec import Biases, Kind, Surrogate

__all__ = ["Biases", "Kind", "Linearised", "Surrogate"]
