"""One example as token ids, with the fields that its records have in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lavakv.evaluation.record import PromptPart
from lavakv.evaluation.record_keys import PromptKey

SHOWN_CHARACTERS = 400  # of a prompt's text at either end, for reports


@dataclass(frozen=True)
class Prompt:
    """The input of the model, and when its answer ends.

    Attributes:
        about: the record's fields that describe task, example and prompt, the same for all policies and budgets.
        context: int32 `[N]`, what is read once and compressed.
        question: int32 `[tokens]`, what comes afterwards; empty where the context holds it (query-aware).
        max_new_tokens: most tokens of an answer.
        stop_tokens: ids that end an answer, besides the model's own; none of these may be its first token.
        stop_strings: texts that end an answer.
    """

    about: PromptPart
    context: Tensor
    question: Tensor
    max_new_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()

    @property
    def key(self) -> PromptKey:
        """Identifies it within a run."""
        return PromptKey.of(self.about)

    @property
    def mode(self) -> str:
        """query-aware or query-agnostic."""
        return self.about["mode"]

    @property
    def num_tokens(self) -> int:
        """Context and question."""
        return len(self.context) + len(self.question)


def prompt_hash(context: Tensor, question: Tensor) -> str:
    """SHA-256 in hex of all token ids as little-endian 64-bit integers."""
    ids = torch.cat([context, question]).to(torch.int64).numpy()
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
