"""What one worker knows: the requests that are being read or were evicted, and the pages of the latter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.logger import init_logger

from lavakv.errors import LavaError
from lavakv.policy.registry import get_policy
from lavakv.selection.kept import Selection
from lavakv.store.head_pages import HeadPages
from lavakv.vllm.layer_pages import LayerPages
from lavakv.vllm.model_parts import ModelParts
from lavakv.vllm.prompts import PromptPlan, ReadPrompt, WindowRows
from lavakv.vllm.settings import Settings

logger = init_logger("vllm.lavakv")


class WorkerState:
    """The state of a worker, which its attention backend reaches through the metadata of each step.

    Args:
        settings: the operator's.

    Attributes:
        runner: vLLM's model runner; its batch says which request stands in which row.
        pages: of the caches, once they are allocated.
        head_pages: of evicted requests.
        parts: of the model, for policies that need them.
        step_windows: of the current step, see `WindowRows`.
        on_evicted: called with each evicted prompt and what it keeps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner: Any = None
        self.pages: LayerPages
        self.head_pages: HeadPages
        self.parts: ModelParts
        self.step_windows: list[WindowRows] = []
        self._failed: dict[str, Tensor] = {}  # requests of the current step, with their blocks
        self.on_evicted: list[Callable[[ReadPrompt, Selection], None]] = []
        self._plans: dict[str, PromptPlan] = {}
        self._reading: dict[str, ReadPrompt] = {}
        self._evicted: dict[str, EvictedRequest] = {}
        self._num_layers = 0
        self._watches_stream = False

    def bind(self, layer_names: Sequence[str], pages: LayerPages) -> None:
        """Take the caches of all layers, once they are allocated."""
        self._num_layers = len(layer_names)
        self.parts = ModelParts(self.runner.get_model(), layer_names)
        self.pages = pages
        self.head_pages = HeadPages(self.pages.first_pages, self.pages.num_heads, self.pages.page_tokens)

    @property
    def block_rows(self) -> Tensor:
        """Blocks of each row of the batch, int32 on the CPU; behind a row's own stands what earlier requests left."""
        rows: Tensor = self.runner.input_batch.block_table[0].get_cpu_tensor()
        return rows

    def plan(self, request_id: str, num_prompt: int) -> PromptPlan:
        """What is known of a request of the current step."""
        plan = self._plans.get(request_id)
        if plan is None or plan.num_tokens != num_prompt:
            extra_args = self.runner.requests[request_id].sampling_params.extra_args
            settings = self.settings.for_request(extra_args)
            counts = settings.block_counts(num_prompt, self._num_layers, self.pages.num_heads, self.pages.page_tokens)
            policy = get_policy(settings.policy)
            if "residual_norms" in policy.needs:
                self._watch_stream()
            plan = self._plans[request_id] = PromptPlan(
                request_id, num_prompt, settings.tokens_per_head(num_prompt), settings.window,
                policy, counts,
            )  # fmt: skip
        return plan

    def forget_finished(self) -> None:
        """Drop what is known of requests that the runner no longer has."""
        live = self.runner.requests
        for request_id in [known for known in self._plans if known not in live]:
            self.restart(request_id)
            del self._plans[request_id]

    def restart(self, request_id: str) -> None:
        """Drop what a request's earlier life left: it was preempted, or is gone."""
        self._reading.pop(request_id, None)
        if (evicted := self._evicted.pop(request_id, None)) is not None:
            self.head_pages.close(evicted.row)

    def reading(self, plan: PromptPlan) -> ReadPrompt:
        """The prompt of a request that will be evicted."""
        return self._reading.setdefault(plan.request_id, ReadPrompt(plan, self._num_layers))

    def evicted(self, request_id: str) -> EvictedRequest:
        """A request whose prompt was evicted."""
        return self._evicted[request_id]

    def note_outputs(self, rows: WindowRows, layer: int, outputs: Tensor) -> None:
        """Take what policies that weigh by the residual stream need of what a layer's heads put out.

        Args:
            rows: of a window.
            layer: index.
            outputs: of these rows, `[rows, query heads * head_dim]`.
        """
        if {"output_weight", "residual_norms"} <= set(rows.prompt.plan.policy.needs):
            rms = self.parts.output_rms(layer, outputs)
            if rms is not None:
                rows.prompt.add_rms(layer, rms)

    def score(self, rows: WindowRows, layer: int, scaling: float, num_query_heads: int) -> None:
        """Score a layer of a prompt that ends with this step, and evict once all layers are scored.

        Where that is impossible, because scores are NaN for example, the request has failed: its blocks will be counted
        as freed, so it cannot be kept whole.
        """
        request_id = rows.prompt.plan.request_id
        if request_id in self._failed:
            return
        try:
            self._score(rows, layer, scaling, num_query_heads)
            selection = rows.prompt.select() if rows.prompt.is_scored else None
        except LavaError as error:
            logger.error("lavakv: request %s fails alone, its prompt cannot be evicted: %s", request_id, error)
            self.restart(request_id)
            self._failed[request_id] = rows.blocks
            return
        if selection is not None:
            self._evict(rows.prompt, selection, rows.blocks)

    def take_failed(self) -> set[str]:
        """Ids of requests that failed in the step that ends, for the scheduler to end them.

        Their blocks are cleared: kernels weigh the unused end of a block by zero, which NaN outlives.
        """
        failed, self._failed = self._failed, {}
        for blocks in failed.values():
            self.pages.clear(blocks)
        return set(failed)

    def _score(self, rows: WindowRows, layer: int, scaling: float, num_query_heads: int) -> None:
        prompt, weight, scale = rows.prompt, None, None
        keys, values = self.pages.of_prompt(layer, rows.blocks, prompt.plan.num_tokens)
        if "output_weight" in prompt.plan.policy.needs:
            weight = self.parts.output_weight(layer, len(keys), num_query_heads, keys.shape[2])
            if (rms := prompt.rms(layer)) is not None:
                scale = self.parts.output_scale(layer, rms, weight.shape[-1])
        rotation = self.parts.rotation(layer, keys) if "rotation" in prompt.plan.policy.needs else None
        prompt.score(layer, keys, values, scaling, weight, scale, rotation)

    def _watch_stream(self) -> None:
        """From now on, note the norms of the residual stream of each prompt's window."""
        if not self._watches_stream:
            self._watches_stream = True
            self.parts.watch_stream(self._note_stream)

    def _note_stream(self, layer: int, stream: Callable[[], Tensor]) -> None:
        """Take the norms of what enters a layer, where the step holds a window whose policy needs them."""
        for rows in self.step_windows:
            if "residual_norms" in rows.prompt.plan.policy.needs and rows.window_start < rows.stop:
                rows.prompt.add_norms(layer, stream()[rows.window_start : rows.stop].float().norm(dim=-1))

    def _evict(self, prompt: ReadPrompt, selection: Selection, blocks: Tensor) -> None:
        """Move what a prompt keeps, in all layers, to pages of the last of its blocks."""
        plan = prompt.plan
        keys, values = self.pages.entries(blocks, selection.flat_positions, selection.counts)  # before any is written
        row = self.head_pages.open()
        self.head_pages.add_blocks(row, blocks[plan.blocks.freed :])
        self._evicted[plan.request_id] = EvictedRequest(row, len(blocks))
        del self._reading[plan.request_id]
        slots = self.head_pages.append(torch.tensor([row], device="cpu"), selection.counts.cpu().view(1, -1))
        self.pages.write(keys, values, slots)
        for listener in self.on_evicted:
            listener(prompt, selection)


class EvictedRequest:
    """A request whose prompt was evicted.

    Attributes:
        row: of the table of pages.
        num_blocks: blocks of its row in vLLM's table that were taken into account, freed ones included.
    """

    __slots__ = ("num_blocks", "row")

    def __init__(self, row: int, num_blocks: int) -> None:
        self.row, self.num_blocks = row, num_blocks


_installed: list[WorkerState] = []


def install(state: WorkerState) -> None:
    """Make a state that of this process; backends that are built from now on use it."""
    _installed[:] = [state]


def installed() -> WorkerState:
    """The state of this process."""
    return _installed[0]
