"""A prompt whose layers stay whole until its end, for a policy that replays it or a budget that depends on them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from lavakv.eviction.round import Windows
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.prompt import LayerPrompt, PromptStep
from lavakv.policy.apply import require_needs
from lavakv.policy.replay import Replay
from lavakv.scoring.prompt import ReplayMaxima
from lavakv.scoring.window import ScoringWindow


def is_due(plan: SequencePlan) -> bool:
    """Whether a sequence cannot be compressed before its prompt is replayed."""
    return "replay" in plan.policy.needs and not plan.keeps_all


def waits_for_end(plan: SequencePlan) -> bool:
    """Whether a sequence cannot be compressed layer after layer, while the model reads on."""
    return plan.is_open or is_due(plan)


class PromptState(NamedTuple):
    """One sequence of a batch right after its prompt.

    Attributes:
        tokens: int64 `[columns]`, its ids.
        real: bool `[columns]`, which of them are no padding; all padding is on the left.
        next_position: position of the next token where the caller gave positions, else None: the model knows.
        layers: keys and values `[1, H, columns, dim]` of the compressed layers, by index.
        others: the cache's other layers, by index, holding this sequence alone.
    """

    tokens: Tensor
    real: Tensor
    next_position: int | None
    layers: Mapping[int, tuple[Tensor, Tensor]]
    others: Mapping[int, Any]


class HeldPrompt:
    """Keys, values and scoring windows of all layers, while the model reads on.

    Attributes:
        plans: one a sequence.
    """

    def __init__(self, plans: Sequence[SequencePlan]) -> None:
        self.plans = plans
        self._layers: dict[int, tuple[Tensor, Tensor, Windows]] = {}

    def __len__(self) -> int:
        return len(self._layers)

    def take(self, index: int, prompt: LayerPrompt, windows: Windows) -> None:
        """Hold a layer. The window's queries are copied, so that the prompt's can be freed where no policy needs them.

        Raises:
            PolicyError: a policy needs what the model does not show.
        """
        kept: list[ScoringWindow | None] = []
        for plan, window in zip(self.plans, windows, strict=True):
            if window is not None:
                require_needs(plan.policy, window, besides=("replay",))
                rows = window.prompt if "prompt" in plan.policy.needs else None
                window = replace(window, queries=window.queries.clone(), prompt=rows)
            kept.append(window)
        self._layers[index] = (prompt.keys.detach(), prompt.values.detach(), kept)

    def state(self, row: int, step: PromptStep, others: Mapping[int, Any]) -> PromptState:
        """What the replay of one sequence starts from.

        Args:
            row: of the batch.
            step: the prompt's forward.
            others: the cache's other layers by index, holding this sequence alone.
        """
        num_rows, rows = step.real.shape[0], slice(row, row + 1)
        layers = {index: (keys[rows], values[rows]) for index, (keys, values, _) in self._layers.items()}
        positions = step.position_ids
        last = None if positions is None else int(positions.expand(num_rows, -1)[row, -1]) + 1
        return PromptState(step.inputs[row].long(), step.real[row], last, layers, others)

    def layers(self, found: Sequence[Mapping[int, ReplayMaxima] | None]) -> Iterator[tuple[Tensor, Tensor, Windows]]:
        """Each layer's keys, values and windows, in order, with what each sequence's replay gave."""
        for index, (keys, values, windows) in self._layers.items():
            yield keys, values, with_replays(windows, [None if own is None else own[index] for own in found])


def with_replays(windows: Windows, maxima: Sequence[ReplayMaxima | None]) -> list[ScoringWindow | None]:
    """One layer's windows with what each sequence's replay gave, if there was one."""
    pairs = zip(windows, maxima, strict=True)
    return [window if window is None or own is None else window.with_replay(own) for window, own in pairs]


def due_replays(plans: Sequence[SequencePlan]) -> list[Replay]:
    """The different replays that a batch of one prompt needs, each once."""
    return list(dict.fromkeys(plan.policy.replay for plan in plans if is_due(plan)))
