"""Photographs and data sets: readers of the public layouts, and scenes of which all is known."""

from whyalike.data.dataset import Dataset, KnownPair, Sample, counts
from whyalike.data.reading import LAYOUTS, names_data, read

__all__ = ["LAYOUTS", "Dataset", "KnownPair", "Sample", "counts", "names_data", "read"]
