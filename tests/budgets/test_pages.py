"""Page arithmetic against a store that takes its pages one token at a time."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv import BudgetError, worst_case_entries
from lavakv.budgets.pages import BlockCounts, block_counts, blocks_for, blocks_kept, max_pages, pages_held


class NaivePages:
    """A pool of pages, and heads that take one whenever their last one is full."""

    def __init__(self, num_heads: int, page_tokens: int, blocks: int) -> None:
        self.page_tokens, self.free = page_tokens, blocks * num_heads
        self.lengths, self.pages = [0] * num_heads, [0] * num_heads

    def append(self, head: int) -> None:
        if self.lengths[head] == self.pages[head] * self.page_tokens:
            assert self.free > 0, "out of pages"
            self.free -= 1
            self.pages[head] += 1
        self.lengths[head] += 1


def split(total: int, num_heads: int, least: int, most: int, page_tokens: int, seed: int) -> list[int]:
    """A random split in which many heads have just begun a page, the costliest kind."""
    draw, counts = random.Random(seed), [least] * num_heads
    left = total - sum(counts)
    while left:
        head = draw.randrange(num_heads)
        to_next_page = 1 + (-counts[head]) % page_tokens
        step = min(draw.choice([1, to_next_page, page_tokens]), most - counts[head], left)
        counts[head] += step
        left -= step
    return counts


@given(
    st.integers(1, 90), st.integers(1, 6), st.integers(1, 40), st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 17), st.integers(0, 60), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_pages_never_run_out(
    prompt: int, window: int, budget: int, layers: list[int], page_tokens: int, more: int, seed: int
) -> None:
    """A life: read a prompt, evict, free blocks, write the survivors, generate."""
    budget, heads = budget + window, sum(layers)
    blocks = block_counts(prompt, budget, layers, window, page_tokens)
    pages = NaivePages(heads, page_tokens, blocks.prompt)
    for _ in range(prompt):
        for head in range(heads):
            pages.append(head)
    assert pages.free == 0
    assert blocks.kept == blocks.prompt - blocks.freed
    if blocks.freed:
        entries = worst_case_entries(prompt, budget, layers, window).final
        pages = NaivePages(heads, page_tokens, blocks.kept)
        counts = split(entries, heads, window, prompt, page_tokens, seed)
        for head, count in enumerate(counts):
            for _ in range(count):
                pages.append(head)
        assert pages.pages == pages_held(torch.tensor(counts), page_tokens).tolist()
    for token in range(prompt, prompt + more):
        pages.free += heads * (token % page_tokens == 0)  # the scheduler's own arithmetic: a block a page of tokens
        for head in range(heads):
            pages.append(head)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_the_most_pages_are_reached_by_some_split(num_heads: int, page_tokens: int, entries: int) -> None:
    splits = [counts for counts in product(range(entries + 1), repeat=num_heads) if sum(counts) == entries]
    held = [int(pages_held(torch.tensor(counts), page_tokens).sum()) for counts in splits]
    assert max(held) == max_pages(entries, num_heads, page_tokens)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_blocks_kept_is_the_least_that_the_bound_allows(
    prompt: int, entries: int, num_heads: int, page_tokens: int
) -> None:
    kept = blocks_kept(prompt, entries, num_heads, page_tokens)

    def suffices(blocks: int) -> bool:
        for more in range(5 * page_tokens):
            given = blocks_for(prompt + more, page_tokens) - blocks_for(prompt, page_tokens)
            if (blocks + given) * num_heads < max_pages(entries + more * num_heads, num_heads, page_tokens):
                return False
        return True

    assert suffices(kept)
    assert kept == 0 or not suffices(kept - 1)


@given(st.integers(1, 300), st.integers(2, 80), st.integers(1, 20), st.integers(1, 33))
def test_only_prompts_that_give_blocks_back_are_evicted(
    prompt: int, budget: int, num_heads: int, page_tokens: int
) -> None:
    blocks = block_counts(prompt, budget, [num_heads], 1, page_tokens)
    assert blocks.freed >= 0
    if prompt <= budget:
        assert blocks.freed == 0
    if prompt > budget + 3 * page_tokens:
        assert blocks.freed > 0, "two blocks above the budget are enough"


def test_by_hand() -> None:
    """777 tokens, 30 layers of 3 heads, budget 96, pages of 32: 25 blocks, of which 4 or 5 stay."""
    assert block_counts(777, 96, [3] * 30, 32, 32) == BlockCounts(prompt=25, kept=5, freed=20)
    assert block_counts(768, 96, [3] * 30, 32, 32) == BlockCounts(prompt=24, kept=4, freed=20)
    assert block_counts(90, 96, [3] * 30, 32, 32) == BlockCounts(prompt=3, kept=3, freed=0)
    assert pages_held(torch.tensor([[0, 1], [32, 33]]), 32).tolist() == [[0, 1], [1, 2]]


def test_a_page_holds_something() -> None:
    with pytest.raises(BudgetError, match="page_tokens"):
        block_counts(100, 50, [2], 8, 0)
