"""One step of the engine, split into what stock attention serves and what evicted requests need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lavakv.budgets.pages import blocks_for
from lavakv.errors import CacheStateError
from lavakv.store.head_pages import HeadPages
from lavakv.vllm.prompts import WindowRows
from lavakv.vllm.state import EvictedRequest, WorkerState


@dataclass
class SplitStep:
    """The rows of a step.

    Attributes:
        starts: first token of each row, and the end of the last.
        lengths: tokens of each row, those of the step included.
        whole: rows that stock attention serves: prompts, and requests that were not evicted.
        cut: rows of evicted requests, with what is known of them.
        windows: rows of which something is gathered for their prompt's scores.
    """

    starts: list[int]
    lengths: list[int]
    whole: list[int] = field(default_factory=list)
    cut: list[tuple[int, EvictedRequest]] = field(default_factory=list)
    windows: list[WindowRows] = field(default_factory=list)


def split_step(state: WorkerState, common: Any) -> SplitStep:
    """Split the rows of vLLM's common metadata of a step.

    Raises:
        CacheStateError: a chunk that runs past the end of its prompt, which lavakv's scheduler never gives.
    """
    state.forget_finished()
    # vLLM calls the lengths an upper bound; they are exact but for speculative decoding, which is refused.
    step = SplitStep(common.query_start_loc_cpu.tolist(), common.seq_lens_cpu_upper_bound.tolist())
    batch = state.runner.input_batch
    num_real = min(common.num_reqs, batch.num_reqs)  # the others are dummies of a warm-up
    prompts = batch.num_prompt_tokens[:num_real].tolist()
    for row, (request_id, num_prompt) in enumerate(zip(batch.req_ids, prompts, strict=False)):
        plan = state.plan(request_id, num_prompt)
        done = step.lengths[row] - (step.starts[row + 1] - step.starts[row])
        if not plan.blocks.freed:
            step.whole.append(row)
        elif done >= num_prompt:
            step.cut.append((row, state.evicted(request_id)))
        else:
            step.whole.append(row)
            _add_prompt(state, step, row, done)
    state.step_windows = step.windows
    step.whole += range(num_real, common.num_reqs)
    return step


def _add_prompt(state: WorkerState, step: SplitStep, row: int, done: int) -> None:
    """Note the rows of a prompt that will be evicted, of which `done` tokens were processed before."""
    request_id, stop = state.runner.input_batch.req_ids[row], step.lengths[row]
    plan = state.plan(request_id, int(state.runner.input_batch.num_prompt_tokens[row]))
    if stop > plan.num_tokens:
        raise CacheStateError(
            "lavakv in vLLM: a chunk of a prompt",
            expected=f"at most the {plan.num_tokens} tokens of the prompt",
            got=str(stop),
            fix="Pass --scheduler-cls lavakv.vllm.Scheduler.",
        )
    first, window = plan.first_row, plan.num_tokens - plan.window
    if done <= first:
        state.restart(request_id)  # nothing of it has been gathered; what is known is of a life before preemption
    if stop > first:
        start, window_start = (step.starts[row] + max(where - done, 0) for where in (first, window))
        blocks = state.block_rows[row, : blocks_for(stop, state.pages.page_tokens)].clone()
        is_last = stop == plan.num_tokens
        end = step.starts[row + 1]
        step.windows.append(WindowRows(state.reading(plan), start, end, min(window_start, end), is_last, blocks))


@dataclass
class CutRows:
    """Evicted requests of one step: every KV head of each is a sequence of its own.

    Attributes:
        tokens: rows of `[tokens * KV heads]` in order of request, head and token, int64; None where that is the order
            in which they stand, which is so when every row of the step is of an evicted request with one token.
        slots: int64 `[layers, sequences' tokens]`, where new entries go.
        tables: int32 `[layers, sequences, most]`, pages.
        lengths: int32 `[layers, sequences]`, new entries included.
        starts: int32 `[sequences + 1]`, first token of each.
        most_new: new tokens of the sequence that has most.
    """

    tokens: Tensor | None
    slots: Tensor
    tables: Tensor
    lengths: Tensor
    starts: Tensor
    most_new: int

    def on(self, device: torch.device) -> CutRows:
        """The same on a device, without a wait for it."""
        if device.type == "cpu":
            return self
        slots, tables, lengths, starts = (
            one.pin_memory().to(device, non_blocking=True)
            for one in (self.slots, self.tables, self.lengths, self.starts)
        )
        tokens = None if self.tokens is None else self.tokens.pin_memory().to(device, non_blocking=True)
        return CutRows(tokens, slots, tables, lengths, starts, self.most_new)


def rows_alone(common: Any, step: SplitStep) -> tuple[Any, Tensor]:
    """The common metadata of the rows that are not cut, and their tokens, int64 on the device."""
    starts, device = step.starts, common.seq_lens.device
    sizes = [starts[row + 1] - starts[row] for row in step.whole]
    tokens = torch.cat([torch.arange(starts[row], starts[row + 1], device="cpu") for row in step.whole]).to(device)
    rows = torch.tensor(step.whole, device="cpu")
    own_starts = torch.tensor([0, *sizes], dtype=torch.int32, device="cpu").cumsum(0, dtype=torch.int32)
    on_device = rows.to(device)
    alone = common.replace(
        query_start_loc=own_starts.to(device), query_start_loc_cpu=own_starts, seq_lens=common.seq_lens[on_device],
        seq_lens_cpu_upper_bound=common.seq_lens_cpu_upper_bound[rows], num_reqs=len(sizes),
        num_actual_tokens=sum(sizes), max_query_len=max(sizes),
        block_table_tensor=common.block_table_tensor[on_device], slot_mapping=common.slot_mapping[tokens],
    )  # fmt: skip
    return alone, tokens


def cut_rows(pages: HeadPages, num_heads: int, block_rows: Tensor, step: SplitStep) -> CutRows:
    """Take pages for the new tokens of evicted requests, and say where each head's entries are.

    Args:
        pages: of evicted requests.
        num_heads: KV heads of a layer.
        block_rows: int32, blocks of each row of the batch.
        step: rows of the step.
    """
    _take_new_blocks(pages, block_rows, step)
    rows = torch.tensor([evicted.row for _, evicted in step.cut], device="cpu")
    sizes = [step.starts[row + 1] - step.starts[row] for row, _ in step.cut]
    new = torch.tensor(sizes, device="cpu")
    num_layers = pages.lengths.shape[1] // num_heads
    slots = pages.append(rows, new[:, None].expand(-1, pages.lengths.shape[1]))
    tables, lengths = pages.tables(rows)
    starts = torch.zeros(len(sizes) * num_heads + 1, dtype=torch.int32, device="cpu")
    starts[1:] = new.repeat_interleave(num_heads).cumsum(0)
    alone = not step.whole and max(sizes) == 1
    tokens = None if alone else _token_rows(step, sizes, num_heads)
    return CutRows(tokens, _by_layer(slots, sizes, num_layers, num_heads), tables, lengths, starts, max(sizes))


def _take_new_blocks(pages: HeadPages, block_rows: Tensor, step: SplitStep) -> None:
    """Turn blocks that the scheduler has given since into pages; most steps there are none."""
    for row, evicted in step.cut:
        held = blocks_for(step.lengths[row], pages.page_tokens)  # a row has a block for every so many tokens
        if held > evicted.num_blocks:
            pages.add_blocks(evicted.row, block_rows[row, evicted.num_blocks : held])
            evicted.num_blocks = held


def _token_rows(step: SplitStep, sizes: Sequence[int], num_heads: int) -> Tensor:
    """Rows of `[tokens * KV heads]`, in order of request, head and token."""
    heads = torch.arange(num_heads, device="cpu")[:, None]
    parts = [
        (torch.arange(step.starts[row], step.starts[row] + size, device="cpu") * num_heads + heads).flatten()
        for (row, _), size in zip(step.cut, sizes, strict=True)
    ]
    return torch.cat(parts)


def _by_layer(slots: Tensor, sizes: Sequence[int], num_layers: int, num_heads: int) -> Tensor:
    """Slots in order of request, layer, head and token to `[layers, sequences' tokens]`."""
    if max(sizes) == 1:
        return slots.view(-1, num_layers, num_heads).transpose(0, 1).reshape(num_layers, -1)
    parts = torch.split(slots, [size * num_layers * num_heads for size in sizes])
    return torch.cat([part.view(num_layers, -1) for part in parts], dim=1)
