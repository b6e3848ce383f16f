"""One prefill, many answers: any number of policies and budgets against the full cache."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.evaluation.comparison import Comparison, Continuation
from lavakv.evaluation.distance import Reference, distance, log_probabilities
from lavakv.evaluation.encode import max_answer_tokens
from lavakv.evaluation.greedy import Generated, greedy
from lavakv.evaluation.variant import Variant, batches, fan_out
from lavakv.hf import LavaCache, enabled
from lavakv.hf.contract import cache_argument
from lavakv.hf.recorder import record
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
        InputError: an empty question, or no room for the continuation behind the model's positions.
        LavaError: a model that cannot be compressed.
    """

    def __init__(
        self, model: Any, context: Tensor, questions: Sequence[Tensor] = (), num_positions: int = DEFAULT_POSITIONS
    ) -> None:
        self._model = model
        asked: list[Tensor | None] = [question.to(model.device) for question in questions]
        self._questions = asked or [None]
        longest = max((question.shape[1] for question in questions), default=0)
        if any(question.shape[1] == 0 for question in questions):
            raise InputError("questions", expected="text in each", got="an empty one", fix="Leave it out.")
        self._num_positions = max_answer_tokens(model.config, context.shape[1] + longest, num_positions)
        with enabled(model), torch.no_grad():
            self.recording: Recording = record(model, context.to(model.device))
            self._full = [self._continue_greedily(question) for question in self._questions]

    @property
    def num_tokens(self) -> int:
        """Tokens that are compressed."""
        return self.recording.inputs.shape[1]

    def asked_later(self, num_tokens: int) -> Sweep:
        """The same prompt query-agnostic: its first `num_tokens` are the context, the rest is asked afterwards.

        Nothing is read anew, as a context's keys and values do not depend on what follows.

        Raises:
            InputError: nothing would be left to ask.
            UnsupportedError: a model with sliding or recurrent layers.
        """
        asked = self.recording.inputs[:, num_tokens:]
        if self._questions != [None] or not asked.shape[1]:
            raise InputError("num_tokens", expected="a part of one prompt", got=str(num_tokens), fix="Lower it.")
        twin = copy.copy(self)
        twin.recording, twin._questions = self.recording.prefix(num_tokens), [asked]
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
        for rows in batches(variants, _MAX_ROWS if self.recording.can_repeat else 1):
            yield from self._run_rows(rows)

    def _run_rows(self, rows: Sequence[Variant]) -> Iterator[Comparison]:
        start = time.perf_counter()
        with enabled(self._model), torch.no_grad():
            cache = self._filled(rows)
            about = self._about(cache, rows)
            found: list[list[Comparison]] = [[] for _ in rows]
            for index, (tokens, reference) in enumerate(self._full):
                cache = cache if index == 0 else self._filled(rows)
                logits = self._logits(cache, tokens.expand(len(rows), -1), reference.log_probabilities.shape[0])
                for row, mine in enumerate(logits):
                    found[row].append(replace(about[row], question=index, **distance(reference, mine)._asdict()))
        seconds = (time.perf_counter() - start) / (len(rows) * len(self._full))
        yield from (replace(comparison, seconds=seconds) for row in found for comparison in row)

    def filled(self, variant: Variant) -> LavaCache:
        """A cache that holds the context as a variant compresses it; the full cache is a variant that keeps it all."""
        return self._filled([variant])

    def _filled(self, rows: Sequence[Variant]) -> LavaCache:
        if rows[0].policy is None:
            rows = [Variant("lava", budget=max(self.num_tokens, 1))]
        cache = rows[0].new_cache(self._model.config) if len(rows) == 1 else fan_out(rows, self._model.config)
        assert isinstance(cache, LavaCache)
        with enabled(self._model), torch.no_grad():
            return self.recording.fill(cache, len(rows))

    def generate(self, variant: Variant, question: int, max_new_tokens: int) -> Generated:
        """Answer a question from a compressed cache, greedily.

        Args:
            variant: policy and budget, or the full cache.
            question: its index; 0 where the prompt holds it already.
            max_new_tokens: most tokens to generate.
        """
        asked, cache = self._questions[question], self.filled(variant)
        room = max_answer_tokens(
            self._model.config, self.num_tokens + (0 if asked is None else asked.shape[1]), max_new_tokens
        )
        with enabled(self._model), torch.no_grad():
            logits = self.recording.next_logits if asked is None else self._logits(cache, asked, 1)[0, 0]
            return greedy(self._model, cache, logits, room)

    def _about(self, cache: LavaCache, rows: Sequence[Variant]) -> list[Comparison]:
        entries, _, heads, loss = cache.budgets()
        total = self.num_tokens * int((heads[:, 0] > 0).sum())
        kept, losses = entries.sum(dim=0).tolist(), loss.sum(dim=0).tolist()
        return [
            Comparison(variant, 0, 0.0, 0.0, losses[row], kept[row], kept[row] / total, num_bytes, 0.0)
            for row, (variant, num_bytes) in enumerate(zip(rows, cache.bytes_by_sequence(), strict=True))
        ]

    def _continue_greedily(self, question: Tensor | None) -> Continuation:
        """What the full cache says after the context and a question."""
        cache = self.filled(Variant(None))
        collected: list[Tensor] = []
        if question is None:
            fed, logits = [self.recording.inputs[:, :0]], self.recording.next_logits
        else:
            fed, logits = [question], self._logits(cache, question, 1)[0, 0]
            collected.append(logits)
        while len(collected) < self._num_positions:
            fed.append(logits.argmax().view(1, 1))
            logits = self._logits(cache, fed[-1], 1)[0, 0]
            collected.append(logits)
        return Continuation(torch.cat(fed, dim=1), Reference(log_probabilities(torch.stack(collected))))

    def _logits(self, cache: LavaCache, tokens: Tensor, num_last: int) -> Tensor:
        """Logits after the last tokens of each row, `[rows, num_last, vocabulary]`."""
        logits: Tensor = self._model(tokens, **cache_argument(self._model, cache), logits_to_keep=num_last).logits
        return logits
