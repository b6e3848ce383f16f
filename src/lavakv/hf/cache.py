"""`LavaCache`: a transformers cache whose full-attention layers keep only what a policy lets survive."""

from __future__ import annotations

import copy
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig

from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.errors import CacheStateError, InputError
from lavakv.eviction.records import Budgets
from lavakv.hf import memory
from lavakv.hf.geometry import geometry_of, stock_layers
from lavakv.hf.layer import LavaLayer, unsupported
from lavakv.hf.modes import storing
from lavakv.hf.state import CacheState
from lavakv.hf.step import PromptStep
from lavakv.policy import Policy, get_policy
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore

_STORES: dict[str, type[LayerStore]] = {"ragged": RaggedStore, "masked": MaskedStore}


class LavaCache(Cache):
    """A cache for `model.generate(..., past_key_values=cache)` or plain forwards of an enabled model.

    The first forward is the prompt: each compressed layer keeps its budget of it. Later forwards append uncompressed.
    Layers that are not full attention stay as transformers makes them. For inference: what is stored is detached.

    Args:
        config: the model's config.
        budget: mean entries per KV head per layer, window included; 256 if no other way is used.
        policy: a name from `lavakv.policies()` or a `Policy`.
        window: last tokens of the prompt, always kept, whose queries score.
        store: `ragged` holds only survivors; `masked` holds everything under a mask, the oracle.
        keep: instead of `budget`: kept fraction of each sequence.
        max_bytes: instead of `budget`: bytes for all sequences and layers, or text such as "512MiB".

    Raises:
        LavaError: a subclass each for budget, policy, store, and models that cannot be compressed.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        budget: int | None = None,
        policy: str | Policy = "lava",
        window: int = DEFAULT_WINDOW,
        store: Literal["ragged", "masked"] = "ragged",
        *,
        keep: float | None = None,
        max_bytes: int | str | None = None,
    ) -> None:
        self._spec = BudgetSpec(budget, keep, max_bytes, window)
        self._policy = get_policy(policy)
        if store not in _STORES:
            raise InputError("store", expected=" or ".join(_STORES), got=repr(store), fix="Use ragged, the default.")
        self._store_class = _STORES[store]
        self._config, self._geometry = config, geometry_of(config)
        super().__init__(layers=[])
        self.reset()

    def __repr__(self) -> str:
        return f"LavaCache({self._spec}, policy={self._policy.name!r}, store={self._store_class.__name__})"

    def __deepcopy__(self, memo: dict[int, Any]) -> LavaCache:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with storing():
            twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """The model's layers that are compressed; the rows of `lengths()` and `budgets()`."""
        return self._geometry.layer_indices

    @property
    def nbytes(self) -> int:
        """Bytes of K and V storage allocated now, spare room and uncompressed layers included."""
        return sum(memory.layer_bytes(layer) for layer in self.layers)

    @property
    def batch_size(self) -> int:
        """Sequences the cache holds, -1 while it is empty."""
        return self._state.batch

    def lengths(self) -> Tensor:
        """Entries held now, int64 `[compressed layers, batch, kv_heads]` on the CPU; padding is not counted.

        Raises:
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        self._require_prompt()
        lengths = torch.zeros(
            len(self.layer_indices), self.batch_size, max(self._geometry.num_heads), dtype=torch.int64
        )
        for row, store in enumerate(self._stores()):
            tail = self._state.columns.real[:, -store.tail_length :].sum(dim=1).cpu()
            lengths[row, :, : store.num_heads] = torch.tensor(store.past_counts()) + tail[:, None]
        return lengths

    def kept_positions(self, layer: int, batch: int, head: int) -> Tensor:
        """Original positions that one head holds now, int64, ascending; 0 is the sequence's first real token.

        Args:
            layer: the model's layer index, one of `layer_indices`.
            batch: sequence of the batch.
            head: KV head.

        Raises:
            InputError: no such compressed layer, sequence or head.
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        self._require_prompt()
        heads = dict(zip(self.layer_indices, self._geometry.num_heads, strict=True))
        if layer not in heads or not 0 <= batch < self.batch_size or not 0 <= head < heads[layer]:
            raise InputError(
                "layer, batch, head",
                expected=f"a layer of {self.layer_indices}, batch below {self.batch_size}, a KV head of that layer",
                got=f"{layer}, {batch}, {head}",
                fix="`cache.layer_indices` lists the compressed layers.",
            )
        store, columns = self.layers[layer].store, self._state.columns
        past = store.past_columns(batch, head)
        tail = torch.arange(columns.length - store.tail_length, columns.length, device=past.device)
        return columns.positions(batch, torch.cat([past, tail])).cpu()

    def budgets(self) -> Budgets:
        """What the policy decided for the prompt.

        Raises:
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        self._require_prompt()
        assert self._state.budgets is not None
        return self._state.budgets

    def reset(self) -> None:
        """Forget everything; the cache is as new."""
        self._state = CacheState(self._geometry, self._policy)
        self.layers = stock_layers(self._config)
        for index in self.layer_indices:
            store = self._store_class()
            self.layers[index] = LavaLayer(index, store, self._state, self._geometry.other_full_layers)

    def begin(self, model: nn.Module, inputs: Tensor, mask: Any) -> None:
        """Start a forward (called by an enabled model); see `CacheState.begin`."""
        self._state.begin(model, inputs, mask)

    def end(self, succeeded: bool) -> None:
        """Close a forward (called by an enabled model). A failed prompt leaves the cache as it was, empty."""
        was_prompt = self._state.end(succeeded)
        if succeeded:
            memory.detach_states(self.layers)
        if was_prompt and succeeded:
            memory.release_views(self.layers)
        elif was_prompt:
            self.reset()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Take one layer's new keys and values; see `LavaLayer.update`.

        Raises:
            NotEnabledError: the model is not enabled; the cache is unchanged.
        """
        step = self._state.prompt_step()
        if step is not None:
            self._plan(step, key_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def update_conv_state(self, *args: Any, **kwargs: Any) -> Any:
        """As in any cache, but only for an enabled model, like `update`."""
        self._state.prompt_step()
        return super().update_conv_state(*args, **kwargs)

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> Any:
        """As in any cache, but only for an enabled model, like `update`."""
        self._state.prompt_step()
        return super().update_recurrent_state(*args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("beam search (reordering the sequences of a cache)")

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("cropping a cache (assisted decoding)")

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("repeating the sequences of a cache")

    def batch_select_indices(self, indices: Tensor) -> NoReturn:
        """Unsupported yet."""
        raise unsupported("selecting sequences of a cache")

    def _plan(self, step: PromptStep, keys: Tensor) -> None:
        fixed = token = 0
        if self._spec.max_bytes is not None:
            text = self._config.get_text_config(decoder=True)
            token = 2 * sum(self._geometry.num_heads) * memory.head_dim(text) * keys.itemsize
            batch, columns = step.real.shape
            fixed = memory.other_layers_bytes(self.layers, self._config, batch, columns, keys.itemsize)
        self._state.plan(step, self._spec, fixed, token, self._stores())

    def _stores(self) -> list[LayerStore]:
        return [self.layers[index].store for index in self.layer_indices]

    def _require_prompt(self) -> None:
        self._state.require_sound()
        if self._state.budgets is None:
            raise CacheStateError(
                "cache", expected="a prompt in the cache", got="an empty cache", fix="Run the model on a prompt first."
            )
