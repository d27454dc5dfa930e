"""The index on disk: photographs, searched by region and explained without the network."""

from whyalike.gallery.build import Progress, Report
from whyalike.gallery.gallery import Gallery
from whyalike.gallery.hits import Hit
from whyalike.gallery.query import Query, ask

__all__ = ["Gallery", "Hit", "Progress", "Query", "Report", "ask"]
