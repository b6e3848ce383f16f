"""Pages of requests whose heads hold unequally many entries: which page holds which entries of which head.

For engines that count blocks (`budgets/pages.py`): a block is one page of each KV head of each layer. Once a request is
evicted, any page of its blocks may serve any of its heads. All requests share one table, so that a step takes a fixed
number of operations however many of them run. Tensors stand on the CPU; `rows` are of requests, int64 `[R]`, and a
**head** is one KV head of one layer, numbered layer after layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lavakv.budgets.pages import pages_held
from lavakv.errors import CacheStateError

_SPARE_COLUMNS = 8  # of tables that grow, so that they do not with every page


class HeadPages:
    """The pages of all evicted requests of one worker.

    Args:
        first_pages: int64 `[layers]`, page number of block 0, KV head 0 in each layer; those of a block's other heads
            follow, and then the next block's.
        num_heads: KV heads of each layer.
        page_tokens: entries of a page, `N`.

    Attributes:
        page_tokens: `N`.
        lengths: int64 `[requests, heads]`, entries that each head holds; rows of closed requests hold anything.
    """

    def __init__(self, first_pages: Tensor, num_heads: int, page_tokens: int) -> None:
        self._first_pages, self._num_heads, self.page_tokens = first_pages, num_heads, page_tokens
        self._num_layers, self._width = len(first_pages), len(first_pages) * num_heads
        self.lengths = torch.zeros(0, self._width, dtype=torch.int64, device="cpu")
        self._table = torch.zeros(0, self._width, 0, dtype=torch.int32, device="cpu")
        self._spare = torch.zeros(0, 0, dtype=torch.int64, device="cpu")  # pages without entries
        self._spare_start = torch.zeros(0, dtype=torch.int64, device="cpu")  # the first of these not yet taken
        self._spare_stop = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._closed: list[int] = []

    def open(self) -> int:
        """A row for a request without pages."""
        if not self._closed:
            rows = len(self.lengths)
            more = max(rows, 4)
            self.lengths = pad(self.lengths, (0, 0, 0, more))
            self._table = pad(self._table, (0, 0, 0, 0, 0, more))
            self._spare = pad(self._spare, (0, 0, 0, more))
            self._spare_start, self._spare_stop = pad(self._spare_start, (0, more)), pad(self._spare_stop, (0, more))
            self._closed = list(reversed(range(rows, rows + more)))
        row = self._closed.pop()
        self.lengths[row] = 0
        self._spare_start[row] = self._spare_stop[row] = 0
        return row

    def close(self, row: int) -> None:
        """Forget a request; its blocks are the scheduler's again."""
        self._closed.append(row)

    def add_blocks(self, row: int, blocks: Tensor) -> None:
        """Give a request the pages of more blocks.

        Args:
            row: of the request.
            blocks: whole numbers `[blocks]`, the engine's block ids.
        """
        heads = torch.arange(self._num_heads, device="cpu")
        first = self._first_pages[None, :, None] + (blocks.long() * self._num_heads)[:, None, None]
        left = self._spare[row, int(self._spare_start[row]) : int(self._spare_stop[row])]
        pages = torch.cat([left, (first + heads).flatten()])
        missing = len(pages) - self._spare.shape[1]
        if missing > 0:
            self._spare = pad(self._spare, (0, missing))
        self._spare[row, : len(pages)] = pages
        self._spare_start[row], self._spare_stop[row] = 0, len(pages)

    def append(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Lengthen heads, taking pages as they fill.

        Args:
            rows: the requests, each once.
            counts: int64 `[R, heads]`, further entries of each head.

        Returns:
            Slots of the new entries, int64 `[sum(counts)]`, in order of request, head and entry. A slot is page number
            times `N` plus the place in the page.

        Raises:
            CacheStateError: more pages are needed than the request's blocks have; nothing has changed.
        """
        held = self.lengths[rows]
        self._take(rows, held, held + counts)
        self.lengths[rows] = held + counts
        heads = (rows[:, None] * self._width + torch.arange(self._width, device="cpu")).flatten()
        owner, within = _spread(counts.flatten())
        places = held.flatten()[owner] + within
        table = self._table.view(len(self._table) * self._width, -1)
        pages = table[heads[owner], places.div(self.page_tokens, rounding_mode="floor")]
        return pages.long() * self.page_tokens + places.remainder(self.page_tokens)

    def tables(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What attention needs, every head of every request being a sequence of its own.

        Returns:
            Pages int32 `[layers, R * KV heads, most]`, of each head in the order of its entries with anything behind
            them, and lengths int32 `[layers, R * KV heads]`.
        """
        lengths = self.lengths[rows]
        most = int(pages_held(lengths.max(), self.page_tokens))
        shape = len(rows), self._num_layers, self._num_heads
        tables = self._table[:, :, :most].index_select(0, rows).view(*shape, most).transpose(0, 1)
        return (
            tables.reshape(self._num_layers, -1, most),
            lengths.view(shape).transpose(0, 1).reshape(self._num_layers, -1).int(),
        )

    def num_spare(self, row: int) -> int:
        """Pages of a request without entries."""
        return int(self._spare_stop[row] - self._spare_start[row])

    def pages(self, row: int) -> Tensor:
        """Pages of a request that hold entries, int64, in order of heads."""
        held = pages_held(self.lengths[row], self.page_tokens)
        columns = torch.arange(self._table.shape[2], device="cpu")
        return self._table[row][columns < held[:, None]].long()

    def _take(self, rows: Tensor, held: Tensor, wanted: Tensor) -> None:
        """Take the pages that heads of `wanted` entries need beyond those of `held`, both int64 `[R, heads]`."""
        before = pages_held(held, self.page_tokens)
        after = pages_held(wanted, self.page_tokens)
        totals = (after - before).sum(dim=1)
        if bool((totals > self._spare_stop[rows] - self._spare_start[rows]).any()):
            raise CacheStateError(
                "pages of an evicted request",
                expected=f"at most {(self._spare_stop[rows] - self._spare_start[rows]).tolist()} more",
                got=f"{totals.tolist()}",
                fix="This is a bug in lavakv's block arithmetic: please report it.",
            )
        missing = int(after.max()) - self._table.shape[2]
        if missing > 0:
            self._table = pad(self._table, (0, missing + _SPARE_COLUMNS))
        owner, within = _spread((after - before).flatten())
        row, rank = _spread(totals)
        source = self._spare_start[rows][row] + rank
        heads = rows[row] * self._width + owner.remainder(self._width)
        table = self._table.view(len(self._table) * self._width, -1)
        table[heads, before.flatten()[owner] + within] = self._spare[rows[row], source].int()
        self._spare_start[rows] += totals


def _spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of `sum(counts)` entries the group it is in, and its place in it; both int64."""
    group = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return group, torch.arange(len(group), device="cpu") - first[group]
