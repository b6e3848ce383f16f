"""What an operator or a request asked for. No vLLM and no PyTorch here: checked before either is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lavakv.budgets.spec import DEFAULT_BUDGET, BudgetSpec
from lavakv.errors import BudgetError, InputError
from lavakv.policy.names import require_policy_name, window_for

if TYPE_CHECKING:
    from lavakv.budgets.pages import BlockCounts

KEY = "lavakv"  # in vLLM's additional_config
REQUEST_PREFIX = "lavakv_"  # of a request's extra_args, vllm_xargs over HTTP
DEFAULT_POLICY = "lava"
_PER_REQUEST = ("keep", "budget")


@dataclass(frozen=True)
class Settings:
    """How much of a prompt is kept, and what decides; one of `budget` and `keep`, or 256 tokens a head.

    Attributes:
        budget: mean entries a KV head keeps of a prompt, window included; more than the window.
        keep: kept fraction of each prompt, in (0, 1].
        window: the last tokens of a prompt: always kept, and the queries that score; the policy's own by default.
        policy: name of the policy.

    Raises:
        BudgetError: both, a value outside its range, or a budget within the window.
        PolicyError: no policy has that name.
    """

    budget: int | None = None
    keep: float | None = None
    window: int = None  # type: ignore[assignment]
    policy: str = DEFAULT_POLICY

    def __post_init__(self) -> None:
        require_policy_name(self.policy)
        object.__setattr__(self, "window", window_for(self.policy, self.window))
        self.spec  # noqa: B018, checks both
        if self.budget is None and self.keep is None:
            object.__setattr__(self, "budget", max(DEFAULT_BUDGET, self.window + 1))
        if self.budget is not None and self.budget <= self.window:
            raise BudgetError(
                "budget",
                expected=f"more than the window of {self.window} tokens",
                got=str(self.budget),
                fix="Raise the budget or lower the window.",
            )

    @property
    def spec(self) -> BudgetSpec:
        """The same for the core."""
        return BudgetSpec(budget=self.budget, keep=self.keep, window=self.window)

    @classmethod
    def of(cls, additional_config: object) -> Settings:
        """The settings in vLLM's `additional_config`, whose key `lavakv` holds a mapping.

        Raises:
            InputError: no such key, or a key in it that does not exist.
            BudgetError, PolicyError: as the class itself.
        """
        own = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
        names = [field.name for field in fields(cls)]
        if not isinstance(own, Mapping) or not set(own) <= set(names):
            raise InputError(
                f"additional_config {KEY!r}",
                expected=f"a mapping with any of {', '.join(names)}",
                got=repr(additional_config if own is None else own),
                fix='Pass for example --additional-config \'{"lavakv": {"keep": 0.25}}\'.',
            )
        return cls(**own)

    def for_request(self, extra_args: Mapping[str, Any] | None) -> Settings:
        """The settings of one request, which may bring a `lavakv_keep` or `lavakv_budget` of its own.

        Raises:
            InputError: another key that begins with `lavakv_`, or both of these.
            BudgetError: a value outside its range, or a budget within the window.
        """
        own = [name for name in extra_args or () if name.startswith(REQUEST_PREFIX)]
        if not own:
            return self
        assert extra_args is not None
        names = [name.removeprefix(REQUEST_PREFIX) for name in own]
        if len(own) > 1 or names[0] not in _PER_REQUEST:
            raise InputError(
                "extra_args of the request",
                expected=" or ".join(REQUEST_PREFIX + name for name in _PER_REQUEST),
                got=", ".join(sorted(own)),
                fix="Policy and window are the server's; give one of the two.",
            )
        try:
            return _made_for_request(self, names[0], _hashable(extra_args[own[0]]))
        except BudgetError as error:
            raise BudgetError(own[0], expected=error.expected, got=error.got, fix=error.fix) from None

    def tokens_per_head(self, num_prompt: int) -> int:
        """The budget `b` of a prompt."""
        return self.spec.tokens_per_head([num_prompt], 0, 1)[0]

    def block_counts(self, num_prompt: int, num_layers: int, num_heads: int, page_tokens: int) -> BlockCounts:
        """Blocks of a prompt, the same in the scheduler and in the worker; it is evicted if any are freed.

        Args:
            num_prompt: prompt length in tokens.
            num_layers: attention layers.
            num_heads: KV heads of each.
            page_tokens: vLLM's block size.
        """
        return _block_counts(
            num_prompt, self.tokens_per_head(num_prompt), num_layers, num_heads, self.window, page_tokens
        )

    def as_dict(self) -> dict[str, object]:
        """What differs from the defaults, for `additional_config`."""
        defaults = {field.name: field.default for field in fields(self)} | {"window": window_for(self.policy, None)}
        return {name: value for name, default in defaults.items() if (value := getattr(self, name)) != default}


def _hashable(value: object) -> float | str:
    """A request's value; of anything but a number the text, which every check refuses."""
    return value if isinstance(value, int | float) else repr(value)


@lru_cache(maxsize=1024, typed=True)  # True is no 1
def _made_for_request(settings: Settings, name: str, value: float | str) -> Settings:
    own: dict[str, Any] = {name: value}
    return Settings(window=settings.window, policy=settings.policy, **own)


@lru_cache(maxsize=8192)
def _block_counts(
    num_prompt: int, tokens_per_head: int, num_layers: int, num_heads: int, window: int, page_tokens: int
) -> BlockCounts:
    from lavakv.budgets.pages import block_counts

    return block_counts(num_prompt, tokens_per_head, [num_heads] * num_layers, window, page_tokens)
