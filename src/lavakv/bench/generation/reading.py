"""A prompt that each kind of cache reads once, through `generate`; what decodes gets a copy."""

from __future__ import annotations

import copy
import gc
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import lavakv
from lavakv.bench.generation.call import Call, timed_generate
from lavakv.bench.settings import BenchSettings
from lavakv.bench.subject import Subject
from lavakv.hf.cache import LavaCache

_WARM_UP_TOKENS = 256


class Filled(NamedTuple):
    """A cache that holds a prompt.

    Attributes:
        cache: a transformers cache.
        ids: int64 `[B, columns]`, the text: one token more than the cache holds.
    """

    cache: Any
    ids: Tensor


class ReadPrompt(NamedTuple):
    """A cache that has read a prompt, and the call in which it did.

    Attributes:
        call: of `generate`, for one token.
        filled: the cache afterwards.
    """

    call: Call
    filled: Filled


class Reading:
    """Prompts of one length. Nothing is read before it is asked for.

    Args:
        subject: the model.
        settings: policy and window.
        tokens: of each sequence.
        batch_size: sequences that are read.
        budget: mean entries per KV head.

    Attributes:
        batch_size: sequences that are read.
        budget: mean entries per KV head.
        prompt: int64 `[batch_size, tokens]`.
    """

    def __init__(self, subject: Subject, settings: BenchSettings, tokens: int, batch_size: int, budget: int) -> None:
        self._model, self._settings = subject.model, settings
        self.batch_size, self.budget = batch_size, budget
        self.prompt = subject.prompt(tokens, batch_size)

    @cached_property
    def full(self) -> ReadPrompt:
        """The cache that transformers uses by default."""
        return self._read(DynamicCache(config=self._model.config), DynamicCache(config=self._model.config))

    @cached_property
    def lavakv(self) -> ReadPrompt:
        """The cache under test."""
        with lavakv.enabled(self._model):
            return self._read(self._empty(), self._empty())

    def has_read(self, name: str) -> bool:
        """Whether a cache, `full` or `lavakv`, is in memory."""
        return name in self.__dict__

    def release_full(self) -> None:
        """Free the full cache; the next use of it reads the prompt again."""
        self.__dict__.pop("full", None)
        gc.collect()

    def full_rows(self, batch_size: int) -> Filled:
        """The full cache for a multiple of the sequences read; they are repeated."""
        filled, repeats = self.full.filled, batch_size // self.batch_size
        cache = DynamicCache(config=self._model.config)
        if repeats == 1:
            cache.layers = copy.deepcopy(filled.cache.layers)  # memory that is shared would be counted twice
        else:
            cache.layers = [
                copy.copy(layer) if isinstance(layer, DynamicLayer) else copy.deepcopy(layer)
                for layer in filled.cache.layers
            ]  # repeating makes new tensors
            cache.batch_repeat_interleave(repeats)
        return Filled(cache, filled.ids.repeat_interleave(repeats, 0))

    def lavakv_rows(self, batch_size: int) -> Filled:
        """The cache under test for a multiple of the sequences read."""
        filled, repeats = self.lavakv.filled, batch_size // self.batch_size
        cache = copy.deepcopy(filled.cache)
        if repeats > 1:
            cache.expand(repeats)
        return Filled(cache, filled.ids.repeat_interleave(repeats, 0))

    def prompt_rows(self, batch_size: int) -> Tensor:
        """Token ids `[batch_size, tokens]`."""
        return self.prompt.repeat_interleave(batch_size // self.batch_size, 0)

    @torch.no_grad()
    def _read(self, warm_up: Any, cache: Any) -> ReadPrompt:
        """Read the prompt after a short one, which compiles kernels and makes workspaces."""
        short = min(max(_WARM_UP_TOKENS, 2 * self.budget), self.prompt.shape[1])
        timed_generate(self._model, self.prompt[:1, :short], warm_up, 1)
        call = timed_generate(self._model, self.prompt, cache, 1)
        return ReadPrompt(call, Filled(cache, call.output))

    def _empty(self) -> LavaCache:
        return LavaCache(self._model.config, self.budget, self._settings.policy, self._settings.window)
