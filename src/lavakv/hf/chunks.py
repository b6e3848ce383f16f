"""A prompt that comes in chunks: all of it is held until its end, then evicted once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from torch import Tensor

from lavakv.errors import CacheStateError
from lavakv.eviction.records import Budgets
from lavakv.eviction.session import Phase
from lavakv.hf.checks import check_prompt
from lavakv.hf.driven import DrivenCache
from lavakv.hf.round_checks import Evict, check_judges_chunks
from lavakv.policy.rules import Policy


class ChunkedPrompt(DrivenCache):
    """The part of a `LavaCache` that knows whether more of its prompt is to come."""

    _evict: Evict
    _prompt_columns: int | None

    @property
    def evicts_turns(self) -> bool:
        """Whether it evicts after every forward that brings several tokens, not only after the first one."""
        return self._evict == "turns"

    @abstractmethod
    def _row_policies(self, num_sequences: int) -> list[Policy]:
        """What decides for each sequence of a batch."""

    @abstractmethod
    def compress(self) -> Budgets:
        """Evict now."""

    @contextmanager
    def prompt_in_chunks(self) -> Iterator[Self]:
        """Forwards inside are chunks of one prompt: all of it is held until the end, then evicted once.

        What survives is what one forward would have left. Memory is that of the full cache until the end; a cache made
        with `evict="turns"` evicts after every chunk without this, in bounded memory.

        Raises:
            CacheStateError: the cache holds a prompt already.
            PolicyError: a policy that needs the queries of the whole prompt.
        """
        self.expect_prompt(None)
        try:
            yield self
        except BaseException:
            self.reset()
            raise
        if self.get_seq_length():
            self._finish_chunks()
        self._prompt_columns = None

    def expect_prompt(self, num_columns: int | None) -> None:
        """Hold all forwards that come until a prompt is complete (called by `generate`'s guard).

        Args:
            num_columns: columns of the prompt, or None where its end will be said.

        Raises:
            CacheStateError: the cache holds a prompt already.
            PolicyError: a policy that needs the queries of the whole prompt.
        """
        if self.get_seq_length():
            raise CacheStateError(
                "cache", expected="an empty cache for a prompt in chunks", got="one that holds a prompt",
                fix="Use a new LavaCache, or cache.reset().",
            )  # fmt: skip
        self.check_chunks()
        self._prompt_columns = num_columns or -1

    @property
    def holds_whole_prompt(self) -> bool:
        """Whether a prompt is held, evicted, and nothing is under way."""
        return self._state.session.phase is Phase.HOLDING and self._prompt_columns is None

    def require_complete_prompt(self) -> None:
        """Raise CacheStateError where no prompt is held, or one that comes in chunks is not at its end."""
        self._state.session.require_prompt()
        self.require_no_chunks_to_come()

    def require_no_chunks_to_come(self) -> None:
        """Raise CacheStateError where more of a prompt that comes in chunks is to follow."""
        if self._prompt_columns is not None:
            raise CacheStateError(
                "cache", expected="a complete prompt", got="chunks of one that is held until its end",
                fix="Finish `with cache.prompt_in_chunks():` first.",
            )  # fmt: skip

    def forget_expected(self) -> None:
        """Reset a cache whose prompt was announced in chunks and did not come to its end."""
        if self._prompt_columns is not None:
            self.reset()

    @property
    def _may_be_chunk(self) -> bool:
        return self.evicts_turns or self._prompt_columns is not None

    def check_chunks(self) -> None:
        """Check that the policies can judge a prompt in chunks (called by `generate`'s guard).

        Raises:
            PolicyError: one that needs the queries of the whole prompt.
        """
        for policy in self._row_policies(1 if self.batch_size < 0 else self.batch_size):
            check_judges_chunks(policy)

    def _more_to_come(self, real: Tensor) -> bool:
        """Whether what is read now, `[B, columns]`, is the first chunk of a prompt that is held whole until its end."""
        return self._prompt_columns is not None and self._prompt_columns != real.shape[1]

    def _finish_chunks(self) -> None:
        """Evict once, now that the prompt is complete; what cannot be evicted leaves the cache empty."""
        self._prompt_columns = None
        try:
            check_prompt(self._state.session.columns.real)
            self.compress()
        except BaseException:
            self.reset()
            raise
