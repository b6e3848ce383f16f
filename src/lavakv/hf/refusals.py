"""What a `LavaCache` and its layers cannot do yet, refused by name before anything changes."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from lavakv.errors import UnsupportedError


def unsupported(what: str) -> UnsupportedError:
    """The error for what a `LavaCache` cannot do yet."""
    return UnsupportedError(
        what, expected="a plain transformers cache", got="a LavaCache", fix="Use DynamicCache, or go without it."
    )


class CacheRefusals:
    """Mixed into a cache ahead of transformers' own methods."""

    def reorder_cache(self, beam_idx: Tensor) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("beam search (reordering the sequences of a cache)")

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("cropping a cache (assisted decoding)")

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("repeating the sequences of a cache")

    def batch_select_indices(self, indices: Tensor) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("selecting sequences of a cache")


class LayerRefusals(CacheRefusals):
    """Mixed into a compressed layer ahead of transformers' own methods."""

    def offload(self, *_: object) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("offloading")

    def prefetch(self, *_: object) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("offloading")
