"""vLLM's KV caches of all layers as one array of pages, where the key and the value of an entry stand side by side.

So vLLM keeps them for its Triton kernels: a block of a layer is `[KV heads, N, 2 * head_dim]` numbers, and the part of
a head is a page. On whatever device the caches are; blocks, slots and counts may be given on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.vllm.cache_pages import require_layout


class EntryPages:
    """Pages of the layers' caches.

    Args:
        caches: of each layer `[blocks, KV heads, N, 2 * head_dim]`, all in one storage.

    Attributes:
        first_pages: int64 `[layers]` on the CPU, page of block 0, head 0 in each layer.
        num_heads: KV heads of each layer.
        page_tokens: `N`.
        key_blocks, value_blocks: all pages, as blocks of a model with one KV head, `[pages, 1, N, head_dim]`.

    Raises:
        UnsupportedError: caches apart or of another layout.
    """

    def __init__(self, caches: Sequence[Tensor]) -> None:
        first = caches[0]
        _, self.num_heads, self.page_tokens, width = first.shape
        self._device, self._head_dim, elements = first.device, width // 2, self.page_tokens * width
        require_layout(caches, elements)
        self.first_pages = torch.tensor([cache.storage_offset() // elements for cache in caches], device="cpu")
        self._first = self.first_pages.to(self._device)
        num_pages = first.untyped_storage().nbytes() // (elements * first.element_size())
        both = first.as_strided((num_pages, 1, self.page_tokens, width), (elements, elements, width, 1), 0)
        self.key_blocks, self.value_blocks = both.chunk(2, dim=-1)
        self._keys, self._values = self.key_blocks[:, 0], self.value_blocks[:, 0]

    def of_prompt(self, layer: int, blocks: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer of a prompt that is held in whole blocks, `[KV heads, num_tokens, head_dim]`."""
        pages = self._pages_of(layer, blocks)
        keys, values = (
            numbers[pages].view(-1, self.num_heads, self.page_tokens, self._head_dim).transpose(0, 1)
            for numbers in (self._keys, self._values)
        )
        shape = self.num_heads, -1, self._head_dim
        return keys.reshape(shape)[:, :num_tokens], values.reshape(shape)[:, :num_tokens]

    def entries(self, blocks: Tensor, positions: Sequence[Tensor], counts: Tensor) -> tuple[Tensor, Tensor]:
        """Some entries of all layers of a prompt that is held in whole blocks.

        Args:
            blocks: of the prompt.
            positions: of each layer int64 `[entries]`, in order of its heads.
            counts: int64 `[layers, KV heads]`, entries of each head.

        Returns:
            Copies `[all entries, 1, head_dim]` each, as `write` takes them.
        """
        joined = torch.cat(list(positions)).to(self._device)
        heads = torch.arange(self.num_heads, device=self._device)
        of_heads = (self._first[:, None] + heads).flatten()
        first = of_heads.repeat_interleave(counts.flatten().to(self._device), output_size=len(joined))
        block = blocks.long().to(self._device)[joined.div(self.page_tokens, rounding_mode="floor")]
        pages, places = first + block * self.num_heads, joined.remainder(self.page_tokens)
        return self._keys[pages, places][:, None], self._values[pages, places][:, None]

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Write entries `[entries, 1, head_dim]` to slots of pages, int64 `[entries]`."""
        slots = slots.to(self._device)
        pages, places = slots.div(self.page_tokens, rounding_mode="floor"), slots.remainder(self.page_tokens)
        self._keys[pages, places], self._values[pages, places] = keys[:, 0], values[:, 0]

    def clear(self, blocks: Tensor) -> None:
        """Set whole blocks to zero, in all layers."""
        for layer in range(len(self.first_pages)):
            pages = self._pages_of(layer, blocks)
            self._keys[pages] = 0
            self._values[pages] = 0

    def _pages_of(self, layer: int, blocks: Tensor) -> Tensor:
        """Pages of a layer's blocks, block after block."""
        heads = torch.arange(self.num_heads, device=self._device)
        first = self._first[layer] + blocks.long().to(self._device)[:, None] * self.num_heads
        return (first + heads).flatten()
