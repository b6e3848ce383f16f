"""`LavaCache`: a transformers cache whose full-attention layers keep only what a policy lets survive."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import LinearAttentionLayer

from lavakv.budgets.limits import check_bound, check_protect
from lavakv.budgets.spec import BudgetSpec, KvBits, check_kv_bits
from lavakv.errors import CacheStateError, InputError
from lavakv.eviction.records import Budgets, RankedLayer
from lavakv.eviction.round import Ranker
from lavakv.eviction.session import Session
from lavakv.eviction.tolerance import check_scores_first, sequence_plan
from lavakv.hf import memory
from lavakv.hf.checks import check_graph, check_reserved, tokens_and_padding
from lavakv.hf.geometry import check_policy, geometry_of, stock_layers
from lavakv.hf.given_mask import check_brought_back
from lavakv.hf.graph.decode_graph import DecodeGraph
from lavakv.hf.layer import LavaLayer, LavaLinearLayer
from lavakv.hf.rotation import check_rotation
from lavakv.hf.round_checks import Evict, check_evict, check_judges_later
from lavakv.hf.rounds import EvictingCache
from lavakv.hf.state import CacheState
from lavakv.hf.tail_watch import TailWatch
from lavakv.policy.names import window_for
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Need, Policy
from lavakv.store.base import LayerStore
from lavakv.store.growing import storing
from lavakv.store.masked import MaskedStore
from lavakv.store.quantised import QuantisedStore
from lavakv.store.quantiser import check_sizes
from lavakv.store.ragged import RaggedStore

_STORES: dict[str, type[LayerStore]] = {"ragged": RaggedStore, "masked": MaskedStore}


class LavaCache(EvictingCache):
    """A cache for `model.generate(..., past_key_values=cache)` or plain forwards of an enabled model.

    transformers 5.24 calls the argument `cache`; older ones know `past_key_values` only. The first forward is the
    prompt: each compressed layer keeps its budget of it. Later forwards append; what is evicted of that, and when, say
    `evict` and `max_tokens_per_head`. Without them nothing is, and a warning says once where that passes the budget by
    more than was announced. The cache remembers which tokens it holds, and `generate` refuses a text that does not go
    on from them. Layers that are not full attention stay as transformers makes them. For
    inference: what is stored is detached.

    Args:
        config: the model's config.
        budget: mean entries per KV head per layer, window included; 256 if no other way is used.
        policy: a name from `lavakv.policies()` or a `Policy`.
        window: last tokens of the prompt, always kept, whose queries score; 32 if None, 8 with `reach` and
            `reach-question`.
        store: `ragged` holds only survivors; `masked` holds everything under a mask, the oracle.
        keep: instead of `budget`: kept fraction of each sequence; at least `window` + 1 entries per head stay.
        max_bytes: instead of `budget`: bytes for all sequences and layers, or text such as "512MiB".
        max_loss: instead of `budget`: estimated loss, as a share of that of evicting everything before the window, e.g.
            0.05. Each sequence gets the least budget within it, `budgets().tokens_per_head`, which holds on in later
            rounds. The prompt stays whole until its end.
        max_new_tokens: capacity reserved for this many new tokens after the prompt; see `reserve`.
        evict: `prompt` evicts once, after the first forward; `turns` after every forward that brings several tokens, so
            that the whole is within its budget again: turns of a chat, chunks of a prompt.
        max_tokens_per_head: while tokens come one by one, the cache never holds more mean entries per head than this:
            when it is reached, the last `window` queries judge and the budget is what stays. More than the budget; the
            further above, the rarer the rounds. Capacity up to it is allocated at once.
        protect: positions that are never evicted, e.g. those of a system prompt: a number of tokens at the beginning of
            each sequence, or a slice of its positions. They count towards the budget.
        kv_bits: bits of each number that leaves the window, 8 or 4; None keeps the model's dtype.
        graph: on a CUDA device, let `generate` decode by replaying a captured step; see `lavakv.graphed`. What cannot
            be captured is decoded as without it, and a warning says why. False does not try. `LAVAKV_GRAPH=0` turns it
            off for all caches.

    Attributes:
        graph: may be changed at any time; not saved.
        decode_graph: counts captures and replays, and says why there are none.

    Raises:
        LavaError: a subclass each for budget, policy, store, and models that cannot be compressed.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        budget: int | None = None,
        policy: str | Policy = "lava",
        window: int | None = None,
        store: Literal["ragged", "masked"] = "ragged",
        *,
        keep: float | None = None,
        max_bytes: int | str | None = None,
        max_loss: float | None = None,
        max_new_tokens: int | None = None,
        evict: Evict = "prompt",
        max_tokens_per_head: int | None = None,
        protect: int | slice = 0,
        kv_bits: KvBits | None = None,
        graph: bool = True,
    ) -> None:
        self._policy = get_policy(policy)
        self._spec = BudgetSpec(budget, keep, max_bytes, window_for(self._policy.name, window), max_loss)
        self._evict = check_evict(evict)
        self.max_tokens_per_head = check_bound(max_tokens_per_head, self._spec.budget)
        self._protect = check_protect(protect, self._spec)
        if not isinstance(store, str) or store not in _STORES:
            raise InputError("store", expected=" or ".join(_STORES), got=repr(store), fix="Use ragged, the default.")
        self._store_class, self._kv_bits = _STORES[store], check_kv_bits(kv_bits)
        self._reserved = 0 if max_new_tokens is None else check_reserved(max_new_tokens)
        self._config, self._geometry = config, geometry_of(config)
        if self._kv_bits is not None:
            check_sizes(self._geometry.head_dims)
        check_rotation(self._policy, config, self._geometry.layer_indices)
        check_policy(self._policy, config, self._geometry)
        if max_loss is not None:
            check_scores_first(self._policy)
        if self.evicts_turns or self.max_tokens_per_head is not None:
            check_judges_later(self._policy)
        super().__init__(layers=[])
        self.graph, self.decode_graph = check_graph(graph), DecodeGraph()
        self.reset()

    def __repr__(self) -> str:
        bits = "" if self._kv_bits is None else f", kv_bits={self._kv_bits}"
        return f"LavaCache({self._spec}, policy={self._policy.name!r}, store={self._store_class.__name__}{bits})"

    def __deepcopy__(self, memo: dict[int, Any]) -> LavaCache:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with storing():
            twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        twin._state.filled_by(self._state)
        return twin

    def __copy__(self) -> LavaCache:
        """As `copy.deepcopy`: two caches that shared their stores would write over each other's tokens."""
        return copy.deepcopy(self)

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """The model's layers that are compressed; the rows of `lengths()` and `budgets()`."""
        return self._geometry.layer_indices

    @property
    def nbytes(self) -> int:
        """Bytes of K and V storage allocated now, spare capacity and uncompressed layers included."""
        return sum(memory.layer_bytes(layer) for layer in self.layers)

    @property
    def batch_size(self) -> int:
        """Sequences the cache holds, -1 while it is empty."""
        return self._state.session.batch

    def bytes_by_sequence(self) -> list[int]:
        """`nbytes` per sequence of the batch."""
        return memory.bytes_by_sequence(self.layers, self.batch_size)

    def lengths(self) -> Tensor:
        """Entries held now, int64 `[compressed layers, batch, kv_heads]` on the CPU; padding is not counted.

        Raises:
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        self._require_prompt()
        return self._state.session.lengths()

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
        return self._state.session.kept_positions(self.layer_indices.index(layer), batch, head)

    def budgets(self) -> Budgets:
        """What the policy decided in the last round, for the prompt at first.

        Raises:
            CacheStateError: the cache holds no prompt, or its last forward failed.
        """
        self._require_prompt()
        assert self._state.session.budgets is not None
        return self._state.session.budgets

    def reserve(self, max_new_tokens: int) -> None:
        """Allocate capacity for this many more columns in the compressed layers, now or as soon as a prompt is in.

        Until they are used up, a decode step allocates and copies nothing of the cache and its buffers stay where they
        are, as a CUDA graph needs it. More tokens than that make the buffers grow as without it.

        Args:
            max_new_tokens: columns behind those seen so far, the same in all sequences.

        Raises:
            InputError: not a whole number, or negative.
        """
        self._reserved = check_reserved(max_new_tokens)
        if self._state.session.budgets is not None:
            self._apply_reservation()

    def save(self, path: str | Path) -> None:
        """Write the compressed context to a safetensors file, whole or not at all; a file that is there is replaced.

        Args:
            path: the file.

        Raises:
            CacheStateError: the cache holds no prompt, a forward is under way, or the last one failed.
            UnsupportedError: a layer whose state cannot be saved; it is named.
            InputError: the file cannot be written.
            DiskError: the disk is full or broken.
        """
        from lavakv.hf.saved import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, model: Any, *, policy: str | Policy | None = None) -> LavaCache:
        """Read a context that `save` wrote. The cache goes on as the saved one would have, for the same model only.

        Args:
            path: the file. Nothing in it is run, and every byte is checked.
            model: the transformers model, enabled or not; keys and values go to its devices. Or its config: then
                architecture and geometry are checked, not dtype and weights, and the CPU holds the cache.
            policy: the `Policy` that compressed the context, needed if it has no registered name.

        Raises:
            InputError: no such file, no saved context, or one that is cut or changed.
            UnsupportedError: a newer format.
            CacheMismatchError: a model of another architecture, geometry or dtype, or with other weights.
            PolicyError: another policy, or one without a registered name that was not passed.
        """
        from lavakv.hf.saved import load

        return load(path, model, policy)

    def reset(self) -> None:
        """Forget everything; the cache is as new."""
        self.decode_graph.free()
        stores = [self._new_store() for _ in self.layer_indices]
        self._state = CacheState(self._geometry, Session(stores, self._geometry.num_heads, self._window))
        self._state.needs_norms = self._needs("residual_norms")
        self._watch: TailWatch | None = None
        self._announced = self._itemsize = self._num_new = self._held_at = 0
        self._budgets_in_force, self._held, self._prompt_columns, self._has_recorded = [], [], None, False
        self.layers = stock_layers(self._config)
        for index, store in zip(self.layer_indices, stores, strict=True):
            place = (index, store, self._state, self._geometry.other_full_layers)
            self.layers[index] = self.new_layer(self.layers[index], *place)

    def _new_store(self) -> LayerStore:
        if self._store_class is MaskedStore:
            return MaskedStore(self._kv_bits)
        return RaggedStore() if self._kv_bits is None else QuantisedStore(self._kv_bits)

    def new_layer(self, stock: Any, *args: Any) -> LavaLayer:
        """Make one compressed layer in place of one of transformers; see `LavaLayer`."""
        layer = LavaLinearLayer(stock, *args) if isinstance(stock, LinearAttentionLayer) else LavaLayer(*args)
        layer.is_sliding = stock.is_sliding  # models look for the first layer of a kind
        return layer

    def tokens_per_head(self, num_tokens: Sequence[int], columns: int, itemsize: int) -> list[int]:
        """The budget `b` of each sequence of a batch of prompts.

        Args:
            num_tokens: real tokens of each sequence.
            columns: length of each, padding included.
            itemsize: bytes of one number in keys and values.

        Raises:
            BudgetError: a budget within the window for a longer prompt, or too few bytes.
        """
        return self._resolved(self._spec, num_tokens, columns, itemsize)

    def _row_policies(self, num_sequences: int) -> list[Policy]:
        """What decides for each sequence of a batch."""
        return [self._policy] * num_sequences

    def _row_specs(self, num_sequences: int) -> list[BudgetSpec]:
        """The budget asked for, for each sequence of a batch."""
        return [self._spec] * num_sequences

    def _resolved(self, spec: BudgetSpec, num_tokens: Sequence[int], columns: int, itemsize: int) -> list[int]:
        fixed = token = 0
        if spec.max_bytes is not None:
            whole, token = memory.column_bytes(self._geometry, itemsize, self._kv_bits)
            fixed = memory.other_layers_bytes(self.layers, self._config, len(num_tokens), columns, itemsize)
            fixed += (whole - token) * sum(min(spec.window, tokens) for tokens in num_tokens)
        return spec.tokens_per_head(num_tokens, fixed, token)

    def _needs(self, need: Need) -> bool:
        return need in self._policy.needs

    @property
    def _window(self) -> int:
        return self._spec.window

    @property
    def _has_fixed_budget(self) -> bool:
        return self._spec.budget is not None

    @property
    def _needs_itemsize(self) -> bool:
        return self._spec.max_bytes is not None

    def _plan(self, real: Tensor, itemsize: int = 0, ranker: Ranker = RankedLayer.of) -> None:
        tokens, padding = tokens_and_padding(real)
        is_chunk = self._more_to_come(real)
        budgets = tokens if is_chunk else self._budgets_for(tokens, real.shape[1], itemsize)
        rows = zip(tokens, padding, budgets, self._row_policies(len(tokens)), strict=True)
        plans = [sequence_plan(n, pad, b, self._window, policy, self._protect) for n, pad, b, policy in rows]
        self._check_replay(plans)
        self._state.session.plan(plans, ranker)
        self._note_decided(tokens)
        if is_chunk:
            self._budgets_in_force = [0] * len(tokens)  # unknown before the end of the prompt

    def _watch_from_here(self, budgets: Sequence[int], tokens: Sequence[int]) -> None:
        uncompressed = not self.evicts_turns and self.max_tokens_per_head is None and self._prompt_columns is None
        columns = self._state.session.columns.length
        self._watch = TailWatch(budgets, tokens, columns) if uncompressed else None

    def _apply_reservation(self) -> None:
        self._reserve_columns(self._columns_to_reserve(self._reserved))

    def reserve_ahead(self, num_columns: int) -> None:
        """Allocate capacity for captured steps, up to the next round."""
        to_round = self.tokens_to_round()
        num_columns = num_columns if to_round is None else min(num_columns, to_round + 1)
        self._reserve_columns(num_columns)
        self._state.session.columns.reserve(num_columns)

    @property
    def tail_length(self) -> int:
        """Columns that every head holds: the window and all that came since the last round."""
        return self._state.session.stores[0].tail_length

    @storing()
    def _reserve_columns(self, num_columns: int) -> None:
        for store in self._state.session.stores if num_columns else ():
            store.reserve(num_columns)

    def _require_prompt(self) -> None:
        self._state.session.require_sound()
        check_brought_back(self._state.session.columns.brought_back)
        if self._state.session.budgets is None:
            raise CacheStateError(
                "cache", expected="a prompt in the cache", got="an empty cache", fix="Run the model on a prompt first."
            )
