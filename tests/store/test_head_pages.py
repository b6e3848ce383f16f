"""Pages of evicted requests against lists that take one page at a time."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavakv.budgets.pages import block_counts, blocks_for
from lavakv.errors import CacheStateError
from lavakv.store.head_pages import HeadPages


class Life:
    """A request as an engine runs it, with what was written to each slot."""

    def __init__(self, number: int, prompt: int, blocks: list[int], row: int) -> None:
        self.number, self.tokens, self.blocks, self.row = number, prompt, blocks, row
        self.entries: list[list[tuple[int, int, int]]] = []


class Engine:
    """A scheduler's blocks, a memory of slots, and the pages under test."""

    def __init__(self, layers: int, heads: int, page_tokens: int, blocks: int) -> None:
        self.heads, self.page_tokens, self.width = heads, page_tokens, layers * heads
        self.free = list(range(1, blocks))
        first = torch.tensor([layer * blocks * heads + 7 for layer in range(layers)])
        self.pages = HeadPages(first, heads, page_tokens)
        self.owned = {
            block: {int(start) + block * heads + head for start in first for head in range(heads)}
            for block in range(blocks)
        }
        self.memory: dict[int, tuple[int, int, int]] = {}

    def write(self, lives: list[Life], counts: torch.Tensor) -> None:
        slots = iter(self.pages.append(torch.tensor([life.row for life in lives]), counts).tolist())
        for life, own in zip(lives, counts.tolist(), strict=True):
            for head, count in enumerate(own):
                for _ in range(count):
                    entry = (life.number, head, len(life.entries[head]))
                    self.memory[next(slots)] = entry
                    life.entries[head].append(entry)
        assert next(slots, None) is None

    def check(self, lives: list[Life]) -> None:
        rows = torch.tensor([life.row for life in lives])
        tables, lengths = self.pages.tables(rows)
        for index, life in enumerate(lives):
            held = self.pages.pages(life.row).tolist()
            own = set().union(*(self.owned[block] for block in life.blocks))
            assert len(set(held)) == len(held), "no page twice"
            assert set(held) <= own, "no page of another request"
            assert len(held) + self.pages.num_spare(life.row) == len(own)
            for head, entries in enumerate(life.entries):
                layer, sequence = head // self.heads, index * self.heads + head % self.heads
                assert int(lengths[layer, sequence]) == len(entries)
                for place, entry in enumerate(entries):
                    page = int(tables[layer, sequence, place // self.page_tokens])
                    assert self.memory[page * self.page_tokens + place % self.page_tokens] == entry


def random_split(draw: random.Random, total: int, heads: int, least: int, most: int) -> list[int]:
    counts = [least] * heads
    while sum(counts) < total:
        head = draw.randrange(heads)
        counts[head] = min(most, counts[head] + draw.choice([1, 1, total - sum(counts)]))
    return counts


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_random_lives_of_many_requests(layers: int, heads: int, page_tokens: int, seed: int) -> None:
    """Requests come, are evicted, generate one token or several a step, and go; each reads back what it wrote."""
    draw, window, lives, number = random.Random(seed), 2, [], 0
    engine = Engine(layers, heads, page_tokens, blocks=60)
    for _ in range(25):
        if lives and draw.random() < 0.2:
            gone = lives.pop(draw.randrange(len(lives)))
            engine.pages.close(gone.row)
            engine.free += gone.blocks
        prompt, budget = draw.randrange(3, 60), draw.randrange(3, 20)
        counts = block_counts(prompt, budget, [heads] * layers, window, page_tokens)
        if counts.freed and len(engine.free) > counts.kept + 6 * len(lives) + 6:
            blocks = [engine.free.pop(draw.randrange(len(engine.free))) for _ in range(counts.kept)]
            life, number = Life(number, prompt, blocks, engine.pages.open()), number + 1
            life.entries = [[] for _ in range(engine.width)]
            engine.pages.add_blocks(life.row, torch.tensor(blocks, dtype=torch.int32))
            split = random_split(draw, budget * engine.width, engine.width, window, prompt)
            engine.write([life], torch.tensor([split]))
            lives.append(life)
        running = [life for life in lives if draw.random() < 0.8]
        new = [draw.choice([1, 1, 1, 5]) for _ in running]
        for life, count in zip(running, new, strict=True):
            more = blocks_for(life.tokens + count, page_tokens) - blocks_for(life.tokens, page_tokens)
            taken = [engine.free.pop() for _ in range(min(more, len(engine.free)))]
            life.blocks, life.tokens = life.blocks + taken, life.tokens + count
            if taken:
                engine.pages.add_blocks(life.row, torch.tensor(taken))
        if running and engine.free:
            engine.write(running, torch.tensor(new)[:, None].expand(-1, engine.width))
            engine.check(running)
        elif not engine.free:
            return


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    pages = HeadPages(torch.tensor([0, 100]), 2, 4)
    row = torch.tensor([pages.open()])
    pages.add_blocks(int(row), torch.tensor([3]))
    pages.append(row, torch.tensor([[4, 1, 0, 2]]))
    with pytest.raises(CacheStateError, match="report it"):
        pages.append(row, torch.tensor([[1, 0, 1, 0]]))
    assert pages.lengths[row].tolist() == [[4, 1, 0, 2]]
    assert pages.num_spare(int(row)) == 1
    assert pages.pages(int(row)).tolist() == [6, 7, 106]
    assert pages.append(row, torch.tensor([[0, 0, 1, 1]])).tolist() == [107 * 4, 106 * 4 + 2]


def test_a_closed_row_serves_another_request() -> None:
    pages = HeadPages(torch.tensor([0]), 1, 2)
    rows = [pages.open() for _ in range(9)]
    assert len(set(rows)) == 9
    for row in rows:
        pages.add_blocks(row, torch.tensor([row]))
    pages.append(torch.tensor(rows), torch.full((9, 1), 2))
    pages.close(rows[4])
    assert pages.open() == rows[4]
    assert pages.num_spare(rows[4]) == 0
    assert pages.pages(rows[4]).tolist() == []
    assert pages.pages(rows[5]).tolist() == [rows[5]]
