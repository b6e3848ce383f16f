"""The arguments of a model's forward as a captured step takes them: tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.refusal import CannotCapture
from lavakv.store.growing import storing

MASK = "attention_mask"
_WITHOUT_ANSWER = ("output_attentions", "output_hidden_states", "output_router_logits")


class DecodeInputs:
    """What one decode step is called with, split into what changes from step to step and what may not.

    Args:
        kwargs: of the model's forward.

    Raises:
        CannotCapture: arguments whose effect on the host, or whose shape, changes from step to step.
    """

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self.mask: Tensor | None = None
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Any] = {}
        for name, value in kwargs.items():
            if isinstance(value, LavaCache):
                self.cache_name = name
            elif name == MASK and value is not None:
                self.mask = _two_dimensional(value)
            elif isinstance(value, Tensor):
                self.tensors[name] = value
            else:
                self.constants[name] = _constant(name, value)

    @property
    def input_ids(self) -> Tensor:
        """`[B, 1]`."""
        return self.tensors["input_ids"]

    def continue_cache(self, cache: LavaCache) -> bool:
        """Whether batch and mask are those of one more column behind what a cache holds."""
        batch, columns = cache.batch_size, cache.get_seq_length() + 1
        return self.input_ids.shape[0] == batch and (self.mask is None or self.mask.shape == (batch, columns))

    def key(self) -> Hashable:
        """Equal for calls that one captured step can serve."""
        shapes = tuple((name, t.shape, t.dtype, t.device) for name, t in self.tensors.items())
        return shapes, tuple(self.constants.items()), self.mask is not None, self.cache_name

    def copied(self) -> dict[str, Tensor]:
        """The tensors once more, to be written to at every step."""
        with storing():
            return {name: torch.empty_like(tensor).copy_(tensor) for name, tensor in self.tensors.items()}


def decodes_one_token(kwargs: dict[str, Any]) -> bool:
    """Whether a call brings one token a sequence, by ids, and asks for what a model usually returns."""
    ids = kwargs.get("input_ids")
    return (
        isinstance(ids, Tensor)
        and ids.ndim == 2
        and ids.shape[1] == 1
        and ids.dtype == torch.int64
        and kwargs.get("inputs_embeds") is None
        and kwargs.get("labels") is None
        and kwargs.get("return_dict") is not False
        and kwargs.get("use_cache") is not False
    )


def _two_dimensional(mask: Any) -> Tensor:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise CannotCapture("a mask that says what each query sees, not only what is padding")
    return mask


def _constant(name: str, value: Any) -> Any:
    if name in _WITHOUT_ANSWER and value:
        raise CannotCapture(f"{name} is asked for")
    try:
        hash(value)
    except TypeError:
        raise CannotCapture(f"the argument {name} of the model's forward is a {type(value).__name__}") from None
    return value
