"""A policy: a score, a rule that splits a layer's total over its heads, a rule that splits a sequence's over layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from torch import Tensor

from lavakv.budgets.heads import equal_weights, pooled_weights
from lavakv.errors import PolicyError
from lavakv.scoring.lava import lava_score
from lavakv.scoring.window import ScoringWindow

HeadRule = Literal["pooled", "equal"]
LayerRule = Literal["entropy", "equal"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decide which entries of a prompt survive.

    Attributes:
        name: what reports and errors call it.
        summary: one line with its source.
        score: from a `ScoringWindow` to `[H, n]`, higher is kept longer.
        head_rule: `pooled` lets the heads of a layer compete, `equal` gives each the same.
        layer_rule: `entropy` follows how evenly a layer's scores are spread, `equal` gives each head of each layer the
            same mean.
        floor_share: part of a layer's total that pooled heads share equally, `alpha` in the paper.

    Raises:
        PolicyError: an unknown rule, or a floor share outside [0, 1].
    """

    name: str
    summary: str
    score: Callable[[ScoringWindow], Tensor]
    head_rule: HeadRule = "pooled"
    layer_rule: LayerRule = "entropy"
    floor_share: float = 0.2

    def __post_init__(self) -> None:
        for argument, value, choices in (
            ("head_rule", self.head_rule, get_args(HeadRule)),
            ("layer_rule", self.layer_rule, get_args(LayerRule)),
        ):
            if value not in choices:
                raise PolicyError(
                    f"{argument} of policy {self.name!r}",
                    expected=" or ".join(choices),
                    got=repr(value),
                    fix="Use one of the rules that exist.",
                )
        if not 0.0 <= self.floor_share <= 1.0:
            raise PolicyError(
                f"floor_share of policy {self.name!r}",
                expected="a number from 0 to 1",
                got=repr(self.floor_share),
                fix="The paper uses 0.2.",
            )

    def head_weights(self, pooled_heads: Tensor, num_heads: int, total: int) -> Tensor:
        """Unrounded shares of a layer's heads, float64 `[H]`, by this policy's head rule."""
        if self.head_rule == "equal":
            return equal_weights(num_heads, total)
        return pooled_weights(pooled_heads, num_heads, total, self.floor_share)


_PAPER = "arXiv 2509.09754"
_BUILT_IN = {
    policy.name: policy
    for policy in (
        Policy("lava", f"LAVa: dynamic head and layer budgets ({_PAPER})", lava_score),
        Policy("lava-uniform-layers", f"LAVa without layer budgets ({_PAPER})", lava_score, layer_rule="equal"),
        Policy("lava-uniform-heads", f"LAVa without head budgets ({_PAPER})", lava_score, head_rule="equal"),
    )
}


def policies() -> Mapping[str, str]:
    """The policies that can be named: name to one line about each."""
    return MappingProxyType({name: policy.summary for name, policy in _BUILT_IN.items()})


def get_policy(policy: str | Policy) -> Policy:
    """Look a policy up by name; a `Policy` passes through.

    Raises:
        PolicyError: no policy has that name.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str) or policy not in _BUILT_IN:
        raise PolicyError(
            "policy",
            expected=f"a Policy or one of {', '.join(_BUILT_IN)}",
            got=repr(policy),
            fix="`lavakv.policies()` lists the names.",
        )
    return _BUILT_IN[policy]
