"""vLLM's KV caches of all layers as one array of pages, each with `N` entries of one KV head.

The CPU backend keeps a block of a layer as `[KV heads, N, 2 * head_dim]` numbers. The part of a head holds its keys,
transposed to `[head_dim, N]`, and then its values, `[N, head_dim]`. So the part of a head is a page that the kernels
take as a block of a model with one KV head. Other kernels may lay keys out otherwise: the layout is tested at start.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vllm import _custom_ops as ops

from lavakv.errors import UnsupportedError


class CachePages:
    """Pages of the layers' caches.

    Args:
        caches: of each layer `[blocks, KV heads, N, 2 * head_dim]`, all in one storage.
        isa: vLLM's name of the kernels.

    Attributes:
        first_pages: int64 `[layers]`, page of block 0, head 0 in each layer.
        num_heads: KV heads of each layer.
        page_tokens: `N`.
        key_blocks, value_blocks: all pages as the kernels take them, blocks with one KV head.

    Raises:
        UnsupportedError: caches apart or of another layout.
    """

    def __init__(self, caches: Sequence[Tensor], isa: str) -> None:
        first = caches[0]
        self._isa = isa
        _, self.num_heads, self.page_tokens, width = first.shape
        self._head_dim, elements = width // 2, self.page_tokens * width
        require_layout(caches, elements)
        self.first_pages = torch.tensor([cache.storage_offset() // elements for cache in caches], device="cpu")
        num_pages = first.untyped_storage().nbytes() // (elements * first.element_size())
        both = first.as_strided(
            (num_pages, 1, 2 * self.page_tokens, self._head_dim), (elements, elements, self._head_dim, 1), 0
        )
        self.key_blocks, self.value_blocks = both.chunk(2, dim=2)
        self._keys = self.key_blocks.view(num_pages, self._head_dim, self.page_tokens)
        self._values = self.value_blocks[:, 0]
        self._require_readable()

    def of_prompt(self, layer: int, blocks: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer of a prompt that is held in whole blocks, `[KV heads, num_tokens, head_dim]`."""
        pages = self._pages_of(layer, blocks)
        heads, shape = self.num_heads, (self.num_heads, -1, self._head_dim)
        keys = self._keys[pages].view(-1, heads, self._head_dim, self.page_tokens).permute(1, 0, 3, 2)
        values = self._values[pages].view(-1, heads, self.page_tokens, self._head_dim).transpose(0, 1)
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
        joined = torch.cat(list(positions))
        heads = torch.arange(self.num_heads, device="cpu")
        first = (self.first_pages[:, None] + heads).flatten().repeat_interleave(counts.flatten())
        block = joined.div(self.page_tokens, rounding_mode="floor")
        pages = first + blocks.long()[block] * self.num_heads
        places = joined.remainder(self.page_tokens)
        return self._keys[pages, :, places][:, None], self._values[pages, places][:, None]

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Write entries `[entries, 1, head_dim]` to slots of pages, int64 `[entries]`."""
        ops.cpu_attn_reshape_and_cache(
            keys, values, self.key_blocks, self.value_blocks, slots, self._isa,
            k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto",
        )  # fmt: skip

    def clear(self, blocks: Tensor) -> None:
        """Set whole blocks to zero, in all layers."""
        for layer in range(len(self.first_pages)):
            pages = self._pages_of(layer, blocks)
            self._keys[pages] = 0
            self._values[pages] = 0

    def _pages_of(self, layer: int, blocks: Tensor) -> Tensor:
        """Pages of a layer's blocks, block after block."""
        heads = torch.arange(self.num_heads, device="cpu")
        return (self.first_pages[layer] + blocks.long()[:, None] * self.num_heads + heads).flatten()

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


def require_layout(caches: Sequence[Tensor], page_elements: int) -> None:
    """Check that the caches are pages of `page_elements` numbers in one storage.

    Raises:
        UnsupportedError: they are not.
    """
    first = caches[0]
    _, heads, tokens, width = first.shape
    for cache in caches:
        apart = cache.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        strides = heads * tokens * width, tokens * width, width, 1
        if apart or cache.shape != first.shape or cache.stride() != strides or cache.storage_offset() % page_elements:
            raise UnsupportedError(
                "lavakv in vLLM: KV caches",
                expected="all layers in one storage, blocks of the same shape, heads one after the other",
                got="caches apart" if apart else f"shape {tuple(cache.shape)}, strides {cache.stride()}",
                fix="Use a model whose layers all have full attention of the same shape.",
            )
