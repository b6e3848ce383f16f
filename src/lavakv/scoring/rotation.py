"""The rotary position embedding of a prompt's rows, for scores that look at queries or keys before their rotation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavakv.errors import UnsupportedError


class Rotation(NamedTuple):
    """How one layer rotates the queries and keys of one sequence: `x * cos + rotate_half(x) * sin`.

    Both halves of `cos` are equal, and both of `sin`; a factor on them, as YaRN has it, is part of both.

    Attributes:
        cos: `[N, head_dim]`, of each row of the prompt, any float dtype.
        sin: likewise.
        frequencies: `[head_dim / 2]`, radians by which each pair of channels turns from one position to the next.
    """

    cos: Tensor
    sin: Tensor
    frequencies: Tensor

    def undo(self, vectors: Tensor, first: int | Tensor) -> Tensor:
        """Queries or keys `[..., rows, head_dim]` before their rotation, float32.

        Args:
            vectors: of some of the prompt's rows.
            first: the first one, if they follow each other, or int64 `[rows]`, which they are.
        """
        rows = slice(first, first + vectors.shape[-2]) if isinstance(first, int) else first
        half = vectors.shape[-1] // 2
        cos, sin = self.cos[rows, :half].float(), self.sin[rows, :half].float()
        squared = cos.square().addcmul_(sin, sin)
        cos, sin = cos / squared, sin / squared
        early, late = vectors[..., :half].float(), vectors[..., half:].float()
        plain = torch.empty(vectors.shape, dtype=torch.float32, device=vectors.device)
        torch.mul(early, cos, out=plain[..., :half]).addcmul_(late, sin)
        torch.mul(late, cos, out=plain[..., half:]).addcmul_(early, sin, value=-1)
        return plain

    def at(self, row: int) -> Rotation:
        """The rotation of one row alone; float32."""
        return Rotation(self.cos[row].float()[None], self.sin[row].float()[None], self.frequencies)

    def mean_ahead(self, num_positions: int) -> Rotation:
        """The mean rotation of so many positions behind the last row, as one row; float32."""
        steps = torch.arange(1, num_positions + 1, device=self.frequencies.device, dtype=torch.float64)
        angles = steps[:, None] * self.frequencies.double()
        cos, sin = (torch.cat([part, part]) for part in (angles.cos().mean(dim=0), angles.sin().mean(dim=0)))
        last_cos, last_sin = self.cos[-1:].double(), self.sin[-1:].double()
        ahead_cos, ahead_sin = last_cos * cos - last_sin * sin, last_sin * cos + last_cos * sin
        return Rotation(ahead_cos.float(), ahead_sin.float(), self.frequencies)

    def turn(self, vectors: Tensor) -> Tensor:
        """Rotate vectors `[..., rows, head_dim]`; one row of a rotation serves all."""
        return vectors * self.cos + rotate_half(vectors) * self.sin


def rotate_half(vectors: Tensor) -> Tensor:
    """The second half of the last dimension, negative, before the first."""
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def require_plain_softmax(name: str, layer: int, softcap: float | None, sinks: Tensor | None) -> None:
    """Check that attention is a softmax of query-key products alone.

    Args:
        name: of the policy.
        layer: index of the layer.
        softcap: logit softcap of the model, or None.
        sinks: its attention-sink logits, or None.

    Raises:
        UnsupportedError: a logit softcap or attention sinks; names policy and layer.
    """
    if softcap is not None or sinks is not None:
        raise UnsupportedError(
            f"policy {name!r} at layer {layer}",
            expected="attention without logit softcap and sinks",
            got="attention sinks" if softcap is None else f"a logit softcap of {softcap}",
            fix="Use another policy for this model.",
        )
