"""Scores by trained gates, which read what a layer's attention is given: KVzap and Fast KVzip.

KVzap (arXiv 2601.07891) predicts KVzip+'s score of each entry, Fast KVzip (arXiv 2601.17668) learns from KVzip's. Their
weights belong to one model; `lavakv.hf.gates` loads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, logsigmoid

from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4  # positions that Fast KVzip always keeps
_NORM_EPSILON = 1e-6
_FIRST = 1.0  # above the logarithm of a share


class KVzapGate(NamedTuple):
    """One layer's surrogate: linear, or two linear maps with a GELU between them.

    Attributes:
        weight: `[H, inputs]`, where `inputs` is `hidden`, or the width between the two maps.
        bias: `[H]`.
        first_weight: `[width, hidden]` of the first of two maps, or None.
        first_bias: `[width]`, or None.
    """

    weight: Tensor
    bias: Tensor
    first_weight: Tensor | None = None
    first_bias: Tensor | None = None

    def score(self, hidden_states: Tensor) -> Tensor:
        """Predicted importance, float32 `[H, tokens]`, of `[tokens, hidden]`."""
        if self.first_weight is not None:
            hidden_states = gelu(linear(hidden_states, self.first_weight, self.first_bias))
        return linear(hidden_states, self.weight, self.bias).T


class FastKVzipGate(NamedTuple):
    """One layer's gate: a small attention of each token to itself against a few learned keys.

    Attributes:
        query_weight: `[H * G * dim, hidden]`.
        query_bias: `[H * G * dim]`.
        key_weight: `[H * dim, hidden]`.
        query_norm: `[dim]`, weights of an RMS norm.
        key_norm: `[dim]`.
        base_keys: `[H, sinks, dim]`.
        bias: `[H, G]`.
    """

    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    query_norm: Tensor
    key_norm: Tensor
    base_keys: Tensor
    bias: Tensor

    def score(self, hidden_states: Tensor) -> Tensor:
        """Logarithm of each token's mean share over the group against the learned keys, float32 `[H, tokens]`."""
        heads, _, dim = self.base_keys.shape
        tokens = hidden_states.shape[0]
        queries = linear(hidden_states, self.query_weight, self.query_bias).view(tokens, heads, -1, dim)
        keys = linear(hidden_states, self.key_weight).view(tokens, heads, 1, dim)
        queries, keys = _rms_norm(queries, self.query_norm), _rms_norm(keys, self.key_norm)
        own = (queries * keys).sum(dim=-1) * dim**-0.5 + self.bias  # [tokens, H, G]
        others = torch.einsum("thgd,hsd->thgs", queries, self.base_keys) * dim**-0.5
        shares = logsigmoid(own - others.logsumexp(dim=-1))
        return (shares.logsumexp(dim=-1) - math.log(shares.shape[-1])).T


class GatedScore:
    """A score by gates, one for each layer of the model, whether it is compressed or not.

    Args:
        gates: by layer, float32, on any device.
        keeps_first: whether the first four positions come first.
    """

    def __init__(self, gates: Sequence[KVzapGate | FastKVzipGate], keeps_first: bool) -> None:
        self.gates, self._keeps_first = tuple(gates), keeps_first
        self._moved: dict[tuple[int, torch.device], KVzapGate | FastKVzipGate] = {}

    def __call__(self, window: ScoringWindow) -> Tensor:
        """Float32 `[H, n]`. Needs the hidden states."""
        assert window.hidden_states is not None
        hidden = window.hidden_states[: window.num_evictable]
        gate = self._on(window.layer, hidden.device)
        block = max(window.max_block_elements // max(8 * hidden.shape[1], 1), 1)
        parts = [gate.score(part.float()) for part in torch.split(hidden, block)] if len(hidden) else []
        scores = torch.cat(parts, dim=1) if parts else hidden.new_zeros(window.queries.shape[0], 0).float()
        if self._keeps_first:
            for position in range(min(NUM_FIRST, scores.shape[1])):
                scores[:, position] = _FIRST * (NUM_FIRST - position)
        return scores

    def _on(self, layer: int, device: torch.device) -> KVzapGate | FastKVzipGate:
        """A layer's gate on a device; copied there once."""
        if (layer, device) not in self._moved:
            gate = self.gates[layer]
            parts = [None if part is None else part.to(device) for part in gate]
            self._moved[layer, device] = type(gate)(*parts)  # type: ignore[arg-type]
        return self._moved[layer, device]


def _rms_norm(vectors: Tensor, weight: Tensor) -> Tensor:
    return vectors * (vectors.square().mean(dim=-1, keepdim=True) + _NORM_EPSILON).rsqrt() * weight
