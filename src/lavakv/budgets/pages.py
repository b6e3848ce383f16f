"""Page arithmetic of a paged store: what a request holds before and after eviction, from lengths alone.

A page holds `page_tokens` entries of one KV head of one layer. A block is what a scheduler counts: one page for every
KV head of every compressed layer, `H` in all, any of which may serve any layer and head. A request of `P` tokens holds
`ceil(P / N)` blocks, `N` the page size. Eviction leaves `E` entries, of which only the total is known beforehand
(`worst_case_entries`), and every later token adds one entry to each head.

**Pages.** Heads that hold `k_1 .. k_H` entries hold `sum ceil(k_i / N) <= sum (k_i + N - 1) / N = (E + H (N - 1)) / N`
pages, and no empty head holds one, so at most `E`. The left side is an integer: `max_pages` is the floor of the right
one, or `E` if that is less. Some split reaches it: one entry to each head, then `N` at a time.

**Blocks kept.** After `g` more tokens the heads hold `E + g H` entries, at most `max_pages(E + g H)` pages whatever the
split. A request that kept `m` blocks has by then been given `ceil((P + g) / N) - ceil(P / N)` more. `blocks_kept` is
the least `m` for which these pages reach that bound at every `g` from 0 to `N`. Then they do so at every later `g`:
from `g = 1` on the heads hold at least `H` entries, so the floor is the smaller of the two bounds, and `N` more tokens
raise it by exactly `H`, while they bring one block, which is `H` pages. Hence pages never run out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lavakv.budgets.worst_case import worst_case_entries
from lavakv.errors import BudgetError


class BlockCounts(NamedTuple):
    """Blocks of one request.

    Attributes:
        prompt: held once the prompt is read, before eviction.
        kept: held after eviction, enough for every split over layers and heads and every later token.
        freed: given back; 0 where the prompt is too short to give one back, which is then not evicted at all.
    """

    prompt: int
    kept: int
    freed: int


def blocks_for(num_tokens: int, page_tokens: int) -> int:
    """Blocks of a request before eviction, `ceil(num_tokens / page_tokens)`."""
    _require_page(page_tokens)
    return -(-num_tokens // page_tokens)


def pages_held(counts: Tensor, page_tokens: int) -> Tensor:
    """Pages that heads of these lengths hold.

    Args:
        counts: int64 of any shape, entries of each head.
        page_tokens: entries of a page.

    Returns:
        int64 of the same shape, on the same device.
    """
    _require_page(page_tokens)
    return (counts + (page_tokens - 1)).div(page_tokens, rounding_mode="floor")


def max_pages(num_entries: int, num_heads: int, page_tokens: int) -> int:
    """The most pages that a number of entries takes, however they are split over the heads.

    Args:
        num_entries: entries of all heads together; for example `worst_case_entries(...).peak`.
        num_heads: KV heads that may hold them, all layers together.
        page_tokens: entries of a page.
    """
    _require_page(page_tokens)
    return min((num_entries + num_heads * (page_tokens - 1)) // page_tokens, num_entries)


def blocks_kept(num_tokens: int, num_entries: int, num_heads: int, page_tokens: int) -> int:
    """The least number of blocks that provably never runs out of pages after eviction.

    Args:
        num_tokens: prompt length `P`.
        num_entries: entries that eviction leaves, all heads together.
        num_heads: KV heads of all compressed layers together.
        page_tokens: entries of a page.
    """
    before = blocks_for(num_tokens, page_tokens)
    missing = 0
    for more in range(page_tokens + 1):
        pages = max_pages(num_entries + more * num_heads, num_heads, page_tokens)
        given = blocks_for(num_tokens + more, page_tokens) - before
        missing = max(missing, blocks_for(pages, num_heads) - given)
    return missing


def block_counts(
    num_tokens: int, tokens_per_head: int, num_heads: Sequence[int], window: int, page_tokens: int
) -> BlockCounts:
    """Blocks of a request before and after eviction, whatever its text: a scheduler may rely on it.

    Args:
        num_tokens: prompt length `P`.
        tokens_per_head: the budget `b`.
        num_heads: KV heads of every compressed layer.
        window: window size `w`.
        page_tokens: entries of a page.

    Raises:
        BudgetError: a page of no entries, or a budget or window that `LavaCache` would refuse too.
    """
    prompt = blocks_for(num_tokens, page_tokens)
    entries = worst_case_entries(num_tokens, tokens_per_head, num_heads, window).final
    freed = max(prompt - blocks_kept(num_tokens, entries, sum(num_heads), page_tokens), 0)
    if num_tokens <= tokens_per_head:
        freed = 0
    return BlockCounts(prompt, prompt - freed, freed)


def _require_page(page_tokens: int) -> None:
    if page_tokens < 1:
        raise BudgetError(
            "page_tokens",
            expected="a whole number of entries, at least 1",
            got=repr(page_tokens),
            fix="Pass the block size of the engine, for example 16.",
        )
