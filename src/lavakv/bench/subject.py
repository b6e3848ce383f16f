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
        from lavakv.models.load import load  # imports packages that a GPU machine may lack

        return cls(name, "real", load(name, dtype=dtype, device=device, attention=attention).model)

    @classmethod
    def shaped(cls, shape: str, dtype: str, device: str, attention: str | None) -> Subject:
        """Make a model of a named shape with random weights. `auto` is float32 on a CPU and bfloat16 elsewhere."""
        shape_config(shape)  # check the name before a device is used
        target = device_of(device)
        chosen = dtype_of(dtype, target)
        kind = torch.bfloat16 if chosen == "auto" else chosen
        return cls(shape, "random", random_model(shape, kind, target, attention))

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self.model.device
        return device

    def prompt(self, tokens: int, batch_size: int) -> Tensor:
        """Random token ids `[batch_size, tokens]`, the same in every run."""
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        ids = torch.randint(5, vocabulary, (batch_size, tokens), generator=torch.Generator().manual_seed(0))
        return ids.to(self.device)

    def max_positions(self) -> int:
        """Maximum number of tokens by the model's positions.

        Raises:
            InputError: its configuration does not state it.
        """
        found = geometry_of(self.model.config).max_positions
        if found is None:
            raise InputError(
                "--tokens max", expected="a model that states its positions", got="none", fix="Give a number."
            )
        return found

    def check(self, tokens: int, cache: LavaCache) -> None:
        """Check that the model can read so many tokens, and that the budget can be met.

        Raises:
            InputError: more tokens than the model has positions.
            BudgetError: the budget does not exceed the window.
        """
        positions = geometry_of(self.model.config).max_positions
        if positions is not None and tokens > positions:
            expected = f"at most {positions}, the model's positions"
            raise InputError("tokens", expected=expected, got=str(tokens), fix="Use fewer tokens.")
        cache.tokens_per_head([tokens], tokens, self.model.dtype.itemsize)
