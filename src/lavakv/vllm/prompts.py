"""Prompts on their way to eviction: the window's queries and the scores, gathered while a prompt is read in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.budgets.pages import BlockCounts
from lavakv.policy.apply import LayerWeight, score_layer
from lavakv.policy.rules import Policy
from lavakv.scoring.output_scale import OutputScale
from lavakv.scoring.prompt import PromptRows, RowTotals
from lavakv.scoring.rotation import Rotation
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from lavakv.selection.kept import Selection
from lavakv.selection.select import select


@dataclass(frozen=True)
class PromptPlan:
    """What is known of a request before it is read.

    Attributes:
        request_id: vLLM's.
        num_tokens: of the prompt.
        tokens_per_head: the budget `b`.
        window: window size `w`.
        policy: what decides.
        blocks: before and after eviction; not evicted if none is freed.
    """

    request_id: str
    num_tokens: int
    tokens_per_head: int
    window: int
    policy: Policy
    blocks: BlockCounts

    @property
    def first_row(self) -> int:
        """The first token whose queries are gathered: that of the window, or of the prompt if the policy needs all."""
        return 0 if "prompt" in self.policy.needs else self.num_tokens - self.window


@dataclass
class WindowRows:
    """Rows of one step that are gathered of one prompt: those of its window, or all of them.

    Attributes:
        prompt: whose.
        start, stop: rows of the step's queries.
        window_start: the first of them that belongs to the window; `stop` if none does.
        is_last: whether the prompt ends with them.
        blocks: the prompt's blocks so far, int32.
    """

    prompt: ReadPrompt
    start: int
    stop: int
    window_start: int
    is_last: bool
    blocks: Tensor


@dataclass
class ReadPrompt:
    """What was gathered of a prompt until its end.

    Attributes:
        plan: see there.
        num_layers: attention layers of the model.
        scores: of the layers that are scored so far.
    """

    plan: PromptPlan
    num_layers: int
    _queries: list[list[Tensor]] = field(init=False)
    _norms: list[list[Tensor]] = field(init=False)
    _rms: list[list[Tensor]] = field(init=False)
    scores: list[Tensor | TieredScores] = field(default_factory=list)
    _totals: RowTotals = field(default_factory=RowTotals)
    _weights: list[LayerWeight] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queries = [[] for _ in range(self.num_layers)]
        self._norms = [[] for _ in range(self.num_layers)]
        self._rms = [[] for _ in range(self.num_layers)]

    def add_queries(self, layer: int, queries: Tensor) -> None:
        """Take queries of the rows from `PromptPlan.first_row` on, `[rows, query heads, head_dim]`, in their order."""
        self._queries[layer].append(queries.clone())

    def add_norms(self, layer: int, norms: Tensor) -> None:
        """Take norms of the residual stream that the window's queries were made from, float32 `[rows]`."""
        self._norms[layer].append(norms)

    def add_rms(self, layer: int, rms: Tensor) -> None:
        """Take what the norm behind the output projection divides the same rows by, float32 `[rows]`."""
        self._rms[layer].append(rms)

    def rms(self, layer: int) -> Tensor | None:
        """What `add_rms` took of a layer, float32 `[w]` where its window is complete; None without such a norm."""
        return torch.cat(self._rms[layer]) if self._rms[layer] else None

    def score(
        self, layer: int, keys: Tensor, values: Tensor, scaling: float, output_weight: Tensor | None = None,
        output_scale: OutputScale | None = None, rotation: Rotation | None = None,
    ) -> None:  # fmt: skip
        """Score a layer whose rows are complete.

        Args:
            layer: index, in order.
            keys: `[KV heads, num_tokens, head_dim]`.
            values: likewise.
            scaling: factor on query-key products.
            output_weight: `[KV heads, G, head_dim, hidden]`, for policies that project values.
            output_scale: of the norm behind the projection, for policies that weigh by it.
            rotation: of all rows, for policies that undo it.
        """
        flat = torch.cat(self._queries[layer]).transpose(0, 1)
        norms, self._queries[layer] = self._norms[layer], []
        queries = flat.reshape(len(keys), -1, *flat.shape[1:])
        needs_all = "prompt" in self.plan.policy.needs
        window = ScoringWindow(
            queries[:, :, -self.plan.window :], [keys], [values], scaling, layer=layer,
            prompt=PromptRows(queries, None, self._totals) if needs_all else None, rotation=rotation,
            tokens_per_head=self.plan.tokens_per_head if self.plan.policy.scores_by_budget else None,
            output_weight=output_weight,
            residual_norms=torch.cat(norms) if norms else None, output_scale=output_scale,
        )  # fmt: skip
        with torch.no_grad():
            scored = score_layer(self.plan.policy, window)
        assert len(self.scores) == layer
        self.scores.append(scored.score)
        self._weights.append(scored.weight)

    @property
    def is_scored(self) -> bool:
        """Whether all layers are."""
        return len(self.scores) == self.num_layers

    def select(self) -> Selection:
        """What the prompt keeps, once all layers are scored."""
        plan = self.plan
        weights = [weight.value() for weight in self._weights] if callable(plan.policy.layer_rule) else None
        return select(plan.policy, self.scores, plan.tokens_per_head, plan.window, layer_weights=weights)
