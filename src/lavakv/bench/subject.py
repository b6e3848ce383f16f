"""The model under measurement: a real one, or random weights in a named shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lavakv.bench.shapes import random_model, shape_config
from lavakv.errors import InputError
from lavakv.hf.cache import LavaCache
from lavakv.hf.geometry import geometry_of
from lavakv.models.placement import device_of, dtype_of


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model.

    Attributes:
        name: as the user gave it.
        weights: `real` or `random`.
        model: a transformers model.
    """

    name: str
    weights: str
    model: Any

    @classmethod
    def named(cls, name: str, dtype: str, device: str, attention: str | None) -> Subject:
        """Load a model; see `lavakv.models.load.load`."""
        from lavakv.models.load import load  # needs packages that a GPU machine may lack

        return cls(name, "real", load(name, dtype=dtype, device=device, attention=attention).model)

    @classmethod
    def shaped(cls, shape: str, dtype: str, device: str, attention: str | None) -> Subject:
        """Make a model of a named shape. `auto` is float32 on a CPU and bfloat16 elsewhere."""
        shape_config(shape)  # before a device is touched
        target = device_of(device)
        chosen = dtype_of(dtype, target)
        kind = torch.bfloat16 if chosen == "auto" else chosen
        return cls(shape, "random", random_model(shape, kind, target, attention))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def prompt(self, tokens: int, batch_size: int) -> Tensor:
        """Random token ids `[batch_size, tokens]`, the same in every run."""
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        ids = torch.randint(5, vocabulary, (batch_size, tokens), generator=torch.Generator().manual_seed(0))
        return ids.to(self.device)

    def max_positions(self) -> int:
        """Tokens that the model's positions reach.

        Raises:
            InputError: its configuration does not say.
        """
        found = geometry_of(self.model.config).max_positions
        if found is None:
            raise InputError(
                "--tokens max", expected="a model that tells its positions", got="none", fix="Give a number."
            )
        return found

    def require(self, tokens: int, cache: LavaCache) -> None:
        """Can this model read so many tokens, and can the budget be met?

        Raises:
            InputError: more tokens than the model has positions.
            BudgetError: a budget within the window.
        """
        positions = geometry_of(self.model.config).max_positions
        if positions is not None and tokens > positions:
            raise InputError(
                "tokens", expected=f"at most {positions}, the model's positions", got=str(tokens), fix="Ask for fewer."
            )
        cache.tokens_per_head([tokens], tokens, self.model.dtype.itemsize)
