"""Attention in blocks: what they join to, what is remembered, and what exists at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.policy.apply import LayerWeight, policy_scores
from lavakv.policy.registry import get_policy
from lavakv.scoring import received
from lavakv.scoring.blocks import MAX_BLOCK_ELEMENTS
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.pooling import average_pool, average_pool_blocks
from lavakv.scoring.prompt import PromptRows
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow
from tests.allocations import Allocations
from tests.scoring.cases import chunked, made_up_rotation

HEADS, GROUP, ROWS, DIM = 2, 4, 32, 16


@given(chunked())
def test_blocks_are_bounded_and_cover_the_prompt(pair: tuple[ScoringWindow, ScoringWindow]) -> None:
    _, cut = pair
    most = cut.block_tokens
    for blocks, total in ((cut.blocks(), cut.num_tokens), (cut.evictable_blocks(), cut.num_evictable)):
        sizes = [block.shape for block in blocks]
        assert sum(size[-1] for size in sizes) == total
        assert all(size[:3] == cut.queries.shape[:3] and size[-1] <= most for size in sizes)
    values = [block.shape[1] for block in cut.value_blocks()]
    assert values == [block.shape[1] for block in cut.key_blocks()] == [block.shape[-1] for block in cut.blocks()]
    assert cut.attention.shape == (*cut.queries.shape[:3], cut.num_tokens)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([1, 3, 5, 7]), st.integers(0, 2**32 - 1))
def test_pooling_of_blocks_is_pooling_of_all(sizes: list[int], kernel: int, seed: int) -> None:
    rows = torch.rand(2, 3, sum(sizes), generator=torch.Generator().manual_seed(seed))
    pooled = list(average_pool_blocks(torch.split(rows, sizes, dim=-1), kernel))
    assert torch.equal(torch.cat(pooled, dim=-1), average_pool(rows, kernel))


@pytest.mark.parametrize("numbers", [MAX_BLOCK_ELEMENTS, 2**12])
def test_only_attention_of_one_block_is_remembered(numbers: int) -> None:
    window = replace(_window(500, torch.float32), max_block_elements=numbers)
    first, again = list(window.blocks()), list(window.blocks())
    assert (len(first) == 1) == window.is_one_block == (numbers == MAX_BLOCK_ELEMENTS)
    assert all(
        (one is other) == window.is_one_block and one.equal(other) for one, other in zip(first, again, strict=True)
    )
    assert ("attention" in window._computed) == window.is_one_block


@pytest.mark.parametrize(
    "name",
    [
        "lava",
        "cake",
        "criticalkv",
        "defensivekv",
        "caote",
        "dropkv",
        "residual",
        "residual-far",
        "residual-max",
        "reach",
        "reach-question",
        "laprox",
        "expected-attention",
        "compactor",
        "tova",
        "knorm",
        "keydiff",
        "lagkv",
        "r-kv",
        "curdkv",
        "chunkkv",
    ],
)
def test_no_score_needs_the_whole_attention_or_all_keys_in_float32(name: str) -> None:
    """4,096 evictable tokens, blocks of 64 KiB; float64 and the neighbours' columns need a little over twice that."""
    peaks = []
    for tokens in (2048, 4096):
        window = replace(_window(tokens + ROWS, torch.bfloat16), max_block_elements=2**14)
        with Allocations() as watch:
            _all_of(name, window)
        row = HEADS * GROUP * tokens * 8  # indices of pooling
        assert watch.largest <= max(2.25 * 2**16, row)
        peaks.append(watch.peak)
    assert peaks[1] <= 2 * peaks[0], "the memory grows faster than the prompt"
    assert peaks[1] < HEADS * GROUP * ROWS * 4096 * 4 / 2, "half of the attention in float32"


@pytest.mark.parametrize("name", ["residual", "residual-far"])
def test_heads_larger_than_the_window_need_no_room_for_every_query_head(name: str) -> None:
    """Of 8 query heads, 4 rows and values of 64 numbers, a block holds one copy of the values."""
    window = replace(_window(1500, torch.float32, heads=1, group=8, rows=4, dim=64), max_block_elements=2**14)
    with Allocations() as watch:
        policy_scores(get_policy(name), window)
    assert watch.largest <= 4 * max(2**14, 8 * 1500, 8 * 64 * 64)  # a block, a number a query head, Gram matrices


def test_h2o_takes_fewer_rows_the_longer_the_prompt() -> None:
    """Room for logits and for attention, both at once, and a row of each at least."""
    queries = 4 * HEADS * GROUP * ROWS * DIM  # the window's, in float32
    received.kernel()  # checks itself once, which is not to be counted
    for tokens, numbers in ((300, 2**13), (600, 2**13), (600, 2**16), (100, 1)):
        window = replace(_window(tokens, torch.float32), max_block_elements=numbers)
        with Allocations() as watch:
            _all_of("h2o", window)
        assert watch.largest <= max(2 * 4 * max(numbers, GROUP * (tokens + 1)), queries)


def _all_of(name: str, window: ScoringWindow) -> None:
    """Everything the driver asks of a window."""
    policy = get_policy(name)
    score = policy_scores(policy, window)
    LayerWeight(policy, window, score.values if isinstance(score, TieredScores) else score)
    eviction_loss(window)


def _window(
    tokens: int, dtype: torch.dtype, heads: int = HEADS, group: int = GROUP, rows: int = ROWS, dim: int = DIM
) -> ScoringWindow:
    generator = torch.Generator().manual_seed(tokens)
    queries = torch.randn(heads, group, tokens, dim, generator=generator).to(dtype)
    keys, values = (torch.randn(heads, tokens, dim, generator=generator).to(dtype) for _ in range(2))
    return ScoringWindow(
        queries[:, :, tokens - rows :],
        [keys],
        [values],
        dim**-0.5,
        tokens_per_head=100,
        output_weight=torch.randn(heads, group, dim, 24, generator=generator).to(dtype),
        prompt=PromptRows(queries),
        residual_norms=torch.ones(rows),
        rotation=made_up_rotation(tokens, dim, generator),
    )
