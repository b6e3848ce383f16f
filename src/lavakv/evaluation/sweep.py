"""One prefill, any number of variants, each compared with the full cache by its next-token distributions."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.evaluation.continuation import Continuation, continue_greedily
from lavakv.evaluation.distance import Comparison, Reference, distance, log_probabilities
from lavakv.evaluation.encode import max_answer_tokens
from lavakv.evaluation.greedy import Generated
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant, batches
from lavakv.hf import LavaCache
from lavakv.hf.recording import Recording

DEFAULT_POSITIONS = 32
_MAX_ROWS = 8


class Sweep:
    """A context read once, asked any number of questions, compressed in any number of ways.

    Without questions the prompt holds its question already, so the scoring window sees it (query-aware). With questions
    the context is compressed alone and every question comes later (query-agnostic).

    Args:
        model: a causal language model; enabled while the sweep uses it.
        context: int64 `[1, N]`.
        questions: int64 `[1, tokens]` each, or none.
        num_positions: tokens of the full cache's greedy continuation to compare.

    Raises:
        InputError: an empty question, or no space for the continuation within the model's positions.
        LavaError: a model that cannot be compressed.
    """

    def __init__(
        self, model: Any, context: Tensor, questions: Sequence[Tensor] = (), num_positions: int = DEFAULT_POSITIONS
    ) -> None:
        self._config = model.config
        asked: list[Tensor | None] = [question.to(model.device) for question in questions]
        self._questions = asked or [None]
        longest = max((question.shape[1] for question in questions), default=0)
        if any(question.shape[1] == 0 for question in questions):
            raise InputError("questions", expected="text in each", got="an empty one", fix="Remove it.")
        self._num_positions = max_answer_tokens(model.config, context.shape[1] + longest, num_positions)
        self._runner = PromptRunner(model, context)
        self._full = [continue_greedily(self._runner, question, self._num_positions) for question in self._questions]

    @property
    def recording(self) -> Recording:
        """The prefill."""
        return self._runner.recording

    @property
    def num_tokens(self) -> int:
        """Tokens that are compressed."""
        return self._runner.num_tokens

    def asked_later(self, num_tokens: int) -> Sweep:
        """The same prompt query-agnostic: its first `num_tokens` are the context, the rest is asked afterwards.

        Nothing is read again, as a context's keys and values do not depend on what follows.

        Raises:
            InputError: nothing would be left to ask.
            UnsupportedError: a model with sliding or recurrent layers.
        """
        asked = self.recording.inputs[:, num_tokens:]
        if self._questions != [None] or not asked.shape[1]:
            raise InputError("num_tokens", expected="a part of one prompt", got=str(num_tokens), fix="Lower it.")
        twin = copy.copy(self)
        twin._runner, twin._questions = self._runner.prefix(num_tokens), [asked]
        tokens, reference = self._full[0]
        first = log_probabilities(self.recording.next_logits)[None]
        known = torch.cat([first, reference.log_probabilities[:-1]])
        twin._full = [Continuation(torch.cat([asked, tokens[:, :-1]], dim=1), Reference(known))]
        return twin

    def run(self, variants: Sequence[Variant]) -> Iterator[Comparison]:
        """Compare variants, each with every question; variants share forwards, a few rows in each.

        Raises:
            LavaError: a bad budget or policy, or one that this model cannot serve.
        """
        for rows in batches(variants, _MAX_ROWS if self._runner.can_batch else 1):
            yield from self._run_rows(rows)

    def _run_rows(self, rows: Sequence[Variant]) -> Iterator[Comparison]:
        start = time.perf_counter()
        cache = self._runner.fill(rows)
        about = [
            Comparison(
                variant, 0, 0.0, 0.0, kept.estimated_loss, kept.entries, kept.fraction, kept.kv_bytes, seconds=0.0
            )
            for variant, kept in zip(rows, self._runner.kept(cache), strict=True)
        ]
        found: list[list[Comparison]] = [[] for _ in rows]
        for index, (tokens, reference) in enumerate(self._full):
            cache = cache if index == 0 else self._runner.fill(rows)
            logits = self._runner.feed(cache, tokens.expand(len(rows), -1), reference.log_probabilities.shape[0])
            for row, mine in enumerate(logits):
                found[row].append(replace(about[row], question=index, **distance(reference, mine)._asdict()))
        seconds = (time.perf_counter() - start) / (len(rows) * len(self._full))
        yield from (replace(comparison, seconds=seconds) for row in found for comparison in row)

    def filled(self, variant: Variant) -> LavaCache:
        """A cache that holds the context as a variant compresses it; the full cache is a variant that keeps it all."""
        return self._runner.fill([variant])

    def generate(self, variant: Variant, question: int, max_new_tokens: int) -> Generated:
        """Answer a question from a compressed cache, greedily.

        Args:
            variant: policy and budget, or the full cache.
            question: its index; 0 where the prompt holds it already.
            max_new_tokens: most tokens to generate.
        """
        asked = self._questions[question]
        num_tokens = self.num_tokens + (0 if asked is None else asked.shape[1])
        answers = self._runner.answer([variant], asked, max_answer_tokens(self._config, num_tokens, max_new_tokens))
        return Generated(answers.tokens[0], answers.decode_seconds, answers.kv_bytes)
