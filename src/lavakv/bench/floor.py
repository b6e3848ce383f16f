"""The physical floor of a dense model: bytes that must move over bandwidth, operations over rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavakv.bench.machine import Machine
from lavakv.bench.settings import Setting
from lavakv.hf.geometry import geometry_of, stock_layers


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes of a model that determine what a forward reads and multiplies.

    Attributes:
        layer_weights: weights of all layers; each is used once a token.
        head_weights: weights of the language-model head, used once a sequence.
        query_heads: of one layer.
        head_dim: size of one key in the first compressed layer; the others are assumed to be equal.
        num_kv_heads: of each compressed layer.
        other_windows: sliding windows of the layers that are not compressed, 0 for no window.
        other_kv_heads: KV heads of each of these.
        itemsize: bytes of one number.
    """

    layer_weights: int
    head_weights: int
    query_heads: int
    head_dim: int
    num_kv_heads: tuple[int, ...]
    other_windows: tuple[int, ...]
    other_kv_heads: int
    itemsize: int

    @classmethod
    def of(cls, model: Any) -> ModelSize:
        """Measure a model. In a mixture of experts all experts count, so its floors are too high."""
        text = model.config.get_text_config(decoder=True)
        geometry = geometry_of(model.config)
        layers = stock_layers(model.config)
        others = [layer for index, layer in enumerate(layers) if index not in geometry.layer_indices]
        every = sum(parameter.numel() for parameter in model.parameters())
        inputs, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        return cls(
            every - inputs.numel() - (0 if head is inputs else head.numel()),
            head.numel(),
            text.num_attention_heads,
            geometry.head_dims[0],
            geometry.num_heads,
            tuple(int(getattr(layer, "sliding_window", 0) or 0) for layer in others),
            int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
            model.dtype.itemsize,
        )

    @property
    def entry_bytes(self) -> int:
        """Bytes of one key and value in one KV head."""
        return 2 * self.head_dim * self.itemsize

    def kv_bytes(self, setting: Setting, compressed: bool) -> int:
        """Bytes of keys and values after the prompt, spare capacity not counted."""
        entries = sum(self.num_kv_heads) * (setting.held if compressed else setting.tokens)
        entries += sum(self.other_kv_heads * self._reach(window, setting.tokens) for window in self.other_windows)
        return setting.batch_size * entries * self.entry_bytes

    def prefill_operations(self, setting: Setting) -> float:
        """Floating-point operations of reading the prompt."""
        pairs = len(self.num_kv_heads) * setting.tokens**2 / 2
        for window in self.other_windows:
            reach = self._reach(window, setting.tokens)
            pairs += reach * setting.tokens - reach**2 / 2
        weights = self.layer_weights * setting.tokens + self.head_weights
        return setting.batch_size * (2 * weights + 4 * self.query_heads * self.head_dim * pairs)

    def decode_bytes(self, setting: Setting, compressed: bool) -> int:
        """Bytes that one decode step reads: every weight once, every key and value once."""
        return (self.layer_weights + self.head_weights) * self.itemsize + self.kv_bytes(setting, compressed)

    @staticmethod
    def _reach(window: int, tokens: int) -> int:
        return min(window, tokens) if window else tokens


@dataclass(frozen=True, slots=True)
class Floor:
    """Lower bounds in seconds for any implementation on this machine, from its measured limits."""

    prefill_seconds: float
    decode_full_seconds: float
    decode_compressed_seconds: float

    @classmethod
    def of(cls, size: ModelSize, machine: Machine, setting: Setting) -> Floor:
        """Compute the bounds for one setting."""
        weights = 2 * setting.batch_size * (size.layer_weights + size.head_weights) / machine.multiply_rate
        full, compressed = (size.decode_bytes(setting, flag) / machine.read_bandwidth for flag in (False, True))
        return cls(
            size.prefill_operations(setting) / machine.multiply_rate, max(full, weights), max(compressed, weights)
        )

    def __str__(self) -> str:
        full, compressed = 1e3 * self.decode_full_seconds, 1e3 * self.decode_compressed_seconds
        return (
            f"prefill {self.prefill_seconds:.3g} s; a token {full:.3g} ms full, {compressed:.3g} ms within the budget"
        )
