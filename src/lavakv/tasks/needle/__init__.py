"""Needle in a Haystack."""
