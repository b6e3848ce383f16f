"""Whatever happens to a cache, in whatever order, the ragged store gives what the masked one gives."""

from __future__ import annotations

import copy
import functools
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

import lavakv
from lavakv import CacheStateError, InputError
from lavakv.hf.contract import cache_argument
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, lava_cache

STEPS, LIVES = 40, 50  # 2,000 steps in all
MAX_BATCH, MAX_COLUMNS = 4, 400
POLICIES = ["lava", "snapkv", "residual-max", "layer-defensivekv", "streaming-llm", "r-kv", BY_POSITION]


@functools.lru_cache(maxsize=4)
def _model(kind: str) -> Any:
    return lavakv.enable(zoo.tiny(kind, torch.float64))


class Lives(RuleBasedStateMachine):
    """Two caches that differ in their store alone, and the padding mask of what they have seen."""

    @initialize(
        kind=st.sampled_from(["llama", "qwen2", "gemma3_text", "gpt_oss"]),
        policy=st.sampled_from(POLICIES),
        evict=st.sampled_from(["prompt", "turns"]),
        bound=st.sampled_from([None, 34, 60]),
        protect=st.sampled_from([0, 5, slice(3, 9)]),
        kv_bits=st.sampled_from([None, None, 8, 4]),
    )
    def made(self, kind: str, policy: Any, **given: Any) -> None:
        given["max_tokens_per_head"] = given.pop("bound")
        self.model, self.folder = _model(kind), Path(tempfile.mkdtemp())
        self.kind, self.can_load = kind, policy is not BY_POSITION
        own = {"policy": policy, "max_new_tokens": 500, **given}
        self.caches = [lava_cache(self.model, store=store, **own) for store in ("ragged", "masked")]
        self.mask, self.number = torch.zeros(0, 0, dtype=torch.long), 0

    def _ids(self, batch: int, count: int) -> Tensor:
        self.number += 1
        return zoo.prompt(count, batch=batch, seed=self.number)

    def _read(self, ids: Tensor, real: Tensor) -> None:
        """One forward of both caches; logits agree where tokens are."""
        self.mask = torch.cat([self.mask, real], dim=1) if self.mask.numel() else real
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"attention_mask": self.mask, "position_ids": positions}
        with torch.no_grad():
            one, other = (self.model(ids, **given, **cache_argument(self.model, cache)).logits for cache in self.caches)
        difference = (one - other).abs().amax(-1)[real.bool()]
        assert float(difference.max()) < 1e-9

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @property
    def is_filled(self) -> bool:
        return self.mask.numel() > 0

    def _both(self, change: Any) -> bool:
        """Change both caches, or neither if both refuse alike; whether they changed."""
        refused = []
        for cache in self.caches:
            before = (cache.get_seq_length(), cache.lengths().tolist())
            try:
                change(cache)
            except (InputError, CacheStateError) as error:
                refused.append(str(error))
                assert before == (cache.get_seq_length(), cache.lengths().tolist())
        assert len(refused) in (0, 2)
        assert len(set(refused)) <= 1
        return not refused

    @precondition(lambda self: not self.is_filled)
    @rule(batch=st.integers(1, 2), count=st.integers(4, 70), padding=st.integers(0, 12), chunks=st.booleans())
    def prompt(self, batch: int, count: int, padding: int, chunks: bool) -> None:
        ids, real = self._ids(batch, count), torch.ones(batch, count, dtype=torch.long)
        real[-1, : min(padding, count - 1) if batch > 1 else 0] = 0
        if not chunks or bool((real[:, : count // 2].sum(1) == 0).any()):
            self._read(ids, real)
            return
        with self.caches[0].prompt_in_chunks(), self.caches[1].prompt_in_chunks():
            for part in (slice(0, count // 2), slice(count // 2, count)):
                self._read(ids[:, part], real[:, part])

    @precondition(lambda self: self.is_filled and self.mask.shape[1] < MAX_COLUMNS)
    @rule(count=st.integers(2, 24))
    def turn(self, count: int) -> None:
        self._read(self._ids(self.batch, count), torch.ones(self.batch, count, dtype=torch.long))

    @precondition(lambda self: self.is_filled and self.mask.shape[1] < MAX_COLUMNS)
    @rule(count=st.integers(1, 14))
    def decode(self, count: int) -> None:
        for _ in range(count):
            self._read(self._ids(self.batch, 1), torch.ones(self.batch, 1, dtype=torch.long))

    @precondition(lambda self: self.is_filled)
    @rule()
    def compress(self) -> None:
        self._both(lambda cache: cache.compress())

    @precondition(lambda self: self.is_filled and self.kind in ("llama", "qwen2"))
    @rule(count=st.integers(0, 12))
    def crop(self, count: int) -> None:
        if self._both(lambda cache: cache.crop(-count)):
            self.mask = self.mask[:, : max(self.mask.shape[1] - count, 0)]

    @precondition(lambda self: self.is_filled)
    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(0, self.batch - 1), min_size=self.batch, max_size=self.batch))
        assert self._both(lambda cache: cache.reorder_cache(torch.tensor(rows)))
        self.mask = self.mask[rows]

    @precondition(lambda self: self.is_filled and self.batch < MAX_BATCH)
    @rule(copies=st.integers(1, 2))
    def expand(self, copies: int) -> None:
        assert self._both(lambda cache: cache.expand(copies))
        self.mask = self.mask.repeat_interleave(copies, dim=0)

    @precondition(lambda self: self.is_filled and self.batch > 1)
    @rule(data=st.data())
    def select(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(0, self.batch - 1), min_size=1, max_size=self.batch - 1))
        assert self._both(lambda cache: cache.batch_select_indices(torch.tensor(rows)))
        self.mask = self.mask[rows]

    @precondition(lambda self: self.is_filled and self.can_load)
    @rule()
    def save_and_load(self) -> None:
        for index, cache in enumerate(self.caches):
            path = self.folder / f"{index}.safetensors"
            cache.save(path)
            self.caches[index] = lavakv.LavaCache.load(path, self.model)

    @precondition(lambda self: self.is_filled)
    @rule(pickled=st.booleans())
    def copied(self, pickled: bool) -> None:
        copied = (lambda cache: pickle.loads(pickle.dumps(cache))) if pickled else copy.deepcopy
        if not (pickled and not self.can_load):  # a score inside a test module travels by reference: fine either way
            self.caches = [copied(cache) for cache in self.caches]

    @precondition(lambda self: self.is_filled)
    @rule()
    def reset(self) -> None:
        for cache in self.caches:
            cache.reset()
        self.mask = torch.zeros(0, 0, dtype=torch.long)

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "mask"):
            return
        one, other = self.caches
        assert one.get_seq_length() == other.get_seq_length() == (self.mask.shape[1] if self.is_filled else 0)
        if not self.is_filled:
            assert one.nbytes == other.nbytes == 0
            return
        lengths = one.lengths()
        assert lengths.equal(other.lengths())
        for row, layer in enumerate(one.layer_indices):
            for sequence in range(self.batch):
                for head in range(lengths.shape[2]):
                    kept = one.kept_positions(layer, sequence, head)
                    assert kept.equal(other.kept_positions(layer, sequence, head))
                    assert len(kept) == int(lengths[row, sequence, head])


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=LIVES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
)
