"""Prompts on their way to eviction: the window's queries and the scores, gathered while a prompt is read in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavakv.budgets.pages import BlockCounts
from lavakv.policy.apply import LayerWeight, score_layer
from lavakv.policy.rules import Policy
from lavakv.scoring.output_scale import OutputScale
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


@dataclass
class WindowRows:
    """Rows of one step that belong to the window of one prompt.

    Attributes:
        prompt: whose.
        start, stop: rows of the step's queries.
        is_last: whether the prompt ends with them.
        blocks: the prompt's blocks so far, int32.
    """

    prompt: ReadPrompt
    start: int
    stop: int
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
    _weights: list[LayerWeight] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queries = [[] for _ in range(self.num_layers)]
        self._norms = [[] for _ in range(self.num_layers)]
        self._rms = [[] for _ in range(self.num_layers)]

    def add_queries(self, layer: int, queries: Tensor) -> None:
        """Take queries of the window, `[rows, query heads, head_dim]`, in order of the rows."""
        self._queries[layer].append(queries.clone())

    def add_norms(self, layer: int, norms: Tensor) -> None:
        """Take norms of the residual stream that the same queries were made from, float32 `[rows]`."""
        self._norms[layer].append(norms)

    def add_rms(self, layer: int, rms: Tensor) -> None:
        """Take what the norm behind the output projection divides the same rows by, float32 `[rows]`."""
        self._rms[layer].append(rms)

    def rms(self, layer: int) -> Tensor | None:
        """What `add_rms` took of a layer, float32 `[w]` where its window is complete; None without such a norm."""
        return torch.cat(self._rms[layer]) if self._rms[layer] else None

    def score(
        self, layer: int, keys: Tensor, values: Tensor, scaling: float, output_weight: Tensor | None = None,
        output_scale: OutputScale | None = None,
    ) -> None:  # fmt: skip
        """Score a layer whose window is complete.

        Args:
            layer: index, in order.
            keys: `[KV heads, num_tokens, head_dim]`.
            values: likewise.
            scaling: factor on query-key products.
            output_weight: `[KV heads, G, head_dim, hidden]`, for policies that project values.
            output_scale: of the norm behind the projection, for policies that weigh by it.
        """
        queries = torch.cat(self._queries[layer]).transpose(0, 1)
        norms, self._queries[layer] = self._norms[layer], []
        window = ScoringWindow(
            queries.reshape(len(keys), -1, *queries.shape[1:]), [keys], [values], scaling, layer=layer,
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
