"""vLLM's KV caches of all layers as one array of pages, each with `N` entries of one KV head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.errors import UnsupportedError


class LayerPages(ABC):
    """Pages of the layers' caches, on their device; blocks, positions and counts may be given on the CPU.

    A block of a layer is `[KV heads, N, 2 * head_dim]` numbers, and the part of a head is a page. How keys and values
    lie in it is the subclass's.

    Args:
        caches: of each layer `[blocks, KV heads, N, 2 * head_dim]`, all in one storage.

    Attributes:
        first_pages: int64 `[layers]` on the CPU, page of block 0, head 0 in each layer.
        num_heads: KV heads of each layer.
        page_tokens: `N`.
        key_blocks, value_blocks: all pages as the kernels take them, blocks with one KV head.

    Raises:
        UnsupportedError: caches apart or of another layout.
    """

    key_blocks: Tensor
    value_blocks: Tensor

    def __init__(self, caches: Sequence[Tensor]) -> None:
        first = caches[0]
        _, self.num_heads, self.page_tokens, width = first.shape
        self._device, self._head_dim, self._elements = first.device, width // 2, self.page_tokens * width
        _require_layout(caches, self._elements)
        self.first_pages = torch.tensor([cache.storage_offset() // self._elements for cache in caches], device="cpu")
        self._first = self.first_pages.to(self._device)
        self._num_pages = first.untyped_storage().nbytes() // (self._elements * first.element_size())

    @abstractmethod
    def of_prompt(self, layer: int, blocks: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer of a prompt that is held in whole blocks, `[KV heads, num_tokens, head_dim]`."""

    @abstractmethod
    def read(self, pages: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the entries at places of pages, int64 `[entries]` each: `[entries, 1, head_dim]`."""

    @abstractmethod
    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Write entries `[entries, 1, head_dim]` to slots of pages, int64 `[entries]`."""

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
        return self.read(first + block * self.num_heads, joined.remainder(self.page_tokens))

    def clear(self, blocks: Tensor) -> None:
        """Set whole blocks to zero, in all layers."""
        for layer in range(len(self.first_pages)):
            pages = self._pages_of(layer, blocks)
            self.key_blocks[pages] = 0
            self.value_blocks[pages] = 0

    def _pages_of(self, layer: int, blocks: Tensor) -> Tensor:
        """Pages of a layer's blocks, block after block."""
        heads = torch.arange(self.num_heads, device=self._device)
        first = self._first[layer] + blocks.long().to(self._device)[:, None] * self.num_heads
        return (first + heads).flatten()


def _require_layout(caches: Sequence[Tensor], page_elements: int) -> None:
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
