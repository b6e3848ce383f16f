"""The mask function that an enabled model calls before its layers run: the delegate's, waiting for no device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def without_waiting(mask: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a mask function of transformers so that a later forward on a `LavaCache` reads nothing from the device.

    Where a padding mask is passed, transformers' own looks whether it hides anything, to save the mask. Such a forward
    is known by its sizes: as many columns as queries, and others before them (`LavaLayer.get_mask_sizes`). Its layers
    know padding from elsewhere, and one query sees itself.
    """

    def lava_mask(*args: Any, **kwargs: Any) -> Any:
        if _is_append(**kwargs):
            if kwargs["q_length"] == 1:
                return None
            kwargs["allow_is_causal_skip"] = False
        return mask(*args, **kwargs)

    return lava_mask


def _is_append(q_length: Any = None, kv_length: Any = None, q_offset: Any = None, **_: Any) -> bool:
    return isinstance(q_offset, int) and q_offset > 0 and q_length == kv_length
