"""Pages of vLLM's Triton kernels, where the key and the value of an entry stand side by side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lavakv.vllm.layer_pages import LayerPages


class EntryPages(LayerPages):
    """Pages of the layers' caches; `key_blocks` and `value_blocks` are `[pages, 1, N, head_dim]`.

    Args:
        caches: see the base class.

    Raises:
        UnsupportedError: see there.
    """

    def __init__(self, caches: Sequence[Tensor]) -> None:
        super().__init__(caches)
        shape, strides = (self._num_pages, 1, self.page_tokens), (self._elements, self._elements, 2 * self._head_dim)
        both = caches[0].as_strided((*shape, 2 * self._head_dim), (*strides, 1), 0)
        self.key_blocks, self.value_blocks = both.chunk(2, dim=-1)
        self._keys, self._values = self.key_blocks[:, 0], self.value_blocks[:, 0]

    def of_prompt(self, layer: int, blocks: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """See the base class."""
        pages = self._pages_of(layer, blocks)
        keys, values = (
            numbers[pages].view(-1, self.num_heads, self.page_tokens, self._head_dim).transpose(0, 1)
            for numbers in (self._keys, self._values)
        )
        shape = self.num_heads, -1, self._head_dim
        return keys.reshape(shape)[:, :num_tokens], values.reshape(shape)[:, :num_tokens]

    def read(self, pages: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return self._keys[pages, places][:, None], self._values[pages, places][:, None]

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """See the base class."""
        slots = slots.to(self._device)
        pages, places = slots.div(self.page_tokens, rounding_mode="floor"), slots.remainder(self.page_tokens)
        self._keys[pages, places], self._values[pages, places] = keys[:, 0], values[:, 0]
