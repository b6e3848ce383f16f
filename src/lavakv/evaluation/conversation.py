"""Turns of a chat on one cache: each sends only what is new and leaves the cache within its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from lavakv.errors import InputError
from lavakv.evaluation.answer import Sampling
from lavakv.evaluation.clock import TokenClock
from lavakv.evaluation.encode import max_answer_tokens
from lavakv.hf import LavaCache, enable
from lavakv.hf.contract import cache_argument
from lavakv.models.chat import ChatTemplate
from lavakv.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, and what the cache holds behind it.

    Attributes:
        text: generated text, special tokens left out.
        new_tokens: length of the answer.
        tokens_seen: all tokens of the conversation that the cache has seen.
        tokens_per_head: mean entries a head holds, over the compressed layers.
        kv_bytes: bytes of keys and values allocated, all layers.
        first_token_seconds: until the first new token.
        decode_seconds: from the first new token to the last.
    """

    text: str
    new_tokens: int
    tokens_seen: int
    tokens_per_head: float
    kv_bytes: int
    first_token_seconds: float
    decode_seconds: float

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


class Conversation:
    """A chat with a model whose cache forgets what matters least; the model is enabled and stays so.

    Args:
        loaded: model and tokenizer.
        new_cache: makes an empty cache, given how many tokens at the beginning are the system message's.
        sampling: how tokens are chosen, and how many a turn.
        chat: use the model's chat template, if it has one.
        system: the system message, or nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        new_cache: Callable[[int], LavaCache],
        sampling: Sampling,
        *,
        chat: bool = True,
        system: str = "",
    ) -> None:
        self._loaded, self._sampling, self._system = loaded, sampling, system
        self._template = ChatTemplate(loaded.tokenizer, chat)
        self._ids: list[int] = []
        enable(loaded.model)
        self.cache = new_cache(self._num_system_tokens())
        torch.manual_seed(sampling.seed)

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> Turn:
        """Say something and get an answer.

        Args:
            text: what the user says.
            on_text: called with each piece of the answer as it is generated.

        Raises:
            InputError: no text, or the model's positions are used up.
            LavaError: as any forward with a `LavaCache`.
        """
        if not text.strip():
            raise InputError("message", expected="some text", got="none", fix="Say something.")
        rest = self._template.following(text) if self._ids else self._template.wrap(text, self._system)
        ids = self._ids + self._template.ids(rest, starts_prompt=not self._ids)
        limit = max_answer_tokens(self._loaded.model.config, len(ids), self._sampling.max_new_tokens)
        clock = TokenClock(self._loaded.tokenizer, on_text)
        new = self._generate(ids, clock, replace(self._sampling, max_new_tokens=limit))
        self._ids = ids + self._said(new)
        return Turn(
            text=self._loaded.tokenizer.decode(new, skip_special_tokens=True).strip(),
            new_tokens=len(new),
            tokens_seen=self.cache.get_seq_length(),
            tokens_per_head=float(self.cache.lengths().double().mean()),
            kv_bytes=self.cache.nbytes,
            first_token_seconds=clock.prefill_seconds,
            decode_seconds=clock.decode_seconds,
        )

    def _generate(self, ids: list[int], clock: TokenClock, sampling: Sampling) -> list[int]:
        """New tokens behind all that was said."""
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        whole = torch.tensor([ids], device=model.device)
        output = model.generate(
            input_ids=whole,
            attention_mask=torch.ones_like(whole),
            **cache_argument(model, self.cache),
            streamer=clock,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            max_new_tokens=sampling.max_new_tokens,
            **sampling.options(),
        )
        new: list[int] = output[0, len(ids) :].tolist()
        return new

    def _said(self, new: list[int]) -> list[int]:
        """An answer without the token that ended it, where the template writes that one ahead of the next message."""
        if not new or not self._template.is_used:
            return new
        end = self._loaded.tokenizer.decode(new[-1:], skip_special_tokens=False)
        special = new[-1] in self._loaded.tokenizer.all_special_ids
        return new[:-1] if special and self._template.following("?").lstrip().startswith(end) else new

    def _num_system_tokens(self) -> int:
        """Tokens at the beginning that are the same whatever the user says first."""
        if not self._system:
            return 0
        start, _ = self._template.around(system=self._system)
        return len(self._template.ids(start))
