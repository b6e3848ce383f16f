"""A policy: a score, a rule that splits a layer's total over its heads, a rule that splits a sequence's over layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from lavakv.errors import PolicyError
from lavakv.policy.replay import Replay
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

HeadRule = Literal["pooled", "equal"]
LayerRule = Literal["entropy", "equal", "pyramid", "pool"]
Need = Literal["tokens_per_head", "output_weight", "prompt", "residual_norms", "rotation", "replay", "hidden_states"]
ScoredBy = Literal["window", "all queries", "replay", "entries"]


class ModelShape(NamedTuple):
    """What a policy can be made for.

    Attributes:
        model_type: transformers' name of the architecture.
        num_layers: all layers, those that are not compressed included.
        layer_indices: those that are.
        num_heads: KV heads of each of these.
        hidden_size: numbers of a hidden state.
    """

    model_type: str
    num_layers: int
    layer_indices: tuple[int, ...]
    num_heads: tuple[int, ...]
    hidden_size: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decide which entries of a prompt survive.

    Attributes:
        name: what reports and errors call it.
        summary: one line with its source.
        score: from a `ScoringWindow` to `[H, n]`, higher is kept longer; or to `TieredScores`.
        head_rule: `pooled` lets the heads of a layer compete, `equal` gives each the same.
        layer_rule: `entropy` follows how evenly a layer's scores are spread, `equal` gives each head of each layer the
            same mean, `pyramid` gives early layers more, `pool` lets all heads of all layers compete. A function from
            the `ScoringWindow` to a float64 scalar gives each layer's weight itself.
        floor_share: part of a layer's total that pooled heads share equally, `alpha` in the paper; with the layer rule
            `pool` the part of the mean budget that every head keeps before heads compete.
        needs: attributes of the `ScoringWindow` that the score reads and that may be absent.
        across_heads: what a head's score depends on besides that head, so that ranks with different heads cannot score
            theirs alone; empty where each head is scored by itself.
        tiered: whether the score returns `TieredScores`, so that it cannot be put into another score.
        prompt_only: whether the score judges what is at hand of a whole prompt alone, so that later rounds refuse it.
        replay: how the prompt is repeated, for a score that needs a replay.
        scored_by: where the score looks: at attention of the last rows (`window`), of rows anywhere in the prompt (`all
            queries`), of rows that repeat it (`replay`), or at the entries alone (`entries`); None if that is not said.
        relative_cost: seconds of scoring and selecting, and of a replay, over those of reading the prompt, as measured;
            None if not.
        trained: whether the score uses weights that were learned for one model.
        check_model: raises a `LavaError` for a model that the policy was not made for, or None if it serves any.
        reads_budget: whether the score reads `tokens_per_head` where that is known, without needing it.

    Raises:
        PolicyError: an unknown rule, need or `scored_by`, or a floor share outside [0, 1].
    """

    name: str
    summary: str
    score: Callable[[ScoringWindow], Tensor | TieredScores]
    head_rule: HeadRule = "pooled"
    layer_rule: LayerRule | Callable[[ScoringWindow], Tensor] = "entropy"
    floor_share: float = 0.2
    needs: tuple[Need, ...] = ()
    across_heads: str = ""
    tiered: bool = False
    prompt_only: bool = False
    replay: Replay = field(default_factory=Replay)
    scored_by: ScoredBy | None = None
    relative_cost: float | None = None
    trained: bool = False
    check_model: Callable[[ModelShape], None] | None = None
    reads_budget: bool = False

    def __post_init__(self) -> None:
        _require_choice(self, "head_rule", self.head_rule, get_args(HeadRule))
        if not callable(self.layer_rule):
            _require_choice(self, "layer_rule", self.layer_rule, get_args(LayerRule))
        for need in self.needs:
            _require_choice(self, "needs", need, get_args(Need))
        if self.scored_by is not None:
            _require_choice(self, "scored_by", self.scored_by, get_args(ScoredBy))
        cost = self.relative_cost
        if cost is not None and not (isinstance(cost, float | int) and 0 <= cost < math.inf):
            raise PolicyError(
                f"relative_cost of policy {self.name!r}", expected="a number from 0, in prefills", got=repr(cost),
                fix="Leave it out where it was not measured.",
            )  # fmt: skip
        if not 0.0 <= self.floor_share <= 1.0:
            raise PolicyError(
                f"floor_share of policy {self.name!r}",
                expected="a number from 0 to 1",
                got=repr(self.floor_share),
                fix="The paper uses 0.2.",
            )

    @property
    def scores_by_budget(self) -> bool:
        """Whether scores may depend on the budget, so that those for one do not serve another."""
        return self.reads_budget or "tokens_per_head" in self.needs

    @property
    def sees_question(self) -> bool | None:
        """Whether a question at the end of the prompt decides what stays; None where `scored_by` is not said."""
        return None if self.scored_by is None else self.scored_by in ("window", "all queries")

    def min_entries_per_head(self, tokens_per_head: int, window: int) -> int:
        """Entries that every head keeps, window excluded, before all heads of all layers compete."""
        if self.layer_rule != "pool":
            return 0
        return int(Fraction(str(self.floor_share)) * (tokens_per_head - window))


def _require_choice(policy: Policy, argument: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise PolicyError(
            f"{argument} of policy {policy.name!r}",
            expected=" or ".join(choices),
            got=repr(value),
            fix="Use one of those that exist.",
        )
