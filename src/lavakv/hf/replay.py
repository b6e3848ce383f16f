"""Feeding a prompt again behind itself, chunk by chunk, and noting what its rows look at: for policies that need it.

The forwards are plain ones of the model with a cache of transformers' kind, so attention, masks and positions are the
model's own. Each starts from the state right after the prompt; nothing of it is changed.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from lavakv.hf import interface
from lavakv.hf.attention import attention_settings
from lavakv.hf.held_prompt import PromptState
from lavakv.hf.interface import Interceptor, Token
from lavakv.hf.layer import PendingKeyValues
from lavakv.hf.memory import STATELESS
from lavakv.policy.replay import Replay, ReplayChunk
from lavakv.scoring.blocks import joined
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.replay import ReplayRows, chunk_maxima


@torch.no_grad()
def run_replay(decoder: nn.Module, state: PromptState, replay: Replay) -> dict[int, ReplayMaxima]:
    """What the rows of a replay look at, for each compressed layer, over the sequence's real tokens.

    Costs more than reading the prompt did: a chunk's rows attend to the whole prompt, and their attention is computed
    again to be scored. Beyond the prompt's keys and values it needs memory for one chunk and for one layer's again.

    Args:
        decoder: the module that read the prompt.
        state: what it left behind.
        replay: chunks and requests.
    """
    padding = int((~state.real).sum())
    stream = _Stream()
    layers = {index: _ReplayedLayer(*held, padding, stream) for index, held in state.layers.items()}
    watched = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [module.register_forward_pre_hook(stream.note, with_kwargs=True) for module in watched]
    token = Token(id(decoder), id(layers), threading.get_ident())
    interface.start(token, Interceptor(_replay_attention))
    try:
        for chunk in replay.chunks(state.tokens[padding:]):
            stream.chunk = chunk
            _feed(decoder, state, layers, chunk.tokens)
    finally:
        interface.stop(token)
        for hook in hooks:
            hook.remove()
    return {index: layer.maxima() for index, layer in layers.items()}


def one_row(layer: Any, row: int, num_rows: int) -> Any:
    """A copy of an uncompressed cache layer that holds one sequence of its batch."""
    twin = copy.deepcopy(layer)
    if num_rows > 1 and not isinstance(layer, STATELESS) and layer.is_initialized:
        twin.batch_select_indices(torch.tensor([row], device=twin.keys.device))
    return twin


def _feed(decoder: nn.Module, state: PromptState, layers: Mapping[int, CacheLayerMixin], tokens: Tensor) -> None:
    """Read tokens behind the prompt and forget them."""
    from lavakv.hf.contract import cache_name  # it knows adapters, which know the cache, which drives this

    cache = DynamicCache(config=decoder.config)
    for index in range(len(cache.layers)):
        cache.layers[index] = layers[index] if index in layers else copy.deepcopy(state.others[index])
    given: dict[str, Any] = {cache_name(decoder): cache, "use_cache": True}
    if not bool(state.real.all()):
        seen = torch.cat([state.real, state.real.new_ones(len(tokens))])
        given["attention_mask"] = seen[None].long()
    if state.next_position is not None:
        first = state.next_position
        given["position_ids"] = torch.arange(first, first + len(tokens), device=tokens.device)[None]
    decoder(input_ids=tokens[None], **given)


class _Stream:
    """What is under way: the chunk, and the norms of the residual stream that entered the latest layer."""

    def __init__(self) -> None:
        self.chunk: ReplayChunk | None = None
        self._norms: Tensor | None = None
        self._thread = threading.get_ident()

    def note(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what enters a layer, as a hook ahead of it."""
        if threading.get_ident() != self._thread:  # another forward, through the same module
            return
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, Tensor) and hidden.ndim == 3:  # Gemma 3n's are several
            self._norms = hidden[0].detach().float().norm(dim=-1)

    def pop_norms(self) -> Tensor | None:
        """Float32 `[rows]`, once."""
        norms, self._norms = self._norms, None
        return norms


class _ReplayedLayer(CacheLayerMixin):
    """Holds a layer's prompt, lets new rows attend to it and to themselves, and keeps nothing of them but maxima."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, num_padding: int, stream: _Stream) -> None:
        super().__init__()
        self._held, self._padding, self._stream = (keys, values), num_padding, stream
        self._found: list[ReplayMaxima] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hand new keys and values to `_replay_attention`."""
        pending = _PendingRows(self, key_states, value_states)
        return pending, pending

    def joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt's keys and values with the new rows' behind them."""
        return torch.cat([self._held[0], keys], dim=2), torch.cat([self._held[1], values], dim=2)

    def note(self, queries: Tensor, keys: Tensor, settings: Any) -> None:
        """Take the maxima of one chunk's rows, queries `[1, query_heads, rows, head_dim]`."""
        chunk, (scaling, softcap, sinks) = self._stream.chunk, settings
        assert chunk is not None
        heads, rows = keys.shape[1:3]
        grouped = queries[0].reshape(heads, -1, rows, queries.shape[3])
        prompt, norms = self._held[0][0, :, self._padding :], self._stream.pop_norms()
        found = ReplayRows(grouped, prompt, keys[0], chunk.start, chunk.stop, norms)
        self._found.append(chunk_maxima(found, scaling, softcap, None if sinks is None else sinks.view(heads, -1)))

    def maxima(self) -> ReplayMaxima:
        """Those of all chunks, for every position."""
        norms = [one.per_norm for one in self._found if one.per_norm is not None]
        return ReplayMaxima(joined(one.attention for one in self._found), joined(norms) if norms else None)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """The prompt's columns."""
        return self._held[0].shape[2]

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class _PendingRows(PendingKeyValues):
    """A replay's keys and values on their way from a cache layer to `_replay_attention`."""


def _replay_attention(
    delegate: Callable[..., Any], module: nn.Module, query: Tensor, key: Any, value: Any, mask: Any = None, *args: Any,
    **kwargs: Any,
) -> Any:  # fmt: skip
    """The model's own attention over the prompt and the new rows; what the rows look at is noted."""
    if not isinstance(key, _PendingRows):
        return delegate(module, query, key, value, mask, *args, **kwargs)
    layer: Any = key.layer
    output = delegate(module, query, *layer.joined(key.keys, key.values), mask, *args, **kwargs)
    layer.note(query, key.keys, attention_settings(query, **kwargs))
    return output
