"""One prefill, many answers: any number of policies and budgets against the full cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.evaluation.distance import distance
from lavakv.evaluation.encode import room_for_answer
from lavakv.evaluation.greedy import Generated, greedy
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache, enabled
from lavakv.hf.recorder import record
from lavakv.hf.recording import Recording

DEFAULT_POSITIONS = 32


@dataclass(frozen=True, slots=True)
class Comparison:
    """One variant, one question.

    Attributes:
        variant: policy and budget.
        question: index of the question; 0 where the prompt holds it already.
        kl_nats: mean KL divergence from the full cache's next-token distributions, over its own greedy continuation.
        top1_agreement: share of these positions where the likeliest token is the same.
        estimated_loss: the paper's bound, summed over layers.
        kept_entries: entries of the prompt that compressed layers hold.
        kept_fraction: the same as a share of all.
        kv_bytes: bytes of keys and values right after the prompt, all layers.
        seconds: what scoring, selecting and the short forward took.
    """

    variant: Variant
    question: int
    kl_nats: float
    top1_agreement: float
    estimated_loss: float
    kept_entries: int
    kept_fraction: float
    kv_bytes: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "variant"}
        return {"policy": self.variant.label, "budget": self.variant.budget_label, **named}


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
        self._num_positions = room_for_answer(model.config, context.shape[1] + longest, num_positions)
        with enabled(model), torch.no_grad():
            self.recording: Recording = record(model, context.to(model.device))
            self.num_tokens = context.shape[1]
            self._full = [self._continue_greedily(question) for question in self._questions]

    def run(self, variants: Sequence[Variant]) -> Iterator[Comparison]:
        """Compare variants one by one, each with every question.

        Raises:
            LavaError: a bad budget or policy, or one that this model cannot serve.
        """
        for variant in variants:
            start = time.perf_counter()
            with enabled(self._model), torch.no_grad():
                cache = self.filled(variant)
                about = self._about(cache, variant)
                for index, (tokens, logits) in enumerate(self._full):
                    last = index == len(self._full) - 1
                    mine = self._logits(cache if last else self.filled(variant), tokens)
                    result = distance(logits, mine[-logits.shape[0] :])
                    seconds = time.perf_counter() - start
                    yield replace(about, question=index, seconds=seconds, **result._asdict())
                    start = time.perf_counter()

    def filled(self, variant: Variant) -> LavaCache:
        """A cache that holds the context as a variant compresses it; the full cache is a variant that keeps it all."""
        if variant.policy is None:
            variant = Variant("lava", budget=max(self.num_tokens, 1))
        cache = variant.new_cache(self._model.config)
        assert isinstance(cache, LavaCache)
        with enabled(self._model), torch.no_grad():
            return self.recording.fill(cache)

    def generate(self, variant: Variant, question: int, max_new_tokens: int) -> Generated:
        """Answer a question from a compressed cache, greedily.

        Args:
            variant: policy and budget, or the full cache.
            question: its index; 0 where the prompt holds it already.
            max_new_tokens: most tokens to generate.
        """
        asked, cache = self._questions[question], self.filled(variant)
        room = room_for_answer(
            self._model.config, self.num_tokens + (0 if asked is None else asked.shape[1]), max_new_tokens
        )
        with enabled(self._model), torch.no_grad():
            logits = self.recording.next_logits if asked is None else self._logits(cache, asked)[-1]
            return greedy(self._model, cache, logits, room)

    def _about(self, cache: LavaCache, variant: Variant) -> Comparison:
        budgets = cache.budgets()
        kept = int(budgets.layer_entries.sum())
        total = self.num_tokens * int((budgets.head_entries > 0).sum())
        return Comparison(
            variant, 0, 0.0, 0.0, float(budgets.estimated_loss.sum()), kept, kept / total, cache.nbytes, 0.0
        )

    def _continue_greedily(self, question: Tensor | None) -> tuple[Tensor, Tensor]:
        """What to feed after the context, `[1, tokens]`, and the full cache's logits, `[positions, vocabulary]`."""
        cache = self.filled(Variant(None))
        collected: list[Tensor] = []
        if question is None:
            fed, logits = list[Tensor](), self.recording.next_logits
        else:
            fed, logits = [question], self._logits(cache, question)[-1]
            collected.append(logits)
        while len(collected) < self._num_positions:
            fed.append(logits.argmax().view(1, 1))
            logits = self._logits(cache, fed[-1])[-1]
            collected.append(logits)
        return torch.cat(fed, dim=1), torch.stack(collected)

    def _logits(self, cache: LavaCache, tokens: Tensor) -> Tensor:
        """Logits after each of some tokens, `[tokens, vocabulary]`."""
        logits: Tensor = self._model(tokens, past_key_values=cache).logits[0]
        return logits
