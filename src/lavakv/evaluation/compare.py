"""The records of `lavakv compare`: every variant's distance from the full cache, and its own answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel


class Comparer:
    """One prompt, read once; see `Sweep`.

    Args:
        loaded: model and tokenizer.
        context: int64 `[1, N]`.
        questions: int64 `[1, tokens]` each; none if the context holds its question.
        num_positions: tokens whose distributions are compared.
        max_new_tokens: length of the answers; 0 for none.
    """

    def __init__(
        self, loaded: LoadedModel, context: Tensor, questions: Sequence[Tensor], num_positions: int, max_new_tokens: int
    ) -> None:
        self._tokenizer, self._max_new_tokens = loaded.tokenizer, max_new_tokens
        self._num_questions = max(len(questions), 1)
        self._mode = "query-agnostic" if questions else "query-aware"
        self._sweep = Sweep(loaded.model, context, questions, num_positions)

    @property
    def num_tokens(self) -> int:
        """Tokens that are compressed."""
        return self._sweep.num_tokens

    def about(self) -> dict[str, Any]:
        """Mode, length and prefill time, which all variants share."""
        return {
            "mode": self._mode,
            "prompt_tokens": self._sweep.num_tokens,
            "prefill_seconds": self._sweep.recording.seconds,
        }

    def run(self, variants: Sequence[Variant]) -> Iterator[dict[str, Any]]:
        """Records of the full cache first, then of every variant, one a question."""
        for comparison in self._sweep.run([Variant(None), *variants]):
            yield {**comparison.record(), **self._answer(comparison.variant, comparison.question)}

    def _answer(self, variant: Variant, question: int) -> dict[str, Any]:
        if not self._max_new_tokens:
            return {"text": None, "new_tokens": 0, "decode_seconds": 0.0, "tokens_per_second": None}
        done = self._sweep.generate(variant, question, self._max_new_tokens)
        return {
            "text": self._tokenizer.decode(done.tokens, skip_special_tokens=True).strip(),
            "new_tokens": len(done.tokens),
            "decode_seconds": done.decode_seconds,
            "tokens_per_second": done.tokens_per_second,
        }
