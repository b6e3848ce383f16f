"""How a prompt is repeated to the model for the policies that need a replay: in which chunks, and behind what words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lavakv.errors import PolicyError

_FIRST, _LATER = "\n\nRepeat the text above word for word.", "\n\nRepeat the text above word for word, from here on: "


class ReplayChunk(NamedTuple):
    """What is fed behind the whole prompt at once.

    Attributes:
        tokens: int64 `[rows]`.
        start: first position of the prompt that is repeated.
        stop: position after the last one.
    """

    tokens: Tensor
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Settings of a replay. Without token ids the prompt is fed again right behind itself.

    Attributes:
        first_request: token ids before the first chunk, which ask for a repetition.
        later_request: token ids before every other chunk; what stands before the chunk in the prompt comes behind them.
        answer_start: token ids between that and the chunk, such as a chat template's start of an answer.
        chunk_tokens: tokens of the prompt that are repeated at a time.
        overlap_tokens: tokens before a later chunk that are fed again ahead of it.

    Raises:
        PolicyError: token ids that are no whole numbers, or sizes out of range.
    """

    first_request: tuple[int, ...] = ()
    later_request: tuple[int, ...] = ()
    answer_start: tuple[int, ...] = ()
    chunk_tokens: int = 2048
    overlap_tokens: int = 8

    def __post_init__(self) -> None:
        for name in ("first_request", "later_request", "answer_start"):
            ids = tuple(getattr(self, name))
            if not all(_is_whole(one, 0) for one in ids):
                fix = "Pass what a tokenizer returns, without special tokens."
                raise PolicyError(f"{name} of the replay", expected="token ids", got=repr(ids), fix=fix)
            object.__setattr__(self, name, ids)
        for name, least, fix in (("chunk_tokens", 1, "KVzip uses 2000."), ("overlap_tokens", 0, "KVzip uses 8.")):
            value = getattr(self, name)
            if not _is_whole(value, least):
                expected = f"a whole number of tokens from {least}"
                raise PolicyError(f"{name} of the replay", expected=expected, got=repr(value), fix=fix)

    @classmethod
    def asking(cls, tokenizer: Any, answer_start: str = "", first: str = _FIRST, later: str = _LATER) -> Replay:
        """Settings with a request in words.

        Args:
            tokenizer: the model's; called as `tokenizer(text, add_special_tokens=False)["input_ids"]`.
            answer_start: what a chat template puts before an answer.
            first: asks for a repetition of the whole, before the first chunk.
            later: asks for a repetition from some words on, which follow.
        """

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

        return cls(ids(first), ids(later), ids(answer_start))

    def max_rows(self, num_tokens: int) -> int:
        """Tokens that are fed at once behind a prompt, at most."""
        first = len(self.first_request) + min(self.chunk_tokens, num_tokens)
        if num_tokens <= self.chunk_tokens:
            return first + len(self.answer_start)
        overlap = min(self.overlap_tokens, self.chunk_tokens)
        later = len(self.later_request) + overlap + min(self.chunk_tokens, num_tokens - self.chunk_tokens)
        return max(first, later) + len(self.answer_start)

    def largest_chunk(self, num_tokens: int, max_positions: int) -> int:
        """Tokens of the largest chunk, of up to half a prompt, that fits behind it within a model's positions, or 0."""

        def rows(chunk_tokens: int) -> int:
            return replace(self, chunk_tokens=chunk_tokens).max_rows(num_tokens)

        return bisect_right(range(1, num_tokens // 2 + 1), max_positions - num_tokens, key=rows)

    def chunks(self, prompt: Tensor) -> Iterator[ReplayChunk]:
        """What to feed, one chunk after the other, of a prompt's int64 `[N]`."""
        for start in range(0, len(prompt), self.chunk_tokens):
            stop = min(start + self.chunk_tokens, len(prompt))
            overlap = min(self.overlap_tokens, self.chunk_tokens) if start else 0
            request = self.later_request if start else self.first_request
            parts = [
                _tensor(request, prompt),
                prompt[start - overlap : start],
                _tensor(self.answer_start, prompt),
                prompt[start:stop],
            ]
            yield ReplayChunk(torch.cat(parts), start, stop)


def _tensor(ids: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=like.dtype, device=like.device)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
