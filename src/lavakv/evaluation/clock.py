"""A streamer that times the first and the last token and passes text on as it is generated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer


class TokenClock(BaseStreamer):
    """Times one call of `generate` for one sequence.

    Args:
        tokenizer: to decode with.
        on_text: called with each piece of text once it is final, or None.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None = None) -> None:
        self._text = None if on_text is None else _Pieces(tokenizer, on_text)
        self._started = time.perf_counter()
        self._stamps: list[float] = []
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        """Called by `generate`: first with the prompt, then with every token."""
        if self._prompt_seen:
            self._stamps.append(time.perf_counter())
        else:
            self._prompt_seen, self._started = True, time.perf_counter()
        if self._text is not None:
            self._text.put(value)

    def end(self) -> None:
        """Called by `generate` after the last token."""
        if self._text is not None:
            self._text.end()

    @property
    def prefill_seconds(self) -> float:
        """From the start to the first token."""
        return self._stamps[0] - self._started if self._stamps else 0.0

    @property
    def decode_seconds(self) -> float:
        """From the first token to the last."""
        return self._stamps[-1] - self._stamps[0] if self._stamps else 0.0


class _Pieces(TextStreamer):
    """transformers' text streamer, writing to a callback."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._on_text(text)
