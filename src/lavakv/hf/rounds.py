"""When a `LavaCache` evicts again after its prompt: after turns, at a bound while decoding, on demand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from lavakv.budgets.limits import check_protected_fit
from lavakv.budgets.spec import BudgetSpec, Tolerance
from lavakv.errors import CacheStateError
from lavakv.eviction.later import over_budget, padding_in_window
from lavakv.eviction.records import Budgets
from lavakv.hf.chunks import ChunkedPrompt
from lavakv.hf.operations import CacheOperations
from lavakv.hf.round_checks import check_judges_later

_LARGEST_SHARE = 0.75  # of a bound that a budget relative to the text's length may take: rounds must free something


class EvictingCache(CacheOperations, ChunkedPrompt):
    """The part of a `LavaCache` that evicts after its prompt.

    Attributes:
        max_tokens_per_head: most mean entries per head while tokens come one by one, or None.
    """

    max_tokens_per_head: int | None
    _protect: range
    _budgets_in_force: list[int]
    _held: list[int]
    _held_at: int
    _has_recorded: bool

    @abstractmethod
    def tokens_per_head(self, num_tokens: Sequence[int], columns: int, itemsize: int) -> list[int]:
        """The budget `b` of each sequence."""

    @abstractmethod
    def _row_specs(self, num_sequences: int) -> list[BudgetSpec]:
        """The budget asked for, for each sequence of a batch."""

    @property
    @abstractmethod
    def _window(self) -> int:
        """Columns at the end that all heads keep."""

    def compress(self) -> Budgets:
        """Evict now, so that each sequence is within its budget again.

        The last tokens of all that was seen judge, whatever brought them. Where nothing exceeds the budget, nothing
        is evicted.

        Returns:
            What was decided.

        Raises:
            CacheStateError: the cache holds no prompt, its last forward failed, or queries or weights are not at hand
                because it was just loaded or unpickled.
            PolicyError: a policy that judges whole prompts only, or scores that cannot be used; nothing is evicted.
            BudgetError: the budget cannot be met; nothing is evicted.
        """
        session = self._state.session
        self.require_complete_prompt()
        assert session.budgets is not None
        if not self._is_over_budget:
            return session.budgets
        tokens, _ = session.columns.tokens_and_padding()
        policies = self._row_policies(len(tokens))
        for policy in policies:
            check_judges_later(policy)
        self._check_weights_known()
        budgets = self._budgets_for(tokens, session.columns.length, self._itemsize)
        pairs = list(zip(policies, budgets, strict=True))
        found = session.evict_by_log(pairs, self._window, self._output_weight, self._protect)
        self._note_decided(tokens)
        self._apply_reservation()
        return found

    @override
    def _after_forward(self, was_prompt: bool, num_columns: int) -> None:
        """Evict where that is due after a forward that brought so many columns."""
        if self._prompt_columns is not None:
            if self._state.session.columns.length == self._prompt_columns:
                self._finish_chunks()
            return
        is_due = not was_prompt and self._is_round_due(num_columns)
        self._has_recorded = self.is_recording
        if is_due:
            self.compress()

    def _is_round_due(self, num_columns: int) -> bool:
        """Whether the last columns, so many, of a forward that is no prompt call for a round."""
        if self._prompt_columns is not None or (self.is_recording and self._has_recorded):
            return False  # drafts must not judge, and could not be taken back
        return self._is_at_bound or (self.evicts_turns and num_columns > 1)

    @override
    def _check_round_to_come(self, num_columns: int) -> None:
        """Refuse a budget that cannot be met any more and padding that ends a sequence, before the forward."""
        if not self._is_round_due(num_columns) or not self._is_over_budget:
            return
        columns = self._state.session.columns
        tokens, _ = columns.tokens_and_padding()
        budgets = self._budgets_for(tokens, columns.length, self._itemsize)
        if not columns.last_tokens(over_budget(tokens, budgets), 1):
            raise padding_in_window(1)

    @override
    def _after_crop(self) -> None:
        """What drafts left behind may have reached the bound."""
        if self.is_recording and self._is_at_bound:
            self.compress()

    @override
    def stop_recording(self) -> None:
        """See `CacheOperations.stop_recording`."""
        super().stop_recording()
        self._has_recorded = False

    @override
    def _note_rows(self, sequences: Sequence[int]) -> None:
        """Budgets and lengths of the sequences that are held now."""
        self._budgets_in_force = [self._budgets_in_force[row] for row in sequences]
        self._held = [self._held[row] for row in sequences]

    @property
    def _is_over_budget(self) -> bool:
        return any(held > budget for held, budget in zip(self._most_held(), self._limits(), strict=True))

    @property
    def _is_at_bound(self) -> bool:
        return self.max_tokens_per_head is not None and max(self._most_held()) >= self.max_tokens_per_head

    def _budgets_for(self, tokens: Sequence[int], columns: int, itemsize: int) -> list[int | Tolerance]:
        """`tokens_per_head`, below the bound and checked against what is protected.

        By `max_loss` it is a tolerance to find the budget by, or what that led to in an earlier round.
        """
        found: list[int | Tolerance] = []
        most = None
        if self.max_tokens_per_head is not None and not self._has_fixed_budget:
            most = max(int(_LARGEST_SHARE * self.max_tokens_per_head), self._window + 1)
        specs, before = self._row_specs(len(tokens)), self._budgets_in_force or [0] * len(tokens)
        budgets = self.tokens_per_head(tokens, columns, itemsize)
        for num_tokens, spec, budget, own in zip(tokens, specs, budgets, before, strict=True):
            tolerance = None if spec.max_loss is None or own else Tolerance(spec.max_loss, most)
            known = num_tokens if tolerance else own if spec.max_loss is not None else budget
            limit = known if most is None else min(known, most)
            if num_tokens > limit:
                check_protected_fit(self._protect, limit, self._window)
            found.append(tolerance or limit)
        return found

    def tokens_to_round(self) -> int | None:
        """Tokens that may come one by one before one of them calls for a round; None without a bound."""
        if self.max_tokens_per_head is None:
            return None
        return self.max_tokens_per_head - max(self._most_held()) - 1

    def _columns_to_reserve(self, announced: int) -> int:
        """Columns that the tail should have capacity for: those announced, up to the bound, or the prompt's others."""
        if self._prompt_columns is not None:
            return max(self._prompt_columns - self._state.session.columns.length, 0)
        if self.max_tokens_per_head is None:
            return announced
        return max(self.max_tokens_per_head - max(self._held, default=0), 0)

    @property
    @abstractmethod
    def _has_fixed_budget(self) -> bool:
        """Whether the budget is a number of tokens, not relative to the text's length or to bytes."""

    @abstractmethod
    def _watch_from_here(self, budgets: Sequence[int], tokens: Sequence[int]) -> None:
        """Compare what comes from now on with the budgets."""

    def _most_held(self) -> list[int]:
        """Mean entries per head of each sequence at most, without looking at a device."""
        appended = self._state.session.columns.length - self._held_at
        return [held + appended for held in self._held]

    def _note_decided(self, tokens: Sequence[int]) -> None:
        """Remember what a round left at most, so that no forward has to look."""
        self._budgets_in_force = list(self._state.session.tokens_per_head)
        self._held = [min(b or n, n) for b, n in zip(self._budgets_in_force, tokens, strict=True)]
        self._held_at = self._state.session.columns.length
        self._watch_from_here(self._limits(), tokens)

    def _limits(self) -> list[int]:
        """Budgets in force; where one is still to be found, what nobody needs to evict from."""
        return [budget or self._window + 1 for budget in self._budgets_in_force]

    def _check_weights_known(self) -> None:
        """Raise CacheStateError where a policy needs weights of a model that is gone or that this cache has not met."""
        sources = [self._state.projections.get(layer) for layer in self.layer_indices]
        if self._needs("output_weight") and any(source is None or source.module() is None for source in sources):
            raise CacheStateError(
                "cache", expected="a model whose weights the policy can read", got="none since it was loaded or copied",
                fix="Read further tokens first.",
            )  # fmt: skip

    def _output_weight(self, layer: int) -> Tensor | None:
        """A layer's output projection, where a policy needs it."""
        source = self._state.projections.get(layer)
        if source is None or not self._needs("output_weight"):
            return None
        return source.weight(f"a later round at layer {layer}")
