"""The index on disk: photographs, searched by region and explained without the network."""

from whyalike.gallery.approximate import Approximate
from whyalike.gallery.build import Progress, Report
from whyalike.gallery.cluster import Cluster
from whyalike.gallery.gallery import Gallery, open_manifest
from whyalike.gallery.hits import Hit
from whyalike.gallery.listing import list_images
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.query import Query, ask, mask_of

__all__ = [
    "Approximate",
    "Cluster",
    "Gallery",
    "Hit",
    "Manifest",
    "Progress",
    "Query",
    "Report",
    "ask",
    "list_images",
    "mask_of",
    "open_manifest",
]
