"""Photographs and data sets."""
