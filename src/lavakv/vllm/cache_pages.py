"""Pages of vLLM's kernels for a CPU: the part of a head in a block holds its keys, transposed, and then its values.

So that part is what the kernels take as a block of a model with one KV head. Other kernels may lay keys out otherwise:
the layout is tested at start.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vllm import _custom_ops as ops

from lavakv.errors import UnsupportedError
from lavakv.vllm.layer_pages import LayerPages


class CachePages(LayerPages):
    """Pages of the layers' caches: keys `[head_dim, N]`, values `[N, head_dim]`.

    Args:
        caches: see the base class.
        isa: vLLM's name of the kernels.

    Raises:
        UnsupportedError: see there; or kernels that lay numbers out otherwise.
    """

    def __init__(self, caches: Sequence[Tensor], isa: str) -> None:
        super().__init__(caches)
        self._isa = isa
        shape, strides = (self._num_pages, 1, 2 * self.page_tokens), (self._elements, self._elements, self._head_dim)
        both = caches[0].as_strided((*shape, self._head_dim), (*strides, 1), 0)
        self.key_blocks, self.value_blocks = both.chunk(2, dim=2)
        self._keys = self.key_blocks.view(self._num_pages, self._head_dim, self.page_tokens)
        self._values = self.value_blocks[:, 0]
        self._require_readable()

    def of_prompt(self, layer: int, blocks: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """See the base class."""
        pages = self._pages_of(layer, blocks)
        heads, shape = self.num_heads, (self.num_heads, -1, self._head_dim)
        keys = self._keys[pages].view(-1, heads, self._head_dim, self.page_tokens).permute(1, 0, 3, 2)
        values = self._values[pages].view(-1, heads, self.page_tokens, self._head_dim).transpose(0, 1)
        return keys.reshape(shape)[:, :num_tokens], values.reshape(shape)[:, :num_tokens]

    def read(self, pages: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return self._keys[pages, :, places][:, None], self._values[pages, places][:, None]

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """See the base class."""
        ops.cpu_attn_reshape_and_cache(
            keys, values, self.key_blocks, self.value_blocks, slots, self._isa,
            k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto",
        )  # fmt: skip

    def _require_readable(self) -> None:
        """Write numbers to block 0, which belongs to no request, and read them back."""
        shape = self.num_heads * self.page_tokens, 1, self._head_dim
        numbers = torch.arange(2 * self._values[0].numel() * self.num_heads, device="cpu").remainder(251)
        keys, values = numbers.to(self._keys.dtype).view(2, *shape)
        self.write(keys, values, self.first_pages[0] * self.page_tokens + torch.arange(shape[0], device="cpu"))
        found = self.of_prompt(0, torch.zeros(1, dtype=torch.int64, device="cpu"), self.page_tokens)
        if not all(torch.equal(got.reshape(shape), put) for got, put in zip(found, (keys, values), strict=True)):
            raise UnsupportedError(
                f"lavakv in vLLM: attention kernels {self._isa!r}",
                expected="keys [head_dim, tokens] and values [tokens, head_dim] in a head's part of a block",
                got="another layout",
                fix="Use --dtype float32, for which this processor has kernels with that layout.",
            )
        self.clear(torch.zeros(1, dtype=torch.int64, device="cpu"))
