"""Geometry of the pictures; templates turn it into SVG."""
