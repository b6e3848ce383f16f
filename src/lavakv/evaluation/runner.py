"""One prompt, read once, then compressed and answered by any number of variants.

`compare`, `inspect` and `demo` (`sweep.py`), `eval` (`examine.py`) and the harness (`harness.py`) run prompts here.
`generate` (`answer.py`) knows its one variant before the prompt is read, so it compresses while reading, which takes
less memory; what it reports about the cache comes from here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.evaluation.continuation import Continuation, distances
from lavakv.evaluation.distance import Distance
from lavakv.evaluation.greedy import StopRule, greedy_rows
from lavakv.evaluation.kept import Kept, kept_by_sequence
from lavakv.evaluation.variant import Variant, fan_out
from lavakv.hf import LavaCache, enabled
from lavakv.hf.contract import cache_argument
from lavakv.hf.memory import layer_bytes
from lavakv.hf.recorder import record
from lavakv.hf.recording import Recording
from lavakv.policy.registry import get_policy


class Answers(NamedTuple):
    """Answers of variants that were decoded together, and their times.

    Attributes:
        tokens: of each variant, the token that ended the answer included if one came.
        kept: of each variant, right after the prompt.
        fill_seconds: scoring, selecting and copying what is kept, without a replay of the prompt.
        question_seconds: reading a question that comes after the prompt.
        decode_seconds: from the first new token to the last.
        kv_bytes: bytes of keys and values at the end, of all layers and of the variants that were still decoding.
        distances: of each variant from the full cache; None where that was not asked for.
        distance_seconds: what the comparison took.
    """

    tokens: list[list[int]]
    kept: list[Kept]
    fill_seconds: float
    question_seconds: float
    decode_seconds: float
    kv_bytes: int
    distances: list[Distance] | None = None
    distance_seconds: float = 0.0


class PromptRunner:
    """A prompt that the model has read.

    Args:
        model: a causal language model; enabled while the runner uses it.
        prompt: int64 `[1, N]`, what is compressed.

    Attributes:
        recording: the prefill; `next_logits` are what the model expects after the prompt.

    Raises:
        LavaError: more than one sequence, or a model that cannot be compressed.
    """

    def __init__(self, model: Any, prompt: Tensor) -> None:
        self._model = model
        with enabled(model), torch.no_grad():
            self.recording: Recording = record(model, prompt.to(torch.int64).to(model.device))

    @property
    def num_tokens(self) -> int:
        """Tokens that are compressed."""
        return self.recording.inputs.shape[1]

    @property
    def can_batch(self) -> bool:
        """True if several variants can be decoded together."""
        return self.recording.can_repeat

    @property
    def full_kv_bytes(self) -> int:
        """Bytes of keys and values of the whole prompt, all layers."""
        compressed = sum(prompt.keys.nbytes + prompt.values.nbytes for prompt in self.recording.layers.values())
        return compressed + sum(layer_bytes(layer) for layer in self.recording.other_layers.values())

    def prefix(self, num_tokens: int) -> PromptRunner:
        """A runner of the first tokens alone, which are not read again; `next_logits` are not theirs.

        Raises:
            UnsupportedError: layers whose state at that point is gone, or flex masks.
        """
        shorter = copy.copy(self)
        shorter.recording = self.recording.prefix(num_tokens)
        return shorter

    def fill(self, variants: Sequence[Variant]) -> LavaCache:
        """A cache that holds the prompt as each variant compresses it, one sequence a variant.

        Args:
            variants: that differ in policy and budget only; or the full cache alone, as a budget that nothing exceeds.

        Raises:
            LavaError: a bad budget or policy, or one that this model or prompt cannot be served with.
        """
        config = self._model.config
        if variants[0].policy is None:
            variants = [Variant("lava", budget=max(self.num_tokens, 1), window=variants[0].window_tokens)]
        cache = variants[0].new_cache(config) if len(variants) == 1 else fan_out(variants, config)
        assert isinstance(cache, LavaCache)
        with enabled(self._model), torch.no_grad():
            return self.recording.fill(cache, len(variants))

    def replay_seconds(self, variant: Variant) -> float | None:
        """What replaying the prompt took for a variant's policy, once for all that need it; None where none was run."""
        policy = None if variant.policy is None else get_policy(variant.policy)
        if policy is None or "replay" not in policy.needs or policy.replay not in self.recording.replays:
            return None
        return self.recording.replays[policy.replay].seconds

    def kept(self, cache: LavaCache) -> list[Kept]:
        """What each sequence of a cache, filled and nothing else, holds of the prompt."""
        return kept_by_sequence(cache, self._model.config, self.num_tokens)

    def feed(self, cache: LavaCache, tokens: Tensor, num_last: int = 1) -> Tensor:
        """Feed tokens after what a cache holds; logits after the last ones, `[sequences, num_last, vocabulary]`.

        Args:
            cache: of `fill`.
            tokens: int64 `[sequences, tokens]`.
            num_last: how many last tokens to return logits for.
        """
        tokens = tokens.to(self._model.device)
        with enabled(self._model), torch.no_grad():
            held = cache_argument(self._model, cache)
            logits: Tensor = self._model(tokens, **held, logits_to_keep=num_last).logits
        return logits

    def answer(
        self,
        variants: Sequence[Variant],
        question: Tensor | None,
        max_new_tokens: int,
        stop: StopRule | None = None,
        continuation: Continuation | None = None,
    ) -> Answers:
        """Answer from a compressed prompt, greedily, all variants together.

        Args:
            variants: as in `fill`.
            question: int64 `[1, tokens]` that comes after the prompt, or None if the prompt holds it.
            max_new_tokens: most tokens of each answer.
            stop: what ends an answer besides the model's own end of sequence.
            continuation: the full cache's after prompt and question, to compare with; answers are the same without it.

        Raises:
            LavaError: as `fill`.
        """
        times, replayed = [time.perf_counter()], self.recording.replay_seconds
        cache = self.fill(variants)
        kept = self.kept(cache)
        replayed = self.recording.replay_seconds - replayed
        times.append(time.perf_counter())
        asked = None if question is None else self.feed(cache, question.expand(len(variants), -1))[:, -1]
        logits = self.recording.next_logits.expand(len(variants), -1) if asked is None else asked
        times.append(time.perf_counter())
        found = None if continuation is None else distances(self, cache, continuation, asked)
        times.append(time.perf_counter())
        with enabled(self._model), torch.no_grad():
            tokens = greedy_rows(self._model, cache, logits, max_new_tokens, stop)
        times.append(time.perf_counter())
        filled, read, compared, decoded = (end - start for start, end in pairwise(times))
        return Answers(tokens, kept, filled - replayed, read, decoded, cache.nbytes, found, compared)
