"""The mask that a later forward on a `LavaCache` gets: all columns seen and new, made without waiting for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.masking_utils import causal_mask_function


class SeenColumns(int):
    """The number of columns of a mask that only a `LavaCache`'s layers will read; it marks such masks."""


class StaticColumns(int):
    """Marks the masks of a captured step, which works them out on the device.

    Attributes:
        make: called with what a mask function is called with; returns the mask.
    """

    make: Callable[[dict[str, Any]], Any]

    @classmethod
    def of(cls, length: int, make: Callable[[dict[str, Any]], Any]) -> StaticColumns:
        """Mark a length."""
        marked = cls(length)
        marked.make = make
        return marked


def lava_mask(delegate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make the mask of a forward; anything but a later forward on a `LavaCache` is left to the delegate.

    Where a padding mask is passed, transformers' own functions look whether it hides anything, to save the mask. Here
    a plain causal mask needs no more than the padding mask itself: lavakv's attention knows what is causal.
    """
    length = kwargs.get("kv_length")
    if isinstance(length, StaticColumns):
        return length.make(kwargs)
    if not isinstance(length, SeenColumns) or not kwargs.get("q_offset"):
        return delegate(*args, **kwargs)
    padding = kwargs.get("attention_mask")
    if kwargs.get("mask_function") is causal_mask_function:
        if padding is None:
            return None
        if kwargs["q_length"] == 1 and isinstance(padding, Tensor) and padding.ndim == 2:
            return padding[:, None, None, : kwargs["kv_length"]]
    return delegate(*args, **{**kwargs, "allow_is_causal_skip": False})
