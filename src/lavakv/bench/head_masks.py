"""Which columns of a full cache each head may see, and attention under it.

Built to be as fast as PyTorch's public attention allows. `mask`: an additive mask, made once, no keys repeated for
the query heads of a group. `fake_keys`: keys that are to be hidden become, at every step, a vector that the step's
queries give no weight, so that flash kernels, which take no mask, can be used.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavakv.bench.fake_keys import fake_keys
from lavakv.errors import UnsupportedError
from lavakv.hf.cache import LavaCache

Way = Literal["mask", "fake_keys"]
_ALIGNED = 16  # rows of a mask that memory-efficient kernels take without a copy


class HeadMasks:
    """Which columns each head may see, for every compressed layer.

    Args:
        kept: a cache that holds a prompt without padding.
        room: columns to come, which all heads see.
        way: how hidden columns are kept out.
    """

    def __init__(self, kept: LavaCache, room: int, way: Way) -> None:
        self.way = way
        self.layers: dict[int, Tensor] = {}
        columns = kept.get_seq_length()
        capacity = -(-(columns + room) // _ALIGNED) * _ALIGNED
        for index in kept.layer_indices:
            layer: Any = kept.layers[index]
            hidden = torch.ones(kept.batch_size, layer.store.num_heads, capacity, dtype=torch.bool)
            hidden[:, :, columns:] = False
            for sequence, row in enumerate(hidden):
                for head, flags in enumerate(row):
                    flags[kept.kept_positions(index, sequence, head)] = False
            self.layers[index] = hidden

    def on(self, like: Tensor) -> HeadMasks:
        """Bring them to a device, as a mask in a dtype."""
        for index, hidden in self.layers.items():
            moved = hidden.to(like.device)
            if self.way == "mask":
                moved = torch.zeros(moved.shape, dtype=like.dtype, device=like.device).masked_fill_(moved, -torch.inf)
            self.layers[index] = moved
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all masks."""
        return sum(mask.nbytes for mask in self.layers.values())

    def attend(self, delegate: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        """One new token `[B, query_heads, 1, dim]` on what each head may see."""
        mask = self.layers[module.layer_idx][:, :, : key.shape[2]]
        scaling = kwargs.get("scaling")
        if self.way == "fake_keys":
            fake = fake_keys(query, key.shape[1], query.shape[-1] ** -0.5 if scaling is None else float(scaling))
            hidden = torch.where(mask[..., None], fake[:, :, None], key)
            return delegate(module, query, hidden, value, None, **kwargs)
        batch, heads = key.shape[:2]
        if module.config._attn_implementation == "eager":
            per_query_head = mask.repeat_interleave(query.shape[1] // heads, dim=1)[:, :, None]
            return delegate(module, query, key, value, per_query_head, **kwargs)
        _require_plain(module, kwargs)
        grouped = query.reshape(batch, heads, -1, query.shape[3])
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=mask[:, :, None], scale=scaling)
        return output.reshape(batch, 1, query.shape[1], -1), None


def _require_plain(module: Any, kwargs: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise UnsupportedError(
                "the masked contender",
                expected="attention without softcap and sinks",
                got=f"{name} in {type(module).__name__}",
                fix="Use --attention eager, or leave it out with --no-masked.",
            )
