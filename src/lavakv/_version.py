"""The version of lavakv."""

__version__ = "0.1.0"
